//! Rewriting a range of the node family, and the proof that it happened.
//!
//! The engine's C interface drops the status of a manual compaction. So the files that lie inside the range are noted
//! before it, and every one of them must be gone afterwards: what replaced it went through the filter (L16). A
//! compaction that began before the sweep has an idle judge, so the rewrite waits for it before it notes the files.
//!
//! A file that reaches beyond the range is rewritten too where it holds a key of the range. Where it holds none, on a
//! level above those that do, the engine passes over it, and rewriting it would drag along every file below it: it
//! waits for the range that its keys lie in.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use rocksdb::DB;

use super::{Access, RocksBackend, raw};
use crate::{
    backend::{Backend as _, KeyRange, NodeFile},
    error::StoreError,
};

/// Rewrites that are running, and whether they were told to end.
#[derive(Debug, Default)]
pub(super) struct Rewrites {
    state: Mutex<RewriteState>,
}

#[derive(Debug, Default)]
struct RewriteState {
    running: usize,
    cancelled: bool,
    /// Calls that made the engine refuse manual compactions, to be taken back by the last rewrite that ends.
    refusals: usize,
}

impl Rewrites {
    fn begin<'a>(&'a self, db: &'a DB) -> Running<'a> {
        let mut state = self.state.lock();
        if state.running == 0 {
            state.cancelled = false;
        }
        state.running += 1;
        Running { rewrites: self, db }
    }

    /// Tells the running rewrites to end; whether there are any.
    pub(super) fn cancel(&self) -> bool {
        let mut state = self.state.lock();
        state.cancelled = state.running > 0;
        state.cancelled
    }

    /// After a cancel made the engine refuse: it goes on refusing until no rewrite is left that could slip through
    /// between two of its compactions.
    pub(super) fn ended(&self, db: &DB) {
        let mut state = self.state.lock();
        state.refusals += 1;
        state.admit_if_idle(db);
    }

    fn cancelled(&self) -> bool {
        self.state.lock().cancelled
    }
}

impl RewriteState {
    fn admit_if_idle(&mut self, db: &DB) {
        if self.running == 0 {
            (0..std::mem::take(&mut self.refusals)).for_each(|_| raw::admit_manual_compactions(db));
        }
    }
}

struct Running<'a> {
    rewrites: &'a Rewrites,
    db: &'a DB,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.rewrites.state.lock();
        state.running -= 1;
        state.admit_if_idle(self.db);
    }
}

impl RocksBackend {
    pub(super) fn rewrite_range(&self, range: &KeyRange) -> Result<(), StoreError> {
        let _running = self.rewrites.begin(&self.db);
        let (Access::Owned(slot) | Access::Foreign(slot, _)) = &self.access else {
            return Err(StoreError::ReadOnly);
        };
        slot.wait_for_earlier_judges(&|| self.rewrites.cancelled());
        let due = self.files_inside(range)?;
        let errors = self.background_errors()?;
        drop(self.log.take_failure());
        self.compact(range)?;
        let left = self.still_there(&due)?;
        self.check_engine(errors)?;
        if !left.is_empty() {
            self.compact(&hull(&left))?;
            let left = self.still_there(&left)?;
            self.check_engine(errors)?;
            self.refuse_leftovers(&left)?;
        }
        self.purge()
    }

    fn compact(&self, range: &KeyRange) -> Result<(), StoreError> {
        if self.rewrites.cancelled() {
            return Err(StoreError::Cancelled);
        }
        raw::compact(&self.db, self.nodes()?, range, self.config.subcompactions);
        if self.rewrites.cancelled() {
            return Err(StoreError::Cancelled);
        }
        Ok(())
    }

    fn files_inside(&self, range: &KeyRange) -> Result<Vec<NodeFile>, StoreError> {
        let mut files = self.node_files()?;
        files.retain(|file| range.contains(&file.first) && range.contains(&file.last));
        Ok(files)
    }

    fn still_there(&self, old: &[NodeFile]) -> Result<Vec<NodeFile>, StoreError> {
        let old: BTreeSet<u64> = old.iter().map(|file| file.number).collect();
        let mut files = self.node_files()?;
        files.retain(|file| old.contains(&file.number));
        Ok(files)
    }

    /// What the engine said of a failure meanwhile, as an error.
    fn check_engine(&self, errors_before: u64) -> Result<(), StoreError> {
        if let Some(status) = self.log.take_failure() {
            return Err(self.failed_by("rewriting a range of nodes", &status));
        }
        if self.background_errors()? > errors_before {
            return Err(self.rewrite_failed("the engine reports a background error"));
        }
        Ok(())
    }

    fn refuse_leftovers(&self, left: &[NodeFile]) -> Result<(), StoreError> {
        if left.is_empty() {
            return Ok(());
        }
        if self.free_bytes()?.is_some_and(|free| free < left.iter().map(|file| file.bytes).sum()) {
            return Err(StoreError::DiskFull {
                what: format!("rewriting a range of nodes in {}", self.path.display()),
            });
        }
        Err(self.rewrite_failed(&format!("{} files were not rewritten", left.len())))
    }

    fn rewrite_failed(&self, why: &str) -> StoreError {
        StoreError::Io {
            what: format!("rewriting a range of nodes in {}", self.path.display()),
            source: std::io::Error::other(why.to_owned()),
        }
    }

    /// Deletes the files that the rewrite made superfluous before anyone measures the space.
    fn purge(&self) -> Result<(), StoreError> {
        let failed = |e: rocksdb::Error| self.failed("deleting superfluous files", &e);
        self.db.disable_file_deletions().map_err(failed)?;
        self.db.enable_file_deletions().map_err(failed)
    }
}

/// The smallest range that holds every key of the files.
fn hull(files: &[NodeFile]) -> KeyRange {
    let after = |file: &NodeFile| [file.last.as_slice(), &[0]].concat();
    KeyRange { start: files.iter().map(|file| file.first.clone()).min(), end: files.iter().map(after).max() }
}
