//! Rotary positions in a `config.json`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::ConfigFile;
use crate::error::{Error, Result};
use crate::llm::config::{Pairing, Rotary, RotaryScaling};

/// Where `transformers` writes the parameters: today, and before version 5.
const NEW: &str = "rope_parameters";
const OLD: &str = "rope_scaling";

/// Entries of all kinds of scaling.
const COMMON: [&str; 4] = ["rope_type", "type", THETA, PART];
const THETA: &str = "rope_theta";
const PART: &str = "partial_rotary_factor";
const ORIGINAL: &str = "original_max_position_embeddings";

/// How the files of a family say what is rotated: names outside of the parameters, and what its class in `transformers` takes for entries
/// that are not there.
#[derive(Clone, Copy)]
pub(super) struct RotaryEntries {
    /// The name of the base.
    pub(super) theta: &'static str,
    pub(super) usual_theta: f64,
    /// The name of the part of a head that is rotated.
    pub(super) part: &'static str,
    pub(super) rotated: Rotated,
    /// The context length before scaling, whatever stands among the parameters; `None` is what stands there.
    pub(super) original_context: Option<usize>,
    /// Kinds of scaling that are read as another.
    pub(super) read_as: &'static [(&'static str, &'static str)],
}

/// What is rotated of a head.
#[derive(Clone, Copy)]
pub(super) enum Rotated {
    /// The whole of it.
    Head,
    /// A part, which is this share if the file does not say.
    Part(f64),
}

impl RotaryEntries {
    /// Those of Llama.
    pub(super) const LLAMA: Self = Self {
        theta: THETA,
        usual_theta: 10_000.0,
        part: PART,
        rotated: Rotated::Head,
        original_context: None,
        read_as: &[],
    };
}

impl ConfigFile {
    /// Rotary positions over a whole head, as `transformers` writes them: `rope_theta` and `rope_scaling` in older files,
    /// `rope_parameters` in newer ones.
    ///
    /// * `context`: the longest context in tokens
    ///
    /// # Errors
    /// A scaling that is not supported, an entry of it that is not known, or entries that contradict each other.
    pub fn rotary(&self, head_dim: usize, context: usize) -> Result<Rotary> {
        RotaryEntries::LLAMA.read(self, head_dim, context)
    }

    fn parameters(&self, name: &str) -> Result<Option<&Map<String, Value>>> {
        match self.entry(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map).filter(|map| !map.is_empty())),
            Some(other) => Err(self.refuse(format!("`{name}` is {other}, expected an object"))),
        }
    }
}

impl RotaryEntries {
    /// The positions of a file.
    pub(super) fn read(&self, file: &ConfigFile, head_dim: usize, context: usize) -> Result<Rotary> {
        let (new, old) = (file.parameters(NEW)?, file.parameters(OLD)?);
        if let (Some(new), Some(old)) = (new, old)
            && new != old
        {
            let problem = format!("`{NEW}` is {} and `{OLD}` is {}: remove one", text(new), text(old));
            return Err(file.refuse(problem));
        }
        let (name, none) = (if new.is_some() { NEW } else { OLD }, Map::new());
        self.read_map(file, name, new.or(old).unwrap_or(&none), head_dim, context)
    }

    /// The positions of layers of a kind: their own parameters in newer files, and in older ones what stands outside.
    ///
    /// * `scaled`: whether `rope_scaling` in older files is about these layers
    pub(super) fn read_for(
        &self,
        file: &ConfigFile,
        kind: &'static str,
        scaled: bool,
        head_dim: usize,
        context: usize,
    ) -> Result<Rotary> {
        let none = Map::new();
        let old = file.parameters(OLD)?;
        let own = match file.parameters(NEW)?.map(|all| (all.get(kind), all)) {
            None => None,
            Some((Some(Value::Object(own)), _)) => Some(own),
            Some((None | Some(Value::Null), all)) if all.values().all(|value| value.is_object() || value.is_null()) => {
                None
            }
            Some(_) => return Err(file.refuse(format!("`{NEW}` has no object `{kind}` for the layers of this kind"))),
        };
        let old = old.filter(|_| scaled);
        if let (Some(new), Some(old)) = (own, old)
            && new != old
        {
            let problem = format!("`{kind}` in `{NEW}` is {} and `{OLD}` is {}: remove one", text(new), text(old));
            return Err(file.refuse(problem));
        }
        let name = if own.is_some() { kind } else { OLD };
        self.read_map(file, name, own.or(old).unwrap_or(&none), head_dim, context)
    }

