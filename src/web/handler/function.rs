//! [`HandlerFn`], the functions that can be handlers on a pool.

use std::any::Any;

/// A function that can be a handler on a pool: the `blocking_handler` and `cpu_handler` of the adapters accept it.
///
/// It is implemented for functions and closures of up to 16 arguments, and can't be implemented for other types. `Args`
/// is the tuple of the arguments.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a function that can run on a pool",
    label = "not a function of up to 16 extractors, or it can't be called from several threads",
    note = "a handler on a pool is a plain function or closure. It is called from several threads, so it must be \
            `Send`, `Sync` and `'static`, and so must everything that it captures"
)]
pub trait HandlerFn<Args>: sealed::Function<Args> + Send + Sync + 'static {
    /// The function's result.
    type Output;

    /// Calls the function.
    fn call(&self, args: Args) -> Self::Output;
}

/// The arguments of a handler on a pool, each of which is a [`PoolArgument`]. It can't be implemented for other types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the arguments of a handler that runs on a pool",
    label = "not all of them can be sent to another thread"
)]
pub trait PoolArguments: sealed::Arguments + Send + 'static {}

/// An argument of a handler on a pool. The runtime creates it and a thread of the pool uses it, so it is implemented
/// for every type that is `Send` and `'static`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be an argument of a handler that runs on a pool: it can't be sent to another thread",
    label = "this function has an argument that is not `Send`",
    note = "the arguments are created on the runtime and sent to a thread of the pool, so they must be `Send` and \
            `'static`",
    note = "instead of `HttpRequest` or `Payload` of actix-web, take the parts that the function needs, such as \
            `web::Path`, `web::Query`, `web::Header`, `web::ReqData` or `web::Bytes`; instead of an `Rc`, an `Arc`"
)]
pub trait PoolArgument: Send + 'static {}

// The compiler then names the argument and the reason, instead of only reporting that a type is not `Send`.
#[diagnostic::do_not_recommend]
impl<T: Send + 'static> PoolArgument for T {}

/// Keeps other crates from implementing [`HandlerFn`] and [`PoolArguments`].
#[expect(unnameable_types, reason = "other crates can't implement what they can't name")]
mod sealed {
    pub trait Function<Args> {}

    pub trait Arguments {
        /// Passes each argument to `visit`.
        fn visit(&self, visit: &mut dyn FnMut(&dyn super::Any));
    }
}

macro_rules! functions_of {
    ($($argument:ident)*) => {
        impl<$($argument: PoolArgument,)*> PoolArguments for ($($argument,)*) {}

        impl<$($argument: PoolArgument,)*> sealed::Arguments for ($($argument,)*) {
            #[allow(non_snake_case, unused_variables, reason = "an argument and its type share a name, or there is none")]
            fn visit(&self, visit: &mut dyn FnMut(&dyn Any)) {
                let ($($argument,)*) = self;
                $(visit($argument);)*
            }
        }

        impl<Function, R, $($argument),*> sealed::Function<($($argument,)*)> for Function where
            Function: Fn($($argument),*) -> R
        {
        }

        impl<Function, R, $($argument),*> HandlerFn<($($argument,)*)> for Function
        where
            Function: Fn($($argument),*) -> R + Send + Sync + 'static,
        {
            type Output = R;

            #[allow(non_snake_case, reason = "an argument and its type share a name")]
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
