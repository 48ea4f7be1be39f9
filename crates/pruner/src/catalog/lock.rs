//! The locks of a catalog, which the system lets go when a process dies.
//!
//! The lock of the catalog is held for renames, and that of a folder in which a store is restored for a new folder in it; each
//! time it is measured. The lock of a snapshot is held by whoever makes it, then shared by its readers; whoever removes it asks
//! for it alone. It is taken before the other two, or asked for without waiting.

use std::{
    cell::Cell,
    fs::{File, TryLockError},
    io,
    num::NonZeroU64,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use state_store::{Holder, file_holder};

use super::{
    Catalog, CatalogError, ENTRY_LOCK, SnapshotId,
    folder::{self, failed, unread},
    ordinal,
};
use crate::{clock::Clock, control::Control, offline::Steering};

/// A holder that keeps a catalog, or a folder, longer than this was stopped.
const CATALOG_PATIENCE: Duration = Duration::from_secs(30);
/// A reader may be about to end.
const ENTRY_PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPT: Duration = Duration::from_millis(1);

/// How long one command held and waited for the lock of the catalog, or of the folder in which it restores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockTimes {
    /// The longest time it was held at a stretch, in microseconds.
    pub longest_held_us: u64,
    /// The longest time it was waited for, in microseconds.
    pub longest_wait_us: u64,
}

/// One command at work on a catalog.
pub(super) struct Access<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) clock: &'a dyn Clock,
    /// What ends a wait, where somebody can.
    control: Option<&'a Control>,
    times: Cell<LockTimes>,
}

impl<'a> Access<'a> {
    pub(super) fn new(catalog: &'a Catalog, clock: &'a dyn Clock) -> Self {
        Self { catalog, clock, control: None, times: Cell::default() }
    }

    /// The same for work that somebody may end: it waits for no lock then.
    pub(super) fn steered(catalog: &'a Catalog, steering: &'a Steering) -> Self {
        Self { control: Some(&steering.control), ..Self::new(catalog, &*steering.clock) }
    }

    pub(super) fn times(&self) -> LockTimes {
        self.times.get()
    }

    /// Does what takes no longer than a rename, while no other process does; it is given the file that is locked.
    ///
    /// Errors: the lock was not to be had in time, a stop while it was waited for, or what the work says.
    pub(super) fn locked<T>(&self, work: impl FnOnce(&File) -> Result<T, CatalogError>) -> Result<T, CatalogError> {
        let path = self.catalog.lock_file();
        self.alone((&path, &|| file(&path)), self.catalog.dir(), work)
    }

    /// The same in a folder that is no catalog, by a lock of that folder itself: nothing is written to lock it.
    ///
    /// Errors: the lock was not to be had in time, a stop while it was waited for, or what the work says.
    pub(super) fn locked_folder<T>(
        &self,
        dir: &Path,
        work: impl FnOnce() -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        self.alone((dir, &|| folder::open(dir).map_err(failed(dir))), dir, |_| work())
    }

    fn alone<T>(
        &self,
        (path, open): (&Path, &dyn Fn() -> Result<File, CatalogError>),
        dir: &Path,
        work: impl FnOnce(&File) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let asked = self.clock.monotonic();
        let file = self.held((path, open), dir, asked)?;
        let taken = self.clock.monotonic();
        let done = work(&file);
        let_go(&file);
        let LockTimes { longest_held_us, longest_wait_us } = self.times.get();
        self.times.set(LockTimes {
            longest_held_us: longest_held_us.max(micros(self.clock.monotonic().saturating_sub(taken))),
            longest_wait_us: longest_wait_us.max(micros(taken.saturating_sub(asked))),
        });
        done
    }

