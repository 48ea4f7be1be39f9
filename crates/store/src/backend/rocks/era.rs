//! From one opening of a store for writing to the next.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{classify::classify_io, damage::CURRENT_FILE};
use crate::{
    disk::{FileCall, ask},
    error::StoreError,
};

/// An era of a store: what was read in one holds as long as it lasts and nobody writes. The engine gives its file `CURRENT` a new
/// one whenever it opens the store for writing, and at times while it has it open. Whoever writes to that file in place changes
/// the era as well, with the times of before, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Era {
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// When a file came to the folder of a store last, or went. Nobody does either to a store at rest but whoever opens it for
/// writing, restores it or damages it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    inode: u64,
    modified: (i64, i64),
}

impl Era {
    /// The era of the store in a folder now. Reads no file.
    ///
    /// Errors: there is no store, the system does not answer.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        let current = asked(&path.join(CURRENT_FILE))?;
        let changed = (current.ctime(), current.ctime_nsec());
        Ok(Self { inode: current.ino(), modified: modified(&current), changed })
    }
}

impl Rest {
    /// Of the store in a folder that nobody has open for writing.
    ///
    /// Errors: there is no folder, the system does not answer.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        let folder = asked(path)?;
        Ok(Self { inode: folder.ino(), modified: modified(&folder) })
    }
}

fn asked(path: &Path) -> Result<Metadata, StoreError> {
    let told = ask(FileCall::Open, path).and_then(|()| fs::metadata(path));
    told.map_err(|source| classify_io(path, "asking when it was changed", source))
}

/// Seconds and nanoseconds.
fn modified(of: &Metadata) -> (i64, i64) {
    (of.mtime(), of.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend as _, RocksBackend, RocksConfig};

    #[test]
    fn an_era_ends_with_the_next_opening_for_writing_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Era::of(dir.path()).is_err());
        let backend = RocksBackend::open(dir.path(), &RocksConfig::default()).unwrap();
        let era = Era::of(dir.path()).unwrap();
        backend.flush().unwrap();
        drop(backend);
        let rest = Rest::of(dir.path()).unwrap();
        drop(RocksBackend::open_for_a_look(dir.path()).unwrap());
        assert_eq!((Era::of(dir.path()).unwrap(), Rest::of(dir.path()).unwrap()), (era, rest));
        drop(RocksBackend::open(dir.path(), &RocksConfig::default()).unwrap());
        assert_ne!(Era::of(dir.path()).unwrap(), era);
        assert_ne!(Rest::of(dir.path()).unwrap(), rest);
    }

    #[test]
    fn a_copy_is_of_another_era() {
        let dir = tempfile::tempdir().unwrap();
        let (store, copy) = (dir.path().join("store"), dir.path().join("copy"));
        let backend = RocksBackend::open(&store, &RocksConfig::default()).unwrap();
        backend.copy_into(&copy).unwrap();
        assert_ne!(Era::of(&store).unwrap(), Era::of(&copy).unwrap());
    }

    /// As `cp -a` does over a store that is there.
    #[test]
    fn a_file_that_is_written_anew_in_place_with_the_times_of_before_is_of_another_era() {
        let dir = tempfile::tempdir().unwrap();
        drop(RocksBackend::open(dir.path(), &RocksConfig::default()).unwrap());
        let era = Era::of(dir.path()).unwrap();
        let current = dir.path().join(CURRENT_FILE);
        let before = fs::metadata(&current).unwrap().modified().unwrap();
        let same = fs::read(&current).unwrap();
        let is_another = |_| {
            fs::write(&current, &same).unwrap();
            fs::File::options().write(true).open(&current).unwrap().set_modified(before).unwrap();
            let now = Era::of(dir.path()).unwrap();
            assert_eq!((now.inode, now.modified), (era.inode, era.modified));
            now != era
        };
        assert!((0..10_000).any(is_another), "the clock of the file system goes in steps, but it goes");
    }
}
