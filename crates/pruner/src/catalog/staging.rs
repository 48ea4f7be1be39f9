//! Staging folders: where a snapshot is made, and a restored store put together, before anybody can see it.
//!
//! Contract: a staging folder has a lock that its owner holds. One whose lock can be taken belongs to a process that died;
//! it is moved to the trash under the lock of the catalog, and removed outside of it. Whoever finds trash removes it.

use std::{
    fs::File,
    io,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Once,
};

use state_store::{CatalogPoint, catalog_reached};

use super::{
    Catalog, CatalogError, MANIFEST, RESTORING, STAGING, STORE, SnapshotId, TRASH,
    folder::{self, failed, unmade},
    lock::{self, Access, EntryLock},
    manifest::Manifest,
    ordinal,
};
use crate::control::Control;

/// A snapshot that is being made; dropped without being published, it is removed.
pub(super) struct Staging<'a> {
    catalog: &'a Catalog,
    pub(super) id: SnapshotId,
    /// Its number in the catalog.
    pub(super) ordinal: NonZeroU64,
    /// What the dead had left.
    pub(super) swept: Swept,
    dir: PathBuf,
    /// The lock file of the catalog, opened before the ordinal was written to it.
    numbered: File,
    /// Held until the snapshot is published or removed.
    _lock: EntryLock,
}

impl<'a> Staging<'a> {
    /// Sweeps what the dead have left, and begins.
    pub(super) fn begin(access: &Access<'a>, id: SnapshotId) -> Result<Self, CatalogError> {
        let (catalog, dir) = (access.catalog, access.catalog.staging(id));
        let (told, numbered) = (catalog.ordinals()?, lock::file(&catalog.lock_file())?);
        let (swept, ordinal, lock) = access.locked(|lock_file| {
            let swept = bury(catalog)?;
            let ordinal = ordinal::next((lock_file, &catalog.lock_file()), told, || catalog.begun())?;
            folder::create_dir(&dir).map_err(failed(&dir))?;
            catalog_reached(CatalogPoint::StagingMade);
            let lock = EntryLock::begin(&dir)?; // inside the lock: a sweeper never sees a folder that is not held yet
            lock.number(&dir, ordinal)?; // should the file of the catalog be lost meanwhile
            Ok((swept, ordinal, lock))
        })?;
        let mut staging = Self { catalog, id, ordinal, swept, dir, numbered, _lock: lock };
        catalog_reached(CatalogPoint::CaptureBegun);
        staging.swept.left = empty_trash(catalog);
        Ok(staging)
    }

    /// Where the files of the store go.
    pub(super) fn store(&self) -> PathBuf {
        self.dir.join(STORE)
    }

    /// Has the files copied by an engine that sees no stop: a stop takes the folder away that it copies into, so it fails at
    /// its next file.
    ///
    /// Errors: a stop, or what the engine says.
    pub(super) fn copied<T>(
        &self,
        control: &Control,
        copy: impl FnOnce() -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let (trash, once) = (self.trash(), Once::new());
        let take_away = || {
            if let Err(error) = folder::rename(&self.dir, &trash) {
                tracing::warn!(path = %self.dir.display(), %error, "a stop waits until the store is copied");
            }
        };
        let copied = control.interrupting(|| once.call_once(take_away), copy);
        control.ended().map_or(copied, |ended| Err(ended.into()))
    }

    fn trash(&self) -> PathBuf {
        self.catalog.trash(&self.id.to_string())
    }

    /// Writes the manifest, after everything it speaks of is durable.
    pub(super) fn seal(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        folder::sync_file(&self.numbered, &self.catalog.lock_file())?; // its ordinal is given once and for all
        folder::sync(&self.store())?;
        folder::write_new(&self.dir.join(MANIFEST), &manifest.encode()?)?;
        folder::sync(&self.dir)?;
        catalog_reached(CatalogPoint::CaptureSealed);
        Ok(())
    }

