//! Setters of settings: `with_*` for every field.

/// Implements setters that take `self` and return it. A setter of an `Option<T>` takes a `T` or `None`.
macro_rules! setters {
    (@one [$($doc:tt)*] $setter:ident $field:ident: Option<$inner:ty>) => {
        $($doc)*
        #[must_use]
        pub fn $setter(mut self, $field: impl Into<Option<$inner>>) -> Self {
            self.$field = $field.into();
            self
        }
    };
    (@one [$($doc:tt)*] $setter:ident $field:ident: $kind:ty) => {
        $($doc)*
        #[must_use]
        pub fn $setter(mut self, $field: $kind) -> Self {
            self.$field = $field;
            self
        }
    };
    ($type:ty { $($(#[$doc:meta])* $setter:ident($($field:tt)+)),+ $(,)? }) => {
        impl $type {
            $( setters!(@one [$(#[$doc])*] $setter $($field)+); )+
        }
    };
}

pub(crate) use setters;
