//! How far rounding has moved the state.

use faer::Mat;

use super::InverseGram;
use super::probe::Probe;

impl InverseGram {
    /// Rounding error of the state: `|Q a - x| / |x|`, for a probe with `Q a = x` in exact arithmetic. The probe is
    /// carried along from the start by algebra alone. In `f64` the error stays near `1e-14` for thousands of edits.
    /// When it nears `1e-6`, rebuild the editor from its history.
    ///
    /// Cost: one product. Carrying the probe costs `O(d_in)` per edit.
    #[must_use]
    pub fn measure_drift(&self) -> f64 {
        let Probe { a, x: expected } = self.present_probe();
        let mut x = Mat::new();
        self.Q.product(a.as_ref(), &mut x, &mut Default::default());
        let norm = expected.norm_l2();
        if norm > 0.0 { (x - expected).norm_l2() / norm } else { 0.0 }
    }

    /// The probe after the unsettled keys.
    fn present_probe(&self) -> Probe {
        let mut probe = self.probe.clone();
        probe.follow(&self.unsettled, self.Q.scale(), |i| self.unsettled.column(&self.Q, i));
        probe
    }
}
