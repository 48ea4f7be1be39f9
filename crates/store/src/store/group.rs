//! Journal entries that are worked on together, and the slices that are read of them.
//!
//! A slice is as long as its *weight* allows: its nodes and the children that were found below them, for both are judged,
//! written and indexed when it is taken. What is read stays read: a slice that is cut shorter reads nothing anew.
//!
//! Costs: one batched read of the nodes of a slice; nodes that go alone are not read. Nothing here takes a lock.

use std::num::NonZeroUsize;

use state_tree::{Expiring, Expiry, ExpiryStep, Found, NodeHash, NodeLayout, NodeSource, Order, TreeError};

use super::cursor::Layers;
use crate::{
    backend::{Flow, KeyRange, View},
    error::StoreError,
    journal::{self, JournalRecord},
    record,
    schema::Table,
};

/// Entries are worked on together until they name so many nodes, or are so many.
const GROUP_NODES: usize = 4096;
const GROUP_ROWS: usize = 256;

/// Entries that are worked on together.
#[derive(Debug)]
pub(super) struct Group {
    /// Their keys, with those of rows that cannot be read.
    pub(super) rows: Vec<Vec<u8>>,
    pub(super) last: Order,
    pub(super) expiry: Expiry,
    pub(super) layers: Layers,
    /// Orders whose rows cannot be read, with what is wrong.
    pub(super) bad: Vec<(Order, StoreError)>,
}

/// A slice that was read and waits to be taken.
#[derive(Debug)]
pub struct Slice {
    pub(super) step: ExpiryStep,
    pub(super) found: Found,
    last: Order,
}

impl Slice {
    /// Nodes whose children cannot be told, left to a major cycle, which finds out whether a live state has them.
    pub fn set_aside(&self) -> &[(NodeHash, TreeError)] {
        &self.found.set_aside
    }

    /// The newest order of the entries that it is of.
    pub fn last(&self) -> Order {
        self.last
    }

    /// Its nodes and the children that were found below them.
    pub(super) fn weight(&self) -> usize {
        self.found.weight(&self.step)
    }
}

/// How long a slice may get.
#[derive(Clone, Copy)]
pub struct SliceLimit<'a> {
    /// What it may weigh at most, in nodes, the first few nodes aside.
    pub most: NonZeroUsize,
    /// Whether there is time to read as many nodes again as were read (P9).
    pub goes_on: &'a dyn Fn() -> bool,
}

/// Nodes that are read before anybody asks for the time.
const FIRST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);

impl Group {
    /// The next slice: twice as many nodes each time, while there is room and time.
    ///
    /// Errors: a failed read.
    pub(super) fn read(
        &self,
        limit: SliceLimit<'_>,
        view: &dyn View,
        layout: &dyn NodeLayout,
    ) -> Result<Slice, TreeError> {
        let SliceLimit { most, goes_on } = limit;
        let first = FIRST.min(most);
        let mut size = first;
        let mut slice = Slice { step: self.expiry.step(size), found: Found::default(), last: self.last };
        slice.found.read_on(&slice.step, &Nodes(view), layout)?;
        loop {
            let room = fitting(most, size, slice.weight());
            if room <= size || slice.step.is_whole() || !(slice.step.reads_nothing() || goes_on()) {
                break;
            }
            size = room.min(size.saturating_add(size.get()));
            slice.step = self.expiry.step(size);
            slice.found.read_on(&slice.step, &Nodes(view), layout)?;
        }
        while slice.weight() > most.get() && size > first {
            size = fitting(most, size, slice.weight()).max(first); // less: the last nodes had more below them than the first
            slice.step = self.expiry.step(size);
        }
        slice.found.keep_to(&slice.step);
        Ok(slice)
    }

    /// The next entries at or below the cutoff, or nothing if there are none.
    pub(super) fn behind(view: &dyn View, done: Option<Order>, cutoff: Order) -> Result<Option<Self>, StoreError> {
        let Rows { keys, entries, bad } = read_rows(view, done, cutoff, (GROUP_ROWS, GROUP_NODES))?;
        let Some(key) = keys.last() else { return Ok(None) };
        let last = journal::place_of(key); // of a bad row, too: nobody comes upon it again
        Ok(Some(Self { expiry: Expiry::new(&entries), rows: keys, last, layers: Layers::default(), bad }))
    }
}

/// How many nodes weigh `most` where `size` of them weigh so much.
fn fitting(most: NonZeroUsize, size: NonZeroUsize, weight: usize) -> NonZeroUsize {
    let nodes = size.get().saturating_mul(most.get()) / weight.max(1);
    NonZeroUsize::new(nodes).map_or(NonZeroUsize::MIN, |nodes| nodes.min(most))
}

/// Rows of the journal.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) keys: Vec<Vec<u8>>,
    /// What those that can be read name, together.
    pub(super) entries: Expiring,
    pub(super) bad: Vec<(Order, StoreError)>,
}

/// The rows of the orders behind `done` up to `last`, until they are as many as may be.
pub(super) fn read_rows(
    view: &dyn View,
    done: Option<Order>,
    last: Order,
    (most_rows, most_nodes): (usize, usize),
) -> Result<Rows, StoreError> {
    let bound = |order: Option<Order>| order.and_then(Order::next).map(|order| order.to_key().to_vec());
    let range = KeyRange { start: bound(done), end: bound(Some(last)) }; // from the cursor, past no tombstones (L3)
    let mut rows = Rows::default();
    view.scan(&Table::JOURNAL, &range, &mut |key, value| {
        if !journal::is_ours(key) {
            return Flow::Continue(()); // no commit's: it was told when the journal was indexed, and a major cycle takes it
        }
        match journal::order_of(key).and_then(|_| record::decode::<JournalRecord>("journal", value)) {
            Ok(row) => rows.entries.extend(row.expiring()),
            Err(error) => rows.bad.push((journal::place_of(key), error)),
        }
        rows.keys.push(key.to_vec());
        let nodes = rows.entries.stale.len() + rows.entries.dropped.len();
        if rows.keys.len() >= most_rows || nodes >= most_nodes { Flow::Break(()) } else { Flow::Continue(()) }
    })?;
    Ok(rows)
}

/// The nodes of a view.
struct Nodes<'a>(&'a dyn View);

impl NodeSource for Nodes<'_> {
    fn read(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError> {
        self.0
            .nodes(hashes, each)
            .map_err(|error| TreeError::ReadBatch { nodes: hashes.len(), source: Box::new(error) })
    }
}

/// What a source of ours failed with.
pub(super) fn unread(error: TreeError) -> StoreError {
    let TreeError::ReadBatch { source, .. } = error else { return StoreError::Invariant(error.to_string()) };
    match source.downcast::<StoreError>() {
        Ok(error) => *error,
        Err(error) => StoreError::Invariant(error.to_string()),
    }
}
