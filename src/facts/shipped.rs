//! The data that comes with the crate: facts to edit, and texts for statistics and perplexity.
//!
//! The folder `src/facts/data` has a README that names the sources.

use super::file::Facts;
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
