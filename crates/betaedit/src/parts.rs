//! Statistics in parts, for jobs that share a text (`betaedit stats --part`), and their merging (`--merge`).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use betaedit_core::format::Statistics;

use crate::stats::{Spectra, conclude};
use crate::stored::{layers_in, statistics_path};
use crate::terminal::{Done, Terminal};

/// Part `I` of `N` of some texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    number: usize,
    of: usize,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err(format!("`{text}` is no part: write 1/8, 2/8, ..., 8/8")),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl Part {
    pub fn is_first(self) -> bool {
        self.number == 1
    }

    /// The windows that fall to the part, of so many.
    pub fn share(self, windows: usize) -> Share {
        let at = |number: usize| windows * number / self.of;
        let name = format!("part {} of {} of {windows} windows,", self.number, self.of);
        let windows = at(self.number - 1)..at(self.number);
        // The windows say where the part ends. Most of them are full.
        Share { about: 256 * windows.len() as u64, windows, enough: u64::MAX, name }
    }
}

/// What is read of some texts.
pub struct Share {
    pub windows: Range<usize>,
    /// Tokens after which reading ends.
    pub enough: u64,
    /// How many tokens that is, about.
    pub about: u64,
    name: String,
}

impl Share {
    /// Everything, up to a number of tokens.
    pub fn whole(enough: u64) -> Self {
        Self { windows: 0..usize::MAX, enough, about: enough, name: "windows".into() }
    }

    /// The name of windows that were read, as files say it.
    pub fn name(&self, windows: &Range<usize>) -> String {
        format!("{} {} to {}", self.name, windows.start, windows.end)
    }

    /// Whether these statistics are of this share alone.
    pub fn has_begun(&self, statistics: &Statistics) -> bool {
        statistics.parts().all(|part| part.starts_with(&self.name))
    }
}

/// The windows that a part's name says: first, behind the last, and of how many.
fn windows(part: &str) -> Option<(usize, usize, usize)> {
    let numbers: Vec<usize> = part.split(' ').filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [_, _, all, first, end] => Some((first, end, all)),
        _ => None,
    }
}

/// Merges the statistics of the parts in some directories.
pub fn merge(folders: &[PathBuf], spectra: Spectra, out: &Path, terminal: Terminal) -> Done {
    let mut layers: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    // A part that no window fell to left nothing.
    let mut with_statistics = 0;
    for folder in folders {
        let found = layers_in(folder)?;
        with_statistics += usize::from(!found.is_empty());
        for layer in found {
            layers.entry(layer).or_default().push(statistics_path(folder, layer));
        }
    }
    if layers.is_empty() {
        return Err("the directories have no statistics: name those of `betaedit stats --part`".into());
    }
    std::fs::create_dir_all(out).map_err(|error| format!("`{}`: {error}", out.display()))?;
    for (&layer, paths) in &layers {
        if paths.len() != with_statistics {
            let (there, all) = (paths.len(), with_statistics);
            return Err(format!(
                "layer {layer} is in {there} of the {all} directories: collect the same layers in all parts"
            )
            .into());
        }
        let statistics = Statistics::read_parts(paths)?;
        check_whole(layer, &statistics)?;
        statistics.write(statistics_path(out, layer))?;
        let name = format!("layer-{layer:02}.gradients.safetensors");
        if let Some(from) = folders.iter().map(|folder| folder.join(&name)).find(|path| path.exists()) {
            let to = out.join(&name);
            if !same_file::is_same_file(&from, &to).unwrap_or(false) {
                std::fs::copy(&from, &to).map_err(|error| format!("`{}`: {error}", to.display()))?;
            }
        }
    }
    conclude(&layers.keys().copied().collect::<Vec<_>>(), spectra, out, None, terminal)
}

/// Refuses parts that are not all of a text.
fn check_whole(layer: usize, statistics: &Statistics) -> Done {
    let mut parts = statistics.parts().map(windows).collect::<Option<Vec<_>>>().unwrap_or_default();
    parts.sort_unstable();
    let mut done = 0;
    for &(first, end, all) in &parts {
        if first != done || parts[0].2 != all {
            break;
        }
        done = end;
    }
    match parts.first() {
        Some(&(_, _, all)) if done == all => Ok(()),
        Some(&(_, _, all)) => Err(format!(
            "layer {layer}: the parts do not make a whole: windows from {done} on are missing, of {all}; give the directories of all \
             parts, each finished"
        )
        .into()),
        None => Err(format!("layer {layer}: these are not parts of `betaedit stats --part`").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_all_windows() {
        for (of, windows) in [(1, 5), (3, 10), (4, 3), (8, 1000)] {
            let mut done = 0;
            for number in 1..=of {
                let share = Part { number, of }.share(windows);
                assert_eq!(share.windows.start, done);
                done = share.windows.end;
                assert_eq!(super::windows(&share.name(&share.windows)), Some((share.windows.start, done, windows)));
            }
            assert_eq!(done, windows);
        }
    }

    #[test]
    fn a_part_is_written_as_a_fraction() {
        assert_eq!("2/8".parse::<Part>().unwrap().to_string(), "2/8");
        for wrong in ["0/8", "9/8", "8", "1/0", "a/b"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }
}
