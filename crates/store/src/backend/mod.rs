//! The narrow seam at the bottom: what the store needs of an engine, and nothing more.
//!
//! Three twins implement it: RocksDB, a map in memory, and a faulty one that fails where a test asks. A [`Batch`] can
//! be built by anyone, but only this crate can put or delete nodes through one.

#[cfg(any(test, feature = "test-util"))]
mod faulty;
#[cfg(any(test, feature = "test-util"))]
mod memory;
mod options;
mod rocks;

use std::{
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::Arc,
};

use state_tree::{NodeHash, Order};

#[cfg(any(test, feature = "test-util"))]
pub use self::{
    faulty::{Armed, CrashTail, Fault, FaultyBackend, Lasting, Operation},
    memory::MemoryBackend,
};
pub use self::{
    options::RocksConfig,
    rocks::{
        Era, Rest, RocksBackend, allow_every_file, file_holder, free_bytes_of, lock_holder, refuse_if_not_writable,
        removed_store, space_of,
    },
};
use crate::{error::StoreError, filter::SweepSlot, schema::Table};

/// A half-open range of keys; an absent bound is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key inside.
    pub start: Option<Vec<u8>>,
    /// First key behind the range.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub const ALL: Self = Self { start: None, end: None };

    /// From a key up to, not including, another one.
    pub(crate) fn between(start: &[u8], end: &[u8]) -> Self {
        Self { start: Some(start.to_vec()), end: Some(end.to_vec()) }
    }

    /// Whether the key lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_deref().is_none_or(|start| start <= key) && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// When an acknowledged write survives a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before the write returns: the log is synced.
    Synced,
    /// When the operating system writes the log back; a crash of the process alone loses nothing.
    Logged,
}

/// Damage within the write-ahead log, as the engine met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogCut {
    /// In its words: the log, how many bytes it dropped there, and why.
    pub what: String,
    /// Where the logs lie as they were before, if they could be kept.
    pub kept: Option<PathBuf>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    PutNode(NodeHash, Vec<u8>),
    DeleteNode(NodeHash),
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
    /// Removes every row of the half-open range. There is no such operation on nodes (S44).
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

impl Op {
    /// Bytes of its keys and values.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::PutNode(_, bytes) => NodeHash::BYTES + bytes.len(),
            Self::DeleteNode(_) => NodeHash::BYTES,
            Self::Put(_, key, value) => key.len() + value.len(),
            Self::Delete(_, key) => key.len(),
            Self::DeleteRange(_, start, end) => start.len() + end.len(),
        }
    }
}

/// Changes that become visible together.
///
/// Nodes cannot be put from outside the crate:
/// ```compile_fail,E0624
/// let mut batch = state_store::Batch::new();
/// batch.put_node(state_tree::PLACEHOLDER, vec![]);
/// ```
/// nor removed, nor can their family be named as a table:
/// ```compile_fail,E0624
/// let mut batch = state_store::Batch::new();
/// batch.delete_node(state_tree::PLACEHOLDER);
/// ```
/// ```
/// assert!(state_store::Table::foreign("state_node").is_none());
/// ```
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<Op>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a row.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.ops.push(Op::Put(table, key.into(), value.into()));
    }

    /// Deletes a row.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.ops.push(Op::Delete(table, key.into()));
    }

    /// Deletes every row from `start` up to, not including, `end`.
    pub fn delete_range(&mut self, table: Table, start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) {
        self.ops.push(Op::DeleteRange(table, start.into(), end.into()));
    }

    /// Deletes the rows of a run of orders from a table that has them by order. Few are deleted one by one: with every read
    /// the engine sorts anew the ranges that its memtable has, each with the number of every other that it overlaps.
    pub fn delete_orders(&mut self, table: &Table, orders: Range<Order>) {
        const MOST_SINGLY: u64 = 256;
        let (first, end) = (orders.start.get(), orders.end.get());
        if end.saturating_sub(first) > MOST_SINGLY {
            self.delete_range(table.clone(), orders.start.to_key(), orders.end.to_key());
        } else {
            (first..end).for_each(|order| self.delete(table.clone(), Order::new(order).to_key()));
        }
    }

    /// Whether the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub(crate) fn put_node(&mut self, hash: NodeHash, bytes: Vec<u8>) {
        self.ops.push(Op::PutNode(hash, bytes));
    }

    pub(crate) fn delete_node(&mut self, hash: NodeHash) {
        self.ops.push(Op::DeleteNode(hash));
    }

    /// Does what another batch does, after what this one does already.
    pub fn append(&mut self, mut other: Self) {
        self.ops.append(&mut other.ops);
    }

    pub(crate) fn ops(&self) -> &[Op] {
        &self.ops
    }
}

