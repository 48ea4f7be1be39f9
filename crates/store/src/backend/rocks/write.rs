//! Writing a batch: poison after a failed write, and a full device that is reported instead of waited for.
//!
//! The engine stops writes while its memtables cannot be flushed or its newest tables not be compacted. If that is because the
//! device is full, it waits inside the write for room that may never come, with the commit gate held. So it is told never
//! to wait: a write that would have to does so here, where it can see the device and end with [`StoreError::DiskFull`]. It is
//! tried again all the while: if the flush fails for good the engine stays stopped, and only tells that to a write.
//!
//! Where the engine merely wants fewer bytes in a second, the pace is kept here too, for it could stop in just that moment.

use std::{num::NonZeroU64, time::Duration};

use rocksdb::{WriteBatch, WriteOptions, properties};

use super::{RocksBackend, classify::is_stall, space};
use crate::{
    backend::{Batch, Durability, Op},
    error::StoreError,
};

/// How often a stopped write looks again. The engine does not tell when it goes on.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The shortest wait of a write that is slowed down: the engine counts what it lets pass in steps of this.
const PACE_STEP: Duration = Duration::from_millis(1);
/// With less room than this many memtables, a flush that has failed for want of room will fail again.
const MEMTABLES_TO_GO_ON: u64 = 8;
/// A write that was stopped for so many looks while the engine told of a lack of room is given up, however much is free: a
/// compaction may want more. Ten seconds: the engine itself looks for room every five.
const LOOKS_WITHOUT_ROOM: u64 = 1_000;
/// A write that is slowed down waits for twice as long after each attempt, so often: two of them could else keep each other out.
const MOST_DOUBLINGS: u32 = 6;

/// What the engine adds to one change, at most: its kind, the family, two lengths.
const OP_BYTES: usize = 16;

/// A write that the engine does not take yet.
struct Stalled {
    batch: WriteBatch,
    looks: u64,
    attempts: u32,
    /// Lacks of room that the engine had told of before.
    lacks_before: u64,
}

impl Stalled {
    /// How long to wait for an engine that lets so many bytes pass in a second. It takes an attempt that fails for bytes
    /// written, so those of the next one are behind them.
    fn pause(&mut self, bytes_per_second: NonZeroU64) -> Duration {
        let bytes = 2 * self.batch.size_in_bytes() as u64;
        let micros = bytes.saturating_mul(1_000_000) / bytes_per_second;
        let doublings = self.attempts.min(MOST_DOUBLINGS);
        self.attempts += 1;
        Duration::from_micros(micros.saturating_mul(1 << doublings)).max(PACE_STEP)
    }
}

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
        if outcome.as_ref().is_err_and(is_stall) {
            let lacks_before = self.log.lacks_of_room();
            let mut stalled = Stalled { batch: self.translate(batch)?, looks: 0, attempts: 0, lacks_before };
            while outcome.as_ref().is_err_and(is_stall) {
                self.wait(&mut stalled)?;
                // The wrapper keeps what it is given to write: each attempt is given a copy of the bytes.
                outcome = self.db.write_opt(WriteBatch::from_data(stalled.batch.data()), &options);
            }
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

    /// Waits until an attempt is worth it.
    fn wait(&self, stalled: &mut Stalled) -> Result<(), StoreError> {
        if self.is_stopped()? {
            return self.wait_for_room(stalled);
        }
        let pace = self.bytes_per_second()?;
        let mut left = pace.map_or(PACE_STEP, |bytes| stalled.pause(bytes));
        while !left.is_zero() && self.bytes_per_second()?.is_some() == pace.is_some() && !self.is_stopped()? {
            let step = left.min(LOOK_AGAIN);
            self.log.wait(step);
            left -= step;
        }
        Ok(())
    }

    fn wait_for_room(&self, stalled: &mut Stalled) -> Result<(), StoreError> {
        let is_told = self.log.lacks_of_room() > stalled.lacks_before;
        if self.has_no_room()? || (is_told && stalled.looks >= LOOKS_WITHOUT_ROOM) {
            return Err(StoreError::DiskFull { what: format!("writing in {}", self.path.display()) });
        }
        stalled.looks += 1;
        self.log.wait(LOOK_AGAIN);
        Ok(())
    }

    /// Whether the engine takes no write at this moment.
    #[cfg(feature = "test-util")]
    pub fn takes_no_write(&self) -> bool {
        self.is_stopped().is_ok_and(|stopped| stopped)
    }

    /// Whether the engine takes fewer writes than come, or none.
    #[cfg(feature = "test-util")]
    pub fn slows_writes(&self) -> bool {
        self.bytes_per_second().is_ok_and(|bytes| bytes.is_some())
    }

    fn is_stopped(&self) -> Result<bool, StoreError> {
        let stopped = self
            .db
            .property_int_value(properties::IS_WRITE_STOPPED)
            .map_err(|e| self.failed("asking whether writes are stopped", &e))?;
        Ok(stopped.is_some_and(|stopped| stopped != 0))
    }

    /// What the engine lets pass in a second; nothing where it does not slow writes down.
    fn bytes_per_second(&self) -> Result<Option<NonZeroU64>, StoreError> {
        let bytes = self
            .db
            .property_int_value(properties::ACTUAL_DELAYED_WRITE_RATE)
            .map_err(|e| self.failed("asking how far writes are slowed down", &e))?;
        Ok(bytes.and_then(NonZeroU64::new))
    }

    fn has_no_room(&self) -> Result<bool, StoreError> {
        let (free, memtable) = (space::free_bytes_of(&self.path)?, self.config.write_buffer_bytes as u64);
        let enough = if self.log.lacks_of_room() > 0 { memtable * MEMTABLES_TO_GO_ON } else { memtable };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine takes each attempt for bytes written: what waits less is refused for ever where two write.
    #[test]
    fn a_write_that_is_slowed_down_waits_for_its_bytes_twice_and_longer_each_time_up_to_a_bound() {
        let mut batch = WriteBatch::default();
        batch.put(b"key", vec![7; 1_000]);
        let twice = NonZeroU64::new(2 * batch.size_in_bytes() as u64).unwrap();
        let mut stalled = Stalled { batch, looks: 0, attempts: 0, lacks_before: 0 };
        let waits: Vec<u64> = (0..9).map(|_| stalled.pause(twice).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(stalled.pause(NonZeroU64::MAX), PACE_STEP, "the engine counts in steps");
    }
}
