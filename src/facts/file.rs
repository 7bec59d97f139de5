//! Files of facts.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_json::value::RawValue;

use super::fact::Fact;
use super::fields::Fault;
use super::layouts::zsre::ZsreTarget;
use super::record::{self, Layout, Parsed};
use super::unique::Unique;
use crate::error::{Error, FactsError, FileError, Result};
use crate::util::shown::shown;

/// The facts of one file, all of one layout.
///
/// It dereferences to a slice of [`Fact`]. While reading, the file and its facts are in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Facts {
    facts: Vec<Fact>,
    layout: Layout,
    unread: BTreeMap<String, Unread>,
    inferred: usize,
}

/// A field that was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unread {
    /// How many records have it.
    pub records: usize,
    /// A field that is read and has nearly the same name.
    pub meant: Option<&'static str>,
}

shown!([] Facts, "Facts", self => {
    "facts": self.facts.len(),
    "layout": self.layout,
});

impl Facts {
    /// Reads a file of any layout in the table of the [module](super): a JSON list, an object with the list in `records`,
    /// or JSON lines.
    ///
    /// # Errors
    /// A file that cannot be read, is not UTF-8, is not JSON or has no record; or the first record that is not a valid
    /// fact, is of another layout than the first record of the file, or repeats a `case_id`, as [`FactsError::Record`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        ReadOptions::default().read(path)
    }

    /// Reads all valid records, and gives an error for each of the others.
    ///
    /// # Errors
    /// A file that cannot be read, is not UTF-8, is not JSON or has no valid record.
    pub fn read_lenient(path: impl AsRef<Path>) -> Result<(Self, Vec<Error>)> {
        ReadOptions::default().read_lenient(path)
    }

    /// As [`read`](Self::read), from the contents of a file. `path` stands in error messages.
    ///
    /// # Errors
    /// As `read`.
    pub fn parse(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<Self> {
        ReadOptions::default().parse(path, contents)
    }

    /// As [`read_lenient`](Self::read_lenient), from the contents of a file. `path` stands in error messages.
    ///
    /// # Errors
    /// As `read_lenient`.
    pub fn parse_lenient(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<(Self, Vec<Error>)> {
        ReadOptions::default().parse_lenient(path, contents)
    }

    /// The layout of the file.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The fields that were not read, by their names: what they hold is not measured. Fields that only number or describe a record are
    /// left out.
    ///
    /// ```
    /// use betaedit_core::facts::Facts;
    ///
    /// let list = r#"[{"subject": "France", "prompt": "The capital of {} is", "target": "Rome", "rephrase_promt": "France's capital is"}]"#;
    /// let facts = Facts::parse("facts.json", list)?;
    /// assert_eq!(facts.unread()["rephrase_promt"].meant, Some("rephrase_prompt"));
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    #[must_use]
    pub fn unread(&self) -> &BTreeMap<String, Unread> {
        &self.unread
    }

    /// The number of records that name no subject, so that it was taken from their prompts, by the rule in the [module](super).
    #[must_use]
    pub fn inferred_subjects(&self) -> usize {
        self.inferred
    }

    /// The facts alone.
    #[must_use]
    pub fn into_vec(self) -> Vec<Fact> {
        self.facts
    }
}

impl Deref for Facts {
    type Target = [Fact];

    fn deref(&self) -> &[Fact] {
        &self.facts
    }
}

/// How files of facts are read, where there is a choice.
///
/// ```
/// use betaedit_core::facts::{ReadOptions, ZsreTarget};
///
/// let record = r#"{"subject": "Mount Wills", "src": "Where is Mount Wills?", "answers": ["Antarctica"], "alt": "Asia"}"#;
/// let facts = ReadOptions::new().zsre_target(ZsreTarget::Alt).parse("zsre.json", record)?;
/// assert_eq!((facts[0].target_new(), facts[0].target_true()), ("Asia", Some("Antarctica")));
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    zsre_target: ZsreTarget,
}

impl ReadOptions {
    /// As [`Facts::read`] reads.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The new target of a record of ZsRE. Other layouts do not have the choice.
    #[must_use]
    pub fn zsre_target(mut self, target: ZsreTarget) -> Self {
        self.zsre_target = target;
        self
    }

    /// As [`Facts::read`].
    ///
    /// # Errors
    /// As [`Facts::read`].
    pub fn read(self, path: impl AsRef<Path>) -> Result<Facts> {
        let path = path.as_ref();
        self.parse(path, contents(path)?)
    }

    /// As [`Facts::read_lenient`].
    ///
    /// # Errors
    /// As [`Facts::read_lenient`].
    pub fn read_lenient(self, path: impl AsRef<Path>) -> Result<(Facts, Vec<Error>)> {
        let path = path.as_ref();
        self.parse_lenient(path, contents(path)?)
    }

