//! The imports of one file: its `use` lines, and the paths in its code that begin at a module.

use super::lexer::{Token, closed};

/// A path as it is written, with its groups taken apart: `use crate::{a, b::{c, d}}` is three of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    pub path: Vec<String>,
    /// The name that it has here; `*` for all of a module.
    pub name: String,
    pub line: usize,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `use`
    Private,
    /// `pub use`, `pub(crate) use`
    Public,
    /// A path in the code.
    Inline,
}

/// Names of the modules that a file declares: `mod a;`
pub fn declared(tokens: &[Token]) -> Vec<String> {
    let declaration = |three: &[Token]| three[0].is("mod") && three[2].is(";");
    tokens.windows(3).filter(|three| declaration(three)).map(|three| three[1].text.clone()).collect()
}

/// All imports of a file that begin in this crate: at `crate`, `self`, `super`, or a module that the file declares.
pub fn imports(tokens: &[Token]) -> Vec<Import> {
    let children = declared(tokens);
    let (mut all, mut at) = (vec![], 0);
    while at < tokens.len() {
        let token = &tokens[at];
        let path_before = at > 0 && (tokens[at - 1].is("::") || tokens[at - 1].is("."));
        if token.is("use") {
            let end = (at..tokens.len()).find(|&end| tokens[end].is(";")).unwrap_or(tokens.len());
            let kind = if is_public(&tokens[..at]) { Kind::Public } else { Kind::Private };
            tree(&tokens[at + 1..end], &[], kind, &mut all);
            at = end;
        } else if !path_before && is_root(&token.text, &children) && tokens.get(at + 1).is_some_and(|t| t.is("::")) {
            let (path, end) = inline(tokens, at);
            let name = path.last().cloned().unwrap_or_default();
            // `pub(in super::a)` and `super::` before a type parameter have nothing to import.
            all.push(Import { path, name, line: token.line, kind: Kind::Inline });
            at = end;
            continue;
        }
        at += 1;
    }
    all.retain(|import| is_root(&import.path[0], &children));
    all
}

fn is_root(word: &str, children: &[String]) -> bool {
    matches!(word, "crate" | "self" | "super") || children.iter().any(|child| child == word)
}

/// Whether `pub` or `pub(..)` stands before a word.
fn is_public(before: &[Token]) -> bool {
    match before {
        [.., last] if last.is("pub") => true,
        [.., last] if last.is(")") => before.iter().rev().take(5).any(|token| token.is("pub")),
        _ => false,
    }
}

fn inline(tokens: &[Token], start: usize) -> (Vec<String>, usize) {
    let (mut path, mut at) = (vec![tokens[start].text.clone()], start + 1);
    while tokens.get(at).is_some_and(|token| token.is("::")) && tokens.get(at + 1).is_some_and(Token::is_word) {
        path.push(tokens[at + 1].text.clone());
        at += 2;
    }
    (path, at)
}

/// Takes a tree of `use` apart.
fn tree(tokens: &[Token], before: &[String], kind: Kind, all: &mut Vec<Import>) {
    let mut path = before.to_vec();
    let mut at = usize::from(tokens.first().is_some_and(|token| token.is("::")));
    let line = tokens.first().map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => {
                let end = closed(tokens, at);
                branches(&tokens[at + 1..end - 1], &path, kind, all);
                return;
            }
            "as" => {
                let name = tokens.get(at + 1).map_or(String::new(), |token| token.text.clone());
                all.push(Import { path, name, line, kind });
                return;
            }
            "::" => {}
            // `a::{self}` is `a`.
            "self" if !path.is_empty() => {}
            word => path.push(word.to_owned()),
        }
        at += 1;
    }
    if let Some(name) = path.last().cloned() {
        all.push(Import { path, name, line, kind });
    }
}

fn branches(tokens: &[Token], before: &[String], kind: Kind, all: &mut Vec<Import>) {
    let mut start = 0;
    let mut at = 0;
    while at <= tokens.len() {
        if at == tokens.len() || tokens[at].is(",") {
            if start < at {
                tree(&tokens[start..at], before, kind, all);
            }
            start = at + 1;
            at += 1;
        } else if tokens[at].is("{") {
            at = closed(tokens, at);
        } else {
            at += 1;
        }
    }
}