    /// Makes the snapshot part of the catalog, durably (C3).
    pub(super) fn publish(self, access: &Access<'_>) -> Result<PathBuf, CatalogError> {
        let entry = self.catalog.entry(self.id);
        access.locked(|_| {
            if folder::exists(&entry)? {
                let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
                return Err(failed(&entry)(source));
            }
            folder::rename(&self.dir, &entry).map_err(failed(&entry))?;
            catalog_reached(CatalogPoint::CaptureNamed);
            Ok(())
        })?;
        folder::sync(&self.catalog.dir)?;
        Ok(entry)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // Its lock is held still, so nobody buries it; after a publication there is nothing of this name.
        let trash = self.trash();
        match folder::rename(&self.dir, &trash) {
            Ok(()) => empty_trash_or_tell(self.catalog),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !matches!(folder::exists(&trash), Ok(false)) {
                    empty_trash_or_tell(self.catalog); // a stop has renamed it
                }
            }
            Err(error) => {
                tracing::warn!(path = %self.dir.display(), %error, "an unfinished snapshot waits for the next process to sweep it");
            }
        }
    }
}

/// What was done about what the dead have left.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// The staging folders that were moved to the trash, by the ids of their snapshots.
    pub(super) unfinished: Vec<String>,
    /// Why others were not. They are in nobody's way.
    pub(super) failures: Vec<CatalogError>,
    /// Why something of the trash is still there.
    pub(super) left: Vec<CatalogError>,
}

/// Moves what the dead have left to the trash, and empties it.
///
/// Errors: it is not known what they have left.
pub(super) fn sweep(access: &Access<'_>) -> Result<Swept, CatalogError> {
    let mut unfinished = Vec::new();
    loop {
        let mut swept = access.locked(|_| bury(access.catalog))?;
        let is_last = swept.unfinished.len() < MOST_BURIED;
        unfinished.append(&mut swept.unfinished);
        if is_last {
            return Ok(Swept { unfinished, left: empty_trash(access.catalog), ..swept });
        }
    }
}

/// Staging folders that are moved to the trash at once: the lock of the catalog is held for moments only.
const MOST_BURIED: usize = 100;

/// What lies in a folder under this prefix and an id. A name that does not end in one is of somebody else, and so is what lies
/// there.
pub(super) fn named(dir: &Path, prefix: &str) -> Result<Vec<(SnapshotId, PathBuf)>, CatalogError> {
    let mut named = Vec::new();
    for name in folder::names(dir)? {
        if let Some(Ok(id)) = name.strip_prefix(prefix).map(str::parse) {
            named.push((id, dir.join(name)));
        }
    }
    Ok(named)
}

/// Moves the staging folders of the dead to the trash, some of them where they are many. Under the lock of the catalog only.
fn bury(catalog: &Catalog) -> Result<Swept, CatalogError> {
    let mut swept = Swept::default();
    for (id, dir) in named(&catalog.dir, STAGING)? {
        if swept.unfinished.len() >= MOST_BURIED {
            break;
        }
        let id = id.to_string();
        match bury_if_dead(&dir, &catalog.trash(&id)) {
            Ok(Buried::ByUs) => {
                tracing::info!(id, "a process died while it made this snapshot; what it left is removed");
                swept.unfinished.push(id);
            }
            Ok(Buried::ByItsOwner) => {}
            Err(error) => swept.failures.push(error), // whether it is dead is not known, so it stays (I8)
        }
    }
    Ok(swept)
}

fn bury_if_dead(dir: &Path, trash: &Path) -> Result<Buried, CatalogError> {
    EntryLock::of_the_dead(dir)?.map_or(Ok(Buried::ByItsOwner), |held| bury_one(dir, trash, &held))
}

#[derive(Debug, PartialEq, Eq)]
enum Buried {
    ByUs,
    /// By its owner, now or later: it lives, or has failed after its lock was opened here.
    ByItsOwner,
}

fn bury_one(dir: &Path, trash: &Path, _held: &EntryLock) -> Result<Buried, CatalogError> {
    match folder::rename(dir, trash) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Buried::ByItsOwner),
        renamed => {
            renamed.map_err(failed(dir))?;
            catalog_reached(CatalogPoint::LeftoverBuried);
            Ok(Buried::ByUs)
        }
    }
}

/// Removes what lies in the trash, of whomever. What cannot be removed is in nobody's way: why is returned, and whoever
/// empties the trash next tries again.
pub(super) fn empty_trash(catalog: &Catalog) -> Vec<CatalogError> {
    trash(catalog).map_or_else(
        |error| vec![error],
        |trash| trash.iter().filter_map(|path| folder::remove_all(path).err()).collect(),
    )
}

