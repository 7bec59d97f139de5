//! Closed-form knowledge editing of language models: change facts inside a trained model by rewriting one weight matrix
//! per edited layer, without retraining, at the cost of one pass over memory per edit.
//!
//! # The problem
//!
//! A transformer's MLP ends in a matrix $W$ (`d_out x d_in`, the *output* or *down* projection) that works like a
//! dictionary: its input at some token is a **key** $k$, its output $W k$ is the **value** stored under that key. The
//! fact "the capital of Atlantis is Poseidonis" sits under the key that the model computes at the last token of
//! "Atlantis". To change the fact, somebody (an optimiser, see the [`Adapter`] trait) finds the value $v$ that makes the
//! model say the new thing. What is left is linear algebra: find a small change $\Delta$ of the matrix such that
//!
//! $$ (W + \Delta) k \approx v, \qquad\text{that is}\qquad \Delta k \approx r, \qquad r = v - W k , $$
//!
//! where $r$ is the **residual**, while all other keys go on giving what they gave.
//!
//! What the other keys are is known as a statistic only: the **second moment** $C = \mathbb{E}[k k^\top]$ over some text,
//! `d_in x d_in`. The mean squared change that $\Delta$ brings to the outputs on that text is its **leakage**,
//! $\mathbb{E} \lVert \Delta k \rVert^2 = \mathrm{tr}(\Delta C \Delta^\top)$.
//! The keys of earlier edits $k_1, \dots, k_t$ shall keep their new values, too: they form the **history**
//! $H = \sum_i k_i k_i^\top$. And the matrix shall not wander far from where it was: the **drift**
//! $\lVert \sum_i \Delta_i \rVert_F$ shall stay small.
//!
//! # One formula
//!
//! For a batch of keys $K$ (`d_in x n`) and residuals $R$ (`d_out x n`), minimising what is missed plus what is disturbed,
//!
//! $$ \lVert \Delta K - R \rVert_F^2 + \lambda_1 \mathrm{tr}(\Delta C \Delta^\top) + \mathrm{tr}(\Delta H \Delta^\top) +
//!    \lambda_2 \lVert \Delta \rVert_F^2 \qquad\text{over}\qquad \Delta = \Delta P , $$
//!
//! has the solution
//!
//! $$ \Delta = R (I + G)^{-1} Z^\top, \qquad Z = Q K, \qquad G = K^\top Z, \qquad
//!    Q = V \left( V^\top (\lambda_1 C + H) V + \lambda_2 I \right)^{-1} V^\top . $$
//!
//! $P = V V^\top$ is the **projector** on the directions in which edits are allowed: all of them, or the eigenvectors of
//! $C$ with eigenvalues below a **threshold**, which the model hardly uses (the *null space*). Every closed-form method of
//! the field is this formula with another start of $Q$ (see the table in [`editor`]): MEMIT takes $P = I$, AlphaEdit
//! $\lambda_1 = 0$, BetaEdit both terms, and a projector that is rebuilt as the history grows; EMMET, which meets residuals
//! exactly, has $e I$ in place of $I$.
//!
//! # Why it is fast
//!
//! The published programs form and solve a dense `d_in x d_in` system per edit, $O(d^3)$. But in the eigenbasis of $C$
//! the first $Q$ is diagonal, and each edit changes it by a term of rank $n$,
//!
//! $$ Q \leftarrow Q - Z (I + G)^{-1} Z^\top , $$
//!
//! so an edit costs one product $Q K$: $O(d^2)$. This is recursive least squares, and it buys more than speed. With history
//! and a fixed projector, a stream of edits towards fixed targets gives the same weights as one ridge regression over all of them at once, in any order; and the update that takes
//! an edit back is as cheap and as exact as the edit. [`InverseGram`] is that engine.
//!
//! # A worked example
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
//! // One eigendecomposition serves any threshold, any method.
//! let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq)?);
//! let method = BetaEdit::default().with_lambda1(10.0).with_lambda2(0.01).with_threshold(Threshold::Absolute(0.02));
//! let mut editor = method.editor::<f64>(&spectrum, Par::Seq)?;
//! assert_eq!(editor.projector().kept(), 2);
//!
//! // A fact: under key k, the weight shall answer v.
//! let mut W = mat![[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.5]];
//! let before = &W * &text;
//! let (k, v) = (mat![[0.5], [0.2], [1.0], [0.4]], mat![[2.0], [-1.0]]);
//! let r = &v - &W * &k;
//!
//! // Propose, look, apply, commit. A proposal that is dropped leaves no trace.
//! let update = editor.propose(&EditBatch::new(k.as_ref(), r.as_ref())?)?;
//! let leakage = metrics::leakage(&update, &moment, Par::Seq)?;
//! assert!(leakage <= editor.projector().threshold() * update.frobenius_norm().powi(2));
//! update.apply_to(W.as_mut(), Orientation::OutputsByInputs, Par::Seq)?;
//! editor.commit(&update)?;
//!
//! // The fact is written to a few percent, and the outputs on the text change by less than a tenth.
//! assert!((&v - &W * &k).norm_l2() < 0.1 * r.norm_l2());
//! assert!((&W * &text - &before).norm_l2() < 0.1 * before.norm_l2());
//! # Ok::<(), betaedit_core::Error>(())
//! ```
//!
//! # The rooms
//!
//! Data flows one way through the crate:
//!
//! 1. [`SecondMoment`]: what the model knows, accumulated from keys; a sum cannot pass for a mean.
//! 2. [`Spectrum`]: its eigendecomposition, verified, computed once.
//! 3. [`Projector`] and [`ProjectorBuilder`]: where edits are allowed.
//! 4. [`InverseGram`]: the engine, `Q`.
//! 5. [`EditBatch`] in, [`Update`] out: always factors of rank `n`, for a weight of either [`Orientation`].
//! 6. [`Refresh`]: when and how the projector is rebuilt; [`Headroom`] does it without an eigendecomposition.
//! 7. [`editor`]: the methods, and the [`Editor`] trait: propose, look, commit.
//! 8. [`restraint`]: updates changed after they were computed: RECT, PRUNE.
//! 9. [`metrics`]: leakage, drift, interference, stability, retention.
//! 10. [`adapter`]: the seam to a model, and recorded streams of edits.
//! 11. `format`: files. Statistics, checkpoints, adapters, deltas, spectra (features `npz`, `safetensors`).
//! 12. `llm`: language models themselves, their keys, targets and statistics (feature `llm`).
//!
//! # Numbers
//!
//! Keys, residuals and weights are `f32` or `f64` ([`Scalar`]); `Q`, statistics, eigendecompositions and metrics are `f64`
//! always. Matrices are those of [`faer`], which is re-exported as `betaedit_core::faer`: use that,
//! and versions cannot disagree. Threads are the caller's choice, by faer's [`Par`](faer::Par) argument: `Par::Seq`, or
//! `Par::rayon(n)` with 0 for all cores. Nothing reads or sets a global. At an equal number of threads, equal input gives
//! equal bits.
//!
//! Every input is checked (shape, NaN, infinity) before the first arithmetic. A function that returns an [`Error`] has
//! changed nothing.
//!
//! # Features
//!
//! None is on by default.
//!
//! * `session`: [`Session`](session::Session)s, many layers with undo that survive a crash
//! * `llm`: language models (Llama, Mistral, Qwen2, Qwen3, GPT-2, GPT-J) from Hugging Face directories and GGUF files
//! * `facts`: files of facts to edit, a set of them, and efficacy, generality, specificity and perplexity, `facts`
//! * `safetensors`: checkpoints, LoRA adapters, deltas, statistics, spectra and recorded edit streams as files
//! * `npz`: layer statistics of the MEMIT family
//! * `nalgebra`: conversions from and to nalgebra's matrices
//!
//! # References
//!
//! 1. Meng, Sharma, Andonian, Belinkov, Bau: "Mass-Editing Memory in a Transformer", ICLR 2023 (MEMIT)
//! 2. Fang et al.: "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", ICLR 2025
//! 3. Liu, Liu, Li: "BetaEdit: Null-Space Constrained Sequential Model Editing", arXiv 2605.09285

