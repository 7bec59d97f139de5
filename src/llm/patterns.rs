//! Patterns of a `tokenizer.json`, with the meaning that they have where tokenizers are made.
//!
//! The Python package of tokenizers matches patterns with Oniguruma, this crate with `fancy-regex`. They differ in what a word is:
//! here `\w` contains the joiners U+200C and U+200D, which are in emoji and in Persian and Indic texts; there it does not.

use serde_json::{Value, json};

/// What Oniguruma takes for a letter of a word.
const WORD: &str = r"\p{Alphabetic}\p{M}\p{N}\p{Pc}";

/// The text of a `tokenizer.json` with patterns that mean here what they mean there. `None` if it has none that differ.
pub(super) fn translated(text: &str) -> Option<String> {
    if !text.contains(r"\\w") && !text.contains(r"\\W") && !text.contains("\"Whitespace\"") {
        return None;
    }
    let mut json: Value = serde_json::from_str(text).ok()?;
    translate(&mut json);
    Some(json.to_string())
}

fn translate(json: &mut Value) {
    match json {
        Value::Array(list) => list.iter_mut().for_each(translate),
        Value::Object(map) => {
            if map.get("type").is_some_and(|kind| kind == "Whitespace") {
                let pattern = with_words(r"\w+|[^\w\s]+");
                *json =
                    json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Removed", "invert": true });
                return;
            }
            if let Some(Value::String(pattern)) = map.get_mut("Regex") {
                *pattern = with_words(pattern);
            }
            map.values_mut().for_each(translate);
        }
        _ => {}
    }
}

/// A pattern with classes in place of `\w` and `\W`. A class may stand in another class.
fn with_words(pattern: &str) -> String {
    let (mut out, mut chars) = (String::new(), pattern.chars());
    while let Some(c) = chars.next() {
        match (c, (c == '\\').then(|| chars.next()).flatten()) {
            ('\\', Some('w')) => out += &format!("[{WORD}]"),
            ('\\', Some('W')) => out += &format!("[^{WORD}]"),
            (c, next) => out.extend([Some(c), next].into_iter().flatten()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_classes_and_nothing_else_changes() {
        assert_eq!(with_words(r"\w+|[^\w\s]|\\w|\W"), format!(r"[{WORD}]+|[^[{WORD}]\s]|\\w|[^{WORD}]"));
        assert_eq!(translated(r#"{"pattern":{"Regex":"\\s+"}}"#), None);
    }
}
