//! A file that keeps room on the device of the store, so that a full disk can be left: writing needs room, and so does
//! giving room back (C12, C13).
//!
//! Promises: the file has its blocks, or it is not there; it is let go when a commit, a sweep or a record finds no room, and taken
//! again when twice its size is free. It holds nothing: losing it loses nothing.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    num::NonZeroU64,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};

use crate::{
    disk::{FileCall, ask},
    error::StoreError,
};

/// Its name in the data folder of a node, beside the folder of the store.
pub const RESERVE_FILE: &str = "reserve";

/// Bytes of a block as the system counts them, whatever those of the file system are.
const BLOCK: u64 = 512;

/// Whether the room is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// The file has it.
    Kept,
    /// It was let go, by this process or so that it could begin.
    LetGo,
    /// This process has never had it, and found none to let go: too little was free.
    NeverTaken,
}

impl Room {
    /// The word shown for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::LetGo => "let_go",
            Self::NeverTaken => "never_taken",
        }
    }
}

/// The file. Made without room; [`Reserve::take`] takes it.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: NonZeroU64,
    /// Held by whoever takes the room or lets it go, however long the device takes.
    changing: Mutex<()>,
    /// What it came to last. Held for as long as it takes to copy: whoever shows it waits for no device.
    room: Mutex<Room>,
}

/// What became of the room when it was to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taking {
    /// As it was before: nobody else changed it in between.
    pub found: Room,
    /// As it is.
    pub now: Room,
}

impl Reserve {
    /// A reserve of so many bytes at a path on the device of the store.
    pub fn new(path: PathBuf, bytes: NonZeroU64) -> Self {
        Self { path, bytes, changing: Mutex::default(), room: Mutex::new(Room::NeverTaken) }
    }

    /// The same where [`Reserve::with_room`] let it go.
    pub fn let_go_before(path: PathBuf, bytes: NonZeroU64) -> Self {
        Self { room: Mutex::new(Room::LetGo), ..Self::new(path, bytes) }
    }

