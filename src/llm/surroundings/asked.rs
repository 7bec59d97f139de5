//! A request in a place, as tokens.

use std::ops::Range;

use crate::error::{ModelError, Result};
use crate::llm::chat::{Message, Role};
use crate::llm::prompt::{FactToken, Request, targeted};
use crate::llm::tokenizer::Tokenizer;
use crate::util::text;

/// A request's prompt in one of its places, and its target behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::llm) struct Asked {
    pub(in crate::llm) tokens: Vec<u32>,
    /// The fact's tokens, where vectors are added: at least one, ascending. The key is that of the last.
    pub(in crate::llm) positions: Vec<usize>,
    /// Where the target starts.
    pub(in crate::llm) start: usize,
    /// The tokens of the subject's name, where the model says it itself.
    pub(in crate::llm) name: Range<usize>,
}

/// What a chat puts around a user's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::llm) struct ChatFrame {
    before: String,
    after: String,
}

/// Stands for the message while a template is rendered.
const MARK: &str = "betaedit-message";

impl ChatFrame {
    /// The frame of a model's chats, if it has a template that leaves a message as it is.
    pub(in crate::llm) fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let text = tokenizer.render_chat(&[Message::new(Role::User, MARK)]).ok()?;
        let (before, after) = text.split_once(MARK)?;
        (!after.contains(MARK)).then(|| Self { before: before.to_owned(), after: after.to_owned() })
    }
}

impl Asked {
    /// Behind an opening, as continued text.
    pub(super) fn in_text(tokenizer: &Tokenizer, opening: &str, request: &Request) -> Result<Self> {
        let (prompt, start) = targeted(tokenizer, opening, request)?;
        Ok(Self { tokens: prompt.tokens, positions: vec![prompt.position], start, name: 0..0 })
    }

    /// In a user's message. The model answers with the target.
    pub(super) fn in_question(tokenizer: &Tokenizer, frame: &ChatFrame, request: &Request) -> Result<Self> {
        let prompt = request.text();
        let user = format!("{}{}", frame.before, text::chat_lead(&prompt));
        let answer = format!("{user}{prompt}{}", frame.after);
        let tokens = tokenizer.encode_bare(&format!("{answer}{}", request.target().trim()))?;
        let positions = vec![position(tokenizer, &tokens, &user, request)?];
        let start = common(tokenizer, &tokens, &answer)?;
        Self { tokens, positions, start, name: 0..0 }.checked(request)
    }

    /// In a user's message, and again in the model's answer, which says the whole sentence. Questions are answered with the target.
    pub(super) fn in_answer(tokenizer: &Tokenizer, frame: &ChatFrame, request: &Request) -> Result<Self> {
        let prompt = request.text();
        let lead = text::chat_lead(&prompt);
        if lead.is_empty() {
            return Self::in_question(tokenizer, frame, request);
        }
        let user = format!("{}{lead}", frame.before);
        let answer = format!("{user}{prompt}{}", frame.after);
        let to_target = format!("{answer}{prompt}{}", text::separator(&prompt));
        let tokens = tokenizer.encode_bare(&format!("{to_target}{}", request.target().trim()))?;
        let (opening, _) = request.around_subject();
        let said = position(tokenizer, &tokens, &answer, request)?;
        let name = common(tokenizer, &tokens, format!("{answer}{opening}").trim_end_matches(' '))?..said + 1;
        let positions = vec![position(tokenizer, &tokens, &user, request)?, said];
        let start = common(tokenizer, &tokens, to_target.trim_end_matches(' '))?;
        Self { tokens, positions, start, name }.checked(request)
    }

    /// The first of the fact's tokens.
    pub(in crate::llm) fn first(&self) -> usize {
        self.positions[0]
    }

    /// The last of the fact's tokens.
    pub(in crate::llm) fn last(&self) -> usize {
        self.positions[self.positions.len() - 1]
    }

    fn checked(self, request: &Request) -> Result<Self> {
        let ascending = self.positions.windows(2).all(|pair| pair[0] < pair[1]);
        if ascending && self.last() < self.start && self.start < self.tokens.len() {
            return Ok(self);
        }
        let problem = "the tokenizer cannot tell the target from what is before it in a chat".into();
        Err(ModelError::Request { subject: request.subject().into(), problem }.into())
    }
}

/// How many of some tokens those of a part of their text have in common with them.
fn common(tokenizer: &Tokenizer, tokens: &[u32], part: &str) -> Result<usize> {
    Ok(tokenizer.encode_bare(part)?.iter().zip(tokens).take_while(|(a, b)| a == b).count())
}

/// The last token of a part of a text. Where its end and what follows share a token, that is the one.
fn last_of(tokenizer: &Tokenizer, tokens: &[u32], part: &str) -> Result<usize> {
    Ok(common(tokenizer, tokens, part)?.min(tokenizer.encode_bare(part)?.len().saturating_sub(1)))
}

/// The token of a request in a text, which has the prompt behind `before`.
fn position(tokenizer: &Tokenizer, tokens: &[u32], before: &str, request: &Request) -> Result<usize> {
    let (opening, closing) = request.around_subject();
    let subject = request.subject();
    match request.token() {
        FactToken::SubjectLast => last_of(tokenizer, tokens, &format!("{before}{opening}{subject}")),
        FactToken::SubjectFirst => {
            Ok(common(tokenizer, tokens, format!("{before}{opening}").trim_end())?.min(tokens.len() - 1))
        }
        FactToken::PromptLast => last_of(tokenizer, tokens, &format!("{before}{opening}{subject}{closing}")),
    }
}
