//! Restoring a snapshot: copied beside the place asked for, proved there, and renamed last.
//!
//! Contract: the folder asked for is absent or empty before, and afterwards is that or holds a store that was proved to be
//! what the manifest says. Folders above it are made, and stay. Every file is hashed as it is copied, so nothing is accepted that
//! was not compared. Nothing is written in the catalog, and nothing put where a store lies or where a process has one open.

use std::{
    cmp::Ordering,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use state_store::{CatalogPoint, catalog_reached, removed_store};

use super::{
    Catalog, CatalogError, CopiedFile, CopiedState, Depth, LockTimes, Manifest, RESTORING, STORE, SnapshotId,
    folder::{self, failed},
    hashing::{self, Digested},
    keeper_of, proof,
    staging::{self, Restoring},
};
use crate::offline::{self, Steering, StoreLayout};

/// A snapshot that was restored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// The snapshot.
    pub id: SnapshotId,
    /// Where the store lies now.
    pub path: String,
    /// Whose records it holds.
    pub layout: StoreLayout,
    /// What it has.
    pub state: CopiedState,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The lock of the folder above, as this command held it.
    pub lock: LockTimes,
    /// Wall time.
    pub seconds: f64,
}

impl Catalog {
    /// Restores a snapshot into a folder that is absent or empty.
    ///
    /// Errors: no such snapshot, one that is damaged, a folder that holds something or belongs to a store, no room. Nothing is left
    /// then but the folders above, if they were missing. What restores into the same place have left that died is removed, unless
    /// the place is refused.
    pub fn restore(&self, id: SnapshotId, to: &Path, steering: &Steering) -> Result<Restored, CatalogError> {
        let target = self.target(to)?;
        let restored = self.restore_into(&target, id, steering);
        restored.map_err(|error| error.told_in(RESTORING, &target, "restoring into"))
    }

    fn restore_into(&self, target: &Path, id: SnapshotId, steering: &Steering) -> Result<Restored, CatalogError> {
        let clock = &*steering.clock;
        let started = clock.monotonic();
        let access = self.steered(steering);
        staging::sweep_restores(&access, target)?; // also if the place is taken: by the one that died, perhaps
        refuse_taken(target)?;
        let _reading = access.reading(id)?;
        let manifest = self.show(id)?;
        folder::make(folder::above(target))?;
        let restoring = Restoring::begin(&access, target)?;
        let (store, copied) = (restoring.store(), self.entry(id).join(STORE));
        copy_files(&manifest, &copied, &store, steering)?;
        catalog_reached(CatalogPoint::RestoreCopied);
        let proved = proof::prove(&manifest, &store, (Depth::Sampled, proof::Whole::Yes), steering);
        proved.map_err(|error| error.told_of(&store, &copied))?; // the same bytes
        folder::sync(&store)?;
        catalog_reached(CatalogPoint::RestoreProved);
        put(&store, target)?;
        catalog_reached(CatalogPoint::RestoreNamed);
        folder::sync(folder::above(target))?;
        Ok(Restored {
            id,
            path: target.display().to_string(),
            layout: manifest.layout,
            state: manifest.state,
            files: manifest.files.len() as u64,
            bytes: manifest.total_bytes,
            lock: access.times(),
            seconds: clock.monotonic().saturating_sub(started).as_secs_f64(),
        })
    }

    /// The place asked for.
    fn target(&self, to: &Path) -> Result<PathBuf, CatalogError> {
        let bad = |why: &str| CatalogError::BadPlace { path: to.to_owned(), why: why.to_owned() };
        let target = offline::resolved(to);
        if target.starts_with(&self.dir) {
            return Err(bad("lies inside the catalog: give a folder outside of it"));
        }
        if staging::is_of_a_restore(&target) {
            return Err(bad("has the name of what a restore has not finished, which is removed: give another"));
        }
        refuse_of_a_store(&target)?;
        for above in target.ancestors().skip(1) {
            match folder::look(above)? {
                Some(found) if found.is_dir() => return Ok(target),
                Some(_) => break,
                None => {}
            }
        }
        Err(bad("lies below something that is no folder: give another place"))
    }
}

/// A folder of ours inside the engine's would be taken for one of its files, and a process that goes on with a store whose files
/// were removed writes into whatever lies there now.
fn refuse_of_a_store(target: &Path) -> Result<(), CatalogError> {
    let bad = |why| CatalogError::BadPlace { path: target.to_owned(), why };
    if let Some((what, above)) = keeper_of(target)? {
        return Err(bad(format!("lies inside the {what} {}: give a folder outside of it", above.display())));
    }
    match removed_store(target) {
        Some((store, holder)) => Err(bad(format!(
            "belongs to the store {}, whose files were removed while {holder} has it open and goes on writing there: stop that \
             process first",
            store.display()
        ))),
        None => Ok(()),
    }
}