#![allow(non_snake_case)]

pub mod adapter;
pub mod batch;
pub mod editor;
pub mod engine;
pub mod error;
#[cfg(feature = "facts")]
pub mod facts;
#[cfg(any(feature = "npz", feature = "safetensors"))]
pub mod format;
#[cfg(feature = "nalgebra")]
pub mod interop;
mod linalg;
#[cfg(feature = "llm")]
pub mod llm;
pub mod metrics;
pub mod projector;
pub mod refresh;
pub mod restraint;
pub mod scalar;
mod second_moment;
#[cfg(feature = "session")]
pub mod session;
mod spectrum;
pub mod update;
mod util;

pub use faer;

pub use adapter::Adapter;
pub use batch::EditBatch;
pub use editor::{AlphaEdit, BetaEdit, Editor, Memit, Method, Proposal};
pub use engine::InverseGram;
pub use error::{Error, Result};
pub use projector::{Projector, Threshold};
pub use refresh::{Refresh, RefreshRule};
pub use scalar::Scalar;
pub use second_moment::SecondMoment;
pub use spectrum::Spectrum;
pub use update::{Orientation, Update};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/adding-an-editor.md")]
struct AddingAnEditor;

#[cfg(all(doctest, feature = "session"))]
#[doc = include_str!("../docs/adding-an-adapter.md")]
struct AddingAnAdapter;
