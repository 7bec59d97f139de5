//! Every writer of the command, with faults of the file system put in by `strace`: a full disk, a read-only one, a failing one, a kill
//! between any two steps. The inputs stay as they are, and what is in a place is the old or the new, whole.
//!
//!     cargo test -p betaedit faults -- --ignored
//!
//! `BETAEDIT_FAULTS=N` tries every N-th place of a fault; by default every one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setting::{Setting, betaedit, done, read};

/// The calls that change the file system.
const CALLS: [&str; 12] = [
    "openat",
    "write",
    "copy_file_range",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "fsync",
    "fdatasync",
    "unlinkat",
    "ftruncate",
    "unlink",
];

/// A fault: what `strace` injects.
const FAULTS: [(&str, &str); 4] = [
    ("a full disk", "error=ENOSPC"),
    ("a read-only disk", "error=EROFS"),
    ("a failing disk", "error=EIO"),
    ("a kill", "signal=KILL"),
];

/// All files below a folder with their contents. Folders that a killed run left aside do not count.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

fn tree(folder: &Path) -> Tree {
    let mut found = Tree::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let aside = name.starts_with('.') && (name.contains(".betaedit-") || name.starts_with(".tmp"));
            if aside {
                continue;
            }
            match path.is_dir() {
                true => folders.push(path),
                // Some files name the folder, which differs from run to run.
                false => {
                    // A list of files has their times.
                    let contents = match name == "betaedit.json" {
                        true => vec![],
                        false => renamed(read(&path), folder, Path::new("/anywhere")),
                    };
                    found.insert(path.strip_prefix(folder).unwrap().to_owned(), contents);
                }
            }
        }
    }
    found
}

/// A text with another name of its folder, of the same length.
fn renamed(contents: Vec<u8>, from: &Path, to: &Path) -> Vec<u8> {
    let name = |folder: &Path| folder.file_name().unwrap().to_string_lossy().into_owned();
    let (from, mut to) = (name(from), name(to));
    to = format!("{to:_<width$.width$}", width = from.len());
    match String::from_utf8(contents) {
        Ok(text) => text.replace(&from, &to).into_bytes(),
        Err(binary) => binary.into_bytes(),
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for name in tree(from).into_keys() {
        let path = to.join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let original = from.join(name);
        std::fs::write(&path, renamed(read(&original), from, to)).unwrap();
        // By its time, a file is known as written by the command.
        let written = std::fs::metadata(&original).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    }
}

/// A command that writes.
struct Writer<'a> {
    name: &'a str,
    /// A folder that holds everything before the command, the inputs too. The command runs in a copy of it.
    before: &'a Path,
    arguments: Vec<String>,
    /// What it writes, by their names in the folder: directories and files that appear as a whole.
    outputs: &'a [&'a str],
    /// Outputs whose contents differ from run to run, such as times: JSON or HTML files that must be complete.
    varying: &'a [&'a str],
    /// What changes during the command, file by file.
    session: Option<&'a str>,
}

