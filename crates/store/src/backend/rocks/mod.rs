//! `RocksBackend`: the store on RocksDB. Only this folder and `options` name the engine.
//!
//! Promises: a view is one instant of all families; a batch is applied whole or not at all; after a failed write every
//! later write is refused until the store is opened again (C4); a rewrite that returns without an error has replaced
//! every file that overlapped its range; no call ever opens the LOCK file.

mod aside;
mod classify;
mod copy;
mod damage;
mod era;
mod folder;
mod handover;
mod lock;
mod log;
mod look;
mod open;
#[expect(unsafe_code, reason = "the engine's C interface, and a snapshot stored beside its database")]
mod raw;
mod rewrite;
mod space;
mod view;
mod write;

use std::{
    collections::BTreeSet,
    ffi::CStr,
    io,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rocksdb::{ColumnFamily, DB, FlushOptions, properties};

use self::{
    aside::LogsAside,
    classify::{classify_text, classify_write},
    damage::FailedList,
    handover::Handover,
    log::EngineLog,
    look::NodeList,
    raw::LiveTables,
    rewrite::Rewrites,
    view::RocksView,
};
pub use self::{
    era::{Era, Rest},
    lock::{file_holder, lock_holder, removed_store},
    open::{allow_every_file, refuse_if_not_writable},
    space::{free_bytes_of, space_of},
};
use super::{Backend, Batch, Copied, Durability, KeyRange, LogCut, NodeFile, RocksConfig, Space, View};
use crate::{error::StoreError, filter::SweepSlot, schema::NODE_FAMILY};

/// Bytes of the blob files of one family.
const LIVE_BLOB_BYTES: &CStr = c"rocksdb.live-blob-file-size";

/// How a store was opened, with what each way needs.
enum Access {
    /// Ours, for reading and writing.
    Owned(Arc<SweepSlot>),
    /// Somebody else's, for a sweep.
    Foreign(Arc<SweepSlot>, Handover),
    /// Any, for reading.
    ReadOnly,
    /// Any, for reading what is no node.
    WithoutNodes(NodeList),
    /// Any, for following.
    Secondary,
}

/// What the engine gave on opening.
struct Opened {
    db: DB,
    families: BTreeSet<String>,
    log: Arc<EngineLog>,
}

/// A store on RocksDB.
pub struct RocksBackend {
    db: Arc<DB>,
    families: Vec<String>,
    path: Arc<Path>,
    access: Access,
    log: Arc<EngineLog>,
    list: FailedList,
    rewrites: Rewrites,
    config: RocksConfig,
    /// The write that left unknown what is on disk.
    poisoned: OnceLock<String>,
    claimed: AtomicBool,
    /// Damage of the write-ahead log that opening met, other than a torn end.
    log_cut: Option<LogCut>,
}

impl std::fmt::Debug for RocksBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksBackend").field("path", &self.path).finish_non_exhaustive()
    }
}

impl RocksBackend {
    fn assemble(opened: Opened, path: &Path, access: Access, config: &RocksConfig) -> Self {
        let path = Arc::from(path);
        let mut backend = Self {
            db: Arc::new(opened.db),
            families: opened.families.into_iter().collect(),
            list: FailedList::of(&path, &opened.log),
            path,
            access,
            log: opened.log,
            rewrites: Rewrites::default(),
            config: *config,
            poisoned: OnceLock::new(),
            claimed: AtomicBool::new(false),
            log_cut: None,
        };
        let cut = backend.log.opened(); // what it meets by itself from here on counts
        if matches!(backend.background_errors(), Ok(0)) {
            backend.log_cut = cut.filter(|_| backend.is_writable() || matches!(lock_holder(&backend.path), Ok(None)));
        }
        if let Some(LogCut { what, kept }) = backend.log_cut.as_ref().filter(|_| backend.is_writable()) {
            let kept = kept.as_ref().map(|kept| kept.display().to_string());
            tracing::error!(what, kept, "the write-ahead log is damaged: what was written after that is lost");
        }
        backend
    }

    /// The folder of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Follows the node that writes the store; views taken before may then read the newer state too.
    ///
    /// Errors: a store that was not opened by [`RocksBackend::open_secondary`], or a failed read.
    pub fn catch_up(&self) -> Result<(), StoreError> {
        if !matches!(self.access, Access::Secondary) {
            return Err(StoreError::Invariant("only a secondary store follows another".to_owned()));
        }
        self.db.try_catch_up_with_primary().map_err(|e| self.failed("following the running node", &e))
    }

    /// Flushes and closes a foreign store and gives its OPTIONS file back as it was found. Drop every view first.
    ///
    /// Errors: a view that is still open, a failed flush, a failed write of the OPTIONS file. Nothing is lost then.
    pub fn close_foreign(self) -> Result<(), StoreError> {
        self.flush()?;
        let Self { db, access, .. } = self;
        let Some(db) = Arc::into_inner(db) else {
            return Err(StoreError::Invariant("a view of the store is still open".to_owned()));
        };
        drop(db); // BEFORE the hand-over: the engine clears OPTIONS files as it closes
        match access {
            Access::Foreign(_, handover) => handover.give_back(),
            Access::Owned(_) | Access::ReadOnly | Access::WithoutNodes(_) | Access::Secondary => Ok(()),
        }
    }

    fn failed(&self, what: &str, error: &rocksdb::Error) -> StoreError {
        self.failed_by(what, error.as_ref())
    }

