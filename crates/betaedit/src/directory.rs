//! Directories that a command writes: what is in the place is the old directory or the new one, whole.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::files::{self, about, folder_of};
use crate::staging::Staging;
use crate::terminal::Done;

/// The list of the files that a command wrote, in the directory itself.
pub const MANIFEST: &str = "betaedit.json";

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Model,
    Adapter,
}

impl Kind {
    /// The file without which a program finds nothing to load.
    fn key(self) -> &'static str {
        match self {
            Self::Model => "config.json",
            Self::Adapter => "adapter_config.json",
        }
    }
}

/// The contents of [`MANIFEST`].
#[derive(Serialize, Deserialize)]
struct Manifest {
    /// The version of the program.
    betaedit: String,
    kind: Kind,
    files: BTreeMap<String, Written>,
}

/// By what a file is known as ours: whoever changes it changes one of these.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    /// In bytes.
    length: u64,
    /// When it was written, in nanoseconds since 1970. A copy has another time.
    written: u64,
    /// BLAKE3 of the contents.
    blake3: String,
}

impl Written {
    fn of(path: &Path) -> io::Result<Self> {
        let file = std::fs::metadata(path)?;
        Ok(Self { length: file.len(), written: time(&file)?, blake3: hash(path)? })
    }

    /// Whether a file is as it was written. Its contents are read only if its time is another.
    fn is_still(&self, path: &Path) -> bool {
        let Ok(file) = std::fs::symlink_metadata(path) else { return false };
        let same_time = || time(&file).is_ok_and(|time| time == self.written);
        file.is_file()
            && file.len() == self.length
            && (same_time() || hash(path).is_ok_and(|found| found == self.blake3))
    }
}

