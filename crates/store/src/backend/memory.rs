//! A map in memory that behaves like the engine where it matters, for tests of this and other crates.
//!
//! As hostile as the engine: a rewrite judges one stored version at a time while commits go on, a version it drops is
//! gone from older views too, and a version put meanwhile stays. Views copy on write: the first write after a view
//! copies the map of keys, never the values.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use state_tree::NodeHash;

use super::{Backend, Batch, Durability, Flow, KeyRange, NodeFile, Op, Space, View};
use crate::{
    error::StoreError,
    filter::{Paced, SweepSlot, Verdict},
    schema::Table,
};

/// One stored version; a rewrite drops it for every view at once.
#[derive(Debug)]
struct Version {
    bytes: Vec<u8>,
    dropped: AtomicBool,
}

impl Version {
    fn new(bytes: &[u8]) -> Arc<Self> {
        Arc::new(Self { bytes: bytes.to_vec(), dropped: AtomicBool::new(false) })
    }

    fn bytes(&self) -> Option<&[u8]> {
        (!self.dropped.load(Ordering::Acquire)).then_some(self.bytes.as_slice())
    }
}

type Nodes = BTreeMap<Vec<u8>, Arc<Version>>;
type Row<'a> = (&'a Vec<u8>, &'a Arc<Version>);
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The contents at one instant; cloning it shares everything.
#[derive(Debug, Clone, Default)]
struct Image {
    nodes: Arc<Nodes>,
    tables: BTreeMap<Table, Arc<Rows>>,
    sequence: u64,
}

impl Image {
    fn rows(&self, table: &Table) -> Result<&Rows, StoreError> {
        let rows = self.tables.get(table);
        rows.map(|rows| &**rows).ok_or_else(|| StoreError::NoTable(table.name().to_owned()))
    }

    fn rows_mut(&mut self, table: &Table) -> Result<&mut Rows, StoreError> {
        let rows = self.tables.get_mut(table);
        rows.map(Arc::make_mut).ok_or_else(|| StoreError::NoTable(table.name().to_owned()))
    }

    fn admit(&self, op: &Op) -> Result<(), StoreError> {
        match op {
            Op::PutNode(..) | Op::DeleteNode(_) => Ok(()),
            Op::Put(table, ..) | Op::Delete(table, _) | Op::DeleteRange(table, ..) => self.rows(table).map(|_| ()),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), StoreError> {
        match op {
            Op::PutNode(hash, bytes) => {
                Arc::make_mut(&mut self.nodes).insert(hash.as_bytes().to_vec(), Version::new(bytes));
            }
            Op::DeleteNode(hash) => {
                Arc::make_mut(&mut self.nodes).remove(hash.as_bytes().as_slice());
            }
            Op::Put(table, key, value) => {
                self.rows_mut(table)?.insert(key.clone(), value.clone());
            }
            Op::Delete(table, key) => {
                self.rows_mut(table)?.remove(key);
            }
            Op::DeleteRange(table, start, end) => {
                self.rows_mut(table)?.retain(|key, _| key < start || key >= end);
            }
        }
        self.sequence += 1;
        Ok(())
    }
}

#[derive(Debug)]
struct Shared {
    now: Mutex<Image>,
    filter: Option<Arc<SweepSlot>>,
    cancelled: AtomicBool,
    rewrites: AtomicU64,
}

/// A store in memory. Clones are handles of the same store.
#[derive(Debug, Clone)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
}

impl MemoryBackend {
    /// An empty store with the tables of our own stores and a sweep filter.
    pub fn new() -> Self {
        Self::with_tables(Table::ALL)
    }

    /// An empty store with these tables only, as a foreign store has them.
    pub fn with_tables(tables: impl IntoIterator<Item = Table>) -> Self {
        let tables = tables.into_iter().map(|table| (table, Arc::default())).collect();
        let image = Image { tables, ..Image::default() };
        Self::of(image, Some(Arc::default()))
    }

    /// An empty store opened without the sweep filter (O21).
    pub fn without_filter() -> Self {
        let with = Self::new();
        let image = with.shared.now.lock().clone();
        Self::of(image, None)
    }

