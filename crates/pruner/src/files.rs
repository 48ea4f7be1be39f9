//! Files of ours: written aside, synced, renamed, and their folder synced, so that none ever looks whole and is not.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use state_store::StoreError;

use crate::error::PruneError;

/// Attaches the path to a file error.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> PruneError + '_ {
    move |source| {
        if source.kind() == io::ErrorKind::PermissionDenied {
            PruneError::Store(StoreError::Permission { path: path.to_owned(), source })
        } else if source.kind() == io::ErrorKind::StorageFull {
            PruneError::Store(StoreError::DiskFull { what: format!("writing {}", path.display()) })
        } else {
            PruneError::File { path: path.to_owned(), source }
        }
    }
}

/// Creates a folder and everything above it.
pub(crate) fn create_dir(path: &Path) -> Result<(), PruneError> {
    fs::create_dir_all(path).map_err(at(path))
}

/// Replaces the file by `bytes`, durably: afterwards it holds either what it held or all of `bytes`.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), PruneError> {
    let aside = aside(path);
    let mut file = File::create(&aside).map_err(at(&aside))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&aside))?;
    fs::rename(&aside, path).map_err(at(path))?;
    sync_folder(path)
}

/// Reads a file that may be absent.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, PruneError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// Removes a file that may be absent.
pub(crate) fn remove(path: &Path) -> Result<(), PruneError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at(path)(error)),
    }
}

fn sync_folder(path: &Path) -> Result<(), PruneError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(Path::new("."), |folder| folder);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}