fn time(file: &Metadata) -> io::Result<u64> {
    let since = file.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn hash(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// A place where a directory can be written.
#[derive(Debug)]
pub struct Place {
    /// Where it is, with links to directories followed.
    path: PathBuf,
    kind: Kind,
    /// What an earlier run wrote there.
    old: Option<Vec<String>>,
}

impl Place {
    /// Checks before the work that a directory can be written: nothing is in the place, an empty directory, or one that an earlier
    /// run wrote. None of its files may be an input.
    pub fn check(out: &Path, kind: Kind, inputs: &[&Path]) -> Done<Self> {
        if let Some(input) = inputs.iter().find(|input| files::is_same(out, input)) {
            let input = input.display();
            return Err(format!("`{}` is the input `{input}` itself: give another directory", out.display()).into());
        }
        let path = out.canonicalize().unwrap_or_else(|_| out.to_owned());
        if path.symlink_metadata().is_err() {
            let above = path.ancestors().skip(1).map(or_here).find(|folder| folder.exists());
            return match above {
                Some(folder) if folder.is_dir() => {
                    files::check_writable(folder)?;
                    Ok(Self { path, kind, old: None })
                }
                _ => Err(format!("`{}` is not in a directory", out.display()).into()),
            };
        }
        if !path.is_dir() {
            return Err(format!("`{}` is not a directory", out.display()).into());
        }
        files::check_writable(or_here(folder_of(&path))).or_else(|_| files::check_writable(&path))?;
        let there = names(&path)?;
        if there.is_empty() {
            return Ok(Self { path, kind, old: None });
        }
        // Without a list, or with that of another kind, nothing is ours.
        let list = written(&path, kind);
        let known = |name: &OsString| list.as_ref().and_then(|list| list.get(name.to_str()?));
        let is_list = |name: &OsString| list.is_some() && name == MANIFEST;
        let is_ours =
            |name: &OsString| is_list(name) || known(name).is_some_and(|written| written.is_still(&path.join(name)));
        if let Some(name) = there.iter().find(|name| !is_ours(name)) {
            let why = if known(name).is_some() { "has changed since it was written" } else { "is not ours to replace" };
            let (out, name) = (out.display(), name.display());
            let advice = "give a new or empty directory, or one that an earlier run wrote and nobody has changed";
            return Err(format!("`{out}` holds `{name}`, which {why}: {advice}").into());
        }
        let place =
            Self { path, kind, old: Some(list.unwrap_or_default().into_keys().chain([MANIFEST.to_owned()]).collect()) };
        for input in inputs {
            place.check_files_apart(input)?;
        }
        Ok(place)
    }

    fn check_files_apart(&self, input: &Path) -> Done {
        let old = self.old.iter().flatten();
        old.map(|name| self.path.join(name)).try_for_each(|file| files::check_apart(&file, &[input]))
    }

    /// Fills the directory beside its place, and puts it there when it is complete. After an error, the place is as it was.
    pub fn fill(&self, fill: impl FnOnce(&Path) -> Done) -> Done {
        self.again()?.fill_now(fill)
    }

    /// The place as it is now, perhaps hours after the first look.
    fn again(&self) -> Done<Self> {
        Self::check(&self.path, self.kind, &[])
    }

    fn fill_now(&self, fill: impl FnOnce(&Path) -> Done) -> Done {
        let above = or_here(folder_of(&self.path));
        std::fs::create_dir_all(above).map_err(about(above))?;
        // Where the folder above may not be written, the directory itself may.
        let staging = self.staging(above).or_else(|error| match self.path.is_dir() {
            true => self.staging(&self.path),
            false => Err(error),
        });
        let staging = staging.map_err(about(&self.path))?;
        let new = staging.path().join("new");
        std::fs::create_dir(&new).map_err(about(&new))?;
        fill(&new)?;
        self.list(&new)?;
        sync(&new).map_err(about(&new))?;
        self.put(&new, staging.path()).map_err(about(&self.path))?;
        files::sync_folder(above).map_err(about(above))
    }

    /// Removes what an earlier run wrote, and the directory.
    pub fn clear(&self) -> Done {
        let Some(old) = self.again()?.old else { return Ok(()) };
        let aside = self.staging(or_here(folder_of(&self.path)));
        if aside.is_ok_and(|aside| std::fs::rename(&self.path, aside.path().join("old")).is_ok()) {
            return Ok(());
        }
        let remove = || -> io::Result<()> {
            for name in in_order_of_removal(self.kind, &old) {
                remove_if_there(&self.path.join(name))?;
            }
            std::fs::remove_dir(&self.path)
        };
        remove().map_err(about(&self.path))
    }

    fn staging(&self, folder: &Path) -> io::Result<Staging> {
        Staging::new(folder, &self.path)
    }

    /// Writes the list of the files.
    fn list(&self, new: &Path) -> Done {
        let mut files = BTreeMap::new();
        for name in names(new)? {
            let path = new.join(&name);
            files.insert(name.to_string_lossy().into_owned(), Written::of(&path).map_err(about(&path))?);
        }
        let manifest = Manifest { betaedit: env!("CARGO_PKG_VERSION").into(), kind: self.kind, files };
        files::replace(&new.join(MANIFEST), format!("{:#}\n", serde_json::to_value(manifest)?))
    }

    fn put(&self, new: &Path, staging: &Path) -> io::Result<()> {
        if self.path.symlink_metadata().is_err() {
            return std::fs::rename(new, &self.path);
        }
        // Whoever stands in the directory would stand in the old one.
        if std::env::current_dir().is_ok_and(|here| here.starts_with(&self.path)) {
            return self.put_file_by_file(new);
        }
        if exchange(new, &self.path).is_ok() {
            return Ok(());
        }
        let aside = staging.join("old");
        match std::fs::rename(&self.path, &aside) {
            Ok(()) => std::fs::rename(new, &self.path).inspect_err(|_| drop(std::fs::rename(&aside, &self.path))),
            // A directory that cannot be moved, such as the root of a file system.
            Err(_) => self.put_file_by_file(new),
        }
    }

    /// Replaces the files one by one. Meanwhile the file without which nothing can be loaded is not there.
    fn put_file_by_file(&self, new: &Path) -> io::Result<()> {
        let names = std::fs::read_dir(new)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names = names.collect::<io::Result<Vec<String>>>()?;
        let inside = if new.starts_with(&self.path) { None } else { Some(self.staging(&self.path)?) };
        let from = inside.as_ref().map_or(new, Staging::path);
        if inside.is_some() {
            for name in &names {
                bring(&new.join(name), &from.join(name))?;
            }
            sync(from)?;
        }
        for name in in_order_of_removal(self.kind, self.old.as_deref().unwrap_or_default()) {
            remove_if_there(&self.path.join(name))?;
        }
        let mut order = in_order_of_removal(self.kind, &names);
        order.reverse();
        order.into_iter().try_for_each(|name| std::fs::rename(from.join(name), self.path.join(name)))
    }
}

/// Moves a file, also to another file system. It keeps its time, by which it is known as ours.
fn bring(from: &Path, to: &Path) -> io::Result<()> {
    if std::fs::rename(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to)?;
    std::fs::File::options().write(true).open(to)?.set_modified(std::fs::metadata(from)?.modified()?)
}

/// The key first, the list last: at every moment either nothing can be loaded or everything is there, and the rest is known as ours.
fn in_order_of_removal(kind: Kind, names: &[String]) -> Vec<&str> {
    let rank = |name: &&str| if *name == kind.key() { 0 } else { 1 + u8::from(*name == MANIFEST) };
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_by_key(rank);
    names
}

/// The files that an earlier run wrote, if the directory has a list of them.
fn written(path: &Path, kind: Kind) -> Option<BTreeMap<String, Written>> {
    let text = std::fs::read(path.join(MANIFEST)).ok()?;
    let manifest: Manifest = serde_json::from_slice(&text).ok()?;
    (manifest.kind == kind).then_some(manifest.files)
}

fn names(folder: &Path) -> Done<Vec<OsString>> {
    let entries = std::fs::read_dir(folder).map_err(about(folder))?;
    let mut names =
        entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>().map_err(about(folder))?;
    // What a killed run left is no obstacle.
    names.retain(|name| !Staging::is_name(&name.to_string_lossy()) && !files::is_of_desktop(name));
    names.sort();
    Ok(names)
}

/// Waits until the files of a folder are on the disk.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        std::fs::File::open(entry?.path())?.sync_all()?;
    }
    files::sync_folder(folder)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Exchanges two directories in one step, where the system can.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
