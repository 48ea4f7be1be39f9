//! Who holds a store open for writing, found without ever opening its LOCK file.
//!
//! The engine's lock is a record lock of the process: closing any descriptor of that file would release it, so this
//! module only asks the system (C15). The engine's own attempt stays the truth; this names the holder. It also names who
//! holds a lock file of ours, with which a lock can be asked for as it can with any file.

use std::{
    fs,
    io::{self, BufRead as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::classify::classify_io;
use crate::error::{Holder, StoreError};

const LOCK_FILE: &str = "LOCK";
const LOCK_TABLE: &str = "/proc/locks";
const ONE_READ: usize = 64 << 10; // more than the system hands out at once
const PROCESSES: &str = "/proc";
const READ: &str = "READ";
const WRITE: &str = "WRITE";
/// What the system says behind the path of a file that was removed while somebody has it open.
const REMOVED: &str = " (deleted)";

/// The process that holds the store at `path` open for writing, or nothing. This process counts.
///
/// Errors: the folder cannot be read.
pub fn lock_holder(path: &Path) -> Result<Option<Holder>, StoreError> {
    let failed = |source| classify_io(path, "looking for the holder of the lock", source);
    let Some(file) = present(fs::metadata(path.join(LOCK_FILE))).map_err(failed)? else {
        return Ok(None);
    };
    // What the system does not tell is not known: the engine's own attempt refuses then, without a name.
    let pid = match table_of_locks() {
        Ok(table) if !table.trim().is_empty() => named(&table, &[WRITE], &file, LOCK_FILE.as_ref(), None),
        Ok(_) | Err(_) => opener(&file, LOCK_FILE.as_ref(), None),
    };
    Ok(pid.map(describe))
}

/// A process that holds a lock of any kind on the file at `path`, as far as the system tells: for messages only. Not for
/// the file of the engine's own lock.
///
/// Errors: the file cannot be looked at.
pub fn file_holder(path: &Path) -> Result<Option<Holder>, StoreError> {
    let failed = |source| classify_io(path, "looking for the holder of the lock", source);
    let Some(file) = present(fs::metadata(path)).map_err(failed)? else { return Ok(None) };
    let (name, us) = (path.file_name().map_or("".as_ref(), Path::new), Some(std::process::id()));
    let pid = match table_of_locks() {
        Ok(table) => named(&table, &[WRITE, READ], &file, name, us),
        Err(_) => opener(&file, name, us),
    };
    Ok(pid.map(describe))
}

/// A store at a path, in it or above it, whose files were removed while a process has it open, and that process: what is put in
/// its place it would take for its own. As far as this user may look into processes.
pub fn removed_store(path: &Path) -> Option<(PathBuf, Holder)> {
    processes().find_map(|pid| {
        let store = removed_stores(pid).find(|store| store.starts_with(path) || path.starts_with(store))?;
        Some((store, describe(pid)))
    })
}

/// The process that the table names for the file, or of those that have it open. A table longer than one read may leave out a
/// lock while others come and go, so a process that has the file open is asked for its own locks before it is nobody.
fn named(table: &str, kinds: &[&str], file: &fs::Metadata, name: &Path, except: Option<u32>) -> Option<u32> {
    match find(table, file, kinds) {
        Found::Holder(pid) => Some(pid),
        Found::SameInode => opener(file, name, except),
        Found::Nobody => processes().find_map(|pid| holder_by(pid, kinds, file, name)),
    }
}

/// The locks that the system tells of: at least one of our own, held meanwhile, unless it tells of none. Without that one a table
/// would be empty, too, where nobody holds a lock, and a child of ours that was forked and inherited what we had open would pass
/// for the holder.
fn table_of_locks() -> io::Result<String> {
    let own = rustix::fs::memfd_create("state-lock", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::flock(&own, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    // The system holds still for one read and finds its place by counting in the next: the fewer reads, the fewer gaps.
    let table = io::BufReader::with_capacity(ONE_READ, fs::File::open(LOCK_TABLE)?);
    Ok(table.lines().collect::<io::Result<Vec<_>>>()?.join("\n"))
}

/// A read that may find nothing, or a process that ended or is not ours to look into meanwhile.
fn present<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Holder {
    /// Whether it may be the process that calls itself by this id. One in a namespace of its own has another id there, which the
    /// system tells; of a holder that nobody knows it may be any.
    pub fn may_be(&self, pid: u32) -> bool {
        let Some(known) = self.pid.filter(|known| *known != pid) else { return true };
        let Ok(status) = fs::read_to_string(format!("{PROCESSES}/{known}/status")) else { return true }; // it has ended since
        status.lines().any(|line| is_called(line, pid))
    }
}

/// Lines look like `NSpid:\t4711\t1`: the ids of a process, from our namespace to its own.
fn is_called(line: &str, pid: u32) -> bool {
    line.strip_prefix("NSpid:").is_some_and(|ids| ids.split_whitespace().any(|id| id == pid.to_string()))
}

/// What the table of locks says of a file.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// This process holds a lock on it; zero stands for one outside our namespace.
    Holder(u32),
    /// Somebody holds a lock on a file of that inode on another device. File systems that lie over others tell another
    /// device here than they tell of the file, so it may be this one.
    SameInode,
    Nobody,
}

/// Lines look like `1: POSIX  ADVISORY  WRITE 4711 fd:01:1835045 0 EOF`.
fn find(table: &str, file: &fs::Metadata, kinds: &[&str]) -> Found {
    let (major, minor, inode) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()), file.ino().to_string());
    let mut found = Found::Nobody;
    for line in table.lines() {
        let mut fields = line.split_whitespace().skip_while(|field| !kinds.contains(field)).skip(1);
        let (Some(pid), Some(place)) = (fields.next(), fields.next()) else { continue };
        if place == format!("{major:02x}:{minor:02x}:{inode}") {
            return Found::Holder(pid.parse().map_or(0, |pid| pid));
        }
        if place.rsplit(':').next() == Some(inode.as_str()) {
            found = Found::SameInode;
        }
    }
    found
}

/// The process, other than `except`, that has the file of that name open.
fn opener(file: &fs::Metadata, name: &Path, except: Option<u32>) -> Option<u32> {
    processes().find(|pid| except != Some(*pid) && descriptors(*pid, file, name).next().is_some())
}

/// Who holds a lock of these kinds on the file, as the descriptors of one process tell it. A child that inherited what has it open
/// tells of no record lock, and of another one who took it.
fn holder_by(pid: u32, kinds: &[&str], file: &fs::Metadata, name: &Path) -> Option<u32> {
    descriptors(pid, file, name).find_map(|descriptor| {
        let Ok(told) = fs::read_to_string(format!("{PROCESSES}/{pid}/fdinfo/{}", descriptor.display())) else {
            return None;
        };
        told.lines().filter(|line| line.starts_with("lock:")).find_map(|line| {
            let taker = line.split_whitespace().skip_while(|field| !kinds.contains(field)).nth(1)?;
            Some(taker.parse().map_or(pid, |taker| taker))
        })
    })
}

/// Processes that end meanwhile, or that this user may not look into, are passed over: if one of those holds the lock, the
/// engine refuses and the holder stays unnamed.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(PROCESSES).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let Ok(pid) = entry.file_name().to_str()?.parse() else { return None }; // not a process
        Some(pid)
    })
}

