//! `impl_debug`, for types whose closures and type parameters rule out `#[derive(Debug)]`.

/// Implements `Debug` for a struct from the values that are given. A final `..` says that the struct has more fields.
///
/// `impl_debug!([T: Bound] Type<T> |this| { name: this.name, length: this.items.len(), .. });`
macro_rules! impl_debug {
    ($([$($generics:tt)*])? $type:ident $(<$($argument:tt),+>)? |$this:tt| { $($field:ident: $value:expr,)* .. }) => {
        impl $(<$($generics)*>)? ::std::fmt::Debug for $type $(<$($argument),+>)? {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                let $this = self;
                f.debug_struct(stringify!($type))$(.field(stringify!($field), &$value))*.finish_non_exhaustive()
            }
        }
    };
    ($([$($generics:tt)*])? $type:ident $(<$($argument:tt),+>)? |$this:tt| { $($field:ident: $value:expr),+ }) => {
        impl $(<$($generics)*>)? ::std::fmt::Debug for $type $(<$($argument),+>)? {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                let $this = self;
                f.debug_struct(stringify!($type))$(.field(stringify!($field), &$value))+.finish()
            }
        }
    };
}
pub(crate) use impl_debug;
