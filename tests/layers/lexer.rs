//! Just enough of Rust's syntax: words and signs, without comments and without the insides of literals.

/// A word (an identifier, a keyword, a number) or a sign, and its line, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

impl Token {
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    }
}

/// The tokens of a file. `::` is one sign; a literal of text is the sign `"`.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut tokens, mut at, mut line) = (vec![], 0, 1);
    while at < chars.len() {
        let end = token_end(&chars, at);
        if let Some(text) = text(&chars[at..end]) {
            tokens.push(Token { text, line });
        }
        line += chars[at..end].iter().filter(|&&c| c == '\n').count();
        at = end;
    }
    tokens
}

fn text(chars: &[char]) -> Option<String> {
    let all: String = chars.iter().collect();
    match chars[0] {
        c if c.is_whitespace() => None,
        '/' if all.starts_with("//") || all.starts_with("/*") => None,
        _ if all.ends_with(['"', '\'', '#']) && all.len() > 1 => Some("\"".to_owned()),
        _ => Some(all),
    }
}

fn token_end(chars: &[char], at: usize) -> usize {
    let is = |text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    if is("//") {
        return position(chars, at, |rest| rest[0] == '\n');
    }
    if is("/*") {
        return block_comment_end(chars, at);
    }
    if let Some(end) = literal_end(chars, at) {
        return end;
    }
    if is("::") {
        return at + 2;
    }
    let word = |c: char| c.is_alphanumeric() || c == '_';
    // A raw name, a lifetime.
    let start = if is("r#") { at + 2 } else { at + usize::from(chars[at] == '\'') };
    let end = position(chars, start, |rest| !word(rest[0]));
    end.max(at + 1)
}

fn position(chars: &[char], from: usize, found: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len()).find(|&at| found(&chars[at..])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut end) = (0, at);
    while end < chars.len() {
        match chars[end..] {
            ['/', '*', ..] => (depth, end) = (depth + 1, end + 2),
            ['*', '/', ..] => (depth, end) = (depth - 1, end + 2),
            _ => end += 1,
        }
        if depth == 0 {
            break;
        }
    }
    end
}

/// Where a literal of text, bytes or one character ends, if one begins here.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let prefix = chars[at..].iter().take(2).take_while(|c| matches!(c, 'b' | 'c' | 'r')).count();
    let raw = chars[at..at + prefix].contains(&'r');
    let hashes = if raw { chars[at + prefix..].iter().take_while(|&&c| c == '#').count() } else { 0 };
    let open = at + prefix + hashes;
    match chars.get(open)? {
        '"' if raw => {
            let closes =
                |rest: &[char]| rest[0] == '"' && rest[1..].iter().take_while(|&&c| c == '#').count() >= hashes;
            Some(position(chars, open + 1, closes) + 1 + hashes)
        }
        '"' => Some(quoted_end(chars, open, '"')),
        // 'a' and '\n' are characters, 'a is a lifetime.
        '\'' if hashes == 0 && (chars.get(open + 1) == Some(&'\\') || chars.get(open + 2) == Some(&'\'')) => {
            Some(quoted_end(chars, open, '\''))
        }
        _ => None,
    }
}

fn quoted_end(chars: &[char], open: usize, quote: char) -> usize {
    let mut at = open + 1;
    while at < chars.len() && chars[at] != quote {
        at += 1 + usize::from(chars[at] == '\\');
    }
    (at + 1).min(chars.len())
}

/// The place after the bracket that closes the one at `open`.
pub fn closed(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// The tokens without the items that are compiled for unit tests alone.
pub fn without_unit_tests(tokens: &[Token]) -> Vec<Token> {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut at) = (vec![], 0);
    while at < tokens.len() {
        let attribute = tokens[at..].iter().zip(ATTRIBUTE).filter(|(token, text)| token.is(text)).count();
        if attribute < ATTRIBUTE.len() {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        while tokens.get(at).is_some_and(|token| token.is("#")) {
            at = closed(tokens, at + 1);
        }
        while let Some(token) = tokens.get(at) {
            match token.text.as_str() {
                ";" => break,
                "{" => {
                    at = closed(tokens, at) - 1;
                    break;
                }
                "(" | "[" => at = closed(tokens, at),
                _ => at += 1,
            }
        }
        at += 1;
    }
    kept
}
