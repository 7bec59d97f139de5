//! The interface as a whole: the names at the root, and the policy for settings and reports.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn source(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)).unwrap()
}

/// Everything at the root, as a reader meets it. A new name is added here on purpose, with what it says without its docs.
const ROOT: [(&str, &str); 41] = [
    ("faer", "the matrices, re-exported"),
    // Values.
    ("SecondMoment", "E[k kᵀ] over some text"),
    ("Spectrum", "its eigendecomposition"),
    ("KeyStatistics", "both as one value"),
    ("Projector", "the space in which edits are allowed"),
    ("Threshold", "where that space ends"),
    ("EditBatch", "keys and residuals"),
    ("InverseGram", "Q, the engine"),
    ("Update", "a change of a weight"),
    ("Orientation", "how a weight is stored"),
    ("Proposal", "an update that is not committed yet"),
    // Traits.
    ("Adapter", "the seam to a model"),
    ("Editor", "proposes and commits updates"),
    ("Method", "settings that make editors"),
    ("Scalar", "f32 or f64"),
    // Methods and their settings.
    ("Memit", "a method"),
    ("AlphaEdit", "a method"),
    ("BetaEdit", "a method"),
    ("Refresh", "when a projector is rebuilt"),
    ("RefreshRule", "how"),
    ("Error", "what can go wrong"),
    ("Result", "with that error"),
    // Modules.
    ("adapter", ""),
    ("batch", ""),
    ("concept", "concept editing of any linear layer"),
    ("editor", ""),
    ("engine", ""),
    ("error", ""),
    ("facts", ""),
    ("format", "files"),
    ("guides", "docs/ as pages"),
    ("interop", "nalgebra"),
    ("llm", "language models"),
    ("metrics", ""),
    ("projector", ""),
    ("refresh", ""),
    ("regmean", "merging by regression means"),
    ("restraint", ""),
    ("ridge", "ridge regression over a stream"),
    ("scalar", ""),
    ("session", ""),
];

/// Modules that hold a few values beside what the root has of them.
const MORE_MODULES: [&str; 2] = ["spectrum", "update"];

#[test]
fn the_root_is_what_was_agreed() {
    let lib = source("lib.rs");
    let mut found = BTreeSet::new();
    for line in lib.lines() {
        if let Some(name) = line.strip_prefix("pub mod ") {
            found.insert(name.trim_end_matches(';').to_owned());
        } else if let Some(path) = line.strip_prefix("pub use ") {
            let names = path.trim_end_matches(';').rsplit("::").next().unwrap().trim_matches(['{', '}']).split(", ");
            found.extend(names.map(str::to_owned));
        }
    }
    let agreed: BTreeSet<String> = ROOT.iter().map(|(name, _)| *name).chain(MORE_MODULES).map(str::to_owned).collect();
    let (new, gone): (Vec<_>, Vec<_>) = (found.difference(&agreed).collect(), agreed.difference(&found).collect());
    assert!(new.is_empty() && gone.is_empty(), "not agreed: {new:?}; gone: {gone:?}");
}

/// A struct of the library with its attributes and public fields.
struct Declared {
    name: String,
    attributes: String,
    fields: Vec<String>,
    file: String,
}

/// The sources of the library: paths and contents.
fn sources() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut all = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let file = std::fs::read_to_string(&path).unwrap();
            all.push((path, file));
        }
    }
    all
}

fn declared() -> Vec<Declared> {
    let mut all = Vec::new();
    for (_, file) in sources() {
        let lines: Vec<&str> = file.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(rest) = line.strip_prefix("pub struct ").filter(|_| line.ends_with('{')) else { continue };
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned();
            let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
            let attributes = above.filter(|line| line.starts_with("#[")).copied().collect::<Vec<_>>().join(" ");
            let below = lines[at + 1..].iter().take_while(|line| **line != "}");
            let field = |line: &&str| Some(line.strip_prefix("    pub ")?.split_once(':')?.0.to_owned());
            let fields = below.filter_map(field).collect();
            all.push(Declared { name, attributes, fields, file: file.clone() });
        }
    }
    all
}

/// Pairs and lists that are complete: they are written as literals.
const LITERALS: [&str; 6] = ["Anchors", "Case", "Contest", "Slack", "TokenScore", "SpectralGap"];

/// What was measured, and is stored and read back: nobody sets a field.
const MEASURED: [&str; 11] = [
    "GenerationSummary",
    "KnownAnswer",
    "ProbeAnswer",
    "ProbeRates",
    "ProbeReplies",
    "ProbeReply",
    "Rate",
    "Replies",
    "Reply",
    "Rounding",
    "Summary",
];

/// Settings, which are read from files, may grow, and have a setter for every field.
#[test]
fn settings_have_a_setter_for_every_field_and_may_grow() {
    let mut seen = 0;
    let settings =
        declared().into_iter().filter(|one| one.attributes.contains("Deserialize") && !one.fields.is_empty());
    for Declared { name, attributes, fields, file } in settings {
        if LITERALS.contains(&&*name) || MEASURED.contains(&&*name) {
            continue;
        }
        seen += 1;
        assert!(attributes.contains("non_exhaustive"), "{name} cannot grow");
        for field in fields {
            // What a wrapper wraps is given to `new`, as are the text and the answers of a known fact.
            let setter = field == "method" || name == "Known" || file.contains(&format!("with_{field}("));
            assert!(setter, "{name} has no `with_{field}`");
        }
    }
    assert!(seen >= 15, "{seen} settings were found");
}

/// Reports, which are only written, may grow.
#[test]
fn reports_may_grow() {
    let complete = ["Gauges", "SpectralGap"];
    for Declared { name, attributes, .. } in declared() {
        let written = attributes.contains("Serialize") && !attributes.contains("Deserialize");
        assert!(!written || attributes.contains("non_exhaustive") || complete.contains(&&*name), "{name} cannot grow");
    }
}

/// Formulas are text: neither rustdoc nor a terminal sets LaTeX.
#[test]
fn formulas_are_readable_as_they_are() {
    for (path, file) in sources() {
        for (at, line) in file.lines().enumerate() {
            let docs = line.trim_start().starts_with("//");
            let place = format!("{}:{}: {line}", path.display(), at + 1);
            assert!(!(docs && (line.contains("$$") || line.contains("\\frac") || line.contains("\\sum"))), "{place}");
        }
    }
}
