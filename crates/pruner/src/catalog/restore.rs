//! Restoring a snapshot: copied beside the place asked for, proved there, and renamed last.
//!
//! Contract: the folder asked for is absent or empty before, and afterwards is that or holds a store that was proved to be
//! what the manifest says. Folders above it are made, and stay. Every file is hashed as it is copied, so nothing is accepted that
//! was not compared. Nothing is written in the catalog, and nothing put where a store lies or where a process has one open.

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use state_store::{CatalogPoint, catalog_reached, removed_store};

use super::{
    Catalog, CatalogError, CopiedFile, CopiedState, Depth, LockTimes, Manifest, RESTORING, STORE, SnapshotId,
    folder::{self, failed},
    hashing::{self, Digested},
    manifest::CURRENT,
    proof,
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
        folder::rename(&store, target).map_err(failed(target))?; // refused by the system if something is there by now
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
    for above in target.ancestors().skip(1) {
        if folder::look(&above.join(CURRENT))?.is_some_and(|found| found.is_file()) {
            return Err(bad(format!("lies inside the database {}: give a folder outside of it", above.display())));
        }
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
        return Ok(());
    }
    if !folder::is_folder(target)? {
        return Err(bad("is no folder: give an empty one, or one that does not exist"));
    }
    if !folder::is_vacant(target)? {
        return Err(bad("is not empty: give an empty folder, or one that does not exist"));
    }
    Ok(())
}

fn copy_files(manifest: &Manifest, from: &Path, into: &Path, steering: &Steering) -> Result<(), CatalogError> {
    let damaged = |what: String| CatalogError::DamagedSnapshot { id: manifest.id, what };
    if !folder::is_folder(from)? {
        return Err(damaged("it has no folder `store`".to_owned()));
    }
    folder::create_dir(into).map_err(failed(into))?;
    hashing::each(&manifest.files, |file| {
        let (source, copy) = (from.join(&file.name), into.join(&file.name));
        let found = match hashing::copy(&source, &copy, file.bytes, &steering.control) {
            Err(CatalogError::File { path, source: why }) if path == source && folder::tells_what_is_there(&why) => {
                return Err(damaged(format!("{}: {why}", file.name)));
            }
            copied => copied?,
        };
        file.difference(&found).map_or(Ok(()), |what| Err(damaged(what)))
    })?;
    Ok(())
}

impl CopiedFile {
    /// What is wrong with a file that was found so.
    pub(super) fn difference(&self, found: &Digested) -> Option<String> {
        let other = || format!("{}: its SHA-256 is not the one that was written", self.name);
        self.other_length(found.bytes).or_else(|| (found.sha256 != self.sha256).then(other))
    }

    /// What is wrong with a file of so many bytes, if its length is.
    pub(super) fn other_length(&self, found: u64) -> Option<String> {
        let Self { name, bytes, .. } = self;
        match found.cmp(bytes) {
            Ordering::Greater => Some(format!("{name}: it is longer than {bytes} bytes")),
            Ordering::Less => Some(format!("{name}: {found} of {bytes} bytes are there")),
            Ordering::Equal => None,
        }
    }
}