    fn read_map(
        &self,
        file: &ConfigFile,
        name: &'static str,
        map: &Map<String, Value>,
        head_dim: usize,
        context: usize,
    ) -> Result<Rotary> {
        let parameters = Parameters { file, name, map, context, entries: self };
        let scaling = parameters.scaling()?;
        let theta = parameters.same_as_outside(THETA, self.theta, self.usual_theta)?;
        let usual = match self.rotated {
            Rotated::Head => 1.0,
            Rotated::Part(part) => part,
        };
        let part = parameters.same_as_outside(PART, self.part, usual)?;
        if matches!(self.rotated, Rotated::Head) && part != 1.0 {
            let problem = format!("`{}` is not 1: a rotation of a part of each head is not supported", self.part);
            return Err(file.refuse(problem));
        }
        if !(part > 0.0 && part <= 1.0) {
            return Err(file.refuse(format!("`{}` is {part}, expected more than 0 and at most 1", self.part)));
        }
        Ok(Rotary { theta, dims: (head_dim as f64 * part) as usize, pairing: Pairing::Halves, scaling })
    }

    /// Adds the entries of such positions to a `config.json`.
    pub(super) fn write(&self, json: &mut Value, rotary: &Rotary, head_dim: usize) {
        json[self.theta] = json!(rotary.theta);
        if let Rotated::Part(_) = self.rotated {
            let part = rotary.dims as f64 / head_dim as f64;
            // The number of dimensions is rounded down when it is read.
            json[self.part] = json!(if (part * head_dim as f64) < rotary.dims as f64 { part.next_up() } else { part });
        }
        json[OLD] = scaling_json(&rotary.scaling);
        if let RotaryScaling::LongRope { original_context, longest_context, .. } = rotary.scaling {
            json["max_position_embeddings"] = json!(longest_context);
            json[ORIGINAL] = json!(original_context);
        }
    }
}

/// The parameters of a scaling, as they are written.
pub(super) fn scaling_json(scaling: &RotaryScaling) -> Value {
    match scaling {
        RotaryScaling::None => Value::Null,
        RotaryScaling::Linear(factor) => json!({ "rope_type": "linear", "factor": factor }),
        RotaryScaling::Dynamic { factor } => json!({ "rope_type": "dynamic", "factor": factor }),
        RotaryScaling::Llama3 { factor, low, high, original_context } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            ORIGINAL: original_context,
        }),
        RotaryScaling::Yarn { factor, fast, slow, original_context, attention } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "beta_fast": fast,
            "beta_slow": slow,
            "attention_factor": attention,
            ORIGINAL: original_context,
        }),
        RotaryScaling::LongRope { short, long, original_context, longest_context, attention } => json!({
            "rope_type": "longrope",
            "factor": *longest_context as f64 / *original_context as f64,
            "short_factor": short.to_vec(),
            "long_factor": long.to_vec(),
            "attention_factor": attention,
            ORIGINAL: original_context,
        }),
    }
}

/// The parameters of one file.
struct Parameters<'a> {
    file: &'a ConfigFile,
    name: &'static str,
    map: &'a Map<String, Value>,
    context: usize,
    entries: &'a RotaryEntries,
}