    fn of(image: Image, filter: Option<Arc<SweepSlot>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                now: Mutex::new(image),
                filter,
                cancelled: AtomicBool::new(false),
                rewrites: AtomicU64::new(0),
            }),
        }
    }

    /// Another store with what this one holds now, that later has nothing in common with it.
    pub fn copy(&self) -> Self {
        let mut image = self.shared.now.lock().clone();
        let versions = image.nodes.iter().filter_map(|(key, version)| Some((key, version.bytes()?)));
        image.nodes = Arc::new(versions.map(|(key, bytes)| (key.clone(), Version::new(bytes))).collect());
        Self::of(image, Some(Arc::default()))
    }

    /// Another store with what this one holds now, whose versions a rewrite of this one drops too: files that a
    /// rewrite replaced do not come back by a crash.
    pub(super) fn image(&self) -> Self {
        Self::of(self.shared.now.lock().clone(), Some(Arc::default()))
    }

    /// Puts any row into the node family past every guard: for foreign keys and damaged nodes in tests.
    pub fn plant(&self, key: &[u8], bytes: &[u8]) {
        let mut now = self.shared.now.lock();
        Arc::make_mut(&mut now.nodes).insert(key.to_vec(), Version::new(bytes));
        now.sequence += 1;
    }

    /// Removes any row of the node family past every guard.
    pub fn uproot(&self, key: &[u8]) {
        let mut now = self.shared.now.lock();
        Arc::make_mut(&mut now.nodes).remove(key);
        now.sequence += 1;
    }

    fn sweep_one(&self, key: &[u8], version: &Arc<Version>) {
        version.dropped.store(true, Ordering::Release); // for older views too, as the engine does
        let mut now = self.shared.now.lock();
        if now.nodes.get(key).is_some_and(|newest| Arc::ptr_eq(newest, version)) {
            Arc::make_mut(&mut now.nodes).remove(key); // a newer put of the key has won already (S23)
        }
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for MemoryBackend {
    fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        Ok(Arc::new(MemoryView(self.shared.now.lock().clone())))
    }

    fn write(&self, batch: &Batch, _durability: Durability) -> Result<(), StoreError> {
        let mut now = self.shared.now.lock();
        batch.ops().iter().try_for_each(|op| now.admit(op))?; // all or nothing, without a copy to fall back on
        batch.ops().iter().try_for_each(|op| now.apply(op))
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn rewrite_files(&self, range: &KeyRange) -> Result<(), StoreError> {
        self.shared.cancelled.store(false, Ordering::Release);
        let Some(slot) = &self.shared.filter else {
            self.shared.rewrites.fetch_add(1, Ordering::AcqRel);
            return Ok(()); // nothing judges, so everything is kept
        };
        let nodes = Arc::clone(&self.shared.now.lock().nodes);
        let mut judge = slot.judge(Paced::Yes);
        for (key, version) in nodes.iter().filter(|(key, _)| range.contains(key)) {
            if self.shared.cancelled.load(Ordering::Acquire) {
                return Err(StoreError::Cancelled);
            }
            let Some(bytes) = version.bytes() else { continue };
            if judge.judge(key, bytes.len()) == Verdict::Drop {
                self.sweep_one(key, version);
            }
        }
        self.shared.rewrites.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn cancel_rewrite(&self) {
        self.shared.cancelled.store(true, Ordering::Release);
    }

    fn node_files(&self) -> Result<Vec<NodeFile>, StoreError> {
        let nodes = Arc::clone(&self.shared.now.lock().nodes);
        let number = PARTS * self.shared.rewrites.load(Ordering::Acquire) + 1;
        let rows: Vec<Row<'_>> = nodes.iter().collect();
        let files = rows.chunk_by(|a, b| part_of(a.0) == part_of(b.0)).zip(number..);
        let file = |(rows, number): (&[Row<'_>], u64)| {
            Some(NodeFile {
                number,
                level: 6,
                bytes: rows.iter().map(|(key, version)| (key.len() + version.bytes.len()) as u64).sum(),
                first: rows.first()?.0.clone(),
                last: rows.last()?.0.clone(),
                entries: rows.len() as u64,
                deletes: 0,
            })
        };
        Ok(files.filter_map(file).collect())
    }

    fn node_blob_bytes(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn node_rows_hint(&self) -> Result<u64, StoreError> {
        Ok(self.shared.now.lock().nodes.len() as u64)
    }

    fn space(&self) -> Result<Space, StoreError> {
        let now = self.shared.now.lock().clone();
        let rows = now.tables.values().flat_map(|rows| rows.iter());
        Ok(Space {
            tables: bytes_of(&now.nodes) + rows.map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>(),
            blobs: 0,
            logs: 0,
            other: 0,
        })
    }

    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    fn sweep_slot(&self) -> Option<Arc<SweepSlot>> {
        self.shared.filter.clone()
    }
}

/// Files that the node family shows: keys are told apart by their first four bits.
const PARTS: u64 = 16;

fn part_of(key: &[u8]) -> u8 {
    key.first().map_or(0, |first| first >> 4)
}

fn bytes_of(nodes: &Nodes) -> u64 {
    nodes.iter().map(|(key, version)| (key.len() + version.bytes.len()) as u64).sum()
}

struct MemoryView(Image);

impl View for MemoryView {
    fn sequence(&self) -> u64 {
        self.0.sequence
    }

    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, StoreError> {
        let version = self.0.nodes.get(hash.as_bytes().as_slice());
        Ok(version.and_then(|version| version.bytes()).map(<[u8]>::to_vec))
    }

    fn nodes(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), StoreError> {
        for (index, hash) in hashes.iter().enumerate() {
            let version = self.0.nodes.get(hash.as_bytes().as_slice());
            each(index, version.and_then(|version| version.bytes()));
        }
        Ok(())
    }

    fn rows(
        &self,
        table: &Table,
        keys: &[[u8; 8]],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StoreError> {
        let rows = self.0.rows(table)?;
        keys.iter().enumerate().for_each(|(index, key)| each(index, rows.get(key.as_slice()).map(Vec::as_slice)));
        Ok(())
    }

    fn scan_nodes(&self, range: &KeyRange, each: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), StoreError> {
        let inside = self.0.nodes.iter().filter(|(key, _)| range.contains(key));
        for (key, bytes) in inside.filter_map(|(key, version)| Some((key, version.bytes()?))) {
            if each(key, bytes).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn row(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.rows(table)?.get(key).cloned())
    }

    fn scan(
        &self,
        table: &Table,
        range: &KeyRange,
        each: &mut dyn FnMut(&[u8], &[u8]) -> Flow,
    ) -> Result<(), StoreError> {
        for (key, value) in self.0.rows(table)?.iter().filter(|(key, _)| range.contains(key)) {
            if each(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn has_table(&self, table: &Table) -> bool {
        self.0.tables.contains_key(table)
    }
}
