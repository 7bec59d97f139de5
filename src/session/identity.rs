//! What identifies a session: a description of everything that its results depend on, written to its journal.

use std::path::Path;

use faer::Mat;

use super::first_format;
use super::method::{LayerStatistics, SessionMethod};
use crate::editor::Share;
use crate::error::{FileError, Result};
use crate::restraint::Restraint;
use crate::scalar::Scalar;
use crate::second_moment::SecondMoment;
use crate::util::bytes;

/// The parts of a session's identity.
pub(super) struct Identity<'a, M> {
    /// The adapter's fingerprint.
    pub(super) model: String,
    pub(super) method: &'a M,
    pub(super) share: Share,
    pub(super) gauged: bool,
    pub(super) restraint: Option<Restraint>,
    pub(super) layers: &'a [LayerStatistics],
}

impl<M> Identity<'_, M> {
    /// The description that a new session writes.
    pub(super) fn written<T: Scalar>(&self) -> String
    where
        M: SessionMethod<T>,
    {
        let mut lines = vec![
            "session format 2".to_owned(),
            format!("model: {}", self.model),
            format!("numbers: {}", T::NAME),
            format!("method: {}", self.method.description()),
        ];
        if self.share != self.method.share() {
            lines.push(format!("share of a layer: {}", self.share));
        }
        lines.push(format!("gauges: {}", self.gauged));
        lines.extend(self.restraint.map(|restraint| format!("restraint: {}", restraint.description())));
        lines.extend(self.statistics());
        lines.join("\n")
    }

    /// The description in the first format, if that format has the method.
    fn first_format<T: Scalar>(&self) -> Option<String>
    where
        M: SessionMethod<T>,
    {
        let recipe = crate::editor::Recipe { share: self.share, ..self.method.first_format()? };
        let mut lines = vec![
            "session format 1".to_owned(),
            format!("model: {}", self.model),
            format!("numbers: {}", T::NAME),
            format!("method: {}", first_format::recipe(&recipe)),
            format!("gauges: {}", self.gauged),
        ];
        lines.extend(self.restraint.map(|restraint| format!("restraint: {}", first_format::restraint(&restraint))));
        lines.extend(self.statistics());
        Some(lines.join("\n"))
    }

    fn statistics(&self) -> Vec<String> {
        let drawn = self.layers.iter().filter_map(|layer| Some((layer.layer, layer.random_keys.as_ref()?)));
        let mut lines: Vec<String> =
            drawn.map(|(number, keys)| format!("random keys of layer {number}: {}", hash_of_keys(keys))).collect();
        lines.extend(self.layers.iter().map(|LayerStatistics { layer, moment, .. }| {
            format!("layer {layer}: {} inputs, statistics {}", moment.d_in(), hash_of_moment(moment))
        }));
        lines
    }

    /// Refuses a session with another description. The error names the first difference.
    pub(super) fn check<T: Scalar>(&self, path: &Path, there: &str) -> Result<()>
    where
        M: SessionMethod<T>,
    {
        let (there, here) = if first_format::is(there) {
            let none = || "a method that session format 1 does not have".to_owned();
            (first_format::without_name(there), self.first_format::<T>().unwrap_or_else(none))
        } else {
            (there.to_owned(), self.written::<T>())
        };
        same(path, &there, &here)
    }
}

fn hash_of_keys(keys: &Mat<f64>) -> String {
    let mut hasher = blake3::Hasher::new();
    bytes::write_matrix(&mut hasher, keys.as_ref()).expect("hashing does not fail");
    hasher.finalize().to_hex()[..16].to_owned()
}

fn hash_of_moment(moment: &SecondMoment) -> String {
    let mut hasher = blake3::Hasher::new();
    moment.save(&mut hasher).expect("hashing does not fail");
    hasher.finalize().to_hex()[..16].to_owned()
}

fn same(path: &Path, there: &str, here: &str) -> Result<()> {
    if there == here {
        return Ok(());
    }
    let (mut a, mut b, mut within) = (there.lines(), here.lines(), String::new());
    let problem = loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) if a == b => {
                // The fields of a description are indented below the line that names it.
                if !a.starts_with(' ') {
                    within = a.split(": ").next().unwrap_or_default().to_owned();
                }
            }
            (a, b) => {
                let place = match a.or(b) {
                    Some(line) if line.starts_with(' ') => format!(", its {within}"),
                    _ => String::new(),
                };
                let (a, b) = (a.unwrap_or("nothing").trim(), b.unwrap_or("nothing").trim());
                break format!("belongs to another session{place}: there `{a}`, here `{b}`; use another directory");
            }
        }
    };
    Err(FileError::Format { path: path.to_owned(), problem }.into())
}
