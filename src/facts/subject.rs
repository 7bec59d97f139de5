//! The subject of a prompt whose record names none.

use crate::util::text::occurrences;

/// Words that do not begin a name although they begin a sentence.
const OPENINGS: [&str; 62] = [
    "a",
    "an",
    "the",
    "what",
    "which",
    "who",
    "whom",
    "whose",
    "when",
    "where",
    "why",
    "how",
    "is",
    "are",
    "was",
    "were",
    "do",
    "does",
    "did",
    "has",
    "have",
    "had",
    "can",
    "could",
    "would",
    "should",
    "will",
    "may",
    "in",
    "on",
    "at",
    "by",
    "for",
    "from",
    "to",
    "of",
    "with",
    "during",
    "after",
    "before",
    "under",
    "among",
    "as",
    "if",
    "since",
    "name",
    "give",
    "list",
    "tell",
    "explain",
    "describe",
    "please",
    "write",
    "find",
    "identify",
    "provide",
    "discuss",
    "state",
    "summarize",
    "i",
    "it",
    "this",
];

/// Words within a name, between words with capitals.
const LINKS: [&str; 22] = [
    "of", "the", "de", "la", "le", "les", "du", "des", "del", "della", "di", "da", "van", "von", "der", "den", "al",
    "el", "bin", "y", "e", "&",
];

/// The name in a prompt that is most likely its subject: the one text in quotation marks, or else the run of words with capitals that most
/// of the other texts of the record mention; of several, the one with the most words, then the first.
pub(super) fn named_in(prompt: &str, others: &[&str]) -> Option<String> {
    /// The most bytes of a pair of quotation marks.
    const OPEN_AND_CLOSE: usize = 6;
    // A prompt that is in quotation marks as a whole marks nothing.
    if let [one] = quoted(prompt)[..]
        && one.len() + OPEN_AND_CLOSE < prompt.trim().len()
    {
        return Some(one.to_owned());
    }
    let rank = |run: &str| {
        let mentions = others.iter().filter(|other| !occurrences(other, run).is_empty()).count();
        (mentions, run.split_whitespace().count())
    };
    let mut best: Option<((usize, usize), &str)> = None;
    for run in runs(prompt) {
        let rank = rank(run);
        if best.is_none_or(|(highest, _)| rank > highest) {
            best = Some((rank, run));
        }
    }
    best.map(|(_, run)| run.to_owned())
}

/// The texts in quotation marks.
fn quoted(text: &str) -> Vec<&str> {
    const MARKS: [(char, char); 4] = [('"', '"'), ('“', '”'), ('«', '»'), ('「', '」')];
    let mut found = vec![];
    for (open, close) in MARKS {
        let mut rest = text;
        while let Some((_, behind)) = rest.split_once(open) {
            let Some((inner, more)) = behind.split_once(close) else { break };
            found.extend((!inner.trim().is_empty()).then(|| inner.trim()));
            rest = more;
        }
    }
    found
}

/// A word of a text: what it is without punctuation, and where that stands.
struct Word<'a> {
    start: usize,
    text: &'a str,
    /// Whether a name can go on behind it.
    open: bool,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = vec![];
    for piece in text.split_whitespace() {
        let offset = piece.as_ptr() as usize - text.as_ptr() as usize;
        let inner = piece.trim_start_matches(['(', '[', '\'', '‘', '"', '“']);
        let start = offset + piece.len() - inner.len();
        let bare = inner.trim_end_matches([')', ']', ',', ';', ':', '.', '!', '?', '\'', '’', '"', '”', '？', '。']);
        let owner = bare.strip_suffix("'s").or_else(|| bare.strip_suffix("’s"));
        // "St.", "Jr." and initials do not end a name.
        let short = inner.strip_suffix('.').is_some_and(|word| word.chars().count() <= 3);
        let open = owner.is_none() && (bare.len() == inner.len() || short);
        let mut text = owner.unwrap_or(bare);
        if short && open {
            text = inner;
        }
        if !text.is_empty() {
            words.push(Word { start, text, open });
        }
    }
    words
}

/// The longest runs of words with capitals, with links and numbers within.
fn runs(text: &str) -> Vec<&str> {
    let words = words(text);
    let capital = |word: &Word<'_>| word.text.starts_with(char::is_uppercase);
    let number = |word: &Word<'_>| word.text.starts_with(|c: char| c.is_ascii_digit());
    let opening = |i: usize| i == 0 && OPENINGS.contains(&words[i].text.to_lowercase().as_str());
    let mut found = vec![];
    let mut i = 0;
    while i < words.len() {
        if !capital(&words[i]) || opening(i) || words[i].text == "I" {
            i += 1;
            continue;
        }
        let (first, mut last, mut next) = (i, i, i + 1);
        while next < words.len() && words[next - 1].open {
            if capital(&words[next]) || number(&words[next]) {
                last = next;
            } else if !LINKS.contains(&words[next].text) {
                break;
            }
            next += 1;
        }
        let end = words[last].start + words[last].text.len();
        found.push(&text[words[first].start..end]);
        i = last + 1;
    }
    found
}

