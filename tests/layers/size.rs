//! How long files and functions are.

use super::lexer::{closed, tokens};

/// A function, where it begins and how many lines it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

/// The functions of a file that have a body.
pub fn functions(source: &str) -> Vec<Function> {
    let tokens = tokens(source);
    let mut found = vec![];
    for at in 0..tokens.len() {
        // `fn(..)` is a type.
        let Some(name) = tokens.get(at + 1).filter(|name| tokens[at].is("fn") && name.is_word()) else { continue };
        let mut body = at + 2;
        while let Some(token) = tokens.get(body) {
            match token.text.as_str() {
                "(" | "[" => body = closed(&tokens, body),
                "{" | ";" => break,
                _ => body += 1,
            }
        }
        if tokens.get(body).is_some_and(|token| token.is("{")) {
            let (first, last) = (tokens[at].line, tokens[closed(&tokens, body) - 1].line);
            found.push(Function { name: name.text.clone(), line: first, lines: last - first + 1 });
        }
    }
    found
}
