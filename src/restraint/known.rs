//! The restraints of this crate as one value.

use super::{Description, Needs, Prune, Rect, Restraint, Situation};
use crate::error::numerics::Result;
use crate::scalar::Scalar;
use crate::update::Update;

/// One of the restraints of this crate, for programs that take it from their settings.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum KnownRestraint {
    /// RECT, applied to every update.
    Rect(Rect),
    /// PRUNE, applied to the total change, after every update.
    Prune(Prune),
}

impl<T: Scalar> Restraint<T> for KnownRestraint {
    fn description(&self) -> Description {
        match self {
            Self::Rect(rect) => Restraint::<T>::description(rect),
            Self::Prune(prune) => Restraint::<T>::description(prune),
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Self::Rect(rect) => Restraint::<T>::check(rect),
            Self::Prune(prune) => Restraint::<T>::check(prune),
        }
    }

    fn needs(&self) -> Needs {
        match self {
            Self::Rect(rect) => Restraint::<T>::needs(rect),
            Self::Prune(prune) => Restraint::<T>::needs(prune),
        }
    }

    fn restrained(&self, update: &Update<T>, situation: &Situation<'_, T>) -> Result<Option<Update<T>>> {
        match self {
            Self::Rect(rect) => rect.restrained(update, situation),
            Self::Prune(prune) => prune.restrained(update, situation),
        }
    }

    fn first_format(&self) -> Option<String> {
        match self {
            Self::Rect(rect) => Restraint::<T>::first_format(rect),
            Self::Prune(prune) => Restraint::<T>::first_format(prune),
        }
    }
}

impl From<Rect> for KnownRestraint {
    fn from(rect: Rect) -> Self {
        Self::Rect(rect)
    }
}

impl From<Prune> for KnownRestraint {
    fn from(prune: Prune) -> Self {
        Self::Prune(prune)
    }
}
