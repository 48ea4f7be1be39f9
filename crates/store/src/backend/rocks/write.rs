//! Writing a batch: poison after a failed write, and a full device that is reported instead of waited for.
//!
//! The engine stops writes while its memtables cannot be flushed. If that is because the device is full, it waits
//! inside the write for room that may never come, with the commit gate held. So a write is first tried without
//! waiting; one that would wait does so here, where it can see the device and end with [`StoreError::DiskFull`]. It is tried
//! again all the while: if the flush fails for good the engine stays stopped, and only tells that to a write. What the engine
//! merely slows down is left to it: if the device fills in just that moment, the write waits for room all the same.

use std::time::Duration;

use rocksdb::{WriteBatch, WriteOptions, properties};

use super::{RocksBackend, classify::is_stall, space};
use crate::{
    backend::{Batch, Durability, Op},
    error::StoreError,
};

/// How often a stopped write looks again. The engine does not tell when it goes on.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// With less room than this many memtables, a flush that has failed for want of room will fail again.
const MEMTABLES_TO_GO_ON: u64 = 8;

/// What the engine adds to one change, at most: its kind, the family, two lengths.
const OP_BYTES: usize = 16;

impl RocksBackend {
    pub(super) fn apply(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        if !self.is_writable() {
            return Err(StoreError::ReadOnly);
        }
        if let Some(why) = self.poisoned.get() {
            return Err(StoreError::Poisoned { why: why.clone() });
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        options.set_no_slowdown(true);
        let mut outcome = self.db.write_opt(self.translate(batch)?, &options);
        while outcome.as_ref().is_err_and(is_stall) && self.is_stopped()? {
            self.wait_for_room()?;
            outcome = self.db.write_opt(self.translate(batch)?, &options);
        }
        if outcome.as_ref().is_err_and(is_stall) {
            options.set_no_slowdown(false); // what is left to wait for is the engine's own pace
            outcome = self.db.write_opt(self.translate(batch)?, &options);
        }
        outcome.map_err(|e| {
            let error = self.failed("writing", &e);
            self.poison_on(&error);
            error
        })
    }

    fn translate(&self, batch: &Batch) -> Result<WriteBatch, StoreError> {
        let nodes = self.nodes()?;
        let bytes: usize = batch.ops().iter().map(|op| OP_BYTES + op.bytes()).sum();
        let mut translated = WriteBatch::with_capacity_bytes(bytes);
        for op in batch.ops() {
            match op {
                Op::PutNode(hash, bytes) => translated.put_cf(nodes, hash.as_bytes(), bytes),
                Op::DeleteNode(hash) => translated.delete_cf(nodes, hash.as_bytes()),
                Op::Put(table, key, value) => translated.put_cf(self.family(table.name())?, key, value),
                Op::Delete(table, key) => translated.delete_cf(self.family(table.name())?, key),
                Op::DeleteRange(table, start, end) => {
                    translated.delete_range_cf(self.family(table.name())?, start, end);
                }
            }
        }
        Ok(translated)
    }

    fn wait_for_room(&self) -> Result<(), StoreError> {
        if self.has_no_room()? {
            return Err(StoreError::DiskFull { what: format!("writing in {}", self.path.display()) });
        }
        self.log.wait(LOOK_AGAIN);
        Ok(())
    }

    /// Whether the engine takes no write at this moment.
    #[cfg(feature = "test-util")]
    pub fn takes_no_write(&self) -> bool {
        self.is_stopped().is_ok_and(|stopped| stopped)
    }

    fn is_stopped(&self) -> Result<bool, StoreError> {
        let stopped = self
            .db
            .property_int_value(properties::IS_WRITE_STOPPED)
            .map_err(|e| self.failed("asking whether writes are stopped", &e))?;
        Ok(stopped.is_some_and(|stopped| stopped != 0))
    }

    fn has_no_room(&self) -> Result<bool, StoreError> {
        let (free, memtable) = (space::free_bytes(&self.path)?, self.config.write_buffer_bytes as u64);
        let enough = if self.log.has_run_out_of_room() { memtable * MEMTABLES_TO_GO_ON } else { memtable };
        Ok(free < enough)
    }

    /// C4: a write that failed leaves unknown what is on disk, and the engine takes none after it until it is opened
    /// again. A full disk does not: the engine keeps refusing by itself until it has flushed everything to new files.
    fn poison_on(&self, error: &StoreError) {
        if error.may_be_written() {
            self.poisoned.get_or_init(|| error.to_string());
        }
    }
}
