//! Subjects that must stay when a fact about another one is written.

use std::collections::HashSet;
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
#[derive(Default)]
pub(in crate::llm) struct Nearest {
    /// The unit keys of the names in a neutral text.
    keys: OnceLock<Vec<(&'static str, Vec<f32>)>>,
}

impl Nearest {
    /// For each request of a batch, the tokens of its bare prompt up to the fact's token, about `count` contrast subjects.
    ///
    /// Keys are compared at `layer`, the lowest that is edited. No edit changes them there, so the choice depends on the batch alone.
    ///
    /// * `names`: those that may be subjects, see [`names_beside`]
    pub(in crate::llm) fn about(
        &self,
        (model, tokenizer): (&Model, &Tokenizer),
        layer: usize,
        requests: &[Request],
        names: &HashSet<&'static str>,
        count: usize,
    ) -> Computed<Vec<Vec<Vec<u32>>>> {
        let known = self.keys(model, tokenizer, layer)?;
        let candidates: Vec<_> = known.iter().filter(|(name, _)| names.contains(name)).collect();
        let of_one = |request: &Request| {
            let own = neutral(tokenizer, request.subject()).filter(|tokens| model.check_tokens(tokens).is_ok());
            let Some(own) = own else { return Ok(vec![]) };
            let own = unit_keys(model, layer, &[own])?.swap_remove(0);
            let cosine = |key: &Vec<f32>| key.iter().zip(&own).map(|(a, b)| a * b).sum::<f32>();
            let mut near: Vec<(&str, f32)> = candidates.iter().map(|(name, key)| (*name, cosine(key))).collect();
            near.sort_by(|a, b| b.1.total_cmp(&a.1));
            let tokens = near.into_iter().filter_map(|(name, _)| about(tokenizer, request, name));
            Ok(tokens.filter(|tokens| model.check_tokens(tokens).is_ok()).take(count).collect())
        };
        requests.iter().map(of_one).collect()
    }

    fn keys(&self, model: &Model, tokenizer: &Tokenizer, layer: usize) -> Computed<&[(&'static str, Vec<f32>)]> {
        if let Some(known) = self.keys.get() {
            return Ok(known);
        }
        let fits = |(_, tokens): &(_, Vec<u32>)| model.check_tokens(tokens).is_ok();
        let (names, inputs): (Vec<_>, Vec<_>) =
            names().filter_map(|name| Some((name, neutral(tokenizer, name)?))).filter(fits).unzip();
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

/// The names that may stand beside requests: not in the subject of one of them, nor in what one of them should say.
pub(in crate::llm) fn names_beside<'r>(requests: impl IntoIterator<Item = &'r Request>) -> HashSet<&'static str> {
    // One text, with a mark that no name goes over: each name is looked for once.
    let requests = requests.into_iter();
    let said: Vec<&str> = requests.flat_map(|request| [request.subject(), request.target()]).collect();
    let said = said.join(" | ");
    names().filter(|name| !text::has_in_another_form(&said, name)).collect()
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
