//! SimIE, around any method.

use std::borrow::Cow;

use crate::editor::{Method, Recipe, Simulation};
use crate::error::numerics::Result;
use crate::util::validate;

/// SimIE: adapts a method to many edits. It treats the weights `W'_i` of the method as the answers of an ideal editor,
/// and learns from them. After `t` edits the weight minimises
///
/// ```text
/// sum_i |(W - W'_i) X_i|² + lambda |W - W0|²
/// ```
///
/// where `X_i` are the inputs of the edited matrix at all tokens of edit `i`, from
/// [`EditBatch::with_context`](crate::EditBatch::with_context). Without a context they are the keys. By recursion, each
/// edit is the engine's formula on a second `Q`, that of `lambda I + sum X Xᵀ`, with the residuals `(W'_t - W) X_t`.
///
/// The published program wraps ROME, whose closed form is a single edit of [`Emmet`](crate::editor::Emmet).
///
/// # Memory
/// `4 d_in²` bytes for the second `Q`, and `8 d_in d_out` for the total change.
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
    /// The wrapped method.
    pub method: M,
    /// How the ideal editor is simulated.
    #[cfg_attr(feature = "serde", serde(default))]
    pub simulation: Simulation,
}

impl<M: Method> SimIe<M> {
    /// Wraps a method.
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
            // The closed form of the published program.
            "emmet" => "simie".into(),
            name if name == "simie" || name.starts_with("simie-") => name.to_owned().into(),
            name => format!("simie-{name}").into(),
        }
    }

    fn check(&self) -> Result<()> {
        self.method.check()?;
        validate::positive("lambda of the simulation", self.simulation.lambda)
    }

    fn recipe(&self) -> Recipe {
        Recipe { simulation: Some(self.simulation), ..self.method.recipe() }
    }
}
