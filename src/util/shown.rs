//! What `Debug` shows of values that hold matrices: their shapes, and the few numbers that matter.

use std::fmt;

use crate::error::numerics::Shape;
use crate::error::shown::Short;

/// A matrix, by its shape.
pub(crate) struct Shown(Shape);

impl From<(usize, usize)> for Shown {
    fn from(shape: (usize, usize)) -> Self {
        Self(shape.into())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A list of numbers, by its first ones and its length.
pub(crate) struct Few<'a>(pub(crate) &'a [f64]);

impl fmt::Debug for Few<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let first: Vec<_> = self.0.iter().take(SHOWN).map(|x| Short(*x).to_string()).collect();
        let rest = self.0.len().saturating_sub(SHOWN);
        let more = if rest > 0 { format!(", and {rest} more") } else { String::new() };
        write!(f, "[{}{more}]", first.join(", "))
    }
}

/// Implements `Debug` for a type by a list of names and values.
macro_rules! shown {
    ([$($generics:tt)*] $type:ty, $name:literal, $self:ident => { $($field:literal: $value:expr),+ $(,)? }) => {
        impl<$($generics)*> std::fmt::Debug for $type {
            fn fmt(&$self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct($name)$(.field($field, &$value))+.finish()
            }
        }
    };
}

pub(crate) use shown;
