//! Language models: everything that an editor needs from one.
//!
//! A [`Model`] is a decoder in main memory, read from a directory in the Hugging Face layout or from a GGUF file. It provides
//! what an editor needs:
//!
//! | what | type |
//! |---|---|
//! | second moments of keys over a text | [`Collector`] |
//! | second moments of the gradients of its loss over a text | [`GradientCollector`] |
//! | texts to put before a prompt | [`Contexts`] |
//! | the key and the residual of a [`Request`] | [`ModelAdapter`], an [`Adapter`](crate::Adapter) |
//! | the target: the output of a block, or of its MLP, that makes the model give the new answer | [`TargetSearch`] |
//! | baselines: fine-tuning of one matrix, or of low-rank changes | [`FineTuning`], [`LowRankTuning`] |
//! | models of families that the crate does not know | [`Family`], [`Families`], [`Model::open_with`] |
//!
//! With the feature `facts`, `Scoring` answers the questions of the metrics, and a fact converts into a request.
//!
//! The search for a target needs the gradient of a loss with respect to vectors that are added to outputs of a block ([`Site`]).
//! [`Steering`] is the upper part of a model as a function of such vectors.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//! use betaedit_core::faer::{Par, Scale};
//! use betaedit_core::llm::{Collector, Contexts, Model, ModelAdapter, Request, TargetSearch};
//! use betaedit_core::{Adapter, BetaEdit, EditBatch, Editor, Method, Spectrum};
//!
//! let par = Par::rayon(0);
//! let (model, tokenizer) = Model::open("SmolLM2-135M-Instruct", par)?;
//!
//! // What the model knows, and one editor for each layer.
//! let layers = vec![7, 8, 9, 10];
//! let text = std::fs::read_to_string("corpus.txt").unwrap();
//! let mut collector = Collector::new(&model, &tokenizer, &layers)?;
//! collector.read([text], collector.enough(), |_| ControlFlow::Continue(()))?;
//! let method = BetaEdit::default().with_lambda1(300.0);
//! let editors = collector.into_moments().into_iter().map(|(layer, moment)| {
//!     Ok((layer, method.editor::<f32>(&Arc::new(Spectrum::new(&moment, par)?), par)?))
//! });
//! let mut editors = editors.collect::<betaedit_core::Result<Vec<_>>>()?;
//!
//! // One fact: each layer writes its share of what is still missing.
//! let contexts = Contexts::generate(&model, &tokenizer, 3, 10, 0)?;
//! let mut adapter = ModelAdapter::new(model, tokenizer, layers, contexts, TargetSearch::default())?;
//! let requests = [Request::new("The Eiffel Tower", "{} is located in the city of", "Rome")?];
//! let mut left = editors.len();
//! for (layer, editor) in &mut editors {
//!     let K = adapter.keys(*layer, &requests)?;
//!     let R = adapter.residuals(*layer, &requests)? * Scale(1.0 / left as f32);
//!     adapter.apply(*layer, &editor.edit(&EditBatch::new(K.as_ref(), R.as_ref())?)?)?;
//!     left -= 1;
//! }
//! # Ok::<(), betaedit_core::Error>(())
//! ```
//!
//! Arithmetic is in `f32`. At an equal number of threads, equal input gives equal bits.

mod adapter;
mod block;
mod chat;
mod clock;
mod collector;
mod config;
pub mod families;
mod fine_tuning;
mod gradients;
mod model;
mod numbers;
mod ops;
mod patterns;
mod prompt;
mod sampling;
#[cfg(feature = "facts")]
mod scoring;
mod shares;
mod surroundings;
mod target;
mod template;
mod tokenizer;
mod weights;
mod windows;

/// The JSON of [`Family::config_json`], so that versions cannot disagree.
#[doc(no_inline)]
pub use serde_json;

pub use adapter::{AdapterStep, ModelAdapter};
pub use chat::{Message, Role};
pub use collector::{CollectionProgress, Collector};
pub use config::{
    Activation, Arrangement, Bias, Biases, BlockNorms, Config, HeadNorms, MlpKind, NormKind, Pairing, Positions,
    Rotary, RotaryScaling, Sizes, Window,
};
pub use families::{Families, Family};
pub use fine_tuning::{FineTuning, LowRankTuning, Supervision, Tuned};
pub use gradients::GradientCollector;
pub use model::{Continuation, Model, Trace};
pub use numbers::StoredNumbers;
pub use prompt::{Contexts, FactToken, Request};
pub use sampling::Sampler;
#[cfg(feature = "facts")]
pub use scoring::Scoring;
pub use surroundings::{KeyRule, Place, Places, Surroundings};
pub use target::{
    Anchor, Descent, Sensitivity, Site, Steered, SteeredEvaluation, Steering, Target, TargetSearch, Wording,
};
pub use tokenizer::Tokenizer;
pub use weights::{Source, StoredTensor};

use crate::error::{Error, ModelError};

/// A failure of the model or its tokenizer.
fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    ModelError::Failed(error.into()).into()
}

#[cfg(doctest)]
#[doc = include_str!("../../docs/adding-a-model-family.md")]
struct AddingAModelFamily;