    /// As [`Facts::parse`].
    ///
    /// # Errors
    /// As [`Facts::parse`].
    pub fn parse(self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<Facts> {
        let path = path.as_ref();
        let mut reader = Reader::new(path, self);
        for (number, raw) in records(path, contents.as_ref())? {
            reader.push(number, raw)?;
        }
        reader.finish()
    }

    /// As [`Facts::parse_lenient`].
    ///
    /// # Errors
    /// As [`Facts::parse_lenient`].
    pub fn parse_lenient(self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<(Facts, Vec<Error>)> {
        let path = path.as_ref();
        let mut reader = Reader::new(path, self);
        let mut errors = Vec::new();
        for (number, raw) in records(path, contents.as_ref())? {
            errors.extend(reader.push(number, raw).err());
        }
        match reader.finish() {
            Ok(facts) => Ok((facts, errors)),
            // Every record was bad: the first says more than their number.
            Err(empty) => Err(errors.into_iter().next().unwrap_or(empty)),
        }
    }
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| FileError::Io { path: path.to_owned(), error }.into())
}

/// Turns records into facts, and checks that they make one file.
struct Reader {
    path: PathBuf,
    options: ReadOptions,
    facts: Vec<Fact>,
    layout: Option<(usize, Layout)>,
    unread: BTreeMap<String, Unread>,
    inferred: usize,
    /// The record in which a `case_id` was seen.
    seen: HashMap<u64, usize>,
}

impl Reader {
    fn new(path: &Path, options: ReadOptions) -> Self {
        Self {
            path: path.to_owned(),
            options,
            facts: Vec::new(),
            layout: None,
            unread: BTreeMap::new(),
            inferred: 0,
            seen: HashMap::new(),
        }
    }

    fn push(&mut self, number: usize, raw: &str) -> Result<()> {
        let Parsed { layout, facts, unread, inferred } =
            self.checked(number, raw).map_err(|Fault { field, problem }| FactsError::Record {
                path: self.path.clone(),
                record: number,
                field: field.map(String::into_boxed_str),
                problem,
            })?;
        self.layout.get_or_insert((number, layout));
        for name in unread {
            let meant = record::meant(&name);
            self.unread.entry(name).or_insert(Unread { records: 0, meant }).records += 1;
        }
        self.inferred += usize::from(inferred);
        self.seen.extend(facts.iter().map(|fact| (fact.case_id, number)));
        self.facts.extend(facts);
        Ok(())
    }

    fn checked(&self, number: usize, raw: &str) -> Result<Parsed, Fault> {
        let value: Value =
            serde_json::from_str(raw).map_err(|error| Fault::of_record(format!("is not JSON: {error}")))?;
        serde_json::from_str::<Unique>(raw).map_err(|error| Fault::of_record(format!("is not in order: {error}")))?;
        let parsed = record::parse(&value, number as u64 - 1, self.options.zsre_target)?;
        let layout = parsed.layout;
        if let Some((first, expected)) = self.layout
            && layout != expected
        {
            let problem = format!(
                "is of the layout {layout}, but record {first} of {expected}; put each layout in a file of its own"
            );
            return Err(Fault::of_record(problem));
        }
        for fact in &parsed.facts {
            if let Some(first) = self.seen.get(&fact.case_id) {
                let problem =
                    format!("is {}, as in record {first}; give every record a number of its own", fact.case_id);
                return Err(Fault::of_field("case_id", problem));
            }
        }
        Ok(parsed)
    }

    fn finish(self) -> Result<Facts> {
        match self.layout {
            Some((_, layout)) => Ok(Facts { facts: self.facts, layout, unread: self.unread, inferred: self.inferred }),
            None => {
                Err(malformed(&self.path, "holds no record; expected a list of facts, or one fact a line".to_owned()))
            }
        }
    }
}

fn malformed(path: &Path, problem: String) -> Error {
    FileError::Format { path: path.to_owned(), problem }.into()
}

/// The records of a file, unparsed, with their numbers from 1 up; in JSON lines, the number of the line.
fn records<'a>(path: &Path, contents: &'a [u8]) -> Result<Vec<(usize, &'a str)>> {
    let text = std::str::from_utf8(contents).map_err(|error| {
        let line = contents[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        malformed(path, format!("is not UTF-8: byte {} (line {line}); save it as UTF-8", error.valid_up_to()))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(lines) = json_lines(text) {
        return Ok(lines);
    }
    let not_json = |error: serde_json::Error| malformed(path, format!("is not JSON: {error}"));
    let list = if text.trim_start().starts_with('{') {
        let object: HashMap<String, &'a RawValue> = serde_json::from_str(text).map_err(not_json)?;
        match object.get("records") {
            Some(list) => list.get(),
            None => return Ok(vec![(1, text)]),
        }
    } else {
        text
    };
    let records: Vec<&'a RawValue> = serde_json::from_str(list).map_err(|error| {
        match error.classify() {
        serde_json::error::Category::Data => malformed(
            path,
            "holds no list of records; expected a JSON list, an object with the list in `records`, or one record a line"
                .to_owned(),
        ),
        _ => not_json(error),
    }
    })?;
    Ok(records.into_iter().enumerate().map(|(i, raw)| (i + 1, raw.get())).collect())
}

/// The lines, if there are several and the first is a JSON object of its own.
fn json_lines(text: &str) -> Option<Vec<(usize, &str)>> {
    let lines: Vec<_> =
        text.lines().enumerate().map(|(i, line)| (i + 1, line)).filter(|(_, line)| !line.trim().is_empty()).collect();
    let [(_, first), _, ..] = lines[..] else { return None };
    let object = first.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(first).is_ok();
    object.then_some(lines)
}