/// The subject of a sentence by the questions about it: the longest run of words, one with a capital among them, that the sentence has in
/// common with most of them.
pub(super) fn shared_with(sentence: &str, questions: &[&str]) -> Option<String> {
    let mut votes: Vec<(usize, &str)> = vec![];
    for run in questions.iter().filter_map(|question| common_run(sentence, question)) {
        match votes.iter_mut().find(|(_, known)| *known == run) {
            Some((count, _)) => *count += 1,
            None => votes.push((1, run)),
        }
    }
    votes.into_iter().max_by_key(|(count, run)| (*count, run.len())).map(|(_, run)| run.to_owned())
}

/// The longest run of words with a capital that two texts have in common, without the words that bind it to its sentence. The first word
/// of a sentence has a capital anyway and does not count.
fn common_run<'a>(sentence: &'a str, question: &str) -> Option<&'a str> {
    const BEFORE: [&str; 10] = ["of", "which", "in", "by", "for", "with", "award", "children", "the", "name"];
    const BEHIND: [&str; 12] =
        ["is", "are", "has", "have", "won", "plays", "associated", "with", "a", "part", "member", "of"];
    let pieces: Vec<&str> = sentence.split_whitespace().collect();
    let asked: Vec<&str> = question.split_whitespace().collect();
    let capital = |word: &&str| word.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit());
    let mut best: &[&str] = &[];
    for start in 1..pieces.len() {
        for from in 0..asked.len() {
            let same = pieces[start..].iter().zip(&asked[from..]).take_while(|(a, b)| a == b).count();
            let mut run = &pieces[start..start + same];
            while let [first, rest @ ..] = run
                && BEFORE.contains(first)
            {
                run = rest;
            }
            while let [rest @ .., last] = run
                && BEHIND.contains(last)
            {
                run = rest;
            }
            if run.len() > best.len() && run.iter().any(&capital) {
                best = run;
            }
        }
    }
    let (first, last) = (best.first()?, best.last()?);
    let at = |word: &str| word.as_ptr() as usize - sentence.as_ptr() as usize;
    Some(&sentence[at(first)..at(last) + last.len()])
}

#[cfg(test)]
mod tests {
    use super::{named_in, shared_with};

    #[test]
    fn the_name_of_a_prompt_is_its_subject() {
        for (prompt, others, expected) in [
            ("What is Ada Byron's occupation?", &["Ada Byron wrote programs."][..], Some("Ada Byron")),
            ("Who wrote \"the long way home\"?", &[], Some("the long way home")),
            (
                "Which rivers does the Duchy of Nowhere share with Old Somewhere Land?",
                &["The Duchy of Nowhere"],
                Some("Duchy of Nowhere"),
            ),
            ("\"What is Ada Byron's occupation?\"", &[], Some("Ada Byron")),
            ("Where was John D. Terry, the painter, born?", &[], Some("John D. Terry")),
            ("Was Martin Luther King Jr. born in Georgia?", &[], Some("Martin Luther King Jr.")),
            ("When did Vincent van Gogh paint it?", &[], Some("Vincent van Gogh")),
            ("In what year was Apollo 11 launched?", &[], Some("Apollo 11")),
            ("what sort of creature is a killdeer?", &[], None),
            ("Did I see it?", &[], None),
            ("东京是哪个国家的首都?", &[], None),
        ] {
            assert_eq!(named_in(prompt, others).as_deref(), expected, "{prompt}");
        }
    }

    #[test]
    fn a_sentence_shares_its_subject_with_questions_about_it() {
        let sentence = "The name of the country of citizenship of Mary, mother of Ben is";
        for (questions, expected) in [
            (&["The name of the mother of Mary, mother of Ben is"][..], Some("Mary, mother of Ben")),
            (
                &[
                    "The name of the country which Mary, mother of Ben is associated with is",
                    "The gender of Mary, mother of Ben is",
                ],
                Some("Mary, mother of Ben"),
            ),
            (&["The name of the anthem of Peru is"], None),
            (&[], None),
        ] {
            assert_eq!(shared_with(sentence, questions).as_deref(), expected, "{questions:?}");
        }
    }
}
