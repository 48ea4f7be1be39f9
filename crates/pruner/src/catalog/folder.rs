//! Folders and files of a catalog, with errors that name them. Whatever is asked of the system is asked through the seam at
//! which a test makes a disk fail (`state_store::ask`).
//!
//! No other file of the catalog asks for anything on a disk but this: locks of files that were opened here, what the engine
//! does to a store that it copies or reads, the folder into which a proof spills, and where a path leads that was given by a
//! user (`offline::resolved`).

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};
use state_store::{FileCall, Need, ask};

use super::CatalogError;
use crate::files;

/// Turns a system error into ours, with the file it happened to.
pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> CatalogError + use<> {
    files::failed_as((path, Need::Write), |path, source| CatalogError::File { path, source })
}

/// The same of what is only read.
pub(super) fn unread(path: &Path) -> impl Fn(io::Error) -> CatalogError + use<> {
    files::failed_as((path, Need::Read), |path, source| CatalogError::File { path, source })
}

/// The same of a folder that could not be made for `place`. Some file systems take none: they say that the name is absent although
/// the folder above is there, or that it is not permitted, whoever asks.
pub(super) fn unmade(dir: &Path, place: &Path) -> impl Fn(io::Error) -> CatalogError + use<> {
    let (dir, place) = (dir.to_owned(), place.to_owned());
    move |source| {
        let takes_none = source.raw_os_error() == Some(Errno::PERM.raw_os_error())
            || (source.kind() == io::ErrorKind::NotFound && matches!(is_folder(above(&dir)), Ok(true)));
        if takes_none {
            let why = format!(
                "cannot be made, for the system lets nobody make a folder there ({source}): give another place"
            );
            return CatalogError::BadPlace { path: place.clone(), why };
        }
        failed(&dir)(source)
    }
}

/// The names in a folder, sorted; those that are no text stand for nothing of ours and are left out.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, CatalogError> {
    let mut names = Vec::new();
    for entry in ask(FileCall::List, dir).and_then(|()| fs::read_dir(dir)).map_err(unread(dir))? {
        if let Ok(name) = entry.map_err(unread(dir))?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a folder has nothing in it, whatever its name.
pub(super) fn is_vacant(dir: &Path) -> Result<bool, CatalogError> {
    let mut entries = ask(FileCall::List, dir).and_then(|()| fs::read_dir(dir)).map_err(unread(dir))?;
    Ok(entries.next().is_none())
}

/// Opens a regular file for reading, and never what a link leads to.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}

/// What is opened is never what a link leads to, and nobody is waited for at the other end of a pipe.
const ITSELF: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);

/// Opens a file or folder for reading.
pub(super) fn open(path: &Path) -> io::Result<File> {
    ask(FileCall::Open, path)?;
    OpenOptions::new().read(true).custom_flags(ITSELF.bits().cast_signed()).open(path)
}

/// Opens a file for reading and writing, and makes it if need be.
pub(super) fn open_or_make(path: &Path) -> io::Result<File> {
    ask(FileCall::Create, path)?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).custom_flags(ITSELF.bits().cast_signed());
    options.open(path)
}

/// Whether a path still leads to this open file.
///
/// Errors: the system cannot tell, or nothing is there.
pub(super) fn is_still(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    let there = ask(FileCall::Open, path).and_then(|()| fs::metadata(path))?;
    Ok((there.dev(), there.ino()) == (held.dev(), held.ino()))
}

/// Where a path leads in the end.
pub(super) fn canonical(path: &Path) -> io::Result<PathBuf> {
    ask(FileCall::Open, path).and_then(|()| fs::canonicalize(path))
}

/// Reads the next bytes of a file; none at its end.
pub(super) fn read(mut file: impl io::Read, path: &Path, buffer: &mut [u8]) -> Result<usize, CatalogError> {
    ask(FileCall::Read, path).and_then(|()| file.read(buffer)).map_err(unread(path))
}

/// Reads a regular file up to `most` bytes.
pub(super) fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open_regular(path)?;
    ask(FileCall::Read, path)?;
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the beginning of an open file, as far as there is one.
pub(super) fn read_first(file: &File, path: &Path, buffer: &mut [u8]) -> Result<(), CatalogError> {
    ask(FileCall::Read, path).and_then(|()| file.read_at(buffer, 0)).map_err(failed(path)).map(|_| ())
}

/// Writes over the beginning of an open file.
pub(super) fn write_first(file: &File, path: &Path, bytes: &[u8]) -> Result<(), CatalogError> {
    ask(FileCall::Write, path).and_then(|()| file.write_all_at(bytes, 0)).map_err(failed(path))
}

/// Writes a new file, durably.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), CatalogError> {
    let file = create(path)?;
    write(&file, path, bytes)?;
    sync_file(&file, path)
}

