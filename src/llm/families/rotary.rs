//! Rotary positions in a `config.json`.

use serde_json::{Map, Value};

use super::ConfigFile;
use crate::error::Result;
use crate::llm::config::{Pairing, Rotary, RotaryScaling};

/// Where `transformers` writes the parameters: today, and before version 5.
const NEW: &str = "rope_parameters";
const OLD: &str = "rope_scaling";

/// Entries of all kinds of scaling.
const COMMON: [&str; 4] = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];

impl ConfigFile {
    /// Rotary positions over a whole head, as `transformers` writes them: `rope_theta` and `rope_scaling` in older files,
    /// `rope_parameters` in newer ones.
    ///
    /// * `context`: the longest context in tokens
    ///
    /// # Errors
    /// A scaling that is not supported, an entry of it that is not known, or entries that contradict each other.
    pub fn rotary(&self, head_dim: usize, context: usize) -> Result<Rotary> {
        let (new, old) = (self.parameters(NEW)?, self.parameters(OLD)?);
        if let (Some(new), Some(old)) = (new, old)
            && new != old
        {
            let problem = format!("`{NEW}` is {} and `{OLD}` is {}: remove one", text(new), text(old));
            return Err(self.refuse(problem));
        }
        let (name, none) = (if new.is_some() { NEW } else { OLD }, Map::new());
        let parameters = Parameters { file: self, name, map: new.or(old).unwrap_or(&none), context };
        let scaling = parameters.scaling()?;
        let theta = parameters.same_as_outside("rope_theta", 10_000.0)?;
        if parameters.same_as_outside("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(
                self.refuse("`partial_rotary_factor` is not 1: a rotation of a part of each head is not supported")
            );
        }
        Ok(Rotary { theta, dims: head_dim, pairing: Pairing::Halves, scaling })
    }

    fn parameters(&self, name: &str) -> Result<Option<&Map<String, Value>>> {
        match self.entry(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map).filter(|map| !map.is_empty())),
            Some(other) => Err(self.refuse(format!("`{name}` is {other}, expected an object"))),
        }
    }
}

/// The parameters of one file.
struct Parameters<'a> {
    file: &'a ConfigFile,
    name: &'static str,
    map: &'a Map<String, Value>,
    context: usize,
}

impl Parameters<'_> {
    fn scaling(&self) -> Result<RotaryScaling> {
        let text = |name: &str| self.map.get(name).and_then(Value::as_str);
        let kind = match (text("rope_type"), text("type")) {
            (Some(one), Some(other)) if one != other => {
                let problem = format!("`{}` has the `rope_type` {one} and the `type` {other}: remove one", self.name);
                return Err(self.file.refuse(problem));
            }
            (kind, old) => kind.or(old).unwrap_or("default"),
        };
        let (scaling, known): (_, &[&str]) = match kind {
            "default" => (RotaryScaling::None, &[]),
            "linear" => (RotaryScaling::Linear(self.number("factor")?), &["factor"]),
            "llama3" => (
                RotaryScaling::Llama3 {
                    factor: self.number("factor")?,
                    low: self.number("low_freq_factor")?,
                    high: self.number("high_freq_factor")?,
                    original_context: self.same_as_outside("original_max_position_embeddings", self.context as f64)?,
                },
                &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
            ),
            other => {
                let problem = format!(
                    "rotary scaling `{other}` is not supported in `{}`; choose one of: default, linear, llama3",
                    self.name
                );
                return Err(self.file.refuse(problem));
            }
        };
        let unknown = |(name, value): &(&String, &Value)| {
            !value.is_null() && !COMMON.contains(&name.as_str()) && !known.contains(&name.as_str())
        };
        match self.map.iter().find(unknown) {
            Some((entry, value)) => {
                let problem =
                    format!("`{}` has `{entry}`: {value}, which rotary scaling `{kind}` does not have", self.name);
                Err(self.file.refuse(problem))
            }
            None => Ok(scaling),
        }
    }

    fn number(&self, name: &str) -> Result<f64> {
        let missing = || self.file.refuse(format!("`{}` lacks `{name}`, or it is no number", self.name));
        self.map.get(name).and_then(Value::as_f64).ok_or_else(missing)
    }

    /// A number that may stand among the parameters, outside of them, or in both places.
    fn same_as_outside(&self, name: &str, default: f64) -> Result<f64> {
        let inside = match self.map.get(name) {
            None | Some(Value::Null) => return self.file.number_or(name, default),
            Some(_) => self.number(name)?,
        };
        let outside = self.file.number_or(name, inside)?;
        if outside != inside {
            let place = self.name;
            return Err(self.file.refuse(format!("`{name}` is {outside}, and {inside} in `{place}`: remove one")));
        }
        Ok(inside)
    }
}

fn text(map: &Map<String, Value>) -> String {
    super::unread::shown(&Value::Object(map.clone()))
}
