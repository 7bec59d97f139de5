//! Words and continuations, in scripts with and without spaces.

#![cfg_attr(not(feature = "facts"), allow(dead_code, reason = "a model needs less of it than facts do"))]

use std::fmt;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_script::{Script, UnicodeScript};

/// Scripts that put no spaces between words.
const WITHOUT_SPACES: [Script; 14] = [
    Script::Han,
    Script::Hiragana,
    Script::Katakana,
    Script::Bopomofo,
    Script::Yi,
    Script::Thai,
    Script::Lao,
    Script::Khmer,
    Script::Myanmar,
    Script::Tibetan,
    Script::Javanese,
    Script::Balinese,
    Script::Tai_Le,
    Script::Tai_Tham,
];

fn is_of(c: char, scripts: &[Script]) -> bool {
    // A mark is of its own script: some are used in many, also in these.
    if is_combining_mark(c) {
        return scripts.contains(&c.script());
    }
    let of = c.script_extension();
    !of.is_common() && !of.is_inherited() && scripts.iter().any(|script| of.contains_script(*script))
}

/// The places of a name in a text where it is not a part of a longer word. In scripts without spaces between words, and in Hangul, where
/// particles follow a word directly, any place counts.
pub(crate) fn occurrences(text: &str, name: &str) -> Vec<usize> {
    let letter = |c: char| c.is_alphanumeric() || is_combining_mark(c);
    let in_word = |c: char| letter(c) && !is_of(c, &WITHOUT_SPACES) && !is_of(c, &[Script::Hangul]);
    let joined = |one: Option<char>, other: Option<char>| one.zip(other).is_some_and(|(a, b)| in_word(a) && in_word(b));
    text.match_indices(name)
        .map(|(start, _)| start)
        .filter(|&start| {
            let (before, after) = (&text[..start], &text[start + name.len()..]);
            !joined(before.chars().next_back(), name.chars().next())
                && !joined(name.chars().next_back(), after.chars().next())
        })
        .collect()
}

/// Whether a text has a name in another form: in other case, width or composition, or with other spaces.
pub(crate) fn has_in_another_form(text: &str, name: &str) -> bool {
    let plain = |text: &str| {
        let folded: String = text.nfkc().collect::<String>().to_lowercase();
        folded.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    plain(text).contains(&plain(name))
}

/// A prompt without spaces at its ends. Lines at its end stay: the target stands on the next one.
pub(crate) fn trimmed_prompt(text: &str) -> &str {
    text.trim_start().trim_end_matches(|c: char| c.is_whitespace() && c != '\n')
}

/// What stands between a prompt and its target: a space, or nothing after an opening bracket or quotation mark, and where the prompt is
/// in a script without spaces between words.
pub(crate) fn separator(prompt: &str) -> &'static str {
    const OPENING: &str = "([{<“‘«‹„‚";
    let Some(last) = prompt.chars().next_back() else { return "" };
    let letter = prompt.chars().rfind(|c| c.is_alphanumeric());
    let straight = |c: char| {
        let before = prompt[..prompt.len() - c.len_utf8()].chars().next_back();
        matches!(c, '"' | '\'') && before.is_none_or(|c| c.is_whitespace() || OPENING.contains(c))
    };
    // Punctuation of East Asian scripts, and full-width forms.
    let wide = matches!(last, '\u{3000}'..='\u{303F}' | '\u{FF00}'..='\u{FF65}');
    let without = letter.is_some_and(|c| is_of(c, &WITHOUT_SPACES));
    if last.is_whitespace() || wide || without || OPENING.contains(last) || straight(last) { "" } else { " " }
}

/// A text in a message: as it is, but for characters that control a terminal.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "{}", c.escape_unicode())?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// What is said in front of a prompt in a chat. A question needs nothing.
pub(crate) fn chat_lead(prompt: &str) -> &'static str {
    if prompt.trim_end().ends_with(['?', '？', '؟']) { "" } else { "Complete the sentence: " }
}

/// The sentences of a text that are neither very short nor very long, without its first and its last, which may be cut.
#[cfg(feature = "llm")]
pub(crate) fn sentences(text: &str) -> impl Iterator<Item = &str> {
    /// In bytes.
    const LENGTHS: std::ops::Range<usize> = 40..240;
    let ends =
        |(at, end): (usize, char)| matches!(end, '.' | '!' | '?' | '\n' | '\u{3002}').then_some(at + end.len_utf8());
    let mut ends = text.char_indices().filter_map(ends);
    let mut start = ends.next();
    std::iter::from_fn(move || {
        let (from, to) = (start?, ends.next()?);
        start = Some(to);
        Some(text[from..to].trim())
    })
    .filter(|sentence| LENGTHS.contains(&sentence.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_script() {
        for (text, name, found) in [
            ("Paul lives in Paulsboro", "Paul", 1),
            ("Paulsboro", "Paul", 0),
            ("São Paulo", "Paul", 0),
            ("Lyon's river", "Lyon", 1),
            ("东京是哪个国家的首都?", "东京", 1),
            ("フランスの首都は", "フランス", 1),
            ("서울은 어느 나라의 수도입니까?", "서울", 1),
            ("กรุงเทพเป็นเมืองหลวงของ", "กรุงเทพ", 1),
            ("公司Apple是", "Apple", 1),
            ("Москва и Московская", "Моск", 0),
            ("दिल्ली", "दिल", 0),
            ("दिल की बात", "दिल", 1),
            ("Jose\u{301} lives", "Jose", 0),
        ] {
            assert_eq!(occurrences(text, name).len(), found, "{name} in {text}");
        }
    }

    #[test]
    fn a_target_follows_as_its_script_writes() {
        for (prompt, space) in [
            ("The capital of France is", " "),
            ("フランスの首都は", ""),
            ("法国的首都是", ""),
            ("答案：", ""),
            ("东京是哪个国家的首都?答案:", ""),
            ("เมืองหลวงของฝรั่งเศสคือ", ""),
            ("프랑스의 수도는", " "),
            ("She said: \"", ""),
            ("the so-called (", ""),
            ("He said \"yes\"", " "),
            ("", ""),
        ] {
            assert_eq!(separator(prompt), space, "{prompt}");
        }
    }

    #[test]
    fn text_is_quoted_as_it_is() {
        assert_eq!(Quoted("กรุงเทพ 'é\u{301}' \u{1b}[1m\n").to_string(), "\"กรุงเทพ 'é\u{301}' \\u{1b}[1m\\n\"");
    }
}