/// What lies in the trash, durably: nothing of it gets the name of a snapshot back when the power fails.
fn trash(catalog: &Catalog) -> Result<Vec<PathBuf>, CatalogError> {
    let trash = named(&catalog.dir, TRASH)?;
    if !trash.is_empty() {
        folder::sync(&catalog.dir)?;
        catalog_reached(CatalogPoint::TrashFound);
    }
    Ok(trash.into_iter().map(|(_, path)| path).collect())
}

fn empty_trash_or_tell(catalog: &Catalog) {
    for error in empty_trash(catalog) {
        tracing::warn!(%error, "what is left in the catalog stays until the next snapshot is made or removed");
    }
}

/// A restored store that is being put together beside the place where it will lie.
pub(super) struct Restoring {
    dir: PathBuf,
    _lock: EntryLock,
}

impl Restoring {
    /// Begins.
    pub(super) fn begin(access: &Access<'_>, target: &Path) -> Result<Self, CatalogError> {
        let (above, prefix) = beside(target)?;
        let attempt = SnapshotId::draw(access.clock); // the same snapshot may be restored twice
        let dir = above.join(format!("{prefix}{attempt}"));
        let lock = access.locked_folder(above, || {
            folder::create_dir(&dir).map_err(unmade(&dir, target))?;
            EntryLock::begin(&dir)
        })?;
        catalog_reached(CatalogPoint::RestoreBegun);
        Ok(Self { dir, _lock: lock })
    }

    /// Where the files of the store go.
    pub(super) fn store(&self) -> PathBuf {
        self.dir.join(STORE)
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        if let Err(error) = folder::remove_all(&self.dir) {
            tracing::warn!(%error, "a restore leaves a folder that the next one into the same place removes");
        }
    }
}

/// The folder of a place, and how the names begin of what is put together there for it.
fn beside(target: &Path) -> Result<(&Path, String), CatalogError> {
    let none = || CatalogError::BadPlace {
        path: target.to_owned(),
        why: "has a name that is no text: give another".to_owned(),
    };
    let name = target.file_name().and_then(|name| name.to_str()).ok_or_else(none)?;
    Ok((folder::above(target), format!(".{name}{RESTORING}")))
}

/// Whether a folder of this name is what some restore has not finished, and so would be swept.
pub(super) fn is_of_a_restore(target: &Path) -> bool {
    let name = target.file_name().and_then(|name| name.to_str());
    let split = name.and_then(|name| name.strip_prefix('.')?.rsplit_once(RESTORING));
    split.is_some_and(|(_, id)| id.parse::<SnapshotId>().is_ok())
}

/// Removes what restores into the same place have left that died.
pub(super) fn sweep_restores(access: &Access<'_>, target: &Path) -> Result<(), CatalogError> {
    let (above, prefix) = beside(target)?;
    if !folder::exists(above)? {
        return Ok(());
    }
    for (left, _held) in access.locked_folder(above, || dead_restores(above, &prefix))? {
        tracing::info!(path = %left.display(), "a restore died here; what it left is removed");
        catalog_reached(CatalogPoint::RestoreLeftoverFound);
        folder::remove_all(&left)?;
    }
    Ok(())
}

