//! The write-ahead logs as they were before an opening: kept beside the store where the engine finds damage in them.
//!
//! The engine opens such a store with what was written before the damage, and removes the logs. So each has a second name,
//! `NAME.logs/NNN.log`, from before the engine may touch it.
//!
//! Promises: what the engine says of the damage is on disk, in `NAME.logs/DAMAGE`, before it removes a log: it says so while it
//! reads them. Whoever opens the store is told of it until somebody has kept that elsewhere, also where that is another
//! process. The logs move to `NAME.cut_logs` then, where nobody removes them; where nothing was damaged the second names go.
//! A folder that cannot be written stops no opening.
//!
//! Costs: two names per log and opening; the bytes of a log that is cut, once.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::folder::{beside, remove, sync_above};
use crate::backend::LogCut;

const NAMES: &str = ".logs";
const KEPT: &str = ".cut_logs";
const NOTE: &str = "DAMAGE";
const LOG: &str = "log";

/// The logs of one store while it is opened, and the note of what was met in them.
#[derive(Debug)]
pub(super) struct LogsAside {
    names: PathBuf,
    kept: PathBuf,
    met: Mutex<Option<String>>,
}

impl LogsAside {
    /// Gives every log a second name. A note that is there already is of an opening of which nobody was told.
    pub(super) fn begin(store: &Path) -> Self {
        let aside = Self { names: beside(store, NAMES), kept: beside(store, KEPT), met: Mutex::new(None) };
        let begun = aside.untold().and_then(|untold| {
            if untold.is_none() {
                remove(&aside.names)?;
            }
            *aside.met.lock() = untold;
            aside.link(store)
        });
        if let Err(error) = begun {
            let folder = aside.names.display();
            tracing::warn!(%error, %folder, "the write-ahead logs are not set aside while the store is opened");
        }
        aside
    }

    fn untold(&self) -> io::Result<Option<String>> {
        match fs::read(self.names.join(NOTE)) {
            Ok(note) => Ok(Some(String::from_utf8_lossy(&note).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn link(&self, store: &Path) -> io::Result<()> {
        let logs = logs_of(store)?;
        if !logs.is_empty() {
            fs::create_dir_all(&self.names)?;
        }
        for (path, name) in logs {
            match fs::hard_link(path, self.names.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {} // there already: of an opening that nobody was told of
            }
        }
        Ok(())
    }

    /// The engine tells of damage in a log, which is the first.
    pub(super) fn met(&self, what: &str) {
        let mut met = self.met.lock();
        if met.is_some() {
            return;
        }
        *met = Some(what.to_owned());
        if let Err(error) = self.note(what) {
            tracing::error!(%error, folder = %self.names.display(), "damage of the write-ahead log could not be noted");
        }
    }

    fn note(&self, what: &str) -> io::Result<()> {
        fs::create_dir_all(&self.names)?;
        let mut note = File::create(self.names.join(NOTE))?;
        note.write_all(what.as_bytes())?;
        note.sync_all()?;
        File::open(&self.names)?.sync_all()?; // with it the names of the logs
        sync_above(&self.names)
    }

    /// The store is open. What was met, if anything was.
    pub(super) fn end(&self) -> Option<LogCut> {
        let Some(what) = self.met.lock().clone() else {
            if let Err(error) = remove(&self.names) {
                tracing::warn!(%error, folder = %self.names.display(), "second names of write-ahead logs are left");
            }
            return None;
        };
        let kept = match self.keep() {
            Ok(()) => Some(self.kept.clone()),
            Err(error) => {
                tracing::error!(%error, folder = %self.names.display(), "the damaged write-ahead logs stay here, or are lost");
                None
            }
        };
        Some(LogCut { what, kept })
    }

    fn keep(&self) -> io::Result<()> {
        fs::create_dir_all(&self.kept)?;
        for (path, name) in logs_of(&self.names)? {
            fs::rename(path, self.kept.join(name))?;
        }
        File::open(&self.kept)?.sync_all()?;
        sync_above(&self.kept)
    }

    /// Somebody keeps what was met.
    pub(super) fn is_told(store: &Path) -> io::Result<()> {
        remove(&beside(store, NAMES))
    }
}

/// The logs in a folder with their names; without the folder there are none.
fn logs_of(folder: &Path) -> io::Result<Vec<(PathBuf, OsString)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut logs = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().extension().is_some_and(|ending| ending == LOG) {
            logs.push((entry.path(), entry.file_name()));
        }
    }
    Ok(logs)
}
