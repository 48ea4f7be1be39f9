//! Gives a foreign store back as it was found, as far as its OPTIONS file goes.
//!
//! Opening for writing makes the engine write a new OPTIONS file that names this engine's version and our filter; an
//! older reader refuses to load it. So the bytes found are put back as the newest OPTIONS file as soon as the store is
//! open (the engine does not read or write it again until the next open), and once more when it is closed. A process
//! that dies in between leaves at most one such file beside the one found; the next open recognises and skips it.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::classify::{classify_io, classify_write};
use crate::{backend::options::FILTER_NAME, error::StoreError};

const PREFIX: &str = "OPTIONS-";
const TEMPORARY: &str = ".dbtmp"; // the engine's own suffix: it clears such files itself

/// The OPTIONS file of a foreign store, as found.
#[derive(Debug)]
pub(super) struct Handover {
    path: PathBuf,
    found: Option<Vec<u8>>,
}

impl Handover {
    /// Remembers the newest OPTIONS file that is not ours. Changes nothing.
    pub(super) fn remember(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| classify_io(path, "reading the OPTIONS file", source);
        let mut found = None;
        for (_, file) in listed(path).map_err(failed)? {
            let bytes = fs::read(&file).map_err(failed)?;
            if !is_ours(&bytes) {
                found = Some(bytes);
            }
        }
        if found.is_none() {
            tracing::warn!(path = %path.display(), "the store has no OPTIONS file of its own");
        }
        Ok(Self { path: path.to_owned(), found })
    }

    /// Removes what an interrupted run of ours left, so that the engine's own clearing cannot reach the file found.
    pub(super) fn clear_ours(&self) -> Result<(), StoreError> {
        let failed = |source| classify_write(&self.path, "removing an OPTIONS file of ours", source);
        for (_, file) in listed(&self.path).map_err(failed)? {
            if is_ours(&fs::read(&file).map_err(failed)?) {
                fs::remove_file(&file).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Makes the bytes found the newest OPTIONS file, durably, and removes ours.
    pub(super) fn give_back(&self) -> Result<(), StoreError> {
        self.put_back().map_err(|source| classify_write(&self.path, "giving the OPTIONS file back", source))?;
        self.clear_ours()
    }

    fn put_back(&self) -> io::Result<()> {
        let (Some(found), Some((_, newest))) = (&self.found, listed(&self.path)?.pop()) else {
            return Ok(());
        };
        if fs::read(&newest)? == *found {
            return Ok(());
        }
        let mut temporary = newest.clone().into_os_string();
        temporary.push(TEMPORARY);
        let mut file = fs::File::create(&temporary)?;
        file.write_all(found)?;
        file.sync_all()?;
        fs::rename(&temporary, &newest)?;
        fs::File::open(&self.path)?.sync_all()
    }
}

fn is_ours(bytes: &[u8]) -> bool {
    let name = FILTER_NAME.to_bytes();
    bytes.windows(name.len()).any(|window| window == name)
}

/// The OPTIONS files by number, the newest last.
fn listed(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(Ok(number)) = number.map(str::parse::<u64>) {
            files.push((number, entry.path()));
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_options_file_of_ours_is_never_mistaken_for_the_one_found() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("OPTIONS-000007", "theirs");
        write("OPTIONS-000012", "[x]\n  compaction_filter_factory=state-pruner.sweep\n");
        let handover = Handover::remember(dir.path()).unwrap();
        handover.clear_ours().unwrap();
        assert!(!dir.path().join("OPTIONS-000012").exists());
        write("OPTIONS-000015", "compaction_filter_factory=state-pruner.sweep");
        handover.give_back().unwrap();
        handover.give_back().unwrap();
        assert_eq!(fs::read(dir.path().join("OPTIONS-000015")).unwrap(), b"theirs");
        assert_eq!(listed(dir.path()).unwrap().len(), 2, "and nothing else is left");
    }
}