    /// Bytes that a file at the path keeps now, whoever made it; it is only looked at. What has no blocks, as a copy that
    /// leaves holes makes it, keeps nothing.
    ///
    /// Errors: a path that cannot be looked at.
    pub fn kept_at(path: &Path) -> Result<Option<u64>, StoreError> {
        match ask(FileCall::Open, path).and_then(|()| fs::metadata(path)) {
            Ok(file) => Ok(Some(file.len().min(file.blocks().saturating_mul(BLOCK)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(path, error)),
        }
    }

    /// Bytes it keeps when it can.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether it keeps them now. Waits for nobody who takes them or lets them go (O14).
    pub fn room(&self) -> Room {
        *self.room.lock()
    }

    /// Takes the room if twice as much is free, or if an earlier process has taken it. Where it is kept already, one look whether
    /// the file is there: somebody may have removed it to have the room, which is as if it had been let go.
    ///
    /// Errors: a failed write other than for want of room.
    pub fn take(&self) -> Result<Taking, StoreError> {
        let _changing = self.changing.lock();
        let found = match self.room() {
            Room::Kept if !self.path.try_exists().map_err(|error| failed(&self.path, error))? => Room::LetGo,
            room @ (Room::Kept | Room::LetGo | Room::NeverTaken) => room,
        };
        let is_kept = found == Room::Kept || self.is_there()? || self.is_taken()?;
        let now = if is_kept { Room::Kept } else { found };
        *self.room.lock() = now;
        Ok(Taking { found, now })
    }

    /// Lets the room go. Returns the bytes that are free by it, or nothing if none were kept.
    ///
    /// Errors: a failed removal.
    pub fn let_go(&self) -> Result<Option<u64>, StoreError> {
        let _changing = self.changing.lock();
        if self.room() != Room::Kept {
            return Ok(None);
        }
        Self::remove(&self.path)?;
        *self.room.lock() = Room::LetGo;
        tracing::warn!(bytes = self.bytes, "the device is full: the reserve was let go");
        Ok(Some(self.bytes.get()))
    }

    /// [`Reserve::let_go`] where a failure is met already: it is logged.
    pub fn let_go_or_tell(&self) {
        if let Err(error) = self.let_go() {
            tracing::error!(%error, "the reserve could not be let go");
        }
    }

    /// Does what needs room. Where there is none, what an earlier process left at the path goes first, and it is done again.
    /// Returns with it the bytes of the reserve that was let go, if one was.
    ///
    /// Errors: those of the work, a failed removal.
    pub fn with_room<T>(path: &Path, work: impl Fn() -> Result<T, StoreError>) -> Result<(T, Option<u64>), StoreError> {
        match work() {
            Err(StoreError::DiskFull { what }) if path.exists() || aside(path).exists() => {
                let let_go = Self::kept_at(path)?;
                Self::remove(path)?;
                tracing::warn!(what, "the device is full: the reserve of an earlier process was let go");
                Ok((work()?, let_go))
            }
            done => done.map(|done| (done, None)),
        }
    }

    /// Removes what an earlier process left at the path.
    ///
    /// Errors: a failed removal.
    pub fn remove(path: &Path) -> Result<(), StoreError> {
        for file in [path, &aside(path)] {
            match ask(FileCall::Remove, file).and_then(|()| fs::remove_file(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(file, error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn is_there(&self) -> Result<bool, StoreError> {
        Ok(Self::kept_at(&self.path)? == Some(self.bytes.get()))
    }

    fn is_taken(&self) -> Result<bool, StoreError> {
        Self::remove(&self.path)?; // of another size, without its blocks, or what a process left that died while it took the room
        let folder = self.path.parent().map_or(Path::new("."), |folder| folder);
        let device = statvfs(folder).map_err(|errno| failed(folder, errno.into()))?;
        if device.f_bavail.saturating_mul(device.f_frsize) < self.bytes.get().saturating_mul(2) {
            return Ok(false);
        }
        let aside = aside(&self.path);
        let named = || ask(FileCall::Rename, &self.path).and_then(|()| fs::rename(&aside, &self.path));
        let taken = self.fill(&aside).and_then(|()| named());
        match taken {
            Ok(()) => Ok(true),
            Err(error) => {
                Self::remove(&self.path)?;
                let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
                if is_full { Ok(false) } else { Err(failed(&self.path, error)) }
            }
        }
    }

    fn fill(&self, path: &Path) -> io::Result<()> {
        ask(FileCall::Create, path)?;
        let mut file = File::create(path)?;
        ask(FileCall::Write, path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes.get()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                io::copy(&mut io::repeat(0).take(self.bytes.get()), &mut file)?; // a file system without the call
            }
            Err(errno) => return Err(errno.into()),
        }
        ask(FileCall::Sync, path)?;
        file.sync_all()
    }
}

/// The name under which the room is taken before it is there.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

fn failed(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { what: format!("keeping room in {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_has_its_blocks_and_goes_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reserve");
        let bytes = NonZeroU64::new(1 << 20).unwrap();
        let reserve = Reserve::new(path.clone(), bytes);
        assert_eq!((reserve.room(), reserve.let_go().unwrap()), (Room::NeverTaken, None));
        assert_eq!(reserve.take().unwrap(), Taking { found: Room::NeverTaken, now: Room::Kept });
        let file = fs::metadata(&path).unwrap();
        assert!(file.len() == 1 << 20 && file.blocks() * 512 >= 1 << 20, "{file:?}");
        assert_eq!(Reserve::new(path.clone(), bytes).take().unwrap().now, Room::Kept, "of an earlier process");
        assert_eq!(reserve.let_go().unwrap(), Some(1 << 20));
        assert_eq!(reserve.room(), Room::LetGo, "which is another thing than one that never fitted");
        assert!(!path.exists());
        let vast = Reserve::new(path.clone(), NonZeroU64::new(1 << 62).unwrap());
        assert_eq!((vast.take().unwrap().now, vast.room()), (Room::NeverTaken, Room::NeverTaken));
        assert!(!path.exists() && fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    /// An operator who looks for room may find the file.
    #[test]
    fn a_reserve_that_somebody_removed_is_noticed_and_taken_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reserve");
        let reserve = Reserve::new(path.clone(), NonZeroU64::new(1 << 20).unwrap());
        reserve.take().unwrap();
        fs::remove_file(&path).unwrap();
        let taking = Taking { found: Room::LetGo, now: Room::Kept };
        assert_eq!((reserve.take().unwrap(), Reserve::kept_at(&path).unwrap()), (taking, Some(1 << 20)));
        fs::remove_file(&path).unwrap();
        let vast = Reserve { path: path.clone(), bytes: NonZeroU64::new(1 << 62).unwrap(), ..reserve };
        assert_eq!(
            (vast.take().unwrap().now, vast.room()),
            (Room::LetGo, Room::LetGo),
            "there is no room for it any more"
        );
    }

    /// `cp --sparse=always` and `rsync -S` make such files of a data folder.
    #[test]
    fn a_reserve_that_was_copied_without_its_blocks_keeps_nothing_and_is_taken_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = (dir.path().join("reserve"), NonZeroU64::new(1 << 20).unwrap());
        File::create(&path).unwrap().set_len(bytes.get()).unwrap();
        assert_eq!(Reserve::kept_at(&path).unwrap(), Some(0));
        assert_eq!(Reserve::new(path.clone(), bytes).take().unwrap().now, Room::Kept);
        assert_eq!(Reserve::kept_at(&path).unwrap(), Some(bytes.get()));
        let file = fs::metadata(&path).unwrap();
        assert!(file.len() == bytes.get() && file.blocks() * BLOCK >= bytes.get(), "{file:?}");
    }

    #[test]
    fn a_reserve_that_is_taken_first_never_looks_as_if_it_had_been_let_go() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..100 {
            let path = dir.path().join("reserve");
            Reserve::remove(&path).unwrap();
            let reserve = Reserve::new(path, NonZeroU64::MIN);
            std::thread::scope(|scope| {
                scope.spawn(|| reserve.take().unwrap());
                let seen = (0..).map(|_| reserve.room()).find(|room| *room != Room::NeverTaken);
                assert_eq!(seen, Some(Room::Kept), "nobody let it go");
            });
        }
    }

    #[test]
    fn work_that_finds_no_room_lets_an_earlier_reserve_go_once_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = (dir.path().join("reserve"), NonZeroU64::new(4096).unwrap());
        let needs_it = || match path.exists() || aside(&path).exists() {
            true => Err(StoreError::DiskFull { what: "testing".to_owned() }),
            false => Ok(7),
        };
        assert_eq!(Reserve::with_room(&path, needs_it).unwrap(), (7, None), "there is room");
        Reserve::new(path.clone(), bytes).take().unwrap();
        assert_eq!(Reserve::with_room(&path, || Ok(7)).unwrap(), (7, None), "there is room beside it");
        assert_eq!(Reserve::with_room(&path, needs_it).unwrap(), (7, Some(4096)));
        let reserve = Reserve::let_go_before(path.clone(), bytes);
        assert_eq!((reserve.room(), reserve.take().unwrap().now), (Room::LetGo, Room::Kept));
        Reserve::remove(&path).unwrap();
        fs::write(aside(&path), b"half").unwrap();
        assert_eq!(Reserve::with_room(&path, needs_it).unwrap(), (7, None), "one that was never whole is none");
    }
}
