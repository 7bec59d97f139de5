//! The windows of tokens in which texts are read, for statistics.

use std::collections::VecDeque;

use super::model::Model;
use super::tokenizer::Tokenizer;
use crate::error::{NumericsError, Result};
use crate::util::text;

/// Tokens in a window, at most.
pub(super) const WINDOW: usize = 256;

/// What reads texts in windows, and their sentences in chats.
#[derive(Clone, Copy)]
pub(super) struct WindowReader<'a> {
    pub(super) model: &'a Model,
    pub(super) tokenizer: &'a Tokenizer,
    /// The share of the tokens that are read in chats.
    chats: f64,
}

impl<'a> WindowReader<'a> {
    pub(super) fn new(model: &'a Model, tokenizer: &'a Tokenizer) -> Self {
        Self { model, tokenizer, chats: 0.0 }
    }

    pub(super) fn chats(&self) -> f64 {
        self.chats
    }

    /// Refuses a share that is none, and one above 0 for a model without a chat template.
    pub(super) fn with_chats(self, share: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&share) {
            return Err(NumericsError::Parameter { parameter: "chats", value: share, allowed: "0 to below 1" }.into());
        }
        if share > 0.0 {
            self.tokenizer.encode_sentence("A sentence.")?;
        }
        Ok(Self { chats: share, ..self })
    }

    /// The windows of texts, each followed by chats about its sentences.
    pub(super) fn windows<I>(self, texts: I) -> Windows<'a, I::IntoIter>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let (of_text, next) = (Vec::new().into_iter(), VecDeque::new());
        Windows { reader: self, texts: texts.into_iter(), of_text, next, of_texts: 0, of_chats: 0 }
    }
}

/// The windows of texts.
pub(super) struct Windows<'a, I> {
    reader: WindowReader<'a>,
    texts: I,
    /// Those of the present text.
    of_text: std::vec::IntoIter<Vec<u32>>,
    next: VecDeque<Vec<u32>>,
    /// Tokens of texts and of chats so far.
    of_texts: usize,
    of_chats: usize,
}

impl<I: Iterator<Item: AsRef<str>>> Iterator for Windows<'_, I> {
    type Item = Result<Vec<u32>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(window) = self.next.pop_front() {
                return Some(Ok(window));
            }
            if let Err(error) = match self.of_text.next() {
                Some(window) => self.queue(window),
                None => {
                    let text = self.texts.next()?;
                    self.open(text.as_ref())
                }
            } {
                return Some(Err(error));
            }
        }
    }
}

impl<I> Windows<'_, I> {
    fn open(&mut self, text: &str) -> Result<()> {
        let WindowReader { model, tokenizer, .. } = self.reader;
        self.of_text = tokenizer.windows(text, WINDOW.min(model.config.context))?.into_iter();
        Ok(())
    }

    /// Queues a window, and so many chats about its sentences that their share is reached, if it has enough sentences.
    fn queue(&mut self, window: Vec<u32>) -> Result<()> {
        let WindowReader { model, tokenizer, chats } = self.reader;
        self.of_texts += window.len();
        let wanted = self.of_texts as f64 * chats / (1.0 - chats);
        let mut about = vec![];
        if wanted > self.of_chats as f64 {
            for sentence in text::sentences(&tokenizer.decode(&window)?) {
                if self.of_chats as f64 >= wanted {
                    break;
                }
                let chat = tokenizer.encode_sentence(sentence)?;
                if model.check_tokens(&chat).is_ok() {
                    self.of_chats += chat.len();
                    about.push(chat);
                }
            }
        }
        self.next.push_back(window);
        self.next.extend(about);
        Ok(())
    }
}