    /// The file that has the path, locked: one that was removed while it was waited for locks nobody out.
    fn held(
        &self,
        (path, open): (&Path, &dyn Fn() -> Result<File, CatalogError>),
        dir: &Path,
        asked: Duration,
    ) -> Result<File, CatalogError> {
        loop {
            let file = open()?;
            let left = CATALOG_PATIENCE.saturating_sub(self.clock.monotonic().saturating_sub(asked));
            if !self.within(path, left, || file.try_lock())? {
                let (dir, holder) = (dir.to_owned(), holder(path)?);
                return Err(CatalogError::CatalogBusy { dir, holder, waited: CATALOG_PATIENCE });
            }
            match folder::is_still(&file, path) {
                Ok(true) => return Ok(file),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unread(path)(error)),
            }
            let_go(&file);
        }
    }

    /// Holds a snapshot so that nobody removes it; one that has lost its lock file, which has nothing in it, gets another.
    ///
    /// Errors: it is not there, or is being made or removed.
    pub(super) fn reading(&self, id: SnapshotId) -> Result<EntryLock, CatalogError> {
        let path = self.catalog.entry(id).join(ENTRY_LOCK);
        let lock = match folder::open(&path) {
            Ok(file) => EntryLock(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.made_anew(id, &path)?,
            Err(error) => return Err(unread(&path)(error)),
        };
        self.entry(id, &path, lock, |file| file.try_lock_shared())
    }

    fn made_anew(&self, id: SnapshotId, path: &Path) -> Result<EntryLock, CatalogError> {
        match folder::open_or_make(path) {
            Ok(file) => Ok(EntryLock(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.without_lock(id, path, error)),
            Err(error) => Err(failed(path)(error)),
        }
    }

    /// Holds a snapshot alone, to remove it; one that has lost its lock file gets another.
    ///
    /// Errors: it is not there, or in use.
    pub(super) fn removing(&self, id: SnapshotId, patience: Patience) -> Result<EntryLock, CatalogError> {
        let (path, lock) = self.removable(id)?;
        match patience {
            Patience::Some => self.entry(id, &path, lock, |file| file.try_lock()),
            Patience::None => match lock.0.try_lock() {
                Ok(()) => self.still_there(id, &path, lock),
                Err(TryLockError::WouldBlock) => Err(CatalogError::SnapshotInUse { id, holder: holder(&path)? }),
                Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
            },
        }
    }

    /// The lock by which a snapshot is removed, and where it lies; of somebody's file with the name of one it is that file.
    fn removable(&self, id: SnapshotId) -> Result<(PathBuf, EntryLock), CatalogError> {
        let entry = self.catalog.entry(id);
        let is_file = match folder::look_at(&entry) {
            Ok(found) => found.is_file(),
            Err(error) if folder::is_absence(&error) => false,
            Err(error) => return Err(unread(&entry)(error)),
        };
        if is_file {
            let file = folder::open(&entry).map_err(unread(&entry))?;
            return Ok((entry, EntryLock(file)));
        }
        let path = entry.join(ENTRY_LOCK);
        let lock = self.made_anew(id, &path)?;
        Ok((path, lock))
    }

    fn entry(
        &self,
        id: SnapshotId,
        path: &Path,
        lock: EntryLock,
        attempt: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<EntryLock, CatalogError> {
        if self.within(path, ENTRY_PATIENCE, || attempt(&lock.0))? {
            self.still_there(id, path, lock)
        } else {
            Err(CatalogError::SnapshotInUse { id, holder: holder(path)? })
        }
    }

    /// A snapshot that was removed before its lock was had is gone.
    fn still_there(&self, id: SnapshotId, path: &Path, lock: EntryLock) -> Result<EntryLock, CatalogError> {
        match folder::is_still(&lock.0, path) {
            Ok(true) => Ok(lock),
            Ok(false) => Err(self.unknown(id)),
            Err(error) => Err(self.without_lock(id, path, error)),
        }
    }

    pub(super) fn unknown(&self, id: SnapshotId) -> CatalogError {
        CatalogError::UnknownSnapshot { id, dir: self.catalog.dir.clone() }
    }

    fn without_lock(&self, id: SnapshotId, path: &Path, error: io::Error) -> CatalogError {
        if error.kind() != io::ErrorKind::NotFound {
            return unread(path)(error);
        }
        match folder::exists(&self.catalog.entry(id)) {
            Ok(true) => CatalogError::DamagedSnapshot { id, what: format!("{} is missing", path.display()) },
            Ok(false) => self.unknown(id),
            Err(error) => error,
        }
    }

    /// Tries until it works or the time is over.
    ///
    /// Errors: a stop meanwhile, what the system says.
    fn within(
        &self,
        path: &Path,
        patience: Duration,
        attempt: impl Fn() -> Result<(), TryLockError>,
    ) -> Result<bool, CatalogError> {
        let begun = self.clock.monotonic();
        loop {
            match attempt() {
                Ok(()) => return Ok(true),
                Err(TryLockError::Error(error)) => return Err(failed(path)(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(ended) = self.control.and_then(Control::ended) {
                return Err(ended.into());
            }
            if self.clock.monotonic().saturating_sub(begun) >= patience {
                return Ok(false);
            }
            std::thread::park_timeout(ATTEMPT);
        }
    }
}

/// Whether whoever has a snapshot is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// For a moment.
    Some,
    /// Not at all.
    None,
}

/// A lock of one snapshot; it ends with this value, or with the process.
#[derive(Debug)]
pub(super) struct EntryLock(File);

impl EntryLock {
    /// Makes the lock file of a snapshot that begins, and holds it.
    pub(super) fn begin(dir: &Path) -> Result<Self, CatalogError> {
        let path = dir.join(ENTRY_LOCK);
        let file = folder::create(&path)?;
        file.lock().map_err(failed(&path))?; // nobody else knows of it
        Ok(Self(file))
    }

    /// Writes the ordinal of the snapshot in a folder into its lock.
    pub(super) fn number(&self, dir: &Path, ordinal: NonZeroU64) -> Result<(), CatalogError> {
        ordinal::note(&self.0, &dir.join(ENTRY_LOCK), ordinal)
    }

    /// Takes the lock of a staging folder whose owner has died; nothing while the owner lives, if it has just removed the
    /// folder, or if what lies there is none.
    pub(super) fn of_the_dead(dir: &Path) -> Result<Option<Self>, CatalogError> {
        if !folder::is_folder(dir)? {
            return Ok(None); // gone, or of somebody else: nothing is made behind a link
        }
        let path = dir.join(ENTRY_LOCK);
        let file = match folder::open_or_make(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed(&path))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
        }
    }
}

impl Drop for EntryLock {
    fn drop(&mut self) {
        let_go(&self.0);
    }
}

/// Ends a lock now. By itself it would end with the last copy of its descriptor, and a child that is just being made has one.
fn let_go(file: &File) {
    if let Err(error) = file.unlock() {
        tracing::debug!(%error, "a lock ends with its file");
    }
}

/// The lock file of a catalog, made if need be.
pub(super) fn file(path: &Path) -> Result<File, CatalogError> {
    folder::open_or_make(path).map_err(failed(path))
}

fn holder(path: &Path) -> Result<Holder, CatalogError> {
    Ok(file_holder(path)?.map_or(Holder { pid: None, command: None }, |holder| holder))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).map_or(u64::MAX, |us| us)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{clock::ManualClock, control::Unobserved, error::PruneError};

    /// Whoever holds a lock may be stopped itself. The clock stands still: nobody's patience ends.
    #[test]
    fn whoever_waits_for_a_lock_of_the_catalog_or_of_a_snapshot_is_ended_by_a_stop_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open_or_create(&dir.path().join("catalog")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let id = SnapshotId::draw(&*clock);
        folder::create_dir(&catalog.entry(id)).unwrap();
        let _held = EntryLock::begin(&catalog.entry(id)).unwrap();
        let held = file(&catalog.lock_file()).unwrap();
        held.lock().unwrap();
        type Waits = fn(&Access<'_>, SnapshotId) -> CatalogError;
        let waits: [Waits; 2] =
            [|access, _| access.locked(|_| Ok(())).unwrap_err(), |access, id| access.reading(id).unwrap_err()];
        for wait in waits {
            let control = Arc::new(Control::default());
            let steering =
                Steering { control: Arc::clone(&control), observer: Arc::new(Unobserved), clock: Arc::clone(&clock) };
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| wait(&Access::steered(&catalog, &steering), id));
                control.stop();
                let ended = waiting.join().unwrap();
                assert!(matches!(ended, CatalogError::Prune(PruneError::Stopped)), "{ended}");
            });
        }
    }
}