impl Parameters<'_> {
    fn kind(&self) -> Result<&str> {
        let text = |name: &str| self.map.get(name).and_then(Value::as_str);
        let kind = match (text("rope_type"), text("type")) {
            (Some(one), Some(other)) if one != other => {
                let problem = format!("`{}` has the `rope_type` {one} and the `type` {other}: remove one", self.name);
                return Err(self.file.refuse(problem));
            }
            (kind, old) => kind.or(old).unwrap_or("default"),
        };
        Ok(self.entries.read_as.iter().find(|(from, _)| *from == kind).map_or(kind, |(_, to)| to))
    }

    fn scaling(&self) -> Result<RotaryScaling> {
        let kind = self.kind()?;
        let (scaling, known): (_, &[&str]) = match kind {
            "default" => (RotaryScaling::None, &[]),
            "linear" => (RotaryScaling::Linear(self.number("factor")?), &["factor"]),
            "dynamic" => (RotaryScaling::Dynamic { factor: self.number("factor")? }, &["factor"]),
            "llama3" => (
                RotaryScaling::Llama3 {
                    factor: self.number("factor")?,
                    low: self.number("low_freq_factor")?,
                    high: self.number("high_freq_factor")?,
                    original_context: self.original_context()?,
                },
                &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL],
            ),
            "yarn" => (self.yarn()?, &YARN),
            "longrope" => (self.longrope()?, &LONGROPE),
            other => {
                let problem = format!(
                    "rotary scaling `{other}` is not supported in `{}`; choose one of: default, linear, dynamic, llama3, yarn, longrope",
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

    /// `transformers`: `modeling_rope_utils.py`.
    fn yarn(&self) -> Result<RotaryScaling> {
        if self.map.get("truncate").is_some_and(|value| !value.is_null() && *value != json!(true)) {
            return Err(self.file.refuse(format!("`truncate` in `{}` must be true", self.name)));
        }
        let original_context = self.original_context()?;
        // An entry that is not there is an error in `transformers`, and `null` is the growth of the context.
        let factor = match self.map.get("factor") {
            Some(Value::Null) => self.context as f64 / original_context,
            _ => self.number("factor")?,
        };
        let grown = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
        let (attention, mscale, all) =
            (self.optional("attention_factor")?, self.optional("mscale")?, self.optional("mscale_all_dim")?);
        let attention = match (attention, mscale.filter(|x| *x != 0.0), all.filter(|x| *x != 0.0)) {
            (Some(attention), ..) => attention,
            (None, Some(above), Some(below)) => grown(above) / grown(below),
            _ => grown(1.0),
        };
        let turns =
            |name: &str, usual: f64| Ok::<_, Error>(self.optional(name)?.filter(|x| *x != 0.0).unwrap_or(usual));
        let (fast, slow) = (turns("beta_fast", 32.0)?, turns("beta_slow", 1.0)?);
        Ok(RotaryScaling::Yarn { factor, fast, slow, original_context, attention })
    }

    fn longrope(&self) -> Result<RotaryScaling> {
        let original = self.original_context()?;
        let factor = self.optional("factor")?.unwrap_or(self.context as f64 / original);
        let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        Ok(RotaryScaling::LongRope {
            short: self.numbers("short_factor")?,
            long: self.numbers("long_factor")?,
            original_context: original as usize,
            longest_context: self.context,
            attention: self.optional("attention_factor")?.unwrap_or(usual),
        })
    }

    fn original_context(&self) -> Result<f64> {
        let usual = self.entries.original_context.unwrap_or(self.context) as f64;
        match self.entries.original_context {
            // The entry outside counts, and so does its absence.
            Some(_) => {
                let outside = self.file.number_or(ORIGINAL, usual)?;
                self.same(ORIGINAL, self.optional(ORIGINAL)?.unwrap_or(outside), outside)
            }
            None => self.same_as_outside(ORIGINAL, ORIGINAL, usual),
        }
    }

    fn optional(&self, name: &str) -> Result<Option<f64>> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.number(name).map(Some),
        }
    }

    fn number(&self, name: &str) -> Result<f64> {
        let missing = || self.file.refuse(format!("`{}` lacks `{name}`, or it is no number", self.name));
        self.map.get(name).and_then(Value::as_f64).ok_or_else(missing)
    }

    fn numbers(&self, name: &str) -> Result<Arc<[f64]>> {
        let list = self.map.get(name).and_then(Value::as_array);
        let numbers = list.and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
        let missing = || self.file.refuse(format!("`{}` lacks `{name}`, or it is no list of numbers", self.name));
        numbers.map(Into::into).ok_or_else(missing)
    }

    /// A number that may stand among the parameters, outside of them, or in both places.
    fn same_as_outside(&self, name: &str, name_outside: &str, default: f64) -> Result<f64> {
        match self.optional(name)? {
            None => self.file.number_or(name_outside, default),
            Some(inside) => self.same(name_outside, inside, self.file.number_or(name_outside, inside)?),
        }
    }

    fn same(&self, name: &str, inside: f64, outside: f64) -> Result<f64> {
        if outside != inside {
            let place = self.name;
            return Err(self.file.refuse(format!("`{name}` is {outside}, and {inside} in `{place}`: remove one")));
        }
        Ok(inside)
    }
}

/// The entries of two kinds of scaling.
const YARN: [&str; 8] =
    ["factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate", ORIGINAL];
const LONGROPE: [&str; 5] = ["factor", "attention_factor", "short_factor", "long_factor", ORIGINAL];

fn text(map: &Map<String, Value>) -> String {
    super::unread::shown(&Value::Object(map.clone()))
}
