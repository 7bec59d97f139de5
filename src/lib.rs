//! Knowledge editing in closed form: change facts inside a trained language model by rewriting one weight matrix per edited
//! layer. There is no training; an edit costs one pass over memory.
//!
//! The crate knows matrices only. A model comes in through an [`Adapter`]; one for language models is in `llm`.
//!
//! # The problem
//!
//! The MLP of a transformer block ends in a matrix `W` (`d_out x d_in`, the *output* or *down* projection) that works like a
//! dictionary. Its input at a token is a **key** `k`, and its output `W k` is the **value** stored under that key. The fact
//! "the capital of Atlantis is Poseidonis" is stored under the key that the model computes at the last token of "Atlantis".
//! To change the fact, an optimiser finds the value `v` that makes the model say something else. The rest is linear algebra: find
//! a small change `Δ` such that
//!
//! ```text
//! (W + Δ) k ≈ v,   that is   Δ k ≈ r,   r = v - W k
//! ```
//!
//! where `r` is the **residual**, while the outputs for all other keys stay as they are.
//!
//! The other keys enter through a statistic: the **second moment** `C = E[k kᵀ]` over some text, `d_in x d_in`. The
//! mean squared change that `Δ` makes to the outputs on that text is its **leakage**, `E |Δ k|² = tr(Δ C Δᵀ)`.
//! The keys of earlier edits `k₁, ..., kₜ` must keep their new values as well. They form the **history** `H = Σ kᵢ kᵢᵀ`. And the
//! weight must stay near its start: the **drift** `|Σ Δᵢ|_F` is the distance from it.
//!
//! # One formula
//!
//! For a batch of keys `K` (`d_in x n`) and residuals `R` (`d_out x n`), the update minimises what it misses plus what it
//! disturbs,
//!
//! ```text
//! |Δ K - R|²_F + λ₁ tr(Δ C Δᵀ) + tr(Δ H Δᵀ) + λ₂ |Δ|²_F   over   Δ = Δ P
//! ```
//!
//! The solution is
//!
//! ```text
//! Δ = R (I + G)⁻¹ Zᵀ,   Z = Q K,   G = Kᵀ Z,   Q = V (Vᵀ (λ₁ C + H) V + λ₂ I)⁻¹ Vᵀ
//! ```
//!
//! `P = V Vᵀ` is the **projector** on the directions in which edits are allowed: all directions, or the eigenvectors of
//! `C` with eigenvalues below a **threshold**, which the model hardly uses (the *null space*). Every closed-form method of
//! the field is this formula with a different start of `Q` (see the table in [`editor`]): MEMIT has `P = I`; AlphaEdit has
//! `λ₁ = 0`; BetaEdit has both terms, and cuts its projector again as the history grows; EMMET, which meets residuals
//! exactly, has `e I` in place of `I`.
//!
//! # Why it is fast
//!
//! The published programs form and solve a dense `d_in x d_in` system for each edit: `O(d³)`. But in the eigenbasis of `C`
//! the first `Q` is diagonal, and an edit changes it by a term of rank `n`,
//!
//! ```text
//! Q ← Q - Z (I + G)⁻¹ Zᵀ
//! ```
//!
//! so an edit costs the product `Q K`: `O(d²)`. This is recursive least squares, which gives more than speed. With history and
//! a fixed projector, a stream of edits towards fixed targets gives the same weights as one ridge regression over all of them,
//! in any order. And an edit can be undone exactly, at the cost of an edit. [`InverseGram`] is this engine.
//!
//! # An example
//!
//! ```
//! use std::sync::Arc;
//! use betaedit_core::faer::{Mat, Par, mat};
//! use betaedit_core::{BetaEdit, EditBatch, Editor, Method, Orientation, SecondMoment, Spectrum, Threshold, metrics};
//!
//! // Four inputs. On its text, the model uses the first two, and hardly the other two.
//! let text = Mat::from_fn(4, 1000, |i, t| [3.0, 1.0, 0.1, 0.05][i] * ((t * (2 * i + 7)) as f64).sin());
//! let mut moment = SecondMoment::new(4);
//! moment.observe(text.as_ref(), Par::Seq)?;
//!
//! // One eigendecomposition serves every threshold and every method.
//! let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq)?);
//! let method = BetaEdit::default().with_lambda1(10.0).with_lambda2(0.01).with_threshold(Threshold::Absolute(0.02));
//! let mut editor = method.editor::<f64>(&spectrum, Par::Seq)?;
//! assert_eq!(editor.projector()?.kept(), 2);
//!
//! // A fact: under the key k, the weight is to give the value v.
//! let mut W = mat![[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.5]];
//! let before = &W * &text;
//! let (k, v) = (mat![[0.5], [0.2], [1.0], [0.4]], mat![[2.0], [-1.0]]);
//! let r = &v - &W * &k;
//!
//! // Propose, look, apply, commit. A proposal that is dropped leaves no trace.
//! let proposal = editor.propose(&EditBatch::new(&k, &r)?)?;
//! let update = proposal.update();
//! let leakage = metrics::leakage(update, &moment, Par::Seq)?;
//! assert!(leakage <= editor.projector()?.threshold() * update.frobenius_norm().powi(2));
//! update.apply_to(W.as_mut(), Orientation::OutputsByInputs, Par::Seq)?;
//! editor.commit(proposal)?;
//!
//! // The fact is written to a few percent, and the outputs on the text change by less than a tenth.
//! assert!((&v - &W * &k).norm_l2() < 0.1 * r.norm_l2());
//! assert!((&W * &text - &before).norm_l2() < 0.1 * before.norm_l2());
//! # Ok::<(), betaedit_core::Error>(())
//! ```
//!
//! # The modules
//!
//! Data flows one way through the crate, and a module imports only modules before it (test `layers`):
//!
//! 1. [`SecondMoment`]: what the model knows, accumulated from keys.
//! 2. [`spectrum`]: its eigendecomposition, verified, computed once.
//! 3. [`projector`]: where edits are allowed.
//! 4. [`batch`]: keys and residuals, checked.
//! 5. [`engine`]: `Q`, an inverse that is updated and never recomputed.
//! 6. [`update`]: a change of a weight, as factors of rank `n`; the weight, in either [`Orientation`].
//! 7. [`refresh`]: when and how the projector is cut again, one rule a file.
//! 8. [`metrics`]: leakage, drift, interference, stability, retention.
//! 9. [`editor`]: the [`Editor`] trait (propose, look, commit) and the methods, one file a paper.
//! 10. [`restraint`]: changes to an update after it was computed: RECT, PRUNE.
//! 11. [`ridge`]: ridge regression over a stream of samples, with exact forgetting.
//! 12. [`concept`]: new outputs for some inputs of any linear layer, as in diffusion models: UCE, SPEED.
//! 13. [`regmean`]: models merged by regression means.
//! 14. `format`: files. Statistics, checkpoints, adapters, deltas, spectra, the engine's state (features `npz`, `safetensors`,
//!     `files`).
//! 15. [`adapter`]: the interface to a model, and recorded streams of edits.
//! 16. `facts`: facts to edit, and the metrics of an edited model (feature `facts`).
//! 17. `session`: many layers in one transaction, undo, runs that survive a crash (feature `session`).
//! 18. `llm`: language models, their keys, targets and statistics (feature `llm`).
//!
//! Modules 11 to 13 are for fields other than language models: see `docs/matrices.md`.
//!
//! The root has the names that a first program needs: the values that flow through an edit, the three methods of the paper, the
//! traits to implement, and the settings that those methods take. Everything else is in its module.
//!
//! # Numbers, threads, errors
//!
//! Keys, residuals and weights are `f32` or `f64` ([`Scalar`]). `Q`, statistics, eigendecompositions and metrics are always
//! `f64`; single `f32` keys are multiplied with a rounded copy of `Q`, which is never updated on its own. Matrices are those of
//! [`faer`], re-exported as `betaedit_core::faer`: use that one, so that the versions always match. The caller chooses the
//! threads by faer's [`Par`](faer::Par) argument: `Par::Seq`, or `Par::rayon(n)`, with 0 for all cores. No function reads or sets
//! global state. With an equal number of threads, equal input gives equal bits.
//!
//! Every input is checked (shape, NaN, infinity) before the first arithmetic. A function that returns an [`Error`] has changed
//! nothing. There is one error type for each task: see [`error`].
//!
//! Build with optimisation, in development as well: dense kernels without it are a hundred times slower. In the `Cargo.toml` of
//! your program:
//!
//! ```toml
//! [profile.dev]
//! opt-level = 2
//! [profile.dev.package."*"]
//! opt-level = 3
//! ```
//!
//! The first line matters as much as the second: generic code of this crate is compiled as a part of yours.
//!
//! # Features
//!
//! None is on by default.
//!
//! * `session`: sessions, many layers with undo that survive a crash
//! * `llm`: language models (Llama, Mistral, Qwen2, Qwen3, Phi, Gemma, OLMo 2, GPT-NeoX, Falcon, StableLM, StarCoder2, GPT-2, GPT-J,
//!   and families of your own) from Hugging Face directories and GGUF files
//! * `facts`: files of facts to edit, a set of facts, and the metrics efficacy, generality, specificity and perplexity
//! * `safetensors`: checkpoints, GGUF models, LoRA adapters, deltas, statistics, spectra and recorded edit streams as files
//! * `npz`: numpy matrices (`.npy`), and layer statistics of the MEMIT family
//! * `files`: the state of the engine as a file; every feature that handles files enables it
//! * `half`: updates of weights in half precision, `f16` or `bf16`
//! * `nalgebra`: views of nalgebra matrices, for reading and for editing in place, and conversions
//! * `serde`: reads and writes settings, and writes reports, in any serde format
//!
//! # References
//!
//! 1. Meng, Sharma, Andonian, Belinkov, Bau: "Mass-Editing Memory in a Transformer", ICLR 2023 (MEMIT)
//! 2. Fang et al.: "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", ICLR 2025
//! 3. Liu, Liu, Li: "BetaEdit: Null-Space Constrained Sequential Model Editing", arXiv 2605.09285
//!
//! # Conventions
//!
//! * **Settings** have public fields, a `Default`, and a `with_*` function for every field. They are `#[non_exhaustive]`, as are
//!   reports, errors, and enums that may grow: a new field or variant is not a breaking change. Pairs of numbers such as
//!   [`editor::Slack`] are complete, and are written as literals.
//! * **Functions** named like a property (`kept`, `values`) cost nothing. A verb (`to_dense`, `measure_drift`, `apply`) says that
//!   there is work to do, and its documentation says how much.
//! * **Names** that are words (methods, rules, policies) are read by `FromStr` and written by `Display`, and with the feature
//!   `serde` in files.
//! * faer's types are part of the interface: a new minor version of faer is a breaking release of this crate.

