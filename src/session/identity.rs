//! What identifies a session: a description of everything that its results depend on, written to its journal.

use std::path::Path;

use faer::Mat;

use super::first_format;
use super::method::{LayerStatistics, SessionMethod};
use crate::editor::{Description, Share};
use crate::error::{FileError, Result};
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
    /// The restraint's description, and that in the first format.
    pub(super) restraint: Option<(Description, Option<String>)>,
    /// Lines on the layers, see [`statistics`].
    pub(super) statistics: Vec<String>,
}

impl<M> Identity<'_, M> {
    /// The description that a new session writes.
    pub(super) fn written<T: Scalar>(&self) -> String
    where
        M: SessionMethod<T>,
    {
        let mut lines = vec![
            "session format 2".to_owned(),
            format!("model: {}", self.model.replace('\n', "\n  ")),
            format!("numbers: {}", T::NAME),
            format!("method: {}", self.method.description()),
        ];
        if self.share != self.method.share() {
            lines.push(format!("share of a layer: {}", self.share));
        }
        lines.push(format!("gauges: {}", self.gauged));
        lines.extend(self.restraint.iter().map(|(restraint, _)| format!("restraint: {restraint}")));
        lines.extend(self.statistics.iter().cloned());
        lines.join("\n")
    }

    /// The description in the first format, if that format has the method and the restraint.
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
        if let Some((_, restraint)) = &self.restraint {
            lines.push(format!("restraint: {}", restraint.as_ref()?));
        }
        lines.extend(self.statistics.iter().cloned());
        Some(lines.join("\n"))
    }

    /// Refuses a session with another description. The error names the first difference.
    pub(super) fn check<T: Scalar>(&self, path: &Path, there: &str) -> Result<()>
    where
        M: SessionMethod<T>,
    {
        let (there, here) = if first_format::is(there) {
            let none = || "a method or restraint that session format 1 does not have".to_owned();
            (first_format::without_name(there), self.first_format::<T>().unwrap_or_else(none))
        } else {
            (there.to_owned(), self.written::<T>())
        };
        same(path, &there, &here)
    }
}

/// The random keys, the gradients and the statistics of the layers, by their hashes: a pass over each.
pub(super) fn statistics(layers: &[LayerStatistics]) -> Result<Vec<String>> {
    let drawn = layers.iter().filter_map(|layer| Some((layer.layer, layer.random_keys.as_ref()?)));
    let mut lines: Vec<String> =
        drawn.map(|(number, keys)| format!("random keys of layer {number}: {}", hash_of_keys(keys))).collect();
    let gradients = layers.iter().filter_map(|layer| Some((layer.layer, layer.gradients.as_ref()?)));
    lines.extend(gradients.map(|(number, moment)| format!("gradients of layer {number}: {}", hash_of_moment(moment))));
    // A start from the moment alone is another one, by rounding.
    let undecomposed = layers.iter().filter(|layer| layer.statistics.spectrum_on_demand().is_none());
    lines.extend(undecomposed.map(|layer| format!("start of layer {}: without a spectrum", layer.layer)));
    for LayerStatistics { layer, statistics, .. } in layers {
        let hash = hash_of_moment(&*statistics.moment()?);
        lines.push(format!("layer {layer}: {} inputs, statistics {hash}", statistics.d_in()));
    }
    Ok(lines)
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

/// Compares two descriptions field by field, in the order in which they are written.
fn same(path: &Path, there: &str, here: &str) -> Result<()> {
    if there == here {
        return Ok(());
    }
    let (a, b) = (fields(there), fields(here));
    let value = |fields: &[(String, String)], name: &str| {
        fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    };
    let names = a.iter().chain(&b).map(|(name, _)| name);
    let problem = names
        .filter_map(|name| difference(name, value(&a, name), value(&b, name)))
        .next()
        .unwrap_or_else(|| "its settings are in another order".to_owned());
    let problem = format!("belongs to another session: {problem}; use another directory");
    Err(FileError::Format { path: path.to_owned(), problem }.into())
}

/// The fields of a description by name: a line that is not indented, with the lines that are indented below it.
fn fields(description: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in description.lines() {
        match fields.last_mut() {
            Some((_, value)) if line.starts_with(' ') => {
                value.push('\n');
                value.push_str(line);
            }
            _ => {
                let (name, value) = line.split_once(": ").unwrap_or((line, ""));
                fields.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    fields
}

/// Where two values of a field differ first, if they do.
fn difference(name: &str, there: Option<String>, here: Option<String>) -> Option<String> {
    if there == here {
        return None;
    }
    let absent = || "absent".to_owned();
    let (there, here) = (there.unwrap_or_else(absent), here.unwrap_or_else(absent));
    let (mut a, mut b) = (there.lines(), here.lines());
    loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => {
                let [a, b] = [a, b].map(|line| line.unwrap_or("nothing").trim().to_owned());
                return Some(format!("its {name} is `{a}` there, `{b}` here"));
            }
        }
    }
}
