//! Subjects that must stay when a fact about another one is written.

use std::sync::OnceLock;

use candle_core::Result as Computed;

use crate::llm::block::TokenBatch;
use crate::llm::model::Model;
use crate::llm::ops::{norm, with_rows};
use crate::llm::prompt::{Prompt, Request};
use crate::llm::tokenizer::Tokenizer;
use crate::util::text;

/// Well-known names of many kinds: cities, countries, people, companies, products, works, sights, animals and other things. None of them
/// is in the facts or the known facts that come with the crate, nor in their neighborhoods.
fn names() -> impl Iterator<Item = &'static str> {
    include_str!("names.txt").lines()
}

/// Finds the names whose keys are most like a subject's.
pub(in crate::llm) struct Nearest {
    count: usize,
    /// The unit keys of the names in a neutral text.
    keys: OnceLock<Vec<(&'static str, Vec<f32>)>>,
}

impl Nearest {
    pub(in crate::llm) fn new(count: usize) -> Self {
        Self { count, keys: OnceLock::new() }
    }

    /// The tokens of a request's bare prompt up to the fact's token, about each of its contrast subjects.
    ///
    /// Keys are compared at `layer`, the lowest that is edited. No edit changes them there, so the choice depends on the request alone.
    pub(in crate::llm) fn about(
        &self,
        (model, tokenizer): (&Model, &Tokenizer),
        layer: usize,
        request: &Request,
        requests: &[Request],
    ) -> Computed<Vec<Vec<u32>>> {
        let Some(own) = neutral(tokenizer, request.subject()).filter(|_| self.count > 0) else { return Ok(vec![]) };
        let own = unit_keys(model, layer, &[own])?.swap_remove(0);
        let cosine = |key: &Vec<f32>| key.iter().zip(&own).map(|(a, b)| a * b).sum::<f32>();
        let apart = self.keys(model, tokenizer, layer)?.iter().filter(|(name, _)| is_apart(name, requests));
        let mut near: Vec<(&str, f32)> = apart.map(|(name, key)| (*name, cosine(key))).collect();
        near.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(near.into_iter().filter_map(|(name, _)| about(tokenizer, request, name)).take(self.count).collect())
    }

    fn keys(&self, model: &Model, tokenizer: &Tokenizer, layer: usize) -> Computed<&[(&'static str, Vec<f32>)]> {
        if let Some(known) = self.keys.get() {
            return Ok(known);
        }
        let (names, inputs): (Vec<_>, Vec<_>) =
            names().filter_map(|name| Some((name, neutral(tokenizer, name)?))).unzip();
        let mut keys = vec![];
        for inputs in inputs.chunks(AT_ONCE) {
            keys.extend(unit_keys(model, layer, inputs)?);
        }
        Ok(self.keys.get_or_init(|| names.into_iter().zip(keys).collect()))
    }
}

/// Names that are run at once.
const AT_ONCE: usize = 64;

/// The tokens of a text about a name that is the same for all names, up to the name's end.
fn neutral(tokenizer: &Tokenizer, name: &str) -> Option<Vec<u32>> {
    to_fact(tokenizer, &Request::checked(name, "The name is {}", "so"))
}

/// The tokens of a request's bare prompt about another subject. None if the fact's token would be the first of the text.
fn about(tokenizer: &Tokenizer, request: &Request, name: &str) -> Option<Vec<u32>> {
    to_fact(tokenizer, &Request::checked(name, request.prompt(), request.target()).with_token(request.token()))
}

fn to_fact(tokenizer: &Tokenizer, request: &Request) -> Option<Vec<u32>> {
    let Prompt { mut tokens, position } = Prompt::new(tokenizer, "", request, "").ok()?;
    tokens.truncate(position + 1);
    (position > 0).then_some(tokens)
}

/// Whether a name may stand beside requests: not if it is in the subject of one of them, or in what one of them should say.
fn is_apart(name: &str, requests: &[Request]) -> bool {
    let meets = |request: &Request| {
        text::has_in_another_form(request.subject(), name) || text::has_in_another_form(request.target(), name)
    };
    !requests.iter().any(meets)
}

/// The keys at the last tokens of some texts, at length 1.
fn unit_keys(model: &Model, layer: usize, inputs: &[Vec<u32>]) -> Computed<Vec<Vec<f32>>> {
    let batch = TokenBatch::new(&model.config, inputs.iter().map(|tokens| (0, tokens.len())));
    let x = model.embed(&inputs.concat(), &batch)?;
    let mut opened = model.blocks[0].open(model.frame(), &x, &batch, vec![])?;
    for at in 0..layer {
        let x = model.blocks[at].close(&opened, model.par)?;
        opened = model.blocks[at + 1].open(model.frame(), &x, &batch, vec![])?;
    }
    with_rows([&opened.keys], |[rows]| {
        let unit = |row: &[f32]| {
            let length = norm(row);
            row.iter().map(|x| if length > 0.0 { x / length } else { 0.0 }).collect()
        };
        batch.spans.iter().map(|span| unit(rows.row(span.rows.end - 1))).collect()
    })
}
