//! Whether a generated answer says a target.

use super::generation::Setting;

/// Whether a generated answer says a target, as the table of [`Setting`] has it.
///
/// ```
/// use betaedit_core::facts::metrics::{Setting, says};
///
/// assert!(says(Setting::Plain, " Rome, which", "rome") && !says(Setting::Plain, " not Rome", "Rome"));
/// assert!(says(Setting::Chat, "The capital is Rome.", "Rome"));
/// ```
#[must_use]
pub fn says(setting: Setting, answer: &str, target: &str) -> bool {
    let target = plain(target);
    match setting {
        Setting::Plain => plain(answer).starts_with(&target),
        Setting::Qa => plain(answer.trim_start().lines().next().unwrap_or_default()).contains(&target),
        Setting::Chat => plain(answer).contains(&target),
    }
}

/// Whether a generated answer is a target and nothing else: up to its first full stop or the end of its line, after the usual normalisation
/// (in lower case, without punctuation, English articles, and more than one space in a row).
///
/// Source: the normalisation of SQuAD (Rajpurkar et al., EMNLP 2016).
///
/// ```
/// use betaedit_core::facts::metrics::is_exactly;
///
/// assert!(is_exactly(" the Hague. It is", "Hague") && !is_exactly(" Hague in the Netherlands", "Hague"));
/// ```
#[must_use]
pub fn is_exactly(answer: &str, target: &str) -> bool {
    let (answer, target) = (answer.trim_start(), normalised(target));
    let line = answer.lines().next().unwrap_or_default();
    // A target may have a full stop itself, as "St. Louis" does.
    let ends = line.match_indices('.').map(|(end, _)| end).chain([line.len()]);
    let mut sentences = ends.map(|end| normalised(&line[..end]));
    !target.is_empty() && sentences.find(|sentence| sentence.len() >= target.len()).is_some_and(|it| it == target)
}

/// In lower case, with single spaces.
pub(super) fn plain(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn normalised(text: &str) -> String {
    const ARTICLES: [&str; 3] = ["a", "an", "the"];
    let kept: String = text.to_lowercase().chars().filter(|c| c.is_alphanumeric() || c.is_whitespace()).collect();
    kept.split_whitespace().filter(|word| !ARTICLES.contains(word)).collect::<Vec<_>>().join(" ")
}
