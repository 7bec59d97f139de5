//! Text to tokens and back.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Value, json};

use super::{failed, patterns};
use crate::error::Result;
use crate::format::{lfs_pointer, malformed};
use crate::util::atomic_file;

/// The token between texts in most tokenizers of the GPT kind.
#[cfg(feature = "facts")]
const BETWEEN_TEXTS: &str = "<|endoftext|>";

/// A model's tokenizer, the tokens that every text starts with, and those that end a text.
///
/// A text starts with what the model's files put in front of it, and nothing else: an edit that is made in one setting holds less in
/// another one (`docs/experiments.md`), and programs that use the model read its files. [`with_start`](Self::with_start) adds a token.
///
/// The first token of a sequence attracts attention that belongs nowhere else, and its activations are unlike all others. If no token is
/// put in front, the first word of a text takes that role.
///
/// Some tokenizers also add a token at the end of every text. It is no part of a prompt, which is to be continued, so
/// [`encode`](Self::encode) leaves it out.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// What the tokenizer itself puts in front of a text.
    before: Vec<u32>,
    start: Option<u32>,
    special: SpecialTokens,
}

/// What a model's other files say about its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SpecialTokens {
    /// The token at the beginning of a text.
    pub(super) bos: Option<u32>,
    /// Tokens that end a text, the usual one first.
    pub(super) ends: Vec<u32>,
    /// How a chat is written as a text, as a Jinja template.
    pub(super) chat_template: Option<String>,
    /// Special tokens by the names that a template has for them, such as `bos_token`.
    pub(super) named: Vec<(String, String)>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.inner.get_vocab_size(true);
        let mut shown = f.debug_struct("Tokenizer");
        shown.field("vocabulary", &size).field("before", &self.before).field("start", &self.start);
        shown.field("ends", &self.special.ends).finish_non_exhaustive()
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
        lfs_pointer::check(path, text.as_bytes())?;
        let translated = patterns::translated(&text);
        let inner = (translated.as_ref().unwrap_or(&text))
            .parse()
            .map_err(|error: tokenizers::Error| malformed(path, format!("not a readable tokenizer: {error}")))?;
        Ok(Self::new(inner))
    }

    /// Writes a `tokenizer.json`. It contains neither a start that was set with [`with_start`](Self::with_start) nor the tokens that end
    /// a text.
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
        let before = before_texts(&inner);
        Self { inner, before, start: None, special: SpecialTokens::default() }
    }

    pub(super) fn with_special(mut self, special: SpecialTokens) -> Self {
        self.special = special;
        self
    }

    /// Sets a token that every text starts with, in addition to those that the tokenizer adds.
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

    /// Sets the tokens that end a text.
    #[must_use]
    pub fn with_ends(mut self, ends: Vec<u32>) -> Self {
        self.special.ends = ends;
        self
    }

    /// The tokens that end a text: those that the model's files give (`eos_token_id`), or none.
    /// [`Model::generate_until`](super::Model::generate_until) stops there.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.special.ends
    }

    /// The text of a token in the vocabulary, in the form in which the tokenizer stores it.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The number of a token, by the text that [`token`](Self::token) gives.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A hash of everything that decides which tokens a text has.
    ///
    /// # Errors
    /// A tokenizer that cannot be written.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.inner.to_string(false).map_err(failed)?.as_bytes());
        if let Some(start) = self.start {
            hasher.update(&start.to_le_bytes());
        }
        Ok(hasher.finalize().to_hex()[..16].to_owned())
    }

    /// The tokens of a text, with its start. A token that the tokenizer puts behind a text is left out.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let own = self.encode_bare(text)?;
        Ok(self.start.into_iter().chain(self.before.iter().copied()).chain(own).collect())
    }

    /// The tokens of a text alone, without what stands in front of every text.
    pub(super) fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        Ok(guarded(|| self.inner.encode_fast(text, false))?.get_ids().to_vec())
    }

    pub(super) fn chat_template(&self) -> Option<&str> {
        self.special.chat_template.as_deref()
    }

    /// Special tokens by the names that a template has for them.
    pub(super) fn special_texts(&self) -> Vec<(String, String)> {
        if !self.special.named.is_empty() {
            return self.special.named.clone();
        }
        let SpecialTokens { bos, ends, .. } = &self.special;
        let ids = [("bos_token", *bos), ("eos_token", ends.first().copied())];
        ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), self.token(id?)?))).collect()
    }

    /// The number of tokens in front of every text.
    pub(super) fn length_of_start(&self) -> usize {
        self.before.len() + usize::from(self.start.is_some())
    }

    /// Splits a text into windows of at most `length` tokens. Each window starts like a text of its own.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn windows(&self, text: &str, length: usize) -> Result<Vec<Vec<u32>>> {
        let tokens = self.encode(text)?;
        let (start, rest) = tokens.split_at(self.length_of_start());
        Ok(rest.chunks(length.saturating_sub(start.len()).max(1)).map(|part| [start, part].concat()).collect())
    }

    /// Splits a text into windows of at most `length` tokens. Each stands behind the token that begins a text, also if the tokenizer does
    /// not put it there: `<|endoftext|>`, which stands between the texts that models are trained on, or else the token that the model's
    /// files name for the beginning. Otherwise the first words of every window would be those of a text that begins in the middle.
    /// (EleutherAI's lm-evaluation-harness does so, too, to measure perplexity.)
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    #[cfg(feature = "facts")]
    pub(super) fn windows_behind_a_start(&self, text: &str, length: usize) -> Result<Vec<Vec<u32>>> {
        let SpecialTokens { bos, ends, .. } = &self.special;
        let begins = match self.length_of_start() {
            0 => self.id(BETWEEN_TEXTS).or(*bos).or_else(|| ends.first().copied()),
            _ => self.start,
        };
        self.clone().with_start(begins).windows(text, length)
    }

    /// The text of some tokens, without special tokens.
    ///
    /// # Errors
    /// Tokens that the tokenizer refuses.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(tokens, true))
    }

    /// The text of some tokens behind others: with the space at its start, which some tokenizers do not write before the first token.
    ///
    /// # Errors
    /// Tokens that the tokenizer refuses.
    pub fn decode_behind(&self, before: &[u32], tokens: &[u32]) -> Result<String> {
        let (text, whole) = (self.decode(before)?, self.decode(&[before, tokens].concat())?);
        match whole.strip_prefix(&text) {
            Some(rest) => Ok(rest.to_owned()),
            // A character that the earlier tokens began.
            None => self.decode(tokens),
        }
    }

    /// The entries about special tokens for a `config.json` or `generation_config.json`, as `transformers` names them.
    pub(super) fn special_ids(&self) -> Vec<(&'static str, Value)> {
        let SpecialTokens { bos, ends, .. } = &self.special;
        let ends = match ends[..] {
            [] => Value::Null,
            [one] => json!(one),
            _ => json!(ends),
        };
        // Null where there is none: a class of `transformers` would take a number of its own.
        vec![("bos_token_id", json!(bos)), ("eos_token_id", ends)]
    }

    /// A `tokenizer_config.json`, as `transformers` reads it.
    pub(super) fn config_json(&self) -> Value {
        let SpecialTokens { bos, ends, chat_template, .. } = &self.special;
        let mut json = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false });
        for (name, id) in [("bos_token", bos.as_ref()), ("eos_token", ends.first())] {
            if let Some(token) = id.and_then(|&id| self.token(id)) {
                json[name] = json!(token);
            }
        }
        if let Some(template) = chat_template {
            json["chat_template"] = json!(template);
        }
        json
    }
}

/// Runs a tokenizer. Some panic on some texts, where tokens with spaces stand side by side; that becomes an error.
fn guarded<R>(run: impl FnOnce() -> tokenizers::Result<R>) -> Result<R> {
    let caught = catch_unwind(AssertUnwindSafe(run));
    caught.unwrap_or_else(|_| Err("the tokenizer cannot read this text: it panicked".into())).map_err(failed)
}

/// What a tokenizer puts in front of every text, as opposed to what it puts behind.
fn before_texts(inner: &tokenizers::Tokenizer) -> Vec<u32> {
    // A text that has tokens of its own.
    for probe in ["a", "x y", "1", "."] {
        let tokens =
            |special| guarded(|| inner.encode_fast(probe, special)).map(|encoding| encoding.get_ids().to_vec());
        let (Ok(bare), Ok(whole)) = (tokens(false), tokens(true)) else { continue };
        let mut places = (0..(whole.len() + 1).saturating_sub(bare.len())).filter(|&at| whole[at..].starts_with(&bare));
        // A text that is a special token itself tells nothing.
        if let (false, Some(place), None) = (bare.is_empty(), places.next(), places.next()) {
            return whole[..place].to_vec();
        }
    }
    vec![]
}
