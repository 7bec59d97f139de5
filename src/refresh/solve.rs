//! How `Q` is computed on a space, as a refresh needs it.

use faer::{MatRef, Par};

use crate::engine::{InverseGram, WholeStart};
use crate::error::numerics::Result;
use crate::projector::Projector;

/// `Q = V (Vᵀ (weight C + H) V + ridge I)⁻¹ Vᵀ`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Solve {
    pub(crate) weight: f64,
    pub(crate) ridge: f64,
    pub(crate) products: Products,
}

/// Which form of `Q` multiplies single keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    Exact,
    /// An `f32` copy of `Q`: faster for `f32` keys, and as precise as they are.
    Rounded,
}

impl Solve {
    /// `Q` without history, on a projector cut from the spectrum of `C`.
    pub(crate) fn start(&self, projector: &Projector, par: Par) -> Result<InverseGram> {
        self.fitted(InverseGram::diagonal(projector, self.weight, self.ridge, par)?)
    }

    /// `Q` on any projector, for `A = weight C + H`.
    pub(super) fn on(&self, projector: &Projector, A: MatRef<'_, f64>, par: Par) -> Result<InverseGram> {
        self.fitted(InverseGram::new(projector, A, self.ridge, par)?)
    }

    /// `Q` without history, on the whole space.
    pub(crate) fn whole(&self, start: &WholeStart, par: Par) -> Result<InverseGram> {
        self.fitted(start.inverse(par)?)
    }

    fn fitted(&self, Q: InverseGram) -> Result<InverseGram> {
        match self.products {
            Products::Exact => Ok(Q),
            Products::Rounded => Q.with_rounded_copy(),
        }
    }
}