/// A place where something lies is left alone.
fn refuse_taken(target: &Path) -> Result<(), CatalogError> {
    let bad = |why: &str| CatalogError::BadPlace { path: target.to_owned(), why: why.to_owned() };
    if !folder::exists(target)? {
        return match folder::look_at(target) {
            Ok(_) => Err(bad("is a link that leads nowhere: give another place, or mend it")),
            Err(error) if folder::is_absence(&error) => Ok(()),
            Err(error) => Err(folder::unread(target)(error)),
        };
    }
    if !folder::is_folder(target)? {
        return Err(bad("is no folder: give an empty one, or one that does not exist"));
    }
    if !folder::is_vacant(target)? {
        return Err(taken(target));
    }
    if folder::is_mounted_on(target)? {
        return Err(mounted_on(target)); // BEFORE anything is copied
    }
    Ok(())
}

/// A folder cannot take the place of one on which something is mounted.
fn mounted_on(target: &Path) -> CatalogError {
    let why = "has a file system mounted on it, and a store is put together beside its place: give a folder within it"
        .to_owned();
    CatalogError::BadPlace { path: target.to_owned(), why }
}

fn taken(target: &Path) -> CatalogError {
    let why = "is not empty: give an empty folder, or one that does not exist".to_owned();
    CatalogError::BadPlace { path: target.to_owned(), why }
}

/// Gives the store its place; refused by the system if something is there by now.
fn put(store: &Path, target: &Path) -> Result<(), CatalogError> {
    match folder::rename(store, target) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(mounted_on(target)), // a part of the same file system
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Err(taken(target)), // by another restore
        renamed => renamed.map_err(failed(target)),
    }
}

fn copy_files(manifest: &Manifest, from: &Path, into: &Path, steering: &Steering) -> Result<(), CatalogError> {
    let damaged = |what: String| CatalogError::DamagedSnapshot { id: manifest.id, what };
    if !folder::is_folder(from)? {
        return Err(damaged(format!("{} is no folder", from.display())));
    }
    folder::create_dir(into).map_err(failed(into))?;
    hashing::each(&manifest.files, |file| {
        let (source, copy) = (from.join(&file.name), into.join(&file.name));
        let found = match hashing::copy(&source, &copy, file.bytes, &steering.control) {
            Err(CatalogError::File { path, source: why }) if path == source && folder::tells_what_is_there(&why) => {
                return Err(damaged(format!("{}: {why}", source.display())));
            }
            copied => copied?,
        };
        file.difference(&source, &found).map_or(Ok(()), |what| Err(damaged(what)))
    })?;
    Ok(())
}

/// What is wrong with a file that has so many names: whatever else has one has the same damage.
fn told(path: &Path, what: &str, names: u64) -> String {
    let shared =
        if names > 1 { " (its store, or another snapshot, shares this file: verify the store first)" } else { "" };
    format!("{}: {what}{shared}", path.display())
}

impl CopiedFile {
    /// What is wrong with the file at this path, which was found so.
    pub(super) fn difference(&self, path: &Path, found: &Digested) -> Option<String> {
        let other = || "its SHA-256 is not the one that was written".to_owned();
        let wrong = self.other_length(found.bytes).or_else(|| (found.sha256 != self.sha256).then(other));
        wrong.map(|what| told(path, &what, found.names))
    }

    /// What is wrong with its length, asked for without reading it.
    pub(super) fn difference_in_length(&self, path: &Path, bytes: u64, names: u64) -> Option<String> {
        self.other_length(bytes).map(|what| told(path, &what, names))
    }

    fn other_length(&self, found: u64) -> Option<String> {
        let bytes = self.bytes;
        match found.cmp(&bytes) {
            Ordering::Greater => Some(format!("it is longer than {bytes} bytes")),
            Ordering::Less => Some(format!("{found} of {bytes} bytes are there")),
            Ordering::Equal => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_that_comes_second_is_told_that_its_place_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (store, target) = (dir.path().join("put together"), dir.path().join("place"));
        for made in [&store, &target] {
            std::fs::create_dir(made).unwrap();
            std::fs::write(made.join("CURRENT"), b"").unwrap();
        }
        let late = put(&store, &target).unwrap_err();
        assert_eq!(late.to_string(), refuse_taken(&target).unwrap_err().to_string());
        assert!(matches!(late, CatalogError::BadPlace { .. }), "{late:?}");
    }
}
