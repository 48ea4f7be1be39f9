//! A copy of the store's files, made beside whoever reads and writes it.
//!
//! The engine's checkpoint links table and blob files, which never change once they are finished, and copies the others.
//! Two things are added to it. A checkpoint of a store that is open for reading leaves the write-ahead logs out, and with
//! them everything that no flush has reached: they are copied here. And no file that somebody may still write is shared:
//! a log or list of files that was linked gets bytes of its own.
//!
//! A system may refuse to link files of another owner. Of a store that nobody writes every file is copied then.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rocksdb::checkpoint::Checkpoint;

use super::{Access, RocksBackend, classify::classify_io};
use crate::{backend::Copied, error::StoreError};

/// Logs are copied rather than written to tables first: a copy costs the running node no flush.
const NEVER_FLUSH: u64 = u64::MAX;
const ASIDE: &str = "own";

impl RocksBackend {
    pub(super) fn copy_files(&self, into: &Path) -> Result<Copied, StoreError> {
        if matches!(self.access, Access::Secondary) {
            return Err(StoreError::Unsupported("way to copy a store that it follows"));
        }
        if into.exists() {
            let taken = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(classify_io(into, "copying the store", taken));
        }
        let copied = self.checkpoint(into);
        if copied.is_err() {
            remove(into)?;
        }
        copied
    }

    fn checkpoint(&self, into: &Path) -> Result<Copied, StoreError> {
        let at_least = self.db.latest_sequence_number();
        let checkpoint = Checkpoint::new(&self.db).map_err(|e| self.failed("copying the store", &e))?;
        let made = checkpoint.create_checkpoint_with_log_size(into, NEVER_FLUSH);
        let failed = |source| classify_io(into, "copying the store", source);
        let made = made.map_err(|e| self.failed("copying the store", &e));
        let links_refused = matches!(made, Err(StoreError::Permission { .. })) && !self.is_writable();
        if links_refused {
            remove(into)?;
            copy_all(&self.path, into).map_err(failed)?;
        } else {
            made?;
        }
        if !self.is_writable() {
            add_logs(&self.path, into).map_err(failed)?;
        }
        let (linked, copied) = settle(into).map_err(failed)?;
        Ok(Copied { at_least, at_most: self.db.latest_sequence_number(), linked, copied, links_refused })
    }
}

/// Copies every log of a store that nobody writes: the engine passes over those that it does not need.
fn add_logs(store: &Path, into: &Path) -> io::Result<()> {
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        if is_numbered(&entry.path(), &["log"]) {
            fs::copy(entry.path(), into.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Copies what a checkpoint has: tables, blobs, options, the list of files and its name.
fn copy_all(store: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir(into)?;
    let list = fs::read_to_string(store.join("CURRENT"))?;
    for entry in fs::read_dir(store)? {
        let name = entry?.file_name();
        let is = |word: &str| name.to_str().is_some_and(|name| name == word);
        let has_options = name.to_str().is_some_and(|name| name.starts_with("OPTIONS-"));
        if is("CURRENT") || is(list.trim_end()) || has_options || is_numbered(Path::new(&name), &["sst", "blob"]) {
            fs::copy(store.join(&name), into.join(&name))?;
        }
    }
    Ok(())
}

/// Gives every file that may still be written bytes of its own, and counts linked and copied files.
fn settle(copy: &Path) -> io::Result<(u64, u64)> {
    let (mut linked, mut copied) = (0, 0);
    let entries: io::Result<Vec<fs::DirEntry>> = fs::read_dir(copy)?.collect();
    for entry in entries? {
        let path = entry.path();
        let shared = entry.metadata()?.nlink() > 1;
        if shared && is_numbered(&path, &["sst", "blob"]) {
            linked += 1;
            continue;
        }
        if shared {
            let aside = path.with_extension(ASIDE);
            fs::copy(&path, &aside)?;
            fs::rename(&aside, &path)?;
        }
        copied += 1;
    }
    Ok((linked, copied))
}

/// Whether the engine has given the file a number and one of these kinds.
fn is_numbered(path: &Path, kinds: &[&str]) -> bool {
    let part = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).map(str::to_owned);
    let (Some(stem), Some(kind)) = (part(path.file_stem()), part(path.extension())) else { return false };
    !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit()) && kinds.contains(&kind.as_str())
}

fn remove(copy: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(classify_io(copy, "removing an unfinished copy", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
