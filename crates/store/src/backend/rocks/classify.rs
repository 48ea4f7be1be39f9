//! The one place that turns the engine's error text into types.
//!
//! The engine hands out a text whose first words are its status code; the causes below have no code of their own, so
//! their wording is matched here, against the pinned engine, with a test that provokes each of them for real.

use std::{io, path::Path};

use crate::{
    backend::rocks::{damage, lock},
    error::{Holder, Need, StoreError},
};

const DAMAGE: &str = "Corruption: ";
const FAILURES: [&str; 2] = ["IO error: ", DAMAGE];
const NO_ROOM: [&str; 3] = ["No space left on device", "Disk quota exceeded", "Space limit reached"];
const PUT_OFF: [&str; 2] = ["free space [", "is less than"];
const LIST_PREFIX: &str = "MANIFEST-";
const LOCKED: [&str; 2] = ["While lock file", "lock hold by current process"];
const NO_FAMILY: [&str; 3] = ["Column family not found", "Column families not opened", "Column family does not exist"];
const REFUSED: [&str; 2] = ["Permission denied", "Operation not permitted"];
const TORN_ENDS: [&str; 3] = ["error reading trailing data", "truncated record body", "truncated header"];
const READS: [&str; 5] = ["a file for random read", "sequentially read", "opendir", "IsDirectory()", "stat "];
const READ_ONLY_DEVICE: &str = "Read-only file system";
const TABLE_SUFFIXES: [&str; 3] = [".sst", ".blob", "MANIFEST"];

/// The type of an engine's error. `what` says in words what was being done.
pub(super) fn classify(path: &Path, what: &str, error: &rocksdb::Error) -> StoreError {
    classify_text(path, what, error.as_ref())
}

/// Whether a write was refused because it would have had to wait.
pub(super) fn is_stall(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::Incomplete && error.as_ref().contains("Write stall")
}

/// Whether a status tells of a full device.
pub(super) fn is_no_room(text: &str) -> bool {
    NO_ROOM.iter().any(|word| text.contains(word))
}

/// Whether a line of the engine's log tells that a job failed for want of room, or is put off until there is some.
pub(super) fn lacks_room(line: &str) -> bool {
    status_in(line).is_some_and(is_no_room) || PUT_OFF.iter().all(|words| line.contains(words))
}

/// Whether a line of the engine's log tells that it has stopped and will not go on by itself.
pub(super) fn tells_the_end(line: &str) -> bool {
    line.contains("background error, auto_recovery=0, stop=1")
}

/// Whether a line of the engine's log tells of a file that it needs no more and cannot remove. It stays, and the engine tries
/// again when the store is opened.
pub(super) fn is_failed_removal(line: &str) -> bool {
    line.contains("Failed to delete ")
}

/// The name of the list of files, from a line of the engine's log that tells of a failed write to it.
pub(super) fn unwritten_list(line: &str) -> Option<&str> {
    let (_, told) = line.split_once("MANIFEST write ")?;
    let named = told.get(told.find(LIST_PREFIX)?..)?;
    let digits = named[LIST_PREFIX.len()..].bytes().take_while(u8::is_ascii_digit).count();
    named.get(..LIST_PREFIX.len() + digits)
}

/// Whether a status tells of damage.
pub(super) fn is_damage(text: &str) -> bool {
    text.starts_with(DAMAGE)
}

/// Whether damage of a write-ahead log is one that a process or machine leaves that died while it wrote.
pub(super) fn is_torn_end(text: &str) -> bool {
    TORN_ENDS.iter().any(|words| text.contains(words))
}

/// A line of the engine's log without the place in its source that it begins with.
pub(super) fn without_place(line: &str) -> &str {
    line.split_once("] ").filter(|_| line.starts_with('[')).map_or(line, |(_, told)| told)
}

/// The status that a line of the engine's log ends with, if it tells of a failure.
pub(super) fn status_in(line: &str) -> Option<&str> {
    let start = FAILURES.iter().filter_map(|code| line.find(code)).min()?;
    line.get(start..)
}

/// As [`classify`], from a status text.
pub(super) fn classify_text(path: &Path, what: &str, text: &str) -> StoreError {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let what = format!("{what} in {}", path.display());
    let (code, _) = text.split_once(':').map_or((text, ""), |parts| parts);
    match code {
        "IO error" | "Result incomplete" if is_no_room(text) => StoreError::DiskFull { what },
        "IO error" if has(&LOCKED) => locked(path),
        "IO error" if has(&REFUSED) => {
            let need = if has(&READS) { Need::Read } else { Need::Write };
            refused((path, need), io::ErrorKind::PermissionDenied, text)
        }
        "IO error" if text.contains(READ_ONLY_DEVICE) => {
            refused((path, Need::Write), io::ErrorKind::ReadOnlyFilesystem, text)
        }
        // A file that the engine's own list names and the folder lacks is damage, not a passing failure.
        "IO error" if text.contains("No such file") && has(&TABLE_SUFFIXES) => {
            StoreError::Corrupt(damage::described(path, text))
        }
        "Corruption" => StoreError::Corrupt(damage::described(path, text)),
        "Invalid argument" if has(&NO_FAMILY) => StoreError::MissingFamily {
            path: path.to_owned(),
            family: text.rsplit(':').next().map_or(text, str::trim).to_owned(),
            present: "see the message".to_owned(),
        },
        "Not implemented" if text.contains("read only") || text.contains("secondary") => StoreError::ReadOnly,
        "Result incomplete" if text.contains("paused") => StoreError::Cancelled,
        _ => StoreError::Io { what, source: io::Error::other(text.to_owned()) },
    }
}

