//! Folders and files of a catalog, with errors that name them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

use super::CatalogError;
use crate::files;

/// Turns a system error into ours, with the file it happened to.
pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> CatalogError + use<> {
    files::failed_as(path, |path, source| CatalogError::File { path, source })
}

/// The names in a folder, sorted; those that are no text stand for nothing of ours and are left out.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, CatalogError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        if let Ok(name) = entry.map_err(failed(dir))?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens a regular file for reading, and never what a link leads to.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    // A pipe would wait for a writer; a file does not care.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}

/// Writes a new file, durably.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), CatalogError> {
    let mut file = File::create_new(path).map_err(failed(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed(path))
}

/// Makes a folder and those above it that are missing, durably.
pub(super) fn make(dir: &Path) -> Result<(), CatalogError> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(dir)(error)),
            Ok(()) | Err(_) => sync(above(dir))?,
        }
    }
    Ok(())
}

/// The folder that has the name of an absolute path.
pub(super) fn above(path: &Path) -> &Path {
    path.parent().map_or(Path::new("/"), |above| above)
}

/// Makes the names in a folder durable.
pub(super) fn sync(dir: &Path) -> Result<(), CatalogError> {
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(failed(dir))
}

/// Removes a folder with everything in it; another process may be at it too.
pub(super) fn remove_all(dir: &Path) -> Result<(), CatalogError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && dir.exists() => Err(failed(dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether the path is a folder itself and no link to one.
pub(super) fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}
