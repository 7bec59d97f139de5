//! The fields of a record, under whatever names data sets have for them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::util::text::trimmed_prompt;

/// Advice about prompts and targets.
pub(super) const PROMPT: &str = "give the text before the target";
pub(super) const TARGET: &str = "give the text after the prompt";

/// A problem in a record, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The field; `None` for the record as a whole.
    pub(super) field: Option<String>,
    pub(super) problem: String,
}

impl Fault {
    pub(super) fn of_field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: Some(field.into()), problem: problem.into() }
    }

    pub(super) fn of_record(problem: impl Into<String>) -> Self {
        Self { field: None, problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            None => f.write_str(&self.problem),
            Some(field) => write!(f, "field `{field}`: {}", self.problem),
        }
    }
}

/// The fields of an object, and the path to it for messages. It remembers which were read.
pub(super) struct Fields<'a> {
    prefix: &'a str,
    pub(super) map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<&'a str>>,
    /// The paths of fields of objects within that were not read.
    within: RefCell<BTreeSet<String>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(prefix: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { prefix, map, read: RefCell::default(), within: RefCell::default() }
    }

    pub(super) fn path(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// Whether the field is there; `null` counts as absent.
    pub(super) fn has(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !value.is_null())
    }

    /// The first of some names that the record has a field of, or else the first of all.
    pub(super) fn named<'n>(&self, names: &[&'n str]) -> &'n str {
        names.iter().copied().find(|name| self.has(name)).unwrap_or(names[0])
    }

    /// Notes the fields of an object within that nobody read.
    pub(super) fn note(&self, inner: &Fields<'_>, path: &str) {
        let names = inner.unread().filter(|name| *name != "id").map(|name| format!("{path}.{name}"));
        self.within.borrow_mut().extend(names.chain(inner.within.take()));
    }

    /// Notes something within that was left out.
    pub(super) fn note_left_out(&self, what: impl Into<String>) {
        self.within.borrow_mut().insert(what.into());
    }

    /// Notes that a field says nothing about a fact.
    pub(super) fn ignore(&self, fields: &[&str]) {
        let known = fields.iter().filter_map(|field| self.map.get_key_value(*field));
        self.read.borrow_mut().extend(known.map(|(name, _)| name.as_str()));
    }

    /// The paths of fields of objects within that nobody read.
    pub(super) fn unread_within(&self) -> Vec<String> {
        self.within.borrow().iter().cloned().collect()
    }

    /// The fields that nobody read, without those that say nothing.
    pub(super) fn unread(&self) -> impl Iterator<Item = &'a str> {
        let read = self.read.borrow().clone();
        let says = |value: &Value| match value {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::String(text) => !text.trim().is_empty(),
            _ => true,
        };
        let fields = self.map.iter().filter(move |(name, value)| says(value) && !read.contains(name.as_str()));
        fields.map(|(name, _)| name.as_str())
    }

    pub(super) fn get(&self, field: &str, advice: &str) -> Result<&'a Value, Fault> {
        let missing = || Fault::of_field(self.path(field), format!("is missing; {advice}"));
        let (name, value) = self.map.get_key_value(field).ok_or_else(missing)?;
        self.read.borrow_mut().insert(name);
        Ok(value)
    }

    pub(super) fn text(&self, field: &str, advice: &str) -> Result<String, Fault> {
        text(&self.path(field), self.get(field, advice)?, advice)
    }

    /// A prompt. Unlike a text, it may end in a line.
    pub(super) fn prompt(&self, field: &str) -> Result<String, Fault> {
        match self.get(field, PROMPT)? {
            Value::String(text) if !text.trim().is_empty() => Ok(trimmed_prompt(text).to_owned()),
            value => text(&self.path(field), value, PROMPT),
        }
    }

    /// A list of texts, or one text alone.
    pub(super) fn strings(&self, field: &str, advice: &str) -> Result<Vec<String>, Fault> {
        strings(&self.path(field), self.get(field, advice)?, advice)
    }

    /// The fields of an object within; `prefix` is the path of its fields.
    pub(super) fn object<'p>(&self, field: &str, prefix: &'p str) -> Result<Fields<'p>, Fault>
    where
        'a: 'p,
    {
        match self.get(field, "")? {
            Value::Object(map) => Ok(Fields::new(prefix, map)),
            value => Err(wrong_kind(&self.path(field), value, "an object")),
        }
    }

    /// A list of anything.
    pub(super) fn list(&self, field: &str, advice: &str) -> Result<&'a [Value], Fault> {
        match self.get(field, advice)? {
            Value::Array(list) => Ok(list),
            value => Err(wrong_kind(&self.path(field), value, "a list")),
        }
    }

    /// A target: a string, or the `str` of an object.
    pub(super) fn target(&self, field: &str, advice: &str) -> Result<String, Fault> {
        match self.get(field, advice)? {
            Value::Object(map) => {
                let prefix = format!("{}.", self.path(field));
                let inner = Fields::new(&prefix, map);
                let text = inner.text("str", advice)?;
                self.note(&inner, &self.path(field));
                Ok(text)
            }
            value => text(&self.path(field), value, advice),
        }
    }

    pub(super) fn case_id(&self) -> Result<Option<u64>, Fault> {
        match self.map.get("case_id") {
            None | Some(Value::Null) => Ok(None),
            Some(_) => match self.get("case_id", "")? {
                value if value.as_u64().is_some() => Ok(value.as_u64()),
                value => Err(wrong_kind("case_id", value, "a whole number from 0 up")),
            },
        }
    }
}

pub(super) fn strings(path: &str, value: &Value, advice: &str) -> Result<Vec<String>, Fault> {
    match value {
        Value::Array(list) => {
            list.iter().enumerate().map(|(i, value)| text(&format!("{path}[{i}]"), value, advice)).collect()
        }
        value @ Value::String(_) => Ok(vec![text(path, value, advice)?]),
        value => Err(wrong_kind(path, value, "a list of strings")),
    }
}

/// The first text in a text, a list, or a list of lists.
pub(super) fn first_text(path: &str, value: &Value, advice: &str) -> Result<String, Fault> {
    match value {
        Value::Array(list) if !list.is_empty() => first_text(&format!("{path}[0]"), &list[0], advice),
        value => text(path, value, advice),
    }
}

/// The texts in a text, a list, or a list of lists, without empty ones and repeated ones.
pub(super) fn all_texts(path: &str, value: &Value) -> Result<Vec<String>, Fault> {
    let mut texts: Vec<String> = vec![];
    match value {
        Value::Null => {}
        Value::String(one) => texts.extend((!one.trim().is_empty()).then(|| one.trim().to_owned())),
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                for text in all_texts(&format!("{path}[{i}]"), value)? {
                    if !texts.contains(&text) {
                        texts.push(text);
                    }
                }
            }
        }
        value => return Err(wrong_kind(path, value, "a string or a list of strings")),
    }
    Ok(texts)
}

pub(super) fn text(field: &str, value: &Value, advice: &str) -> Result<String, Fault> {
    match value {
        Value::String(text) if text.trim().is_empty() => Err(Fault::of_field(field, format!("is empty; {advice}"))),
        Value::String(text) => Ok(text.trim().to_owned()),
        value => Err(wrong_kind(field, value, "a string")),
    }
}

pub(super) fn wrong_kind(field: &str, value: &Value, expected: &str) -> Fault {
    Fault::of_field(field, format!("is {}, expected {expected}", kind(value)))
}

pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
