//! A copy of the model, and what edits it.

use betaedit_core::editor::Recipe;
use betaedit_core::faer::Mat;
use betaedit_core::llm::{FactToken, FineTuning, LowRankTuning, Model, ModelAdapter, Request, Tokenizer};
use betaedit_core::session::{Outcome, Session};

use super::lab::Lab;
use crate::terminal::Done;

/// What edits the model in a run.
#[derive(Clone)]
pub enum By {
    ClosedForm(ClosedForm),
    /// FT-L, of the last of the edited layers.
    FineTuning(FineTuning),
    /// LoRA.
    LowRank(LowRankTuning),
}

/// A method of the library, run in a session.
#[derive(Clone)]
pub struct ClosedForm {
    pub method: String,
    pub recipe: Recipe,
    pub token: FactToken,
}

impl By {
    pub fn name(&self) -> &str {
        match self {
            Self::ClosedForm(form) => &form.method,
            Self::FineTuning(_) => "ft-l",
            Self::LowRank(_) => "lora",
        }
    }

    /// Everything about the method that the results of a run depend on.
    pub fn description(&self) -> Done<String> {
        let settings = match self {
            Self::ClosedForm(form) => format!("{} at {}", serde_json::to_string(&form.recipe)?, form.token),
            Self::FineTuning(tuning) => serde_json::to_string(tuning)?,
            Self::LowRank(tuning) => serde_json::to_string(tuning)?,
        };
        Ok(format!("{} {settings}", self.name()))
    }

    /// The token at which facts are written; `None` for fine-tuning.
    pub fn token(&self) -> FactToken {
        match self {
            Self::ClosedForm(form) => form.token,
            Self::FineTuning(_) | Self::LowRank(_) => FactToken::default(),
        }
    }
}

/// The relative leakage and drift, as means over the edited layers.
#[derive(Clone, Copy, Default)]
pub struct Gauges {
    /// `tr(D C Dᵀ) / tr(W C Wᵀ)`.
    pub leakage: Option<f64>,
    /// `|D| / |W|`.
    pub drift: Option<f64>,
    pub kept: Option<f64>,
}

/// A model that is being edited.
pub enum Edited {
    Session(Box<Session<ModelAdapter>>),
    FineTuned { model: Model, tokenizer: Tokenizer, layer: usize, tuning: FineTuning },
    LowRank { model: Model, tokenizer: Tokenizer, tuning: LowRankTuning },
}

impl Edited {
    /// Writes a fact: the number of past edits whose keys nearly equal its own in some layer, or why it was rejected.
    pub fn edit(&mut self, request: &Request) -> Done<Result<usize, String>> {
        let requests = std::slice::from_ref(request);
        match self {
            Self::Session(session) => {
                let outcome = session.edit(requests)?;
                Ok(match &outcome {
                    Outcome::Applied(applied) => Ok(applied.conflicts.len()),
                    _ => Err(outcome.to_string()),
                })
            }
            Self::FineTuned { model, tokenizer, layer, tuning } => {
                Ok(tuning.run(model, tokenizer, *layer, requests).map(|_| 0).map_err(|error| error.to_string()))
            }
            Self::LowRank { model, tokenizer, tuning } => {
                Ok(tuning.run(model, tokenizer, requests).map(|_| 0).map_err(|error| error.to_string()))
            }
        }
    }

    pub fn model(&self) -> &Model {
        match self {
            Self::Session(session) => session.adapter().model(),
            Self::FineTuned { model, .. } | Self::LowRank { model, .. } => model,
        }
    }

    /// Gauges of the matrices that have statistics; LoRA changes others.
    pub fn gauges(&self, lab: &Lab) -> Done<Gauges> {
        match self {
            Self::Session(session) => {
                let (layers, mut sums) = (lab.layers(), (0.0, 0.0));
                for layer in layers {
                    let gauges = session.gauges(layer.number).ok_or("the session has no gauges")?;
                    sums = (sums.0 + gauges.leakage / layer.energy, sums.1 + gauges.drift / layer.norm);
                }
                let kept: usize = session.states().map(|(_, state)| state.kept_directions).sum();
                let mean = |sum: f64| Some(sum / layers.len() as f64);
                Ok(Gauges { leakage: mean(sums.0), drift: mean(sums.1), kept: mean(kept as f64) })
            }
            Self::FineTuned { model, layer, .. } => {
                let Some(there) = lab.layers().iter().find(|there| there.number == *layer) else {
                    return Ok(Gauges::default());
                };
                let D: Mat<f64> = lab.weight(model, *layer)? - lab.unedited_weight(*layer)?;
                let (leakage, drift) = (there.energy_of(D.as_ref(), lab.par())?, D.norm_l2());
                Ok(Gauges { leakage: Some(leakage / there.energy), drift: Some(drift / there.norm), kept: None })
            }
            Self::LowRank { .. } => Ok(Gauges::default()),
        }
    }
}
