//! What comes with the library: texts, facts, names.

use betaedit_core::facts::shipped;
use pyo3::prelude::*;

/// Text for key statistics, about 65,000 tokens. Public domain.
#[pyfunction]
fn statistics_text() -> &'static str {
    shipped::STATISTICS_TEXT
}

/// Text for perplexity, about 9,000 tokens, of the same kinds and other sources. Public domain.
#[pyfunction]
fn held_out_text() -> &'static str {
    shipped::HELD_OUT_TEXT
}

/// Counterfactual facts with paraphrases and neighborhood prompts, as JSON.
#[pyfunction]
fn facts_json() -> &'static str {
    shipped::FACTS
}

/// Well-known names of many kinds, from which the subjects that must stay are taken.
#[pyfunction]
fn contrast_names() -> Vec<&'static str> {
    include_str!("../../../src/llm/surroundings/names.txt").lines().collect()
}

pub fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(statistics_text, module)?)?;
    module.add_function(wrap_pyfunction!(held_out_text, module)?)?;
    module.add_function(wrap_pyfunction!(facts_json, module)?)?;
    module.add_function(wrap_pyfunction!(contrast_names, module)?)
}
