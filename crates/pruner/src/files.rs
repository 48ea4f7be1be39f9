//! Files of ours: written aside, synced, renamed, and their folder synced, so that none ever looks whole and is not.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use state_store::{FileCall, Need, StoreError, ask};

use crate::error::PruneError;

/// Turns a system error into ours, with the file it happened to.
pub(crate) fn failed(path: &Path) -> impl Fn(io::Error) -> PruneError + use<> {
    failed_as((path, Need::Write), |path, source| PruneError::File { path, source })
}

/// The same for a file that is only read.
pub(crate) fn unread(path: &Path) -> impl Fn(io::Error) -> PruneError + use<> {
    failed_as((path, Need::Read), |path, source| PruneError::File { path, source })
}

/// The same for another kind of error; `other` makes it of what is neither permission nor room.
pub(crate) fn failed_as<E: From<StoreError>, F: Fn(PathBuf, io::Error) -> E>(
    (path, need): (&Path, Need),
    other: F,
) -> impl Fn(io::Error) -> E + use<E, F> {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let path = path.to_owned();
    move |source| {
        if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem) {
            StoreError::Permission { path: path.clone(), need, source }.into()
        } else if matches!(source.kind(), StorageFull | QuotaExceeded) {
            StoreError::DiskFull { what: format!("writing {}", path.display()) }.into()
        } else {
            other(path.clone(), source)
        }
    }
}

/// Creates a folder and everything above it.
pub(crate) fn create_dir(path: &Path) -> Result<(), PruneError> {
    ask(FileCall::Create, path).and_then(|()| fs::create_dir_all(path)).map_err(failed(path))
}

/// Replaces the file by `bytes`, durably: afterwards it holds either what it held or all of `bytes`.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), PruneError> {
    let aside = aside(path);
    let written = || {
        let file = write(&aside, bytes)?;
        ask(FileCall::Sync, &aside)?;
        file.sync_all()
    };
    written().map_err(failed(&aside))?;
    rename(&aside, path)?;
    sync_folder(above(path))
}

/// Replaces the file, and nobody waits for the disk: after a power loss it may hold anything, which its reader has to notice. A
/// process that is killed leaves it whole, as it was or as it is to be.
pub(crate) fn replace_unsynced(path: &Path, bytes: &[u8]) -> Result<(), PruneError> {
    let aside = aside(path);
    write(&aside, bytes).map_err(failed(&aside))?;
    rename(&aside, path)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    ask(FileCall::Create, path)?;
    let mut file = File::create(path)?;
    ask(FileCall::Write, path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Gives a file its name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), PruneError> {
    ask(FileCall::Rename, to).and_then(|()| fs::rename(from, to)).map_err(failed(to))
}

/// Reads a file that may be absent.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, PruneError> {
    if_there(path, ask(FileCall::Read, path).and_then(|()| fs::read(path)))
}

/// Reads a regular file that may be absent and has at most so many bytes. Nobody is waited for at the other end of a pipe.
pub(crate) fn read_plain(path: &Path, most: u64) -> Result<Option<Vec<u8>>, PruneError> {
    let read = || {
        ask(FileCall::Read, path)?;
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let told = file.metadata()?;
        if !told.is_file() || told.len() > most {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file, or too long"));
        }
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    if_there(path, read())
}

fn if_there(path: &Path, read: io::Result<Vec<u8>>) -> Result<Option<Vec<u8>>, PruneError> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unread(path)(error)),
    }
}

/// Removes a file that may be absent.
pub(crate) fn remove(path: &Path) -> Result<(), PruneError> {
    match ask(FileCall::Remove, path).and_then(|()| fs::remove_file(path)) {
        Ok(()) => sync_folder(above(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_folder(dir: &Path) -> Result<(), PruneError> {
    ask(FileCall::Sync, dir).and_then(|()| File::open(dir)).and_then(|folder| folder.sync_all()).map_err(failed(dir))
}

fn above(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(Path::new("."), |folder| folder)
}

/// Where a file is written before it takes its place.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}
