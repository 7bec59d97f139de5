//! Templates of chats, in the dialect of Jinja that `transformers` has.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind};

use super::clock;

/// Steps that a template may take.
const STEPS: u64 = 10_000_000;

/// Renders a template as `transformers` does: with trimmed blocks, methods of Python's types, and a few functions.
pub(super) fn render(template: &str, context: Value) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    // A template is a program of the model's author: it ends.
    environment.set_fuel(Some(STEPS));
    environment.set_unknown_method_callback(|state, value, method, arguments| match (method, value.as_str()) {
        ("title", Some(text)) if arguments.is_empty() => Ok(Value::from(title(text))),
        ("splitlines", Some(text)) if arguments.is_empty() => Ok(Value::from(lines(text))),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
    });
    environment.add_filter("tojson", to_json);
    environment.add_filter("indent", indented);
    environment.add_function("raise_exception", |text: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
    });
    environment.add_function("strftime_now", |format: String| -> Result<String, minijinja::Error> {
        clock::now(&format).map_err(|directive| {
            let problem = format!("strftime_now does not know `{directive}`");
            minijinja::Error::new(ErrorKind::InvalidOperation, problem)
        })
    });
    let template = without_generation_blocks(template);
    environment.template_from_str(&template)?.render(context)
}

/// A text with a capital at the start of each run of letters, as Python's `str.title`.
fn title(text: &str) -> String {
    let mut in_word = false;
    let mut out = String::new();
    for c in text.chars() {
        match in_word {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        in_word = c.is_alphabetic();
    }
    out
}

/// The lines of a text, as Python's `str.splitlines`.
fn lines(text: &str) -> Vec<String> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let text = text.replace("\r\n", "\n");
    text.split_terminator(ENDS).map(str::to_owned).collect()
}

/// A text with its lines indented, but not the first and no empty ones if that is not asked for, as Jinja's filter.
fn indented(
    text: String,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<String, minijinja::Error> {
    let space = " ".repeat(checked(width.or(options.get("width")?))?.unwrap_or(4));
    let first = first.or(options.get("first")?).unwrap_or(false);
    let blank = blank.or(options.get("blank")?).unwrap_or(false);
    options.assert_all_used()?;
    let lines = lines(&(text + "\n"));
    let line = |(i, line): (usize, &String)| {
        let plain = if i == 0 { !first } else { line.is_empty() && !blank };
        if plain { line.clone() } else { format!("{space}{line}") }
    };
    Ok(lines.iter().enumerate().map(line).collect::<Vec<_>>().join("\n"))
}

/// A number of spaces, if a template needs no more.
fn checked(spaces: Option<usize>) -> Result<Option<usize>, minijinja::Error> {
    match spaces {
        Some(100..) => {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "lines are indented by 100 spaces or more"))
        }
        _ => Ok(spaces),
    }
}

/// JSON as Python writes it: spaces after colons and commas, nothing escaped but what must be.
fn to_json(value: Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent = checked(options.get("indent")?)?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text)?;
    Ok(if ascii == Some(true) { escaped(&text) } else { text })
}

/// JSON in ASCII.
fn escaped(json: &str) -> String {
    let mut out = String::new();
    for c in json.chars() {
        match c {
            // Python escapes this one, too.
            ' '..='~' | '\n' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out += &format!("\\u{unit:04x}")),
        }
    }
    out
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, text: &mut String) -> Result<(), minijinja::Error> {
    let items: Vec<Value> = match value.kind() {
        ValueKind::Undefined | ValueKind::None => {
            text.push_str("null");
            return Ok(());
        }
        ValueKind::String => {
            text.push_str(&serde_json::Value::from(value.as_str().unwrap_or_default()).to_string());
            return Ok(());
        }
        ValueKind::Bool => {
            text.push_str(if value.is_true() { "true" } else { "false" });
            return Ok(());
        }
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.collect(),
        _ => {
            text.push_str(&value.to_string());
            return Ok(());
        }
    };
    let is_map = value.kind() == ValueKind::Map;
    let line = |depth: usize, text: &mut String| {
        if let Some(indent) = indent.filter(|_| !items.is_empty()) {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    text.push(if is_map { '{' } else { '[' });
    for (i, item) in items.iter().enumerate() {
        text.push_str(match (i, indent) {
            (0, _) => "",
            (_, None) => ", ",
            (_, Some(_)) => ",",
        });
        line(depth + 1, text);
        write_json(item, indent, depth + 1, text)?;
        if is_map {
            text.push_str(": ");
            write_json(&value.get_item(item)?, indent, depth + 1, text)?;
        }
    }
    line(depth, text);
    text.push(if is_map { '}' } else { ']' });
    Ok(())
}

/// The blocks `generation`, which mark what a model says for training, hold text like any other.
fn without_generation_blocks(template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        out += before;
        let name = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+', ' ', '\n', '\t']);
        match name {
            "generation" => out += &tag.replace("generation", "if true"),
            "endgeneration" => out += &tag.replace("endgeneration", "endif"),
            _ => out += tag,
        }
        rest = after;
    }
    out + rest
}
