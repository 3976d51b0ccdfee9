//! [`HandlerFn`], the functions that can be handlers on a pool.

/// A function that can be a handler on a pool: `blocking_handler` and `cpu_handler` of the adapters take it.
///
/// It is implemented for functions and closures of up to 16 arguments. `Args` is the tuple of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no function that can run on a pool",
    label = "not a function of up to 16 extractors, or it can't be called from several threads",
    note = "a handler on a pool is a plain function or closure. It is called from several threads, so it is `Send`, `Sync` and `'static`, and so is what it captures"
)]
pub trait HandlerFn<Args>: Send + Sync + 'static {
    /// What it returns.
    type Output;

    /// Calls it.
    fn call(&self, args: Args) -> Self::Output;
}

/// The arguments of a handler on a pool, each of which is a [`PoolArgument`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the arguments of a handler that runs on a pool",
    label = "not all of them can be sent to another thread"
)]
pub trait PoolArguments: Send + 'static {}

/// An argument of a handler on a pool. It is made on the runtime and used on a thread of the pool, so whatever is `Send` and
/// `'static` is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be an argument of a handler that runs on a pool: it can't be sent to another thread",
    label = "this function has an argument that is not `Send`",
    note = "the arguments are made on the runtime and sent to a thread of the pool, so they must be `Send` and `'static`",
    note = "instead of `HttpRequest` or `Payload` of actix-web take what the function needs of them, such as `web::Path`, `web::Query`, `web::Header`, `web::ReqData` or `web::Bytes`; instead of an `Rc`, an `Arc`"
)]
pub trait PoolArgument: Send + 'static {}

// So that the compiler says which argument it is about, and why, and not only that something is not `Send`.
#[diagnostic::do_not_recommend]
impl<T: Send + 'static> PoolArgument for T {}

macro_rules! functions_of {
    ($($argument:ident)*) => {
        impl<$($argument: PoolArgument,)*> PoolArguments for ($($argument,)*) {}

        impl<Function, R, $($argument),*> HandlerFn<($($argument,)*)> for Function
        where
            Function: Fn($($argument),*) -> R + Send + Sync + 'static,
        {
            type Output = R;

            #[allow(non_snake_case, reason = "an argument and its type have one name here")]
            fn call(&self, ($($argument,)*): ($($argument,)*)) -> R {
                self($($argument),*)
            }
        }
    };
}

functions_of!();
functions_of!(A);
functions_of!(A B);
functions_of!(A B C);
functions_of!(A B C D);
functions_of!(A B C D E);
functions_of!(A B C D E F);
functions_of!(A B C D E F G);
functions_of!(A B C D E F G H);
functions_of!(A B C D E F G H I);
functions_of!(A B C D E F G H I J);
functions_of!(A B C D E F G H I J K);
functions_of!(A B C D E F G H I J K L);
functions_of!(A B C D E F G H I J K L M);
functions_of!(A B C D E F G H I J K L M N);
functions_of!(A B C D E F G H I J K L M N O);
functions_of!(A B C D E F G H I J K L M N O P);
