//! The `Full` refresh: a new eigendecomposition of the protected matrix, and a new `Q`.

use std::sync::Arc;

use faer::{Mat, MatRef, Par, Scale};

use super::solve::Solve;
use crate::engine::InverseGram;
use crate::error::numerics::Result;
use crate::linalg::Need;
use crate::projector::{HistoryWeighting, Projector, Threshold};
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;

/// `H`, and its weighting in the protected matrix.
#[derive(Clone)]
pub(super) struct Full {
    pub(super) H: SecondMoment,
    pub(super) weighting: HistoryWeighting,
    /// Where the null space ends; `None` if all directions may be edited, so that a refresh changes nothing.
    pub(super) threshold: Option<Threshold>,
}

impl Full {
    pub(super) fn absorb(&mut self, keys: MatRef<'_, f64>, par: Par) -> Result<()> {
        self.H.observe(keys, par)
    }

    /// Projector and `Q` after a refresh. `C` is formed once, for both.
    ///
    /// * `first`: the initial projector, cut from the spectrum of `C`
    /// * `Q`: the present `Q`
    pub(super) fn refreshed(
        &self,
        first: &Projector,
        Q: &InverseGram,
        solve: &Solve,
        par: Par,
    ) -> Result<(Projector, InverseGram)> {
        let Some(threshold) = self.threshold else { return Ok((first.clone(), Q.clone())) };
        let d = Q.dim();
        // `A`, and the protected matrix with its decomposition.
        Need::new("a full refresh", d, d).matrix::<f64>(d, d).and(Spectrum::need(d)).reserve()?;
        let C = first.spectrum().to_matrix(par);
        let mut A = if solve.weight == 0.0 { Mat::zeros(d, d) } else { &C * Scale(solve.weight) };
        self.H.add_to(A.as_mut(), 1.0, par);
        let spectrum = if self.H.tokens() == Some(0) {
            Arc::clone(first.spectrum())
        } else {
            let M = self.weighting.protect(C, &self.H, par)?;
            Arc::new(Spectrum::decompose("protected matrix", M, par)?)
        };
        let projector = Projector::cut(spectrum, threshold)?;
        let Q = solve.on(&projector, A.as_ref(), par)?;
        Ok((projector, Q))
    }
}
