//! The targets of the unedited model, in a file that grows as they are found.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use betaedit_core::llm::Request;
use serde_json::{Value, json};

use crate::files::make_own;
use crate::terminal::Done;

/// Targets by request. The file is for one model and one kind of search, which its first line names. Each further line is a
/// target, so that a killed program loses at most one.
pub struct Targets {
    file: File,
    known: HashMap<String, Vec<f32>>,
}

impl Targets {
    /// Opens or creates the file.
    pub fn open(path: &Path, made_by: &str) -> Done<Self> {
        let mut known = HashMap::new();
        let mut begun = false;
        if path.exists() {
            for line in BufReader::new(File::open(path)?).lines() {
                // The target of an incomplete line is searched again.
                let Ok(line) = serde_json::from_str::<Value>(&line?) else { continue };
                if let Some(there) = line["made_by"].as_str() {
                    if there != made_by {
                        let path = path.display();
                        return Err(
                            format!("{path} has other settings ({there}, not {made_by}); use another --out").into()
                        );
                    }
                    begun = true;
                } else {
                    let numbers = line["target"].as_array().into_iter().flatten();
                    let target = numbers.filter_map(Value::as_f64).map(|number| number as f32).collect();
                    known.insert(line["request"].as_str().unwrap_or_default().into(), target);
                }
            }
        }
        make_own(path)?;
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        // Also ends an incomplete line.
        writeln!(file)?;
        if !begun {
            writeln!(file, "{}", json!({ "made_by": made_by }))?;
        }
        Ok(Self { file, known })
    }

    /// The target of a request, from the file or by a search, which adds it to the file.
    pub fn of(&mut self, request: &Request, seek: impl FnOnce() -> Done<Vec<f32>>) -> Done<Vec<f32>> {
        let name = format!("{} -> {} at {}", request.text(), request.target(), request.token());
        if let Some(target) = self.known.get(&name) {
            return Ok(target.clone());
        }
        let target = seek()?;
        writeln!(self.file, "{}", json!({ "request": name, "target": target }))?;
        self.known.insert(name, target.clone());
        Ok(target)
    }
}
