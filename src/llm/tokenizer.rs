//! Text to tokens and back.

use std::fmt;
use std::path::Path;

use super::failed;
use crate::error::Result;
use crate::format::malformed;
use crate::util::atomic_file;

/// What most tokenizers of the GPT kind call the token between texts.
const BETWEEN_TEXTS: &str = "<|endoftext|>";

/// A model's tokenizer, and the token that every text starts with.
///
/// The start matters. The first token of a sequence takes up attention that nothing else wants, and its activations are
/// unlike any others; without a token of its own for that, the first word of a prompt, often the subject, is that token.
/// So where the tokenizer puts no token first itself, texts start with `<|endoftext|>`, if the vocabulary has it: that is
/// what stood before each text in training. [`with_start`](Self::with_start) changes it.
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
    /// A file that cannot be read, or is no tokenizer.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(atomic_file::io_error(path))?;
        let inner = text
            .parse()
            .map_err(|error: tokenizers::Error| malformed(path, format!("not a readable tokenizer: {error}")))?;
        Ok(Self::new(inner))
    }

    /// Writes a `tokenizer.json`. A start that was set by [`with_start`](Self::with_start) is not in it.
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

    /// Sets the token that every text starts with, besides those that the tokenizer adds itself.
    #[must_use]
    pub fn with_start(mut self, start: Option<u32>) -> Self {
        self.start = start;
        self
    }

    /// The token that every text starts with, besides those that the tokenizer adds itself.
    #[must_use]
    pub fn start(&self) -> Option<u32> {
        self.start
    }

    /// The tokens of a text, from its start.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true).map_err(failed)?;
        Ok(self.start.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// A text in windows of at most `length` tokens, each of which starts like a text of its own.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn windows(&self, text: &str, length: usize) -> Result<Vec<Vec<u32>>> {
        let tokens = self.encode(text)?;
        let (start, rest) = tokens.split_at(self.encode("")?.len().min(tokens.len()));
        Ok(rest.chunks(length.saturating_sub(start.len()).max(1)).map(|part| [start, part].concat()).collect())
    }

    /// The text of some tokens, without special ones.
    ///
    /// # Errors
    /// Tokens that the tokenizer refuses.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner.decode(tokens, true).map_err(failed)
    }
}
