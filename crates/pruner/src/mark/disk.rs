//! Files of one mark: their names, and how they come and go.
//!
//! Contract: every name carries the cycle id, so that leftovers of dead cycles can be told from anything else (L13).
//! Temporary files are removed when their owner is dropped, and by the next build of the same cycle if it never was; those that
//! are kept for a later process outlive both, until they are kept no more.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use state_store::{FileCall, ask};

use crate::{
    error::PruneError,
    files::{self, failed},
};

const SEALED: &str = "sealed";
const TEMPORARY: &str = "tmp";
const WALK: &str = "walk";
/// What is written aside before it takes the place of the record of a walk.
const WALK_ASIDE: &str = "walk.tmp";

/// Where the sealed mark of a cycle lies.
pub(crate) fn sealed_path(dir: &Path, cycle: u64) -> PathBuf {
    dir.join(format!("mark-{cycle:016x}.{SEALED}"))
}

/// Where the record of a walk lies.
pub(crate) fn walk_path(dir: &Path, cycle: u64) -> PathBuf {
    dir.join(format!("mark-{cycle:016x}.{WALK}"))
}

/// Numbers of files that outlive their owners.
type Kept = Arc<Mutex<BTreeSet<u64>>>;

/// Hands out the temporary files of one build.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    cycle: u64,
    next: AtomicU64,
    kept: Kept,
}

impl Scratch {
    /// Makes the folder if needed and removes what an earlier build of this cycle left.
    pub(crate) fn open(dir: &Path, cycle: u64) -> Result<Self, PruneError> {
        files::create_dir(dir)?;
        remove(dir, |name| name.cycle == cycle && name.kind != Kind::Sealed)?;
        Ok(Self { dir: dir.to_owned(), cycle, next: AtomicU64::new(0), kept: Kept::default() })
    }

    /// The same after an earlier process has kept some files, which stay.
    pub(crate) fn reopen(dir: &Path, cycle: u64, kept: BTreeSet<u64>) -> Result<Self, PruneError> {
        remove(dir, |name| match name.kind {
            Kind::Temporary(number) => name.cycle == cycle && !number.is_some_and(|number| kept.contains(&number)),
            Kind::Sealed | Kind::Walk => false,
        })?;
        let next = kept.last().map_or(0, |last| last + 1);
        Ok(Self { dir: dir.to_owned(), cycle, next: AtomicU64::new(next), kept: Arc::new(Mutex::new(kept)) })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("mark-{:016x}-{number}.{TEMPORARY}", self.cycle))
    }

    /// A new, empty file, open for reading and writing.
    pub(crate) fn create(&self) -> Result<TemporaryFile, PruneError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path(number);
        let create = || File::options().read(true).write(true).create_new(true).open(&path);
        let file = ask(FileCall::Create, &path).and_then(|()| create()).map_err(failed(&path))?;
        Ok(TemporaryFile { file, path, number, kept: Arc::clone(&self.kept) })
    }

    /// A file that was kept.
    pub(crate) fn take_up(&self, number: u64) -> Result<TemporaryFile, PruneError> {
        let path = self.path(number);
        let open = || File::options().read(true).write(true).open(&path);
        let file = ask(FileCall::Open, &path).and_then(|()| open()).map_err(failed(&path))?;
        Ok(TemporaryFile { file, path, number, kept: Arc::clone(&self.kept) })
    }

    /// From here on these files outlive their owners, and no others. Whatever else was kept goes: its owners are gone, or will not miss its name.
    ///
    /// Errors: a file that cannot be removed; it is kept no more.
    pub(crate) fn keep_only(&self, numbers: BTreeSet<u64>) -> Result<(), PruneError> {
        let before = std::mem::replace(&mut *self.kept.lock(), numbers.clone());
        before.difference(&numbers).try_for_each(|number| remove_if_there(&self.path(*number)))
    }
}

fn remove_if_there(path: &Path) -> Result<(), PruneError> {
    match ask(FileCall::Remove, path).and_then(|()| fs::remove_file(path)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path)(error)),
    }
}

/// A file that goes when its owner goes, unless it is kept.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    /// The open file.
    pub(crate) file: File,
    /// Its name.
    pub(crate) path: PathBuf,
    /// What the name tells it by.
    pub(crate) number: u64,
    kept: Kept,
}

