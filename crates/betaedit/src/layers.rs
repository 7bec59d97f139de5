//! Layers of a model, as text.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Layers, as `7-10` or `5,7`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Layers(pub Vec<usize>);

impl Layers {
    pub fn highest(&self) -> usize {
        self.0.iter().copied().max().unwrap_or(0)
    }
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.trim().parse::<usize>().map_err(|_| format!("`{text}` is not a layer: write 7-10 or 5,7"))
        };
        let part = |part: &str| match part.split_once('-') {
            Some((first, last)) => Ok(number(first)?..=number(last)?),
            None => Ok(number(part)?..=number(part)?),
        };
        let parts = text.split(',').map(part).collect::<Result<Vec<RangeInclusive<usize>>, String>>()?;
        let mut layers: Vec<usize> = parts.into_iter().flatten().collect();
        layers.sort_unstable();
        layers.dedup();
        if layers.is_empty() { Err(format!("`{text}` names no layer: write 7-10 or 5,7")) } else { Ok(Self(layers)) }
    }
}

impl TryFrom<String> for Layers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Layers> for String {
    fn from(layers: Layers) -> Self {
        layers.to_string()
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = &self.0;
        match (layers.first(), layers.last()) {
            (Some(first), Some(last)) if layers.len() > 1 && last - first + 1 == layers.len() => {
                write!(f, "{first}-{last}")
            }
            _ => write!(f, "{}", layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}