/// The descriptors by which a process has the file of that name open.
fn descriptors(pid: u32, file: &fs::Metadata, name: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(format!("{PROCESSES}/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let named = fs::read_link(entry.path()).is_ok_and(|target| target.ends_with(name));
        // A stat through the descriptor's link opens nothing.
        let open =
            named && fs::metadata(entry.path()).is_ok_and(|open| open.ino() == file.ino() && open.dev() == file.dev());
        open.then(|| PathBuf::from(entry.file_name()))
    })
}

/// The folders of the stores whose lock file a process has open although it was removed.
fn removed_stores(pid: u32) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(format!("{PROCESSES}/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let Ok(target) = fs::read_link(entry.path()) else { return None };
        let lock = Path::new(target.to_str()?.strip_suffix(REMOVED)?);
        if lock.ends_with(LOCK_FILE) { lock.parent().map(Path::to_owned) } else { None }
    })
}

fn describe(pid: u32) -> Holder {
    let command =
        fs::read_to_string(format!("{PROCESSES}/{pid}/comm")).map_or(None, |name| Some(name.trim().to_owned()));
    Holder {
        pid: (pid != 0).then_some(pid), // zero: a process outside our namespace
        command,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{RocksBackend, RocksConfig},
        *,
    };

    #[test]
    fn the_table_of_locks_names_the_holder_by_device_and_inode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        fs::write(&path, b"").unwrap();
        let file = fs::metadata(&path).unwrap();
        let line = |pid: u32, inode: u64| {
            format!(
                "1: POSIX  ADVISORY  WRITE {pid} {:02x}:{:02x}:{inode} 0 EOF\n",
                rustix::fs::major(file.dev()),
                rustix::fs::minor(file.dev())
            )
        };
        let table = [line(11, file.ino() + 1), line(4711, file.ino())].concat();
        assert_eq!(find(&table, &file, &[WRITE]), Found::Holder(4711));
        assert_eq!(find(&line(11, file.ino() + 1), &file, &[WRITE]), Found::Nobody);
        let shared = line(4711, file.ino()).replace("WRITE", "READ");
        assert_eq!(find(&shared, &file, &[WRITE]), Found::Nobody);
        assert_eq!(find(&shared, &file, &[WRITE, READ]), Found::Holder(4711));
        let elsewhere = format!("1: POSIX  ADVISORY  WRITE 4711 ff:ff:{} 0 EOF\n", file.ino());
        assert_eq!(
            find(&elsewhere, &file, &[WRITE]),
            Found::SameInode,
            "the device of a file system that lies over another"
        );
    }

    #[test]
    fn the_table_of_locks_is_empty_only_where_the_system_tells_of_none() {
        let dir = tempfile::tempdir().unwrap();
        let held = fs::File::create(dir.path().join("held")).unwrap();
        held.lock().unwrap();
        let tells = fs::read_to_string(LOCK_TABLE).is_ok_and(|table| !table.is_empty());
        drop(held);
        let ours = table_of_locks().is_ok_and(|table| table.contains(&format!(" {} ", std::process::id())));
        assert_eq!(ours, tells, "a lock of ours is in it, whoever else has one");
    }

    #[test]
    fn a_holder_that_the_table_left_out_is_found_by_its_own_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join(LOCK_FILE);
        let open = || RocksBackend::open(dir.path(), &RocksConfig::default()).unwrap();
        drop(open());
        let mut heir =
            std::process::Command::new("sleep").arg("60").stdin(fs::File::open(&lock).unwrap()).spawn().unwrap();
        let file = fs::metadata(&lock).unwrap();
        let tells = !table_of_locks().unwrap().is_empty();
        let found = |table| named(table, &[WRITE], &file, LOCK_FILE.as_ref(), None);
        assert_eq!(found("1: POSIX  ADVISORY  WRITE 1 00:00:1 0 EOF"), None, "an heir holds no lock");
        let engine = open();
        let us = tells.then_some(std::process::id());
        assert_eq!(found("1: POSIX  ADVISORY  WRITE 1 00:00:1 0 EOF"), us);
        drop(engine);
        heir.kill().unwrap();
        heir.wait().unwrap();
    }

    #[test]
    fn a_process_that_has_inherited_the_lock_file_does_not_hold_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("LOCK");
        fs::write(&lock, b"").unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").stdin(fs::File::open(&lock).unwrap()).spawn().unwrap();
        let tells = !table_of_locks().unwrap().is_empty();
        assert_eq!(
            lock_holder(dir.path()).unwrap().is_none(),
            tells,
            "where nothing is told, whoever has it open may be it"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_store_whose_files_were_removed_is_known_while_a_process_has_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().canonicalize().unwrap().join("store");
        let engine = RocksBackend::open(&store, &RocksConfig::default()).unwrap();
        let known = |path: &Path| removed_store(path).map(|(store, holder)| (store, holder.pid));
        assert_eq!(known(&store), None, "its files are there");
        fs::remove_dir_all(&store).unwrap();
        let us = Some((store.clone(), Some(std::process::id())));
        for path in [&*store, &store.join("below"), store.parent().unwrap()] {
            assert_eq!(known(path), us, "{}", path.display());
        }
        assert_eq!(known(&store.with_file_name("beside")), None);
        drop(engine);
    }

    #[test]
    fn a_holder_is_known_by_each_of_its_ids_and_one_that_nobody_knows_may_be_any() {
        let us = std::process::id();
        let named = |pid| Holder { pid, command: None };
        assert!(named(Some(us)).may_be(us) && named(None).may_be(us));
        assert!(!named(Some(us)).may_be(0), "no process has that id");
        assert!(is_called("NSpid:\t4711\t1", 1) && is_called("NSpid:\t4711\t1", 4711));
        assert!(!is_called("NSpid:\t4711\t1", 471) && !is_called("NStgid:\t4711\t1", 1));
    }

    #[test]
    fn a_folder_without_a_lock_file_has_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(lock_holder(dir.path()).unwrap(), None);
        fs::write(dir.path().join("LOCK"), b"").unwrap();
        assert_eq!(lock_holder(dir.path()).unwrap(), None);
    }
}
