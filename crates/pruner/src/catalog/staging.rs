//! Staging folders: where a snapshot is made, and a restored store put together, before anybody can see it.
//!
//! Contract: a staging folder has a lock that its owner holds. One whose lock can be taken belongs to a process that died;
//! it is moved to the trash under the lock of the catalog, and removed outside of it. Whoever finds trash removes it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Catalog, CatalogError, MANIFEST, STAGING, STORE, SnapshotId, TRASH,
    folder::{self, failed},
    lock::{Access, EntryLock},
    manifest::Manifest,
};

/// A snapshot that is being made; dropped without being published, it is removed.
pub(super) struct Staging<'a> {
    catalog: &'a Catalog,
    pub(super) id: SnapshotId,
    dir: PathBuf,
    /// Held until the snapshot is published or removed.
    _lock: EntryLock,
}

impl<'a> Staging<'a> {
    /// Sweeps what the dead have left, and begins.
    pub(super) fn begin(access: &Access<'a>, id: SnapshotId) -> Result<Self, CatalogError> {
        let (catalog, dir) = (access.catalog, access.catalog.staging(id));
        let begun = access.locked(|| {
            bury(catalog)?;
            fs::create_dir(&dir).map_err(failed(&dir))?;
            EntryLock::begin(&dir) // inside the lock: a sweeper never sees a folder that is not held yet
        })?;
        let staging = Self { catalog, id, dir, _lock: begun };
        remove_trash(catalog);
        Ok(staging)
    }

    /// Where the files of the store go.
    pub(super) fn store(&self) -> PathBuf {
        self.dir.join(STORE)
    }

    /// Writes the manifest, after everything it speaks of is durable.
    pub(super) fn seal(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        folder::sync(&self.store())?;
        folder::write_new(&self.dir.join(MANIFEST), &manifest.encode()?)?;
        folder::sync(&self.dir)
    }

    /// Makes the snapshot part of the catalog, durably (C3).
    pub(super) fn publish(self, access: &Access<'_>) -> Result<PathBuf, CatalogError> {
        let entry = self.catalog.entry(self.id);
        access.locked(|| {
            if entry.exists() {
                let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
                return Err(failed(&entry)(source));
            }
            fs::rename(&self.dir, &entry).map_err(failed(&entry))
        })?;
        folder::sync(&self.catalog.dir)?;
        Ok(entry)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // Its lock is held still, so nobody buries it; after a publication there is nothing of this name.
        let trash = self.catalog.trash(&self.id.to_string());
        if fs::rename(&self.dir, &trash).is_ok() {
            remove_trash(self.catalog);
        }
    }
}

/// Sweeps what the dead have left; returns the names of the staging folders among it.
pub(super) fn sweep(access: &Access<'_>) -> Result<Vec<String>, CatalogError> {
    let buried = access.locked(|| bury(access.catalog))?;
    remove_trash(access.catalog);
    Ok(buried)
}

/// Moves the staging folders of the dead to the trash. Under the lock of the catalog only.
fn bury(catalog: &Catalog) -> Result<Vec<String>, CatalogError> {
    let mut buried = Vec::new();
    for name in folder::names(&catalog.dir)? {
        let Some(id) = name.strip_prefix(STAGING) else { continue };
        let dir = catalog.dir.join(&name);
        // An owner that has just failed removes its own folder meanwhile.
        let dead = match EntryLock::of_the_dead(&dir) {
            Err(CatalogError::File { .. }) if !dir.exists() => continue,
            dead => dead?,
        };
        if let Some(_held) = dead {
            let trash = catalog.trash(id);
            fs::rename(&dir, &trash).map_err(failed(&dir))?;
            tracing::info!(id, "a process died while it made this snapshot; what it left is removed");
            buried.push(id.to_owned());
        }
    }
    Ok(buried)
}

/// Removes what lies in the trash, of whomever. What cannot be removed is in nobody's way: it is told, and tried again.
fn remove_trash(catalog: &Catalog) {
    let removed = folder::names(&catalog.dir).and_then(|names| {
        let mut trash = names.iter().filter(|name| name.starts_with(TRASH));
        trash.try_for_each(|name| folder::remove_all(&catalog.dir.join(name)))
    });
    if let Err(error) = removed {
        tracing::warn!(%error, "the trash of the catalog stays until the next snapshot is made or removed");
    }
}

/// A restored store that is being put together beside the place where it will lie.
pub(super) struct Restoring {
    dir: PathBuf,
    _lock: EntryLock,
}

impl Restoring {
    /// Sweeps what dead restores into the same place have left, and begins.
    pub(super) fn begin(access: &Access<'_>, target: &Path, id: SnapshotId) -> Result<Self, CatalogError> {
        let none = || CatalogError::BadPlace { path: target.to_owned(), why: "is no folder that could be made" };
        let name = target.file_name().and_then(|name| name.to_str()).ok_or_else(none)?;
        let above = target.parent().ok_or_else(none)?;
        let prefix = format!(".{name}.restoring-");
        let attempt = SnapshotId::draw(access.clock); // the same snapshot may be restored twice
        let dir = above.join(format!("{prefix}{attempt}"));
        let (lock, dead) = access.locked(|| {
            let dead = dead_restores(above, &prefix)?;
            fs::create_dir(&dir).map_err(failed(&dir))?;
            Ok((EntryLock::begin(&dir)?, dead))
        })?;
        let restoring = Self { dir, _lock: lock };
        for (left, _held) in dead {
            tracing::info!(path = %left.display(), %id, "a restore died here; what it left is removed");
            folder::remove_all(&left)?;
        }
        Ok(restoring)
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

fn dead_restores(above: &Path, prefix: &str) -> Result<Vec<(PathBuf, EntryLock)>, CatalogError> {
    let mut dead = Vec::new();
    for name in folder::names(above)?.iter().filter(|name| name.starts_with(prefix)) {
        let dir = above.join(name);
        if let Some(lock) = EntryLock::of_the_dead(&dir)? {
            dead.push((dir, lock));
        }
    }
    Ok(dead)
}
