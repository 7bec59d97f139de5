//! Exponential forgetting.

use super::InverseGram;
use crate::error::numerics::{NumericsError, Result};
use crate::util::validate;

impl InverseGram {
    /// Discounts the history: `A <- factor A`, so `Q <- Q / factor`. With one call before each key that is absorbed, this is
    /// recursive least squares with exponential weighting: after `T` steps
    ///
    /// ```text
    /// Q = (sum_t factor^(T-t) k_t k_tᵀ + factor^T A_0)⁻¹
    /// ```
    ///
    /// where `A_0` is the start (`lambda I` for [`isotropic`](Self::isotropic)). It fades as well. The memory is about
    /// `1 / (1 - factor)` steps long, and should hold more keys than `d_in`: fewer do not excite every direction (see
    /// below).
    ///
    /// * `factor`: the forgetting factor, `0 < factor <= 1`; 0.95 to 0.999 are usual, 1 changes nothing
    ///
    /// Cost: `O(d_in)` for each pending column, at most 64. Once the product of the factors since the last pass over
    /// `Q` is below 1/2, one more pass.
    ///
    /// # Errors
    /// [`NumericsError::Parameter`] for another factor; [`NumericsError::Overflow`] if `Q` would leave the range of `f64`.
    /// On error, nothing is changed.
    ///
    /// # Wind-up
    /// `Q` grows without bound, as `factor^-T`, in directions that no key excites. When a key finally excites one of them,
    /// its gain is huge, and its noise is written in full. In the end the rounding of `Q` hides everything else, and solving
    /// reports [`NumericsError::Singular`]. Remedies:
    ///
    /// * Discount only before keys that carry information, for example those with a gain `kᵀ Q k`
    ///   ([`Solution::gains`](super::Solution::gains)) above a bound.
    /// * Absorb a little of every direction in turn: at step `t` the column `sqrt(d_in (1 - factor) lambda) e_i` with
    ///   `i = t mod d_in`, without an update. This keeps `A` above about `lambda I`.
    ///
    /// # Subspaces
    /// Rounding outside the space of `Q` (that of its projector, or what [`constrain`](Self::constrain) left) grows as
    /// `factor^-T` too, from about `1e-16` of `Q`: with the factor 0.99, it is `1e-6` after 2000 steps. For longer streams, work
    /// in the coordinates of the space, where there is no outside: start from [`isotropic`](Self::isotropic) of `r` dimensions,
    /// give it the keys `Vᵀ k`, and write `Delta = R directionsᵀ Vᵀ`, where `V` is the [basis](crate::Projector::basis) of the
    /// projector.
    ///
    /// # Examples
    /// A filter that follows a system whose outputs `v = W k` drift. After 500 steps it knows the present system; without
    /// forgetting it would know the mean of the past.
    /// ```
    /// use betaedit_core::{EditBatch, InverseGram, Orientation, Update, faer::{Mat, Par}};
    ///
    /// let system = |t: usize| Mat::from_fn(2, 3, |i, j| (0.002 * t as f64 + (3 * i + j) as f64).sin());
    /// let estimate = |factor: f64| -> Result<f64, betaedit_core::Error> {
    ///     let mut W = Mat::<f64>::zeros(2, 3);
    ///     let mut Q = InverseGram::isotropic(3, 1e-3, Par::Seq)?;
    ///     for t in 0..500 {
    ///         let k = Mat::from_fn(3, 1, |i, _| ((t * (2 * i + 7)) as f64).sin());
    ///         let v = system(t) * &k;
    ///         Q.discount(factor)?;
    ///         let solution = Q.solve(k.as_ref())?;
    ///         let residual = v - &W * &k; // the error of the prediction
    ///         let update = Update::from_factors(residual, solution.directions().transpose().to_owned())?;
    ///         update.apply_to(W.as_mut(), Orientation::OutputsByInputs, Par::Seq)?;
    ///         Q.absorb_solution(&solution)?;
    ///     }
    ///     Ok((W - system(499)).norm_l2())
    /// };
    /// assert!(estimate(0.9)? < 0.05);
    /// assert!(estimate(1.0)? > 0.3);
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    ///
    /// # References
    /// Haykin: "Adaptive Filter Theory", chapter "Recursive least-squares adaptive filter". Åström, Wittenmark: "Adaptive
    /// Control", on estimator wind-up.
    pub fn discount(&mut self, factor: f64) -> Result<()> {
        if !(factor > 0.0 && factor <= 1.0) {
            let allowed = "a number above 0, at most 1";
            return Err(NumericsError::Parameter { parameter: "factor", value: factor, allowed });
        }
        if factor == 1.0 {
            return Ok(());
        }
        let growth = 1.0 / factor;
        let (added, subtracted) = self.Q.traces();
        // Two bounds, `1 / factor` times the last one and the trace. Rounding errors of a larger `Q` fade as its history.
        let trace = (added - subtracted) * growth;
        let largest = (self.largest * growth).min(trace.max(self.largest * factor));
        validate::in_range("discounting the history", &[growth, largest, added * growth])?;
        if self.Q.folds_when_scaled_by(growth) {
            self.settle_if_it_shows();
        }
        self.Q.scale_by(growth);
        // An unsettled key `k` of before is the key `sqrt(factor) k` of now.
        let root = factor.sqrt();
        self.unsettled.keys.iter_mut().for_each(|k| *k *= root);
        // `Q a = x` keeps `x`.
        self.probe.a *= faer::Scale(factor);
        (self.largest, self.limit) = (largest, self.limit * growth);
        self.Q.fit_rounded(largest);
        self.token.advance();
        Ok(())
    }
}