/// One file of the node family, as the engine's own metadata describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFile {
    /// The engine's number of the file; later files have larger numbers.
    pub number: u64,
    /// Level in the tree of files; 0 is the youngest.
    pub level: u32,
    /// Bytes on disk.
    pub bytes: u64,
    /// Smallest key inside.
    pub first: Vec<u8>,
    /// Largest key inside.
    pub last: Vec<u8>,
    /// Entries inside, tombstones included.
    pub entries: u64,
    /// Tombstones among them.
    pub deletes: u64,
}

/// Bytes on disk, measured from the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Table files.
    pub tables: u64,
    /// Blob files.
    pub blobs: u64,
    /// Write-ahead logs.
    pub logs: u64,
    /// Everything else in the folder.
    pub other: u64,
}

impl Space {
    /// The whole folder.
    pub fn total(&self) -> u64 {
        self.tables + self.blobs + self.logs + self.other
    }
}

/// How a copy of a store was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The engine's sequence number before the copy was begun: the copy holds at least everything up to it.
    pub at_least: u64,
    /// The sequence number after it was done, of a store that nobody writes: the copy holds nothing behind it. A write that is
    /// under way is in the log, and so in the copy, before it has a number that anybody is told.
    pub at_most: Option<u64>,
    /// Table and blob files that share their bytes with the store. The engine never changes one that is finished.
    pub linked: u64,
    /// Files with bytes of their own.
    pub copied: u64,
    /// Whether the system refused to link files of another owner, so that each was copied.
    pub links_refused: bool,
}

/// What a visitor of rows returns.
pub type Flow = ControlFlow<()>;

/// One instant of every family (I1).
pub trait View: Send + Sync {
    /// The engine's sequence number of the instant.
    fn sequence(&self) -> u64;

    /// The bytes of one node, or nothing when it is absent.
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, StoreError>;

    /// Reads many nodes in one call. `hashes` are sorted ascending; `each` is called once per hash, in order, with
    /// its index and its bytes, or nothing when it is absent.
    fn nodes(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), StoreError>;

    /// Visits the rows of the node family in key order, foreign keys included, with readahead and without filling
    /// the block cache.
    fn scan_nodes(&self, range: &KeyRange, each: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), StoreError>;

