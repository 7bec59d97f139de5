//! Second moments of the gradients of a model's loss.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use candle_core::{DType, Device, Result as Computed, Var};
use faer::{Mat, Par};

use super::block::{Frame, TokenBatch, columns};
use super::collector::CollectionProgress;
use super::failed;
use super::model::Model;
use super::ops::{Objective, Op, Term};
use super::shares::{by_thread, observe_each};
use super::tokenizer::Tokenizer;
use super::windows::{WINDOW, WindowReader};
use crate::error::{ModelError, NumericsError, Result};
use crate::second_moment::SecondMoment;
use crate::util::validate;

/// Collects the second moments of the gradients of a model's loss over a text, by the outputs of some blocks.
///
/// Let `g` be the gradient of the sum of `-log p` over a window's tokens, by the output of a block at a token. The mean `G` of `g gᵀ`
/// (`hidden x hidden`) says in which directions of its output the model is sensitive: if the outputs of the tokens are changed by `u`, the
/// loss grows by about half the mean of `uᵀ G u`. In blocks with a norm behind the MLP, the output is that of the MLP before the norm:
/// what an edit of the layer changes. [`Sensitivity`](super::Sensitivity) makes use of it in the search for a target,
/// [`expected_loss`](crate::metrics::expected_loss) in a gauge.
///
/// Texts are read in windows, as by [`Collector`](super::Collector).
///
/// Cost: a pass forward and backward through the blocks above the lowest layer, for each token. Memory: the activations of a window of at
/// most 256 tokens, and a `hidden x hidden` matrix of `f64` for each layer.
///
/// # References
/// The second moments of output gradients are those of Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate
/// Curvature", ICML 2015, with the tokens of the text for labels.
pub struct GradientCollector<'a> {
    reader: WindowReader<'a>,
    moments: BTreeMap<usize, SecondMoment>,
}

impl fmt::Debug for GradientCollector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers: Vec<_> = self.moments.keys().collect();
        let mut shown = f.debug_struct("GradientCollector");
        shown.field("layers", &layers).field("tokens", &self.tokens()).finish_non_exhaustive()
    }
}

impl<'a> GradientCollector<'a> {
    /// A collector that has read nothing yet.
    ///
    /// # Errors
    /// No layer, or one that the model does not have.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, layers: &[usize]) -> Result<Self> {
        if layers.is_empty() {
            return Err(NumericsError::Empty { argument: "layers", item: "layer" }.into());
        }
        if let Some(&layer) = layers.iter().find(|&&layer| layer >= model.blocks.len()) {
            return Err(ModelError::UnknownLayer { layer, known: (0..model.blocks.len()).collect() }.into());
        }
        let moments = layers.iter().map(|&layer| (layer, SecondMoment::new(model.config.hidden))).collect();
        Ok(Self { reader: WindowReader::new(model, tokenizer), moments })
    }

    /// Reads sentences of the texts also in chats, see [`Collector::with_chats`](super::Collector::with_chats).
    ///
    /// # Errors
    /// A share outside 0 to below 1, or one above 0 for a model without a chat template.
    pub fn with_chats(mut self, share: f64) -> Result<Self> {
        self.reader = self.reader.with_chats(share)?;
        Ok(self)
    }

    /// The usual number of tokens: ten for each dimension of the outputs.
    #[must_use]
    pub fn enough(&self) -> u64 {
        10 * self.reader.model.config.hidden as u64
    }

    /// Reads texts until `enough` tokens are counted, the texts end, or `progress`, which is called after every window or two, breaks.
    ///
    /// # Errors
    /// Any failure of the model or the tokenizer. What was counted before stays counted.
    pub fn read<S: AsRef<str>>(
        &mut self,
        texts: impl IntoIterator<Item = S>,
        enough: u64,
        mut progress: impl FnMut(CollectionProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        let model = self.reader.model;
        let at_once = model.par.degree().min(model.tokens_in_memory(0) / WINDOW).max(1);
        let mut waiting: Vec<Vec<u32>> = vec![];
        for window in self.reader.windows(texts) {
            let window = window?;
            if self.tokens() >= enough {
                break;
            }
            // A token alone predicts nothing.
            if window.len() > 1 {
                waiting.push(window);
            }
            let more: usize = waiting.iter().map(|window| window.len() - 1).sum();
            if waiting.len() == at_once || self.tokens() + more as u64 >= enough {
                self.count(&std::mem::take(&mut waiting))?;
                if progress(CollectionProgress { tokens: self.tokens(), enough }).is_break() {
                    return Ok(());
                }
            }
        }
        self.count(&waiting)
    }

    /// Tokens counted.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.moments.values().next().and_then(SecondMoment::tokens).unwrap_or(0)
    }

    /// The second moments so far, by layer.
    #[must_use]
    pub fn moments(&self) -> &BTreeMap<usize, SecondMoment> {
        &self.moments
    }

    fn count(&mut self, windows: &[Vec<u32>]) -> Result<()> {
        let model = self.reader.model;
        windows.iter().try_for_each(|window| model.check_tokens(window))?;
        let of_share = |share: &[Vec<u32>], par| share.iter().map(|window| self.gradients(window, par)).collect();
        let found: Vec<Vec<Vec<Mat<f32>>>> = by_thread(windows, model.par, of_share).map_err(failed)?;
        let all = || found.iter().flatten();
        all().flatten().try_for_each(|gradients| validate::finite("gradients", gradients.as_ref()))?;
        all().try_for_each(|gradients| observe_each(&mut self.moments, gradients, model.par))
    }

    /// The gradients by the outputs of the layers, a column for each token that predicts another.
    fn gradients(&self, window: &[u32], par: Par) -> Computed<Vec<Mat<f32>>> {
        let model = self.reader.model;
        let frame = Frame { config: &model.config, par };
        let rows = window.len() - 1;
        let batch = TokenBatch::new(&model.config, [(0, rows)]);
        let mut x = model.embed(&window[..rows], &batch)?;
        let mut changes = vec![];
        for (layer, block) in model.blocks.iter().enumerate() {
            let opened = block.open(frame, &x, &batch, vec![])?;
            if !self.moments.contains_key(&layer) {
                x = block.close(&opened, par)?;
                continue;
            }
            let change = Var::zeros((rows, model.config.hidden), DType::F32, &Device::Cpu)?;
            x = match block.mlp_post_norm {
                None => (block.close(&opened, par)? + change.as_tensor())?,
                Some(_) => block.close_with(&opened, &(block.mlp(&opened, par)? + change.as_tensor())?)?,
            };
            changes.push(change);
        }
        let terms: Vec<Term> = window[1..].iter().map(|&token| Term::Likelihood { token, weight: 1.0 }).collect();
        let loss = model.logits(&x, par)?.apply_op1(Op(Objective(terms.into())))?.sum_all()?;
        let gradients = loss.backward()?;
        let of = |change: &Var| match gradients.get(change) {
            Some(gradient) => columns(gradient),
            None => Ok(Mat::zeros(model.config.hidden, rows)),
        };
        changes.iter().map(of).collect()
    }
}