    /// As [`RocksBackend::failed`], from a status text.
    fn failed_by(&self, what: &str, status: &str) -> StoreError {
        self.list.mend();
        let error = classify_text(&self.path, what, status);
        // It goes on by itself once there is room, except where it lacked room for what it has no way back from, or by a quota,
        // which it does not know.
        if matches!(error, StoreError::DiskFull { .. }) && self.log.has_stopped() {
            let what = format!("{what} in {}", self.path.display());
            return StoreError::Io { what, source: io::Error::other(status.to_owned()) };
        }
        error
    }

    fn is_writable(&self) -> bool {
        matches!(self.access, Access::Owned(_) | Access::Foreign(..))
    }

    fn nodes(&self) -> Result<&ColumnFamily, StoreError> {
        self.family(NODE_FAMILY)
    }

    fn family(&self, name: &str) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(name).ok_or_else(|| StoreError::NoTable(name.to_owned()))
    }
}

impl Backend for RocksBackend {
    fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        Ok(Arc::new(if self.is_writable() {
            RocksView::of_snapshot(&self.db, &self.path)
        } else {
            RocksView::of_whole(&self.db, &self.path)
        }))
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        self.apply(batch, durability)
    }

    fn flush(&self) -> Result<(), StoreError> {
        if !self.is_writable() {
            return Err(StoreError::ReadOnly);
        }
        let families: Result<Vec<&ColumnFamily>, StoreError> =
            self.families.iter().map(|name| self.family(name)).collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families?, &options).map_err(|e| self.failed("flushing", &e))
    }

    fn rewrite_files(&self, range: &KeyRange) -> Result<(), StoreError> {
        self.rewrite_range(range)
    }

    fn cancel_rewrite(&self) {
        if !self.rewrites.cancel() {
            return;
        }
        if let Access::Owned(slot) | Access::Foreign(slot, _) = &self.access {
            slot.wake_waiters();
        }
        raw::end_manual_compactions(&self.db);
        self.rewrites.ended(&self.db);
    }

    fn node_blob_bytes(&self) -> Result<u64, StoreError> {
        if let Access::WithoutNodes(nodes) = &self.access {
            return Ok(nodes.blob_bytes);
        }
        let bytes = self
            .db
            .property_int_value_cf(self.nodes()?, LIVE_BLOB_BYTES)
            .map_err(|e| self.failed("measuring the blob files", &e))?;
        bytes.ok_or_else(|| StoreError::Invariant("the engine does not tell the size of its blob files".to_owned()))
    }

    fn node_files(&self) -> Result<Vec<NodeFile>, StoreError> {
        if let Access::WithoutNodes(nodes) = &self.access {
            return nodes.files();
        }
        space::node_files(&LiveTables::of(&self.db))
    }

    fn buffered_deletes(&self) -> Result<u64, StoreError> {
        let of = |property| {
            let count = self
                .db
                .property_int_value_cf(self.nodes()?, property)
                .map_err(|e| self.failed("counting deletes in memory", &e))?;
            count.ok_or_else(|| StoreError::Invariant("the engine does not count deletes in memory".to_owned()))
        };
        Ok(of(properties::NUM_DELETES_ACTIVE_MEM_TABLE)? + of(properties::NUM_DELETES_IMM_MEM_TABLES)?)
    }

    fn node_rows_hint(&self) -> Result<u64, StoreError> {
        let rows = self
            .db
            .property_int_value_cf(self.nodes()?, properties::ESTIMATE_NUM_KEYS)
            .map_err(|e| self.failed("estimating the rows", &e))?;
        rows.ok_or_else(|| StoreError::Invariant("the engine does not estimate its rows".to_owned()))
    }

    fn space(&self) -> Result<Space, StoreError> {
        space_of(&self.path)
    }

    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        space::free_bytes_of(&self.path).map(Some)
    }

    fn background_errors(&self) -> Result<u64, StoreError> {
        let of = |name: &String| {
            let count = self
                .db
                .property_int_value_cf(self.family(name)?, properties::BACKGROUND_ERRORS)
                .map_err(|e| self.failed("counting background errors", &e))?;
            count.ok_or_else(|| StoreError::Invariant("the engine does not count its background errors".to_owned()))
        };
        self.families.iter().map(of).sum()
    }

    fn damage(&self) -> Option<String> {
        let met_any = self.background_errors().map_or(true, |errors| errors > 0);
        self.log.damage().filter(|_| met_any).map(|text| damage::described(&self.path, &text))
    }

    fn stopped_by(&self) -> Option<String> {
        self.poisoned.get().cloned()
    }

    fn log_cut(&self) -> Option<LogCut> {
        self.log_cut.clone()
    }

    fn log_cut_is_kept(&self) -> Result<(), StoreError> {
        LogsAside::is_told(&self.path).map_err(|e| classify_write(&self.path, "letting second names of logs go", e))
    }

    fn copy_into(&self, into: &Path) -> Result<Copied, StoreError> {
        self.copy_files(into)
    }

    fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    fn unclaim(&self) {
        self.claimed.store(false, Ordering::Release);
    }

    fn sweep_slot(&self) -> Option<Arc<SweepSlot>> {
        match &self.access {
            Access::Owned(slot) | Access::Foreign(slot, _) => Some(Arc::clone(slot)),
            Access::ReadOnly | Access::WithoutNodes(_) | Access::Secondary => None,
        }
    }
}
