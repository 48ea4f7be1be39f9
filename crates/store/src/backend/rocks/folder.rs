//! Folders beside a store.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The folder `NAMEending` beside one with a name.
pub(super) fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.file_name().map_or_else(OsString::new, OsString::from);
    name.push(ending);
    folder.with_file_name(name)
}

/// Removes a folder with all that is in it, if it is there.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes the name of a folder, in the one that it is in, durable.
pub(super) fn sync_above(folder: &Path) -> io::Result<()> {
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
    File::open(above.map_or(Path::new("."), |above| above))?.sync_all()
}
