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
    classify::{classify, classify_io, classify_write},
    folder,
};
use crate::{
    backend::Copied,
    disk::{FileCall, ask},
    error::StoreError,
};

/// What was being done when a file of the store failed.
const READING: &str = "reading what is copied";
/// And when one of its copy did.
const WRITING: &str = "writing a copy";
/// Logs are copied rather than written to tables first: a copy costs the running node no flush.
const NEVER_FLUSH: u64 = u64::MAX;
const ASIDE: &str = "own";

impl RocksBackend {
    pub(super) fn copy_files(&self, into: &Path) -> Result<Copied, StoreError> {
        if matches!(self.access, Access::Secondary | Access::WithoutNodes(_)) {
            return Err(StoreError::Unsupported("way to copy a store that it follows, or has not opened whole"));
        }
        if into.exists() {
            let taken = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(classify_write(into, WRITING, taken));
        }
        let copied = self.checkpoint(into);
        if copied.is_err() {
            remove(into)?;
        }
        copied
    }

    fn checkpoint(&self, into: &Path) -> Result<Copied, StoreError> {
        let at_least = self.db.latest_sequence_number();
        let refused = |error: rocksdb::Error| self.refused(into, &error);
        let checkpoint = Checkpoint::new(&self.db).map_err(refused)?;
        ask(FileCall::Create, into).map_err(|source| classify_write(into, WRITING, source))?;
        let made = checkpoint.create_checkpoint_with_log_size(into, NEVER_FLUSH);
        let made = made.map_err(refused);
        let links_refused = matches!(made, Err(StoreError::Permission { .. })) && !self.is_writable();
        if links_refused {
            remove(into)?;
            copy_all(&self.path, into)?;
        } else {
            made?;
        }
        if !self.is_writable() {
            add_logs(&self.path, into)?;
        }
        let (linked, copied) = settle(into)?;
        let at_most = (!self.is_writable()).then(|| self.db.latest_sequence_number());
        Ok(Copied { at_least, at_most, linked, copied, links_refused })
    }

    /// The engine's error, told of the store where it names a file of that alone: a copy without room names its own.
    fn refused(&self, into: &Path, error: &rocksdb::Error) -> StoreError {
        let names = |path: String| error.as_ref().contains(&path);
        let is_of_store = names(format!("{}/", self.path.display())) && !names(into.display().to_string());
        if is_of_store { classify(&self.path, READING, error) } else { classify(into, WRITING, error) }
    }
}

/// Copies every log of a store that nobody writes: the engine passes over those that it does not need.
fn add_logs(store: &Path, into: &Path) -> Result<(), StoreError> {
    for entry in list(store, READING)? {
        if is_numbered(&entry.path(), &["log"]) {
            copy(&entry.path(), &into.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Copies what a checkpoint has: tables, blobs, options, the list of files and its name.
fn copy_all(store: &Path, into: &Path) -> Result<(), StoreError> {
    fs::create_dir(into).map_err(|source| classify_write(into, WRITING, source))?;
    let current = store.join("CURRENT");
    let manifest = ask(FileCall::Read, &current).and_then(|()| fs::read_to_string(&current));
    let manifest = manifest.map_err(|source| classify_io(&current, READING, source))?;
    for entry in list(store, READING)? {
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
fn settle(made: &Path) -> Result<(u64, u64), StoreError> {
    let (mut linked, mut copied) = (0, 0);
    for entry in list(made, WRITING)? {
        let path = entry.path();
        let failed = |source| classify_write(&path, WRITING, source);
        let shared = entry.metadata().map_err(failed)?.nlink() > 1;
        if shared && is_numbered(&path, &["sst", "blob"]) {
            linked += 1;
            continue;
        }
        if shared {
            let aside = path.with_extension(ASIDE);
            copy(&path, &aside)?;
            ask(FileCall::Rename, &path).and_then(|()| fs::rename(&aside, &path)).map_err(failed)?;
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
fn list(folder: &Path, what: &str) -> Result<Vec<fs::DirEntry>, StoreError> {
    let entries = ask(FileCall::List, folder).and_then(|()| fs::read_dir(folder)?.collect());
    entries.map_err(|source| classify_io(folder, what, source))
}

/// Copies a file. Once it is open the system does not say which side failed: no room is what the copy has not, and of anything
/// else both are named.
fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let opened = ask(FileCall::Read, from).and_then(|()| fs::File::open(from));
    opened.map_err(|source| classify_io(from, READING, source))?;
    let copied = ask(FileCall::Write, to).and_then(|()| fs::copy(from, to));
    copied.map(|_bytes| ()).map_err(|source| {
        let error = classify_write(to, WRITING, source);
        let StoreError::Io { source, .. } = error else { return error };
        StoreError::Io { what: format!("copying {} to {}", from.display(), to.display()), source }
    })
}

fn remove(copy: &Path) -> Result<(), StoreError> {
    let removed = ask(FileCall::Remove, copy).and_then(|()| folder::remove(copy));
    removed.map_err(|error| classify_write(copy, "removing an unfinished copy", error))
}
