//! The hyperparameters of all methods as one value.

use super::{
    AlphaEdit, Anchors, BetaEdit, Emmet, Encore, History, Memit, Method, NullSpace, Penalty, Pmet, RlsEdit, SimIe,
    Simulation, Slack,
};
use crate::projector::Threshold;
use crate::refresh::Refresh;
use crate::util::setters::setters;

/// The hyperparameters of all methods together, for programs that select a method by name. Each method uses those it
/// knows, see [`MethodEntry::parameters`](super::MethodEntry::parameters).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Hyperparameters {
    /// Weight of the statistics in MEMIT and related methods. Default: `15_000.0`.
    pub lambda: f64,
    /// Weight of the statistics in BetaEdit. Default: `3_000.0`.
    pub lambda1: f64,
    /// Ridge of AlphaEdit, BetaEdit and ENCORE. Default: `10.0`.
    pub lambda2: f64,
    /// Where the null space ends. Default: `Threshold::Absolute(0.02)`.
    pub threshold: Threshold,
    /// When and how BetaEdit and the `-ns` methods refresh. Default: `None`, the default of the method itself.
    pub refresh: Option<Refresh>,
    /// Whether BetaEdit penalises leakage. Default: [`Penalty::Kept`].
    pub penalty: Penalty,
    /// How far EMMET may miss its residuals. Default: that of [`Emmet`].
    pub slack: Slack,
    /// Strengths of RLSEdit's anchors. Default: those of [`RlsEdit`].
    pub anchors: Anchors,
    /// The cosine from which MEMIT-Merge treats two keys as the same. Default: `0.99`.
    pub alike: f64,
    /// Seed of MEMIT-R's random keys. Default: `0`.
    pub seed: u64,
    /// Wraps the selected method in SimIE. Default: `None`; only `simie` then uses SimIE.
    pub simulation: Option<Simulation>,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        let (memit, emmet, anchored, betaedit) =
            (Memit::default(), Emmet::default(), RlsEdit::default(), BetaEdit::default());
        Self {
            lambda: memit.lambda,
            lambda1: betaedit.lambda1,
            lambda2: betaedit.lambda2,
            threshold: betaedit.threshold,
            refresh: None,
            penalty: betaedit.penalty,
            slack: emmet.slack,
            anchors: anchored.anchors,
            alike: 0.99,
            seed: 0,
            simulation: None,
        }
    }
}

setters!(Hyperparameters {
    /// Sets the weight of the statistics in MEMIT and related methods.
    with_lambda(lambda: f64),
    /// Sets the weight of the statistics in BetaEdit.
    with_lambda1(lambda1: f64),
    /// Sets the ridge of AlphaEdit, BetaEdit and ENCORE.
    with_lambda2(lambda2: f64),
    /// Sets where the null space ends.
    with_threshold(threshold: Threshold),
    /// Sets when and how BetaEdit and the `-ns` methods refresh.
    with_refresh(refresh: Option<Refresh>),
    /// Sets whether BetaEdit penalises leakage.
    with_penalty(penalty: Penalty),
    /// Sets how far EMMET may miss its residuals.
    with_slack(slack: Slack),
    /// Sets the strengths of RLSEdit's anchors.
    with_anchors(anchors: Anchors),
    /// Sets the cosine from which MEMIT-Merge treats two keys as the same.
    with_alike(alike: f64),
    /// Sets the seed of MEMIT-R's random keys.
    with_seed(seed: u64),
    /// Wraps the selected method in SimIE.
    with_simulation(simulation: Option<Simulation>),
});

/// The methods with these hyperparameters.
impl Hyperparameters {
    pub(super) fn memit(&self, history: History) -> Memit {
        Memit::default().with_lambda(self.lambda).with_history(history)
    }

    pub(super) fn pmet(&self, history: History) -> Pmet {
        Pmet::default().with_lambda(self.lambda).with_history(history)
    }

    pub(super) fn emmet(&self, history: History) -> Emmet {
        Emmet::default().with_lambda(self.lambda).with_slack(self.slack).with_history(history)
    }

    pub(super) fn alphaedit(&self, history: History) -> AlphaEdit {
        AlphaEdit::default().with_lambda2(self.lambda2).with_threshold(self.threshold).with_history(history)
    }

    pub(super) fn null_space<M: Method>(&self, method: M) -> NullSpace<M> {
        NullSpace::new(method).with_threshold(self.threshold).with_refresh(self.refresh)
    }

    pub(super) fn encore(&self) -> Encore {
        Encore::default().with_lambda(self.lambda).with_mu(self.lambda2)
    }

    pub(super) fn rlsedit(&self) -> RlsEdit {
        RlsEdit::default().with_lambda(self.lambda).with_anchors(self.anchors)
    }

    pub(super) fn simie<M: Method>(&self, method: M) -> SimIe<M> {
        SimIe::new(method).with_simulation(self.simulation.unwrap_or_default())
    }

    pub(super) fn betaedit(&self) -> BetaEdit {
        let method = BetaEdit::default().with_lambda1(self.lambda1).with_lambda2(self.lambda2);
        method.with_threshold(self.threshold).with_penalty(self.penalty).with_refresh(self.refresh)
    }
}
