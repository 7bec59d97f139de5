//! Second moments of a model's keys over a text.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{ControlFlow, Range};

use candle_core::Result as Computed;
use faer::{Mat, Par};

use super::block::{Frame, TokenBatch, columns};
use super::failed;
use super::model::Model;
use super::shares::{by_thread, observe_each};
use super::tokenizer::Tokenizer;
use super::windows::WindowReader;
use crate::error::{NumericsError, Result};
use crate::second_moment::SecondMoment;
use crate::util::validate;

/// Collects the second moments of the keys of some layers over a text, in one pass through the blocks up to the highest layer.
///
/// Texts are read in windows of a fixed number of tokens. Each window starts like a text of its own, and windows are numbered across
/// all texts. So a collection can stop and continue, also in another process ([`starting_at`](Self::starting_at)), and several can
/// share a text: their moments add up ([`SecondMoment::merge`]). [`read`](Self::read) reports its progress about every thousand tokens,
/// also within a long text, and stops there if it is told to.
///
/// Cost: a pass through the blocks, and `d_in²` multiply-adds in `f64` for each token and layer. Memory: one `d_in x d_in` matrix of
/// `f64` for each layer.
pub struct Collector<'a> {
    reader: WindowReader<'a>,
    moments: BTreeMap<usize, SecondMoment>,
    windows: Range<usize>,
    /// The window before which to stop.
    end: usize,
}

impl fmt::Debug for Collector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers: Vec<_> = self.moments.keys().collect();
        let mut shown = f.debug_struct("Collector");
        shown.field("layers", &layers).field("windows", &self.windows).field("tokens", &self.tokens());
        shown.finish_non_exhaustive()
    }
}

/// The progress of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectionProgress {
    /// Tokens counted.
    pub tokens: u64,
    /// Tokens after which the collection ends, if the texts are that long.
    pub enough: u64,
}

/// Windows that are run at once.
const AT_ONCE: usize = 4;