fn refused((path, need): (&Path, Need), kind: io::ErrorKind, text: &str) -> StoreError {
    StoreError::Permission { path: path.to_owned(), need, source: io::Error::new(kind, text.to_owned()) }
}

fn locked(path: &Path) -> StoreError {
    // Who holds it is asked again here: the open may have lost a race after its first look.
    let holder = match lock::lock_holder(path) {
        Ok(Some(holder)) => holder,
        Ok(None) | Err(_) => Holder { pid: None, command: None },
    };
    StoreError::Locked { path: path.to_owned(), holder }
}

/// The type of an error of the operating system that whoever reads has met.
pub(super) fn classify_io(path: &Path, what: &str, source: io::Error) -> StoreError {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let (kind, what) = (source.kind(), format!("{what} in {}", path.display()));
    if matches!(kind, PermissionDenied | ReadOnlyFilesystem) {
        let path = path.to_owned();
        StoreError::Permission { path, need: Need::Read, source }
    } else if matches!(kind, StorageFull | QuotaExceeded) {
        StoreError::DiskFull { what }
    } else {
        StoreError::Io { what, source }
    }
}

/// As [`classify_io`], of whoever writes.
pub(super) fn classify_write(path: &Path, what: &str, source: io::Error) -> StoreError {
    classify_io(path, what, source).of_a_writer()
}

#[cfg(test)]
mod tests {
    //! Each case is provoked, so that a new engine with other words turns one of these red.

    use rocksdb::{DB, Options};

    use super::*;

    fn store(path: &Path) -> DB {
        let mut options = Options::default();
        options.create_if_missing(true);
        DB::open(&options, path).unwrap()
    }

    fn of(error: Result<DB, rocksdb::Error>, path: &Path) -> StoreError {
        classify(path, "testing", &error.err().unwrap())
    }

    #[test]
    fn the_engines_words_for_a_lock_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let _held = store(dir.path());
        let error = of(DB::open_default(dir.path()), dir.path());
        assert!(
            matches!(&error, StoreError::Locked { holder, .. } if holder.pid == Some(std::process::id())),
            "{error:?}"
        );
        let text = "IO error: While lock file: /x/LOCK: Resource temporarily unavailable";
        assert!(matches!(classify_text(dir.path(), "testing", text), StoreError::Locked { .. }));
    }

    #[test]
    fn the_engines_words_for_an_absent_family_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        drop(store(dir.path()));
        let options = Options::default();
        let read = DB::open_cf_for_read_only(&options, dir.path(), ["absent"], false);
        let error = of(read, dir.path());
        assert!(matches!(error, StoreError::MissingFamily { .. }), "{error:?}");
        let write = DB::open_cf(&options, dir.path(), ["absent"]);
        let error = of(write, dir.path());
        assert!(matches!(error, StoreError::MissingFamily { .. }), "{error:?}");
    }

    #[test]
    fn the_engines_words_for_a_write_to_a_reader_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        drop(store(dir.path()));
        let reader = DB::open_for_read_only(&Options::default(), dir.path(), false).unwrap();
        let error = classify(dir.path(), "testing", &reader.put(b"k", b"v").unwrap_err());
        assert!(matches!(error, StoreError::ReadOnly), "{error:?}");
    }

    #[test]
    fn the_engines_words_for_damage_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        drop(store(dir.path()));
        std::fs::write(dir.path().join("CURRENT"), b"MANIFEST-999999\n").unwrap();
        let error = of(DB::open_default(dir.path()), dir.path());
        assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
        for spoilt in [&b"nonsense"[..], b""] {
            std::fs::write(dir.path().join("CURRENT"), spoilt).unwrap();
            let error = of(DB::open_default(dir.path()), dir.path());
            let file = dir.path().join("CURRENT").display().to_string();
            assert!(matches!(&error, StoreError::Corrupt(told) if told.contains(&file)), "{error:?}");
        }
    }

    #[test]
    fn what_is_not_recognised_may_pass_and_keeps_its_words() {
        let error = classify_text(Path::new("/store"), "testing", "Operation timed out: Some(reason)");
        assert!(error.to_string().contains("Some(reason)"), "{error}");
        assert!(matches!(error, StoreError::Io { .. }));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = classify_io(Path::new("/store"), "testing", full);
        assert!(matches!(error, StoreError::DiskFull { .. }));
    }
}
