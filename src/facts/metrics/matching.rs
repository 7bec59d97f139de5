//! Whether a generated answer says a target.

use super::generation::Setting;
use crate::util::text::occurrences;

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

/// As [`says`], in whole words. Quotation marks and asterisks before an answer do not matter.
pub(super) fn says_whole(setting: Setting, answer: &str, target: &str) -> bool {
    let (answer, target) = match setting {
        Setting::Qa => (answer.trim_start().lines().next().unwrap_or_default(), plain(target)),
        Setting::Plain | Setting::Chat => (answer, plain(target)),
    };
    let answer = plain(answer);
    let places = occurrences(answer.trim_start_matches(['"', '\'', '“', '‘', '«', '*']), &target);
    !target.is_empty() && if setting == Setting::Plain { places.first() == Some(&0) } else { !places.is_empty() }
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

/// Whether an answer has a form of what is wanted as a word of its own, wherever it stands; in `qa`, in its first line.
pub(super) fn names(setting: Setting, answer: &str, form: &str) -> bool {
    let answer = match setting {
        Setting::Qa => answer.trim_start().lines().next().unwrap_or_default(),
        Setting::Plain | Setting::Chat => answer,
    };
    let form = plain(form);
    let bare = form.trim_end_matches('.').trim_end();
    !occurrences(&plain(answer), if bare.is_empty() { &form } else { bare }).is_empty()
}

/// Whether two answers begin with the same words, as many as a wanted answer has.
pub(super) fn agree(setting: Setting, one: &str, other: &str, wanted: &str) -> bool {
    let least = match setting {
        Setting::Plain => 1,
        Setting::Qa => 8,
        Setting::Chat => 16,
    };
    let compared = wanted.split_whitespace().count().max(least);
    let begins = |text: &str| plain(text).split(' ').take(compared).map(str::to_owned).collect::<Vec<_>>();
    begins(one) == begins(other)
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