impl Writer<'_> {
    fn command(&self, folder: &Path, strace: &[String]) -> Command {
        let own = betaedit();
        let mut command = match strace {
            [] => Command::new(own.get_program()),
            strace => {
                let mut command = Command::new("strace");
                command.args(strace).arg(own.get_program());
                command
            }
        };
        command.args(["--threads", "1"]).args(&self.arguments).current_dir(folder);
        command
    }

    /// How often each call occurs.
    fn occurrences(&self) -> BTreeMap<&'static str, usize> {
        let folder = tempfile::tempdir().unwrap();
        copy_tree(self.before, folder.path());
        let log = folder.path().join("log");
        let flags = [
            "-f".to_owned(),
            "-qq".into(),
            "-o".into(),
            log.display().to_string(),
            "-e".into(),
            format!("trace={}", CALLS.join(",")),
        ];
        done(&mut self.command(folder.path(), &flags));
        let text = String::from_utf8_lossy(&read(&log)).into_owned();
        let main = text.split(' ').next().unwrap_or_default().to_owned();
        let of = |call: &'static str| {
            let start = format!(" {call}(");
            let calls = text.lines().filter(|line| line.starts_with(&main) && line.contains(&start));
            (call, calls.count())
        };
        CALLS.map(of).into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Tries faults at every place, or at some.
    fn survives(&self) -> usize {
        let (old, new) = (tree(self.before), {
            let folder = tempfile::tempdir().unwrap();
            copy_tree(self.before, folder.path());
            done(&mut self.command(folder.path(), &[]));
            tree(folder.path())
        });
        let every: usize = std::env::var("BETAEDIT_FAULTS").ok().and_then(|every| every.parse().ok()).unwrap_or(1);
        let (mut tried, mut place) = (0, 0);
        for (call, count) in self.occurrences() {
            for when in 1..=count {
                for (fault, inject) in FAULTS {
                    place += 1;
                    if place % every == 0 {
                        self.survives_one(call, when, fault, inject, &old, &new);
                        tried += 1;
                    }
                }
            }
        }
        println!("{}: {tried} faults of {place}", self.name);
        tried
    }

    fn survives_one(&self, call: &str, when: usize, fault: &str, inject: &str, old: &Tree, new: &Tree) {
        let folder = tempfile::tempdir().unwrap();
        copy_tree(self.before, folder.path());
        let log = folder.path().join(".tmp-log");
        let flags = [
            "-f".to_owned(),
            "-qq".into(),
            "-o".into(),
            log.display().to_string(),
            "-e".into(),
            format!("inject={call}:{inject}:when={when}"),
        ];
        let output = self.command(folder.path(), &flags).output().unwrap();
        let said = format!(
            "{}, {fault} at {call} {when}: {:?}\n{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let found = tree(folder.path());
        self.check_inputs(&found, old, &said);
        for output in self.outputs {
            let part = |tree: &Tree| -> Tree {
                tree.iter().filter(|(path, _)| path.starts_with(output)).map(|(a, b)| (a.clone(), b.clone())).collect()
            };
            let (found, old, new) = (part(&found), part(old), part(new));
            assert!(found == old || found == new, "{output} is neither old nor new: {:?}\n{said}", found.keys());
        }
        for output in self.varying {
            if let Some(contents) = found.get(Path::new(output)) {
                let text = String::from_utf8(contents.clone()).unwrap();
                let is_whole = text.ends_with("</html>\n") || serde_json::from_str::<serde_json::Value>(&text).is_ok();
                assert!(is_whole, "{output} is not whole\n{said}");
            }
        }
        if output.status.success() {
            let differs = self.differing(&found, new);
            assert!(differs.is_empty(), "success, but {differs:?} differ\n{said}");
        }

        // Once more without faults: the end is as if nothing had happened.
        std::fs::remove_file(&log).ok();
        let again = self.command(folder.path(), &[]).output().unwrap();
        if self.session.is_none() || again.status.success() {
            let text = String::from_utf8_lossy(&again.stderr).into_owned();
            assert!(again.status.success(), "the run after it failed: {text}\n{said}");
            let found = tree(folder.path());
            let differs = self.differing(&found, new);
            assert!(differs.is_empty(), "after a run without faults {differs:?} differ\n{said}");
            let left = std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name());
            let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains(".betaedit-")).collect();
            assert!(left.is_empty(), "{left:?} is left\n{said}");
        }
    }

    fn check_inputs(&self, found: &Tree, old: &Tree, said: &str) {
        for (path, contents) in old {
            let is_output =
                self.outputs.iter().chain(self.varying).any(|output| path.starts_with(output)) || self.varies(path);
            assert!(is_output || found.get(path) == Some(contents), "the input {} changed\n{said}", path.display());
        }
    }

    /// What is not as it should be in the end.
    fn differing(&self, found: &Tree, new: &Tree) -> Vec<PathBuf> {
        let differs = |path: &&PathBuf| !self.varies(path) && found.get(*path) != new.get(*path);
        new.keys().filter(differs).cloned().collect()
    }

    /// Times, the state of a session, and spectra, which are computed again where they cannot be kept.
    fn varies(&self, path: &Path) -> bool {
        path.to_string_lossy().contains(".spectrum.")
            || self.varying.iter().any(|output| path == Path::new(output))
            || self.session.is_some_and(|session| path.starts_with(session))
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

const EDIT: &str = "edit --model model --facts facts.json --stats stats --layers 1-2 --lambda1 0.01 --lambda2 0.01 --threshold 1 --steps 2 \
                    --contexts 0 --eval-limit 1 --show 0";

/// A folder with a model, facts and statistics.
fn folder_with_statistics() -> tempfile::TempDir {
    let setting = Setting::with_statistics("llama");
    let folder = tempfile::tempdir().unwrap();
    copy_tree(setting.folder.path(), folder.path());
    copy_tree(setting.model.path(), &folder.path().join("model"));
    folder
}

fn run_in(folder: &Path, arguments: &str) {
    done(betaedit().args(words(arguments)).current_dir(folder));
}

#[test]
#[ignore = "takes minutes, and needs strace"]
fn every_writer_survives_every_fault() {
    let folder = folder_with_statistics();
    let before = folder.path();
    let mut tried = 0;
    let mut survives = |name: &str, arguments: &str, outputs: &[&str], varying: &[&str], session: Option<&str>| {
        let writer = Writer { name, before, arguments: words(arguments), outputs, varying, session };
        tried += writer.survives();
    };
    let stats = "stats --model model --layers 1-2 --tokens 600";
    survives(
        "stats",
        &format!("{stats} --out new-stats"),
        &["new-stats/layer-01.statistics.safetensors", "new-stats/layer-02.statistics.safetensors"],
        &[],
        None,
    );
    survives(
        "edit, new places",
        &format!("{EDIT} --out out --lora lora --report report.json --answers answers.jsonl"),
        &["out", "lora", "answers.jsonl"],
        &["report.json", "report.html"],
        None,
    );

    // Places that hold something.
    run_in(before, &format!("{EDIT} --limit 2 --out out --lora lora --report report.json --answers answers.jsonl"));
    survives(
        "edit, old places",
        &format!("{EDIT} --out out --lora lora --report report.json --answers answers.jsonl"),
        &["out", "lora", "answers.jsonl"],
        &["report.json", "report.html"],
        None,
    );
    survives("edit in a session", &format!("{EDIT} --session session --out out"), &["out"], &[], Some("session"));
    run_in(before, &format!("{EDIT} --session session"));
    survives("undo", "undo --session session 0 1 2 3 --out out --lora lora", &["out", "lora"], &[], Some("session"));
    survives(
        "consolidate",
        "consolidate --session session --eval-limit 1 --out out --lora lora --report report.json --answers answers.jsonl",
        &["out", "lora", "answers.jsonl"],
        &["report.json"],
        Some("session"),
    );
    survives(
        "export",
        "export --session session --out out --mlx mlx --gguf-lora edits.gguf",
        &["out", "mlx", "edits.gguf"],
        &[],
        Some("session"),
    );
    survives("eval", "eval --model model --facts facts.json --report report.json", &[], &["report.json"], None);
    survives(
        "merge",
        "merge --model model --stats stats --model out --stats stats --out merged",
        &["merged"],
        &[],
        None,
    );
    survives("project", "project --lora lora --stats stats --threshold 1 --out projected", &["projected"], &[], None);
    assert!(tried > 0);
}
