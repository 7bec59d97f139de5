//! The data that comes with the crate: facts to edit, facts that a model is expected to know, and texts for statistics and perplexity.
//!
//! The folder `src/facts/data` has a README that names the sources.

use super::file::Facts;
use super::known::Known;
use crate::error::Result;

/// Text for key statistics, about 65,000 tokens: passages of encyclopedic prose, speeches and novels in turn, separated
/// by blank lines. Public domain.
pub const STATISTICS_TEXT: &str = include_str!("data/statistics.txt");

/// Text of the same kinds for perplexity, about 9,000 tokens, of other countries, speakers' years and a novel that is not in
/// [`STATISTICS_TEXT`]. Public domain.
pub const HELD_OUT_TEXT: &str = include_str!("data/held-out.txt");

/// The facts as they stand in `data/facts.json`.
pub const FACTS: &str = include_str!("data/facts.json");

/// Counterfactual facts of several relations, each with paraphrases and neighborhood prompts.
///
/// # Errors
/// None: the file is part of the crate, and tested.
pub fn facts() -> Result<Facts> {
    Facts::parse("data/facts.json", FACTS)
}

/// The known facts as they stand in `data/known.json`.
pub const KNOWN: &str = include_str!("data/known.json");

/// About 150 simple facts that a model is expected to know, and must not forget: of geography, science, numbers, words, history, works, and
/// everyday life. None is about a subject of [`facts`].
///
/// ```
/// use betaedit_core::facts::Known;
/// use betaedit_core::facts::shipped;
///
/// let known = shipped::known();
/// assert!(known.contains(&Known::new("The capital of South Korea is", ["Seoul"])));
/// ```
#[must_use]
pub fn known() -> Vec<Known> {
    serde_json::from_str(KNOWN).expect("a list of prompts and answers, and tested")
}