/// A new file that nobody else has made.
pub(super) fn create(path: &Path) -> Result<File, CatalogError> {
    ask(FileCall::Create, path).and_then(|()| File::create_new(path)).map_err(failed(path))
}

/// Adds to a file.
pub(super) fn write(mut file: &File, path: &Path, bytes: &[u8]) -> Result<(), CatalogError> {
    ask(FileCall::Write, path).and_then(|()| file.write_all(bytes)).map_err(failed(path))
}

/// Makes a file durable.
pub(super) fn sync_file(file: &File, path: &Path) -> Result<(), CatalogError> {
    ask(FileCall::Sync, path).and_then(|()| file.sync_all()).map_err(failed(path))
}

/// A new folder in one that is there.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    ask(FileCall::Create, dir).and_then(|()| fs::create_dir(dir))
}

/// Gives a folder another name; what has that name already, and is no empty folder, stays.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    ask(FileCall::Rename, to).and_then(|()| fs::rename(from, to))
}

/// What the system says of a path; nothing if there is nothing, also at the end of a link.
///
/// Errors: the system cannot tell, which says nothing about what is there (I8).
pub(super) fn look(path: &Path) -> Result<Option<Metadata>, CatalogError> {
    match ask(FileCall::Open, path).and_then(|()| fs::metadata(path)) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(unread(path)(error)),
    }
}

/// Whether another file system begins at a folder than the one that the folder above is on.
pub(super) fn is_mounted_on(dir: &Path) -> Result<bool, CatalogError> {
    Ok(look(dir)?.zip(look(above(dir))?).is_some_and(|(there, above)| there.dev() != above.dev()))
}

/// How many names a file has: whatever else has one has its bytes, and their damage.
pub(super) fn names_of(found: &Metadata) -> u64 {
    found.nlink()
}

/// What the system says of an open file.
pub(super) fn look_into(file: &File, path: &Path) -> Result<Metadata, CatalogError> {
    file.metadata().map_err(unread(path))
}

/// Whether something has the name.
pub(super) fn exists(path: &Path) -> Result<bool, CatalogError> {
    Ok(look(path)?.is_some())
}

/// What the system says of a path itself, also if it is a link.
pub(super) fn look_at(path: &Path) -> io::Result<Metadata> {
    ask(FileCall::Open, path).and_then(|()| fs::symlink_metadata(path))
}

/// Whether an error says that nothing is there.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether an error tells what lies at a path, or only that the disk did not answer: a file that is absent, a link or no
/// file is not the one that was written, and one that cannot be read now may be.
pub(super) fn tells_what_is_there(error: &io::Error) -> bool {
    is_absence(error)
        || error.kind() == io::ErrorKind::InvalidInput
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Makes a folder and those above it that are missing, durably.
///
/// Errors: no folder can be made there; something that is no folder has its name, or that of one above.
pub(super) fn make(place: &Path) -> Result<(), CatalogError> {
    let mut missing = Vec::new();
    for dir in place.ancestors() {
        match look(dir)? {
            Some(found) if found.is_dir() => break,
            Some(_) => return Err(taken(place, dir)),
            None => missing.push(dir),
        }
    }
    for dir in missing.into_iter().rev() {
        match create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unmade(dir, place)(error)),
            Err(_) if !look(dir)?.is_some_and(|found| found.is_dir()) => return Err(taken(place, dir)),
            Ok(()) | Err(_) => sync(above(dir))?,
        }
    }
    Ok(())
}

/// A place where, or above which, something lies that is no folder.
fn taken(place: &Path, by: &Path) -> CatalogError {
    let why = if place == by {
        "is no folder: give one, or a name that nothing has".to_owned()
    } else {
        format!("lies below {}, which is no folder: give another place", by.display())
    };
    CatalogError::BadPlace { path: place.to_owned(), why }
}

/// The folder that has the name of an absolute path.
pub(super) fn above(path: &Path) -> &Path {
    path.parent().map_or(Path::new("/"), |above| above)
}

/// Makes the names in a folder durable.
pub(super) fn sync(dir: &Path) -> Result<(), CatalogError> {
    ask(FileCall::Sync, dir).and_then(|()| File::open(dir)).and_then(|folder| folder.sync_all()).map_err(failed(dir))
}

/// Removes a folder with everything in it, or a file; another process may be at it too.
pub(super) fn remove_all(dir: &Path) -> Result<(), CatalogError> {
    let remove = || match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(dir),
        removed => removed,
    };
    match ask(FileCall::Remove, dir).and_then(|()| remove()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && exists(dir)? => Err(failed(dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether the path is a folder itself and no link to one.
pub(super) fn is_folder(path: &Path) -> Result<bool, CatalogError> {
    match look_at(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(unread(path)(error)),
    }
}