impl TemporaryFile {
    /// Makes what is in it durable; its name is with its folder.
    pub(crate) fn sync(&self) -> Result<(), PruneError> {
        ask(FileCall::Sync, &self.path).and_then(|()| self.file.sync_all()).map_err(failed(&self.path))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if self.kept.lock().contains(&self.number) {
            return;
        }
        if let Err(error) = ask(FileCall::Remove, &self.path).and_then(|()| fs::remove_file(&self.path)) {
            // After a rename there is nothing to remove; anything else the next build removes.
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %self.path.display(), %error, "a temporary file could not be removed");
            }
        }
    }
}

/// Removes what a walk of this cycle has written down: the record first, so that none names files that are gone.
///
/// Errors: the folder cannot be read or a file cannot be removed; the end of the cycle removes it then.
pub(crate) fn forget_walk(dir: &Path, cycle: u64) -> Result<(), PruneError> {
    remove_if_there(&walk_path(dir, cycle))?;
    remove(dir, |name| name.cycle == cycle && matches!(name.kind, Kind::Temporary(_))).map(|_| ())
}

/// Removes the mark and spill files in `dir` of every cycle but `keep`, and nothing else (L13). Returns how many.
///
/// Errors: the folder cannot be read or a file cannot be removed. A folder that does not exist holds no leftovers.
pub fn remove_leftovers(dir: &Path, keep: Option<u64>) -> Result<u64, PruneError> {
    remove(dir, |name| keep != Some(name.cycle))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sealed,
    Walk,
    /// With the number of one that [`Scratch`] hands out.
    Temporary(Option<u64>),
}

struct Name {
    cycle: u64,
    kind: Kind,
}

impl Name {
    /// Recognises exactly the names this module makes.
    fn parse(name: &str) -> Option<Self> {
        let (stem, ending) = name.strip_prefix("mark-")?.split_once('.')?;
        let (cycle, number) = stem.split_at_checked(16)?;
        let kind = match (number.strip_prefix('-'), ending) {
            (None, SEALED) if number.is_empty() => Kind::Sealed,
            (None, WALK) if number.is_empty() => Kind::Walk,
            (None, WALK_ASIDE) if number.is_empty() => Kind::Temporary(None),
            (Some(digits), TEMPORARY) if digits.bytes().all(|digit| digit.is_ascii_digit()) => match digits.parse() {
                Ok(number) => Kind::Temporary(Some(number)),
                Err(_) => Kind::Temporary(None), // more than we count to
            },
            _ => return None,
        };
        match u64::from_str_radix(cycle, 16) {
            Ok(cycle) => Some(Self { cycle, kind }),
            Err(_) => None,
        }
    }
}

fn remove(dir: &Path, doomed: impl Fn(&Name) -> bool) -> Result<u64, PruneError> {
    let entries = match ask(FileCall::List, dir).and_then(|()| fs::read_dir(dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed(dir)(error)),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(failed(dir))?;
        let name = entry.file_name();
        if name.to_str().and_then(Name::parse).is_some_and(|name| doomed(&name)) {
            let path = entry.path();
            ask(FileCall::Remove, &path).and_then(|()| fs::remove_file(&path)).map_err(failed(&path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mark_files_of_other_cycles_are_removed_as_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let doomed = [
            "mark-0000000000000006.sealed",
            "mark-0000000000000006-3.tmp",
            "mark-0000000000000006.walk",
            "mark-0000000000000006.walk.tmp",
        ];
        let kept = [
            "mark-0000000000000007.sealed",
            "mark-0000000000000007-0.tmp",
            "mark-6.sealed",
            "mark-0000000000000006.sealed.bak",
            "mark-0000000000000006.walk.bak",
            "mark-000000000000000g.sealed",
            "certificate-6.json",
        ];
        for name in doomed.iter().chain(&kept) {
            fs::write(path(name), b"x").unwrap();
        }
        assert_eq!(remove_leftovers(dir.path(), Some(7)).unwrap(), 4);
        assert!(doomed.iter().all(|name| !path(name).exists()));
        assert!(kept.iter().all(|name| path(name).exists()));
        Scratch::open(dir.path(), 7).unwrap();
        assert!(!path(kept[1]).exists(), "a new build removes what the last one left");
        assert!(path(kept[0]).exists(), "but not a sealed mark");
    }
}