#![allow(non_snake_case)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod adapter;
pub mod batch;
pub mod concept;
pub mod editor;
pub mod engine;
pub mod error;
#[cfg(feature = "facts")]
pub mod facts;
#[cfg(feature = "files")]
pub mod format;
#[cfg(doc)]
pub mod guides;
#[cfg(feature = "nalgebra")]
pub mod interop;
mod key_statistics;
mod linalg;
#[cfg(feature = "llm")]
pub mod llm;
pub mod metrics;
pub mod projector;
pub mod refresh;
pub mod regmean;
pub mod restraint;
pub mod ridge;
pub mod scalar;
mod second_moment;
#[cfg(feature = "session")]
pub mod session;
pub mod spectrum;
pub mod update;
mod util;

pub use faer;

pub use adapter::Adapter;
pub use batch::EditBatch;
pub use editor::{AlphaEdit, BetaEdit, Editor, Memit, Method, Proposal};
pub use engine::InverseGram;
pub use error::{Error, Result};
pub use key_statistics::KeyStatistics;
pub use projector::{Projector, Threshold};
pub use refresh::{Refresh, RefreshRule};
pub use scalar::Scalar;
pub use second_moment::SecondMoment;
pub use spectrum::Spectrum;
pub use update::{Orientation, Update};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
