//! From one opening of a store for writing to the next.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use serde::{Deserialize, Serialize};

use super::{classify::classify_io, damage::CURRENT_FILE};
use crate::{
    disk::{FileCall, ask},
    error::StoreError,
};

/// An era of a store: what was read in one holds as long as it lasts and nobody writes. The engine names its list of files anew
/// whenever it opens the store for writing, and at times while it has it open; whoever restores or copies a store does, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Era {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Era {
    /// The era of the store in a folder now. Reads no file.
    ///
    /// Errors: there is no store, the system does not answer.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        let current = path.join(CURRENT_FILE);
        let asked = ask(FileCall::Open, &current).and_then(|()| fs::metadata(&current));
        let told = asked.map_err(|source| classify_io(&current, "asking when the store was opened", source))?;
        Ok(Self { inode: told.ino(), seconds: told.mtime(), nanoseconds: told.mtime_nsec() })
    }
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
        assert_eq!(Era::of(dir.path()).unwrap(), era);
        drop(RocksBackend::open_for_a_look(dir.path()).unwrap());
        assert_eq!(Era::of(dir.path()).unwrap(), era);
        drop(RocksBackend::open(dir.path(), &RocksConfig::default()).unwrap());
        assert_ne!(Era::of(dir.path()).unwrap(), era);
    }

    #[test]
    fn a_copy_is_of_another_era() {
        let dir = tempfile::tempdir().unwrap();
        let (store, copy) = (dir.path().join("store"), dir.path().join("copy"));
        let backend = RocksBackend::open(&store, &RocksConfig::default()).unwrap();
        backend.copy_into(&copy).unwrap();
        assert_ne!(Era::of(&store).unwrap(), Era::of(&copy).unwrap());
    }
}
