//! Text to tokens and back.

use std::fmt;
use std::path::Path;

use super::failed;
use crate::error::Result;
use crate::format::malformed;
use crate::util::atomic_file;

/// The token between texts in most tokenizers of the GPT kind.
const BETWEEN_TEXTS: &str = "<|endoftext|>";

/// A model's tokenizer, and the token that every text starts with.
///
/// The start matters. The first token of a sequence attracts attention that belongs nowhere else, and its activations are unlike all
/// others. Without a special token there, the first word of a prompt, often the subject, takes that role. So if the tokenizer adds no
/// token at the start itself, texts start with `<|endoftext|>` if the vocabulary has it, as in training.
/// [`with_start`](Self::with_start) changes this.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: Option<u32>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.inner.get_vocab_size(true);
        f.debug_struct("Tokenizer").field("vocabulary", &size).field("start", &self.start).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not a tokenizer.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(atomic_file::io_error(path))?;
        let inner = text
            .parse()
            .map_err(|error: tokenizers::Error| malformed(path, format!("not a readable tokenizer: {error}")))?;
        Ok(Self::new(inner))
    }

    /// Writes a `tokenizer.json`. It does not contain a start that was set with [`with_start`](Self::with_start).
    ///
    /// # Errors
    /// A path that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = self.inner.to_string(false).map_err(|error| malformed(path, error.to_string()))?;
        atomic_file::write_whole(path, text.as_bytes())
    }

    pub(super) fn new(mut inner: tokenizers::Tokenizer) -> Self {
        // Neither would be a faithful reading of the text.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        let adds_itself = inner.encode_fast("", true).is_ok_and(|encoding| !encoding.is_empty());
        let start = if adds_itself { None } else { inner.token_to_id(BETWEEN_TEXTS) };
        Self { inner, start }
    }

    /// Sets the token that every text starts with, in addition to those that the tokenizer adds.
    #[must_use]
    pub fn with_start(mut self, start: Option<u32>) -> Self {
        self.start = start;
        self
    }

    /// The token that every text starts with, in addition to those that the tokenizer adds.
    #[must_use]
    pub fn start(&self) -> Option<u32> {
        self.start
    }

    /// The tokens of a text, with its start.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true).map_err(failed)?;
        Ok(self.start.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// Splits a text into windows of at most `length` tokens. Each window starts like a text of its own.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn windows(&self, text: &str, length: usize) -> Result<Vec<Vec<u32>>> {
        let tokens = self.encode(text)?;
        let (start, rest) = tokens.split_at(self.encode("")?.len().min(tokens.len()));
        Ok(rest.chunks(length.saturating_sub(start.len()).max(1)).map(|part| [start, part].concat()).collect())
    }

    /// The text of some tokens, without special tokens.
    ///
    /// # Errors
    /// Tokens that the tokenizer refuses.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner.decode(tokens, true).map_err(failed)
    }
}
