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

use super::{
    Access, RocksBackend,
    classify::{classify, classify_io},
};
use crate::{
    backend::Copied,
    disk::{FileCall, ask},
    error::StoreError,
};

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
        let refused = |e: rocksdb::Error| classify(into, "copying the store to", &e); // where it has no room, that is
        let checkpoint = Checkpoint::new(&self.db).map_err(refused)?;
        let failed = |source| classify_io(into, "copying the store", source);
        ask(FileCall::Create, into).map_err(failed)?;
        let made = checkpoint.create_checkpoint_with_log_size(into, NEVER_FLUSH);
        let made = made.map_err(refused);
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
        let at_most = (!self.is_writable()).then(|| self.db.latest_sequence_number());
        Ok(Copied { at_least, at_most, linked, copied, links_refused })
    }
}

/// Copies every log of a store that nobody writes: the engine passes over those that it does not need.
fn add_logs(store: &Path, into: &Path) -> io::Result<()> {
    for entry in list(store)? {
        if is_numbered(&entry.path(), &["log"]) {
            copy(&entry.path(), &into.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Copies what a checkpoint has: tables, blobs, options, the list of files and its name.
fn copy_all(store: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir(into)?;
    let current = store.join("CURRENT");
    ask(FileCall::Read, &current)?;
    let manifest = fs::read_to_string(current)?;
    for entry in list(store)? {
        let name = entry.file_name();
        let is = |word: &str| name.to_str().is_some_and(|name| name == word);
        let has_options = name.to_str().is_some_and(|name| name.starts_with("OPTIONS-"));
        if is("CURRENT") || is(manifest.trim_end()) || has_options || is_numbered(Path::new(&name), &["sst", "blob"]) {
            copy(&store.join(&name), &into.join(&name))?;
        }
    }
    Ok(())
}

/// Gives every file that may still be written bytes of its own, and counts linked and copied files.
fn settle(made: &Path) -> io::Result<(u64, u64)> {
    let (mut linked, mut copied) = (0, 0);
    for entry in list(made)? {
        let path = entry.path();
        let shared = entry.metadata()?.nlink() > 1;
        if shared && is_numbered(&path, &["sst", "blob"]) {
            linked += 1;
            continue;
        }
        if shared {
            let aside = path.with_extension(ASIDE);
            copy(&path, &aside)?;
            ask(FileCall::Rename, &path)?;
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

/// What is in a folder, as it is now: what is made in it meanwhile is not met.
fn list(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    ask(FileCall::List, folder)?;
    fs::read_dir(folder)?.collect()
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    ask(FileCall::Read, from)?;
    ask(FileCall::Write, to)?;
    fs::copy(from, to).map(|_bytes| ())
}

fn remove(copy: &Path) -> Result<(), StoreError> {
    match ask(FileCall::Remove, copy).and_then(|()| fs::remove_dir_all(copy)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(classify_io(copy, "removing an unfinished copy", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