impl<'a> Collector<'a> {
    /// A collector that has read nothing yet.
    ///
    /// # Errors
    /// No layer, or one that the model does not have.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, layers: &[usize]) -> Result<Self> {
        if layers.is_empty() {
            return Err(NumericsError::Empty { argument: "layers", item: "layer" }.into());
        }
        let of = |&layer: &usize| Ok((layer, SecondMoment::new(model.down(layer)?.shape().1)));
        let moments = layers.iter().map(of).collect::<Result<_>>()?;
        Ok(Self { reader: WindowReader::new(model, tokenizer), moments, windows: 0..0, end: usize::MAX })
    }

    /// Reads sentences of the texts also in chats, by the model's template: a user begins a sentence, and the model says the whole of it.
    /// What the keys of all chats have in common, and those of no text, is in the statistics then, and is left alone by edits.
    ///
    /// * `share`: of all tokens, those that are read in chats, 0 to below 1. The default is 0
    ///
    /// # Errors
    /// Another share, or a share above 0 for a model without a chat template.
    pub fn with_chats(mut self, share: f64) -> Result<Self> {
        self.reader = self.reader.with_chats(share)?;
        Ok(self)
    }

    /// Skips the windows before this one, for example because another process reads them.
    #[must_use]
    pub fn starting_at(mut self, window: usize) -> Self {
        self.windows = window..window;
        self
    }

    /// Stops before this window, because another process reads it and those behind it.
    #[must_use]
    pub fn ending_before(mut self, window: usize) -> Self {
        self.end = window;
        self
    }

    /// How many windows [`read`](Self::read) reads of these texts from the first on, until `enough` tokens are counted. The model is not
    /// run: with this number, several processes can share a text.
    ///
    /// Cost: that of the tokenizer.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn count_windows<S: AsRef<str>>(&self, texts: impl IntoIterator<Item = S>, enough: u64) -> Result<usize> {
        let (mut windows, mut tokens) = (0, 0);
        for window in self.reader.windows(texts) {
            if tokens >= enough {
                break;
            }
            tokens += window?.len() as u64;
            windows += 1;
        }
        Ok(windows)
    }

    /// The usual number of tokens: ten of texts for each dimension of the keys (FastMEMIT, arXiv 2506.04226), and those in chats.
    #[must_use]
    pub fn enough(&self) -> u64 {
        let of_texts = self.moments.values().map(|moment| 10 * moment.d_in()).max().unwrap_or(0);
        (of_texts as f64 / (1.0 - self.reader.chats())).ceil() as u64
    }

    /// Reads the texts from the first unread window on, until `enough` tokens are counted, the texts or the windows end, or `progress`, which
    /// is called about every thousand tokens, breaks. The texts must be the same in each call.
    ///
    /// # Errors
    /// Any failure of the model or the tokenizer. What was counted before stays counted, and reading can continue.
    pub fn read<S: AsRef<str>>(
        &mut self,
        texts: impl IntoIterator<Item = S>,
        enough: u64,
        mut progress: impl FnMut(CollectionProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut waiting: Vec<Vec<u32>> = vec![];
        for (number, window) in self.reader.windows(texts).enumerate() {
            let window = window?;
            if number < self.windows.end {
                continue;
            }
            if self.tokens() >= enough || number >= self.end {
                break;
            }
            waiting.push(window);
            let more: usize = waiting.iter().map(Vec::len).sum();
            if waiting.len() == AT_ONCE || self.tokens() + more as u64 >= enough {
                self.count(&std::mem::take(&mut waiting))?;
                if progress(CollectionProgress { tokens: self.tokens(), enough }).is_break() {
                    return Ok(());
                }
            }
        }
        if waiting.is_empty() { Ok(()) } else { self.count(&waiting) }
    }

    /// Tokens counted.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.moments.values().next().and_then(SecondMoment::tokens).unwrap_or(0)
    }

    /// The windows that have been read.
    #[must_use]
    pub fn windows(&self) -> Range<usize> {
        self.windows.clone()
    }

    /// The second moments so far, by layer.
    #[must_use]
    pub fn moments(&self) -> &BTreeMap<usize, SecondMoment> {
        &self.moments
    }

    /// The second moments by layer.
    #[must_use]
    pub fn into_moments(self) -> BTreeMap<usize, SecondMoment> {
        self.moments
    }

    fn count(&mut self, windows: &[Vec<u32>]) -> Result<()> {
        windows.iter().try_for_each(|window| self.reader.model.check_tokens(window))?;
        let keys = by_thread(windows, self.reader.model.par, |windows, par| self.run(windows, par)).map_err(failed)?;
        // All layers count the same tokens: either all keys are in order, or none is counted.
        keys.iter().flatten().try_for_each(|keys| validate::finite("keys", keys.as_ref()))?;
        keys.iter().try_for_each(|keys| observe_each(&mut self.moments, keys, self.reader.model.par))?;
        self.windows.end += windows.len();
        Ok(())
    }

    /// The keys of the layers, a column a token.
    fn run(&self, windows: &[Vec<u32>], par: Par) -> Computed<Vec<Mat<f32>>> {
        let model = self.reader.model;
        let frame = Frame { config: &model.config, par };
        let batch = TokenBatch::new(&model.config, windows.iter().map(|window| (0, window.len())));
        let mut x = model.embed(&windows.concat(), &batch)?;
        let mut keys = vec![];
        let last = self.moments.keys().next_back().copied().unwrap_or(0);
        for (layer, block) in model.blocks[..=last].iter().enumerate() {
            let opened = block.open(frame, &x, &batch, vec![])?;
            if self.moments.contains_key(&layer) {
                keys.push(columns(&opened.keys)?);
            }
            if layer < last {
                x = block.close(&opened, par)?;
            }
        }
        Ok(keys)
    }
}
