//! Snapshot catalog: consistent copies of a store in one folder that many processes use at once.
//!
//! Promises: a snapshot is in the catalog whole or not at all, because it is made in a staging folder and renamed when its
//! last byte is synced (C3); it has the states that its manifest names, read back from the copy itself; its id is never
//! used again (F4); what a process that died was making is told by its lock, which the system has let go, and is swept by
//! the next process that makes or removes a snapshot (L13). Copying and hashing go on outside the lock of the catalog,
//! which is held for renames and for giving an ordinal, and measured.
//!
//! The folder is the index: a snapshot is a folder named by its id, so that no list can disagree with it. Whoever only reads
//! a catalog writes nothing in it, not even to restore: it may lie where nothing can be written.
//! Never: a write into the store that is copied, a touch of the engine's LOCK, a file outside the folders named here.

mod busy;
mod capture;
mod error;
mod folder;
mod hashing;
mod id;
mod listing;
mod lock;
mod manifest;
mod ordinal;
mod proof;
mod restore;
mod retain;
mod staging;

use std::{
    io,
    path::{Path, PathBuf},
};

use self::lock::Access;
pub use self::{
    busy::{Capture, Captures},
    capture::{CreateRequest, Created, Source, create},
    error::CatalogError,
    id::SnapshotId,
    listing::{Listed, Listing, Shown, Unusable},
    lock::LockTimes,
    manifest::{CopiedDoubt, CopiedFile, CopiedState, Creator, Manifest, Through},
    proof::{Depth, VerifiedSnapshot},
    restore::Restored,
    retain::{CatalogRetention, Failed, Removed, Tidied},
};
use crate::{
    clock::Clock,
    offline::{self, Steering},
};

/// The lock file of a catalog; its presence, or that of a snapshot, tells that a folder is one.
const LOCK_FILE: &str = "catalog.lock";
/// What is being made.
const STAGING: &str = ".staging-";
/// What is being removed.
const TRASH: &str = ".trash-";
/// What is being restored, behind a dot and the name of its place.
const RESTORING: &str = ".restoring-";
/// The files of the store within a snapshot.
const STORE: &str = "store";
const MANIFEST: &str = "manifest.json";
/// Held by whoever makes a snapshot, later by its readers.
const ENTRY_LOCK: &str = "lock";

/// A folder of snapshots.
#[derive(Debug, Clone)]
pub struct Catalog {
    dir: PathBuf,
}

impl Catalog {
    /// A catalog that is there.
    ///
    /// Errors: the folder is none.
    pub fn open(dir: &Path) -> Result<Self, CatalogError> {
        let dir = match folder::canonical(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = "does not exist, so it is no snapshot catalog";
                return Err(CatalogError::NoCatalog { dir: dir.to_owned(), why });
            }
            found => found.map_err(folder::unread(dir))?,
        };
        if is_catalog(&dir)? {
            return Ok(Self { dir });
        }
        Err(CatalogError::NoCatalog { dir, why: "is no snapshot catalog" })
    }

    /// A catalog that is there, or a new one in an empty or absent folder.
    ///
    /// Errors: a folder that holds something else, or that cannot be made.
    pub fn open_or_create(dir: &Path) -> Result<Self, CatalogError> {
        let dir = offline::resolved(dir);
        folder::make(&dir)?;
        if !has_lock(&dir)? {
            // Another process may have made it a catalog between the two looks.
            if !folder::is_vacant(&dir)? && !is_catalog(&dir)? {
                return Err(CatalogError::NotACatalog { dir });
            }
            lock::file(&dir.join(LOCK_FILE))?;
            folder::sync(&dir)?; // BEFORE anything is put beside it: what it tells must not be lost alone
        }
        Ok(Self { dir })
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn access<'a>(&'a self, clock: &'a dyn Clock) -> Access<'a> {
        Access::new(self, clock)
    }

    fn steered<'a>(&'a self, steering: &'a Steering) -> Access<'a> {
        Access::steered(self, steering)
    }

    fn lock_file(&self) -> PathBuf {
        self.dir.join(LOCK_FILE)
    }

    fn entry(&self, id: SnapshotId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    fn staging(&self, id: SnapshotId) -> PathBuf {
        self.dir.join(format!("{STAGING}{id}"))
    }

    fn trash(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{TRASH}{name}"))
    }
}

/// What a place lies inside of that keeps files of its own there, and so may hold no others: a database, a catalog or a snapshot.
fn keeper_of(place: &Path) -> Result<Option<(&'static str, &Path)>, CatalogError> {
    for above in place.ancestors().skip(1) {
        let name = above.file_name().and_then(|name| name.to_str());
        let is_named = name.is_some_and(|name| name.parse::<SnapshotId>().is_ok());
        if has_file(above, manifest::CURRENT)? {
            return Ok(Some(("database", above)));
        }
        if is_named && has_file(above, MANIFEST)? {
            return Ok(Some(("snapshot", above)));
        }
        if has_lock(above)? {
            return Ok(Some(("catalog", above)));
        }
    }
    Ok(None)
}

fn has_lock(dir: &Path) -> Result<bool, CatalogError> {
    has_file(dir, LOCK_FILE)
}

fn has_file(dir: &Path, name: &str) -> Result<bool, CatalogError> {
    Ok(folder::look(&dir.join(name))?.is_some_and(|found| found.is_file()))
}

/// Whether a folder is a catalog, also if all of it was copied here but its lock file, which whoever writes makes anew.
fn is_catalog(dir: &Path) -> Result<bool, CatalogError> {
    if has_lock(dir)? {
        return Ok(true);
    }
    if !folder::is_folder(dir)? {
        return Ok(false);
    }
    for name in folder::names(dir)? {
        if name.parse::<SnapshotId>().is_ok() && folder::exists(&dir.join(name).join(MANIFEST))? {
            return Ok(true);
        }
    }
    Ok(false)
}
