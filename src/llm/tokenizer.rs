//! Text to tokens and back.

use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::config::malformed;
use crate::error::{EditError, Result};
use crate::util::atomic_file;

/// What most tokenizers of the GPT kind call the token between texts.
const BETWEEN_TEXTS: &str = "<|endoftext|>";

/// A model's tokenizer, and the token that every text starts with.
///
/// The start matters. The first token of a sequence takes up attention that nothing else wants, and its activations are
/// unlike any others; without a token of its own for that, the first word of a prompt, often the subject, is that token.
/// So where the tokenizer puts no token first itself, texts start with `<|endoftext|>`, if the vocabulary has it: that is
/// what stood before each text in training. [`with_start`](Self::with_start) changes it.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: Option<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// A file that cannot be read, or is no tokenizer.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = super::directory::text(path)?;
        let inner = text
            .parse()
            .map_err(|error: tokenizers::Error| malformed(path, format!("not a readable tokenizer: {error}")))?;
        Ok(Self::new(inner))
    }

    /// The tokenizer in a GGUF file's metadata.
    pub(super) fn from_gguf(content: &Content, path: &Path) -> Result<Self> {
        let refuse = |problem: String| malformed(path, format!("{problem}; put the model's tokenizer.json beside it"));
        let mut inner = tokenizers::Tokenizer::from_gguf(content)
            .map_err(|error| refuse(format!("the file's tokenizer cannot be used ({error})")))?;
        let kind = content.metadata.get("tokenizer.ggml.pre").and_then(|kind| kind.to_string().ok());
        let kind = kind.map_or("gpt-2", String::as_str);
        let words =
            words(kind).ok_or_else(|| refuse(format!("the file's tokenizer is of the unknown kind `{kind}`")))?;
        inner.with_pre_tokenizer(Some(words));
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

    fn new(mut inner: tokenizers::Tokenizer) -> Self {
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
        let encoding = self.inner.encode_fast(text, true).map_err(EditError::Adapter)?;
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
        self.inner.decode(tokens, true).map_err(EditError::Adapter)
    }
}

/// How a kind of byte-level tokenizer cuts a text into words.
fn words(kind: &str) -> Option<PreTokenizerWrapper> {
    let by_regex = ByteLevel::new(false, true, true);
    let bytes = ByteLevel::new(false, true, false);
    let split = |digits: &str| {
        let regex = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let split = Split::new(SplitPattern::Regex(regex), SplitDelimiterBehavior::Isolated, false).ok()?;
        Some(Sequence::new(vec![split.into(), bytes.into()]).into())
    };
    match kind {
        "default" | "gpt2" | "gpt-2" => Some(by_regex.into()),
        "smollm" => Some(Sequence::new(vec![Digits::new(true).into(), by_regex.into()]).into()),
        "llama3" | "llama-v3" | "llama-bpe" => split(r"\p{N}{1,3}"),
        "qwen2" => split(r"\p{N}"),
        _ => None,
    }
}
