//! The folder beside a store at rest: where it is, who works in it, and that it never lies inside the store.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use state_store::{Holder, StoreError};

use super::{PruneMode, PruneRequest};
use crate::{doubt::Doubt, error::PruneError, files, records::FolderRecords, scratch::Scratch};

/// The folder of a node's store in its data folder.
const NODE_STORE: &str = "store";
const LOCK_FILE: &str = "prune.lock";
/// Held while a doubt is read and written again.
const DOUBT_LOCK_FILE: &str = "doubt.lock";
/// How often the lock is asked for: whoever looks at it holds it for a moment.
const ATTEMPTS: usize = 100;
const ATTEMPT: Duration = Duration::from_millis(1);

/// The folder beside the database that holds what the pruner writes.
pub fn default_state_dir(db: &Path) -> PathBuf {
    let mut name = db.file_name().map_or_else(|| "store".into(), std::ffi::OsStr::to_owned);
    name.push(".pruner");
    db.with_file_name(name)
}

/// The data folder of the node whose store this is: the folder above. None where the store there that has the name which a node
/// gives its own is another one, as beside a snapshot that was restored: that folder is the other's.
pub(crate) fn data_dir(db: &Path) -> Option<PathBuf> {
    let above = db.parent()?;
    let of_node = above.join(NODE_STORE);
    let is_another = of_node.exists() && canonical(&of_node) != canonical(db);
    (!is_another).then(|| above.to_owned())
}

/// The path without `.` and links, so that a folder beside it is beside the database and not inside it. A path that
/// does not exist stays as it is: opening it says what is wrong.
pub(super) fn canonical(db: &Path) -> PathBuf {
    std::fs::canonicalize(db).unwrap_or_else(|_| db.to_owned())
}

/// A path that may not exist yet, without `.` and links in the part that does.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for known in absolute.ancestors() {
        if let (Ok(real), Ok(rest)) = (std::fs::canonicalize(known), absolute.strip_prefix(known)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) }; // joined to nothing it would end in a slash
        }
    }
    absolute
}

/// Where runs on this store keep what outlives them.
pub(super) fn kept_dir(db: &Path, state_dir: Option<&Path>) -> PathBuf {
    state_dir.map_or_else(|| default_state_dir(db), Path::to_owned)
}

/// Where a run keeps what it writes. A plan keeps nothing, so it leaves the records of an interrupted run alone.
pub(super) enum Folder {
    Kept(PathBuf),
    Temporary(Scratch),
}

impl Folder {
    pub(super) fn of(request: &PruneRequest) -> Result<Self, PruneError> {
        let kept = kept_dir(&request.db, request.state_dir.as_deref());
        match request.mode {
            PruneMode::Plan => Self::temporary(&request.db, request.state_dir.as_deref()),
            PruneMode::Apply => {
                refuse_inside(&request.db, &kept)?;
                files::create_dir(&kept)?;
                Ok(Self::Kept(kept))
            }
        }
    }

    /// A folder that goes with the run: below `within`, or where the system keeps such folders.
    pub(super) fn temporary(db: &Path, within: Option<&Path>) -> Result<Self, PruneError> {
        let within = within.map_or_else(std::env::temp_dir, Path::to_owned);
        refuse_inside(db, &within)?;
        files::create_dir(&within)?;
        Scratch::within(&within).map(Self::Temporary).map_err(files::failed(&within))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// A folder of ours inside the engine's would be taken for one of its files.
fn refuse_inside(db: &Path, state_dir: &Path) -> Result<(), PruneError> {
    if !resolved(state_dir).starts_with(db) {
        return Ok(());
    }
    let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the state folder lies inside the database");
    Err(PruneError::File { path: state_dir.to_owned(), source })
}

/// One prune per folder at a time; the lock goes with the process. The file names its holder.
pub(super) fn lock(dir: &Path) -> Result<File, PruneError> {
    let path = dir.join(LOCK_FILE);
    let mut file = open(&path)?;
    match patiently(&file) {
        Ok(()) => {
            file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(files::failed(&path))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = named(&mut file).map_err(files::failed(&path))?;
            Err(StoreError::Locked { path, holder }.into())
        }
        Err(TryLockError::Error(error)) => Err(files::failed(&path)(error)),
    }
}

/// Remembers a fault in the folder of a store at rest. Of those who remember one at once each keeps what the others have told; a
/// prune that settles the doubt meanwhile does not wait for them.
///
/// Errors: somebody holds the lock for long; a failed read or write.
pub(super) fn remember(error: &PruneError, dir: PathBuf) -> Result<(), PruneError> {
    let path = dir.join(DOUBT_LOCK_FILE);
    let file = open(&path)?;
    match patiently(&file) {
        Ok(()) => Doubt::remember(error, &FolderRecords(dir)),
        Err(TryLockError::WouldBlock) => Err(files::failed(&path)(std::io::ErrorKind::TimedOut.into())),
        Err(TryLockError::Error(source)) => Err(files::failed(&path)(source)),
    }
}

/// A file that is locked, made if there is none.
fn open(path: &Path) -> Result<File, PruneError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).open(path).map_err(files::failed(path))
}

fn patiently(file: &File) -> Result<(), TryLockError> {
    for _ in 1..ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(ATTEMPT),
            answer => return answer,
        }
    }
    file.try_lock()
}

fn named(file: &mut File) -> std::io::Result<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let named = text.trim().parse().map(|pid| Holder { pid: Some(pid), command: None });
    Ok(named.unwrap_or(Holder { pid: None, command: None }))
}

/// The prune that works in the folder, if one does.
pub(super) fn holder(dir: &Path) -> Result<Option<Holder>, PruneError> {
    let path = dir.join(LOCK_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(files::failed(&path)(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => named(&mut file).map(Some).map_err(files::failed(&path)),
        Err(TryLockError::Error(error)) => Err(files::failed(&path)(error)),
    }
}