fn dead_restores(above: &Path, prefix: &str) -> Result<Vec<(PathBuf, EntryLock)>, CatalogError> {
    let mut dead = Vec::new();
    for (_, dir) in named(above, prefix)? {
        if let Some(lock) = EntryLock::of_the_dead(&dir)? {
            dead.push((dir, lock));
        }
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock::ManualClock;

    fn catalog() -> (tempfile::TempDir, Catalog) {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open_or_create(&dir.path().join("catalog")).unwrap();
        (dir, catalog)
    }

    #[test]
    fn a_folder_that_its_owner_removes_at_the_same_moment_fails_nobody() {
        let (_dir, catalog) = catalog();
        let dir = catalog.dir().join(".staging-of-an-owner");
        fs::write(&dir, b"somebody's").unwrap();
        assert!(EntryLock::of_the_dead(&dir).unwrap().is_none(), "no folder");
        fs::remove_file(&dir).unwrap();
        assert!(EntryLock::of_the_dead(&dir).unwrap().is_none(), "gone before its lock was opened");
        fs::create_dir(&dir).unwrap();
        let lock = EntryLock::of_the_dead(&dir).unwrap().unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(bury_one(&dir, &catalog.trash("of-an-owner"), &lock).unwrap(), Buried::ByItsOwner);
    }

    /// Foreign files may have names that begin as ours do, and links may lead anywhere.
    #[test]
    fn what_has_no_id_in_its_name_and_what_is_no_folder_is_of_somebody_else_and_stays() {
        let ((dir, catalog), clock) = (catalog(), ManualClock::default());
        let (id, elsewhere) = (SnapshotId::draw(&clock), dir.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        for name in [".staging-mine", ".trash-mine"] {
            fs::create_dir(catalog.dir().join(name)).unwrap();
        }
        fs::write(catalog.dir().join(format!("{STAGING}{id}")), b"a file").unwrap();
        std::os::unix::fs::symlink(&elsewhere, catalog.staging(SnapshotId::draw(&clock))).unwrap();
        let before = folder::names(catalog.dir()).unwrap();
        let swept = sweep(&catalog.access(&clock)).unwrap();
        assert!(swept.unfinished.is_empty() && swept.failures.is_empty() && swept.left.is_empty(), "{swept:?}");
        assert_eq!(folder::names(catalog.dir()).unwrap(), before);
        assert!(folder::is_vacant(&elsewhere).unwrap(), "nothing is made behind a link");
        let target = dir.path().join("place");
        let theirs = dir.path().join(".place.restoring-mine");
        fs::create_dir(&theirs).unwrap();
        sweep_restores(&catalog.access(&clock), &target).unwrap();
        assert!(theirs.exists());
        assert!(is_of_a_restore(&dir.path().join(format!(".place.restoring-{id}"))) && !is_of_a_restore(&theirs));
    }

    #[test]
    fn a_lock_file_that_is_lost_while_a_snapshot_is_made_gives_its_ordinal_to_no_other() {
        let ((_dir, catalog), clock) = (catalog(), ManualClock::default());
        let access = catalog.access(&clock);
        let begin = || Staging::begin(&access, SnapshotId::draw(&clock)).unwrap();
        let first = begin();
        fs::remove_file(catalog.lock_file()).unwrap();
        let (second, third) = (begin(), begin());
        assert_eq!([&first, &second, &third].map(|staging| staging.ordinal.get()), [1, 2, 3]);
    }

    #[test]
    fn however_many_the_dead_left_the_lock_is_held_for_some_of_them_at_a_time() {
        let ((_dir, catalog), clock) = (catalog(), ManualClock::default());
        let dead = 2 * MOST_BURIED + 1;
        (0..dead).for_each(|_| fs::create_dir(catalog.staging(SnapshotId::draw(&clock))).unwrap());
        assert_eq!(catalog.access(&clock).locked(|_| bury(&catalog)).unwrap().unfinished.len(), MOST_BURIED);
        assert_eq!(sweep(&catalog.access(&clock)).unwrap().unfinished.len(), dead - MOST_BURIED);
        assert_eq!(folder::names(catalog.dir()).unwrap(), ["catalog.lock"]);
    }

    /// Not for ever: whoever does not see it go copies on.
    fn taken_away(dir: &Path) -> bool {
        (0..1_000_000).any(|_| {
            std::thread::yield_now();
            !dir.exists()
        })
    }

    /// An engine that copies one file after another and never asks whether it shall end.
    #[test]
    fn a_stop_ends_a_copy_that_sees_none_and_leaves_nothing_of_it() {
        const MOST: usize = 1000;
        let ((_dir, catalog), clock, control) = (catalog(), ManualClock::default(), Control::default());
        let access = catalog.access(&clock);
        let staging = Staging::begin(&access, SnapshotId::draw(&clock)).unwrap();
        let (store, mut files) = (staging.store(), 0);
        fs::create_dir(&store).unwrap();
        let ended = staging.copied(&control, || {
            while files < MOST {
                let file = store.join(files.to_string());
                fs::write(&file, b"copied").map_err(failed(&file))?;
                files += 1;
                if files == 3 {
                    control.stop();
                    assert!(taken_away(&store));
                }
            }
            Ok(())
        });
        assert_eq!(ended.unwrap_err().code(), "stopped");
        assert_eq!(files, 3, "no file is begun after the stop");
        drop(staging);
        assert_eq!(folder::names(catalog.dir()).unwrap(), ["catalog.lock"]);
    }
}
