//! SimIE, around any method.

use std::borrow::Cow;

use crate::editor::{Method, Recipe, Simulation};
use crate::error::numerics::Result;
use crate::util::validate;

/// SimIE: a method made fit for many edits, by taking its weights `W'_i` as the answers of an ideal editor, and learning from them.
/// After `t` edits the weight minimises
///
/// ```text
/// sum_i |(W - W'_i) X_i|² + lambda |W - W0|²
/// ```
///
/// where `X_i` are the inputs of the edited matrix at all tokens of edit `i`: those of
/// [`EditBatch::with_context`](crate::EditBatch::with_context), else the keys. By recursion, each edit
/// is the formula of the engine on a second `Q`, that of `lambda I + sum X Xᵀ`, with residuals `(W'_t - W) X_t`.
///
/// The published program wraps ROME, of which the single edit of [`Emmet`](crate::editor::Emmet) is the closed form.
///
/// # Memory
/// For `Q`, `4 d_in²` bytes more, and `8 d_in d_out` for the total change.
///
/// # References
/// Guo et al., "Towards Lifelong Model Editing via Simulating Ideal Editor", ICML 2025.
///
/// # Examples
/// ```
/// use betaedit_core::{Memit, Method, editor::SimIe};
/// let method = SimIe::new(Memit::default());
/// assert_eq!(method.recipe().simulation.unwrap().lambda, 10_000.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct SimIe<M> {
    /// The method.
    pub method: M,
    /// How the ideal editor is simulated.
    pub simulation: Simulation,
}

impl<M: Method> SimIe<M> {
    /// SimIE around a method.
    #[must_use]
    pub fn new(method: M) -> Self {
        Self { method, simulation: Simulation::default() }
    }

    /// Sets how the ideal editor is simulated.
    #[must_use]
    pub fn with_simulation(mut self, simulation: Simulation) -> Self {
        self.simulation = simulation;
        self
    }
}

impl<M: Method> Method for SimIe<M> {
    fn name(&self) -> Cow<'static, str> {
        match &*self.method.name() {
            // The closed form of what is published.
            "emmet" => "simie".into(),
            name => format!("simie-{name}").into(),
        }
    }

    fn check(&self) -> Result<()> {
        self.method.check()?;
        validate::positive("lambda", self.simulation.lambda)
    }

    fn recipe(&self) -> Recipe {
        Recipe { simulation: Some(self.simulation), ..self.method.recipe() }
    }
}