    /// One row. A table that the store does not have is an error, not an absence (S45).
    fn row(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Reads many rows in one call. `keys` are sorted ascending; `each` is called once per key, in order, with its index
    /// and its value, or nothing when it is absent. A table that the store does not have is an error (S45).
    fn rows(
        &self,
        table: &Table,
        keys: &[[u8; 8]],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StoreError>;

    /// Visits the rows of a table in key order.
    fn scan(
        &self,
        table: &Table,
        range: &KeyRange,
        each: &mut dyn FnMut(&[u8], &[u8]) -> Flow,
    ) -> Result<(), StoreError>;

    /// Whether the store has the table.
    fn has_table(&self, table: &Table) -> bool;
}

/// What is done with one row, and may fail.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

/// Visits the rows of a table in key order until a visit fails, and returns that failure.
pub(crate) fn visit_rows(
    view: &dyn View,
    table: &Table,
    range: &KeyRange,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    view.scan(table, range, &mut |key, value| {
        outcome = visit(key, value);
        if outcome.is_ok() { Flow::Continue(()) } else { Flow::Break(()) }
    })?;
    outcome
}

/// An engine under the store.
pub trait Backend: Send + Sync {
    /// Fixes one instant of every family.
    fn view(&self) -> Result<Arc<dyn View>, StoreError>;

    /// Applies all of the batch or nothing. After one that failed, a full device aside, every later write is refused until reopened (C4).
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError>;

    /// Writes every memtable to files, and waits.
    fn flush(&self) -> Result<(), StoreError>;

    /// Rewrites every version of the range that lies in a file of the node family, down to the bottom level and
    /// through the filter, blob files included, and waits. Fails if a file inside the range was not rewritten (L16).
    /// One that reaches beyond the range and holds none of its keys may stay: whoever rewrites range after range looks
    /// at the end whether any file is left.
    fn rewrite_files(&self, range: &KeyRange) -> Result<(), StoreError>;

    /// [`Backend::rewrite_files`], with what is in memory written to files first.
    fn rewrite_nodes(&self, range: &KeyRange) -> Result<(), StoreError> {
        self.flush()?; // a filter is never asked about a memtable
        self.rewrite_files(range)
    }

    /// Ends a running [`Backend::rewrite_files`] early; it then fails with [`StoreError::Cancelled`].
    fn cancel_rewrite(&self);

    /// The files of the node family, in no particular order.
    fn node_files(&self) -> Result<Vec<NodeFile>, StoreError>;

    /// Deletes of nodes that are in memory only; [`Backend::flush`] brings them to files.
    fn buffered_deletes(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// An estimate of the rows in the node family by the engine, for planning only, never for a report (I13).
    fn node_rows_hint(&self) -> Result<u64, StoreError>;

    /// Bytes on disk now.
    fn space(&self) -> Result<Space, StoreError>;

    /// Bytes of the node family's blob files, which a rewrite of its ranges writes anew.
    fn node_blob_bytes(&self) -> Result<u64, StoreError>;

    /// Bytes free on the device, or nothing when there is no device.
    fn free_bytes(&self) -> Result<Option<u64>, StoreError>;

    /// Failures of flushes and compactions that the engine met by itself since it was opened. A count that grows
    /// means that writes are about to be refused (C21).
    fn background_errors(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// Damage that a flush or compaction met by itself since the store was opened. The engine takes no write from then on
    /// until it is opened again.
    fn damage(&self) -> Option<String> {
        None
    }

    /// The write that failed, after which no other is taken until the store is opened again (C4).
    fn stopped_by(&self) -> Option<String> {
        None
    }

    /// Damage within the write-ahead log that the engine met when it opened the store: it went back to what was written before
    /// that, and what was acknowledged later is lost. The end that a killed writer leaves is none. Of a store that is opened for
    /// reading while nobody writes it: what the next opening for writing will meet.
    fn log_cut(&self) -> Option<LogCut> {
        None
    }

    /// Somebody keeps what [`Backend::log_cut`] tells: the next opening does not tell it again.
    ///
    /// Errors: a failed removal.
    fn log_cut_is_kept(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Copies the store of one instant into the folder `into`, which must not exist while the folder above it does; writes
    /// go on meanwhile. What was not written yet when the call began may be in the copy or not. The copy is not synced.
    ///
    /// Errors: an engine without files of its own, a failed read or write. Nothing is left in the folder then.
    fn copy_into(&self, _into: &Path) -> Result<Copied, StoreError> {
        Err(StoreError::Unsupported("files that could be copied"))
    }

    /// Takes the engine for one store; false while another has it. Two would have a gate and a barrier each, and what one
    /// commits the other would sweep.
    fn claim(&self) -> bool {
        true
    }

    /// Gives it back for the next store.
    fn unclaim(&self) {}

    /// The slot the engine's compaction filter consults, or nothing if no filter is installed (O21).
    fn sweep_slot(&self) -> Option<Arc<SweepSlot>>;
}
