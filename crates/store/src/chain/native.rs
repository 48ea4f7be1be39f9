//! The records of our own chain: head, floor, counts and one root per retained order.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use state_tree::{NodeHash, Order, StateRoot};

use super::{ChainView, Head, Hole, RootAt};
use crate::{
    backend::{KeyRange, View, visit_rows},
    error::StoreError,
    kept,
    record::{self, Record},
    schema::Table,
};

pub(crate) const HEAD_KEY: &[u8] = b"head";
pub(crate) const FLOOR_KEY: &[u8] = b"floor";

/// The root of one order, in `chain_root`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "InWords", into = "InWords")]
pub struct RootRecord {
    /// Root after the order.
    pub root: [u8; 32],
    /// Milliseconds since 1970 by the chain's clock.
    pub timestamp_ms: u64,
    /// Hash of the block.
    pub block_hash: [u8; 32],
    /// SHA-256 over the trail of the order before (zeros before genesis), this order in big-endian and its root. Two
    /// trails therefore stand for every root between them.
    pub trail: [u8; 32],
}

impl Record for RootRecord {
    const KIND: [u8; 4] = *b"ROOT";
    const VERSION: u16 = 2; // 1 had no trail
}

pub(crate) fn trail(before: Option<&RootRecord>, order: Order, root: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(before.map_or([0; 32], |record| record.trail));
    hasher.update(order.to_key());
    hasher.update(root);
    hasher.finalize().into()
}

/// A root record with its hashes as little-endian words: the same bytes in BCS, read in seven steps where 104 single bytes
/// took most of the time of reading a window.
#[derive(Serialize, Deserialize)]
struct InWords {
    root: [u128; 2],
    timestamp_ms: u64,
    block_hash: [u128; 2],
    trail: [u128; 2],
}

impl From<RootRecord> for InWords {
    fn from(record: RootRecord) -> Self {
        let RootRecord { root, timestamp_ms, block_hash, trail } = record;
        Self { root: to_words(root), timestamp_ms, block_hash: to_words(block_hash), trail: to_words(trail) }
    }
}

impl From<InWords> for RootRecord {
    fn from(record: InWords) -> Self {
        let InWords { root, timestamp_ms, block_hash, trail } = record;
        Self { root: to_hash(root), timestamp_ms, block_hash: to_hash(block_hash), trail: to_hash(trail) }
    }
}

pub(crate) fn to_words(hash: [u8; 32]) -> [u128; 2] {
    let mut words = [0; 2];
    for (word, bytes) in words.iter_mut().zip(hash.as_chunks::<16>().0) {
        *word = u128::from_le_bytes(*bytes);
    }
    words
}

pub(crate) fn to_hash(words: [u128; 2]) -> [u8; 32] {
    let mut hash = [0; 32];
    for (bytes, word) in hash.as_chunks_mut::<16>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    hash
}

/// The newest order with what was counted up to it, in `chain_meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// The newest order.
    pub order: u64,
    /// Its root record.
    pub at: RootRecord,
    /// Commits ever made; the id of the newest one.
    pub commits: u64,
    /// Nodes ever put, re-puts of present nodes included.
    pub nodes_put: u64,
    /// Bytes of nodes ever put.
    pub bytes_put: u64,
}

impl Record for HeadRecord {
    const KIND: [u8; 4] = *b"HEAD";
    const VERSION: u16 = 2;
}

/// The oldest readable order, in `chain_meta`. Absent before the first raise: then it is genesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FloorRecord {
    pub(crate) order: u64,
}

impl Record for FloorRecord {
    const KIND: [u8; 4] = *b"FLOR";
    const VERSION: u16 = 1;
}

pub(crate) fn read_head(view: &dyn View) -> Result<Option<HeadRecord>, StoreError> {
    view.row(&Table::CHAIN, HEAD_KEY)?.map(|bytes| record::decode("head", &bytes)).transpose()
}

pub(crate) fn read_root(view: &dyn View, order: Order) -> Result<Option<RootRecord>, StoreError> {
    view.row(&Table::ROOT, &order.to_key())?.map(|bytes| record::decode("root", &bytes)).transpose()
}

impl NativeChain {
    /// The record of an order at or above the floor of the view.
    ///
    /// Errors: a failed read, a record that is unusable.
    pub fn record(&self, view: &dyn View, order: Order) -> Result<Option<RootRecord>, StoreError> {
        read_root(view, order)
    }

    /// The record of an order that is readable: at or above the floor of the view, or kept below it.
    ///
    /// Errors: a failed read, a record that is unusable.
    pub fn readable_record(&self, view: &dyn View, order: Order) -> Result<Option<RootRecord>, StoreError> {
        read_root(view, order)?.map_or_else(|| kept::read(view, order), |record| Ok(Some(record)))
    }

    /// The single orders below the floor of the view that stay readable, with their roots.
    ///
    /// Errors: a failed read, a record that is unusable.
    pub fn kept(&self, view: &dyn View) -> Result<Vec<(Order, StateRoot)>, StoreError> {
        Ok(kept::load(view)?.into_iter().collect())
    }
}

fn check_trail(before: &RootRecord, order: Order, record: &RootRecord) -> Result<(), StoreError> {
    if trail(Some(before), order, &record.root) == record.trail {
        return Ok(());
    }
    let why = format!("the root of order {order} is not the one that its trail was laid over");
    Err(StoreError::Record { name: "root".to_owned(), why })
}

/// Reads the records that the commit gate writes.
#[derive(Debug, Clone, Copy)]
pub struct NativeChain;

impl ChainView for NativeChain {
    fn head(&self, view: &dyn View) -> Result<Option<Head>, StoreError> {
        let head = read_head(view)?;
        Ok(head.map(|record| Head {
            order: Order::new(record.order),
            root: StateRoot::new(NodeHash::new(record.at.root)),
            timestamp_ms: Some(record.at.timestamp_ms),
            block_hash: Some(record.at.block_hash),
        }))
    }

    fn root(&self, view: &dyn View, order: Order) -> Result<RootAt, StoreError> {
        Ok(match read_root(view, order)? {
            Some(record) => RootAt::Root(StateRoot::new(NodeHash::new(record.root))),
            None => RootAt::Hole(Hole::NoRecord),
        })
    }

    /// One scan: the orders of a window lie side by side, in the order of their keys. Every order has an answer (S11),
    /// and each root must be the one that the trails were laid over.
    fn roots(&self, view: &dyn View, first: Order, last: Order) -> Result<Vec<(Order, RootAt)>, StoreError> {
        let behind = last.next().map(|behind| behind.to_key().to_vec());
        let range = KeyRange { start: Some(first.to_key().to_vec()), end: behind };
        let mut answers = Vec::with_capacity(capacity(first, last));
        let (mut next, mut before) = (first.get(), None);
        visit_rows(view, &Table::ROOT, &range, &mut |key, value| {
            let order = order_of(key)?;
            let record: RootRecord = record::decode("root", value)?;
            if let Some(before) = before.filter(|_| order.get() == next) {
                check_trail(&before, order, &record)?;
            }
            before = Some(record);
            answers.extend((next..order.get()).map(no_record));
            answers.push((order, RootAt::Root(StateRoot::new(NodeHash::new(record.root)))));
            next = order.get().saturating_add(1);
            Ok(())
        })?;
        if answers.last().is_none_or(|(order, _)| *order < last) {
            answers.extend((next..=last.get()).map(no_record));
        }
        Ok(answers)
    }

    /// The trails at both ends of the window stand for every root in it.
    fn window_digest(&self, view: &dyn View, first: Order, last: Order) -> Result<Option<[u8; 32]>, StoreError> {
        let (Some(from), Some(to)) = (read_root(view, first)?, read_root(view, last)?) else { return Ok(None) };
        let mut hasher = Sha256::new();
        for (order, record) in [(first, from), (last, to)] {
            hasher.update(order.to_key());
            hasher.update(record.root);
            hasher.update(record.trail);
        }
        Ok(Some(hasher.finalize().into()))
    }

    fn sequenced(&self, _view: &dyn View) -> Result<Option<Order>, StoreError> {
        Ok(None)
    }

    fn floor(&self, view: &dyn View) -> Result<Order, StoreError> {
        let Some(bytes) = view.row(&Table::CHAIN, FLOOR_KEY)? else {
            return Ok(Order::GENESIS);
        };
        record::decode::<FloorRecord>("floor", &bytes).map(|record| Order::new(record.order))
    }
}

/// Most answers that room is made for before any row was seen.
const MOST_AHEAD: u64 = 1 << 16;

/// How many answers to make room for.
fn capacity(first: Order, last: Order) -> usize {
    let orders = last.get().saturating_sub(first.get()).saturating_add(1);
    orders.min(MOST_AHEAD) as usize
}

/// The order that a key of `chain_root` stands for.
fn order_of(key: &[u8]) -> Result<Order, StoreError> {
    let bytes: [u8; 8] = key.try_into().map_err(|_| StoreError::Record {
        name: "root".to_owned(),
        why: format!("its key has {} bytes where an order has 8", key.len()),
    })?;
    Ok(Order::new(u64::from_be_bytes(bytes)))
}

fn no_record(order: u64) -> (Order, RootAt) {
    (Order::new(order), RootAt::Hole(Hole::NoRecord))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Batch, Durability, MemoryBackend};

    fn pinned<R: Record + PartialEq + std::fmt::Debug>(record: &R, kind: &[u8; 4], payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let mut expected = [&b"SPR1"[..], kind, &R::VERSION.to_le_bytes(), &length, payload].concat();
        expected.extend_from_slice(&crc32fast::hash(&expected).to_le_bytes());
        assert_eq!(record::encode(record).unwrap(), expected);
        assert_eq!(record::decode::<R>("pinned", &expected).unwrap(), *record);
    }

    #[test]
    fn the_bytes_of_the_chain_records_are_pinned() {
        assert_eq!([RootRecord::VERSION, HeadRecord::VERSION, FloorRecord::VERSION], [2, 2, 1]);
        let counted = |first: u8| std::array::from_fn(|at| at as u8 + first);
        let [root, block_hash, trail]: [[u8; 32]; 3] = [0, 100, 200].map(counted);
        let at = RootRecord { root, timestamp_ms: 0x0102_0304, block_hash, trail };
        let at_bytes = [&root[..], &[4, 3, 2, 1, 0, 0, 0, 0], &block_hash, &trail].concat();
        pinned(&at, b"ROOT", &at_bytes);
        let head = HeadRecord { order: 258, at, commits: 259, nodes_put: 1, bytes_put: 2 };
        let le = |n: u64| n.to_le_bytes();
        pinned(&head, b"HEAD", &[&le(258)[..], &at_bytes, &le(259), &le(1), &le(2)].concat());
        pinned(&FloorRecord { order: 7 }, b"FLOR", &le(7));
    }

    fn following(before: Option<&RootRecord>, order: u64, root: [u8; 32]) -> RootRecord {
        let trail = trail(before, Order::new(order), &root);
        RootRecord { root, timestamp_ms: 0, block_hash: [0; 32], trail }
    }

    #[test]
    fn a_root_that_was_exchanged_is_no_root_of_its_window() {
        let honest: Vec<RootRecord> = (0..6).fold(Vec::new(), |mut rows, order| {
            rows.push(following(rows.last(), order, [order as u8; 32]));
            rows
        });
        let view_of = |rows: &[RootRecord]| {
            let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
            for (order, row) in (0..).zip(rows) {
                batch.put(Table::ROOT, Order::new(order).to_key(), record::encode(row).unwrap());
            }
            backend.write(&batch, Durability::Logged).unwrap();
            backend.view().unwrap()
        };
        let (first, last) = (Order::new(1), Order::new(5));
        let digest = |rows: &[RootRecord]| NativeChain.window_digest(&*view_of(rows), first, last).unwrap().unwrap();
        assert!(NativeChain.roots(&*view_of(&honest), first, last).is_ok());
        for exchanged in 2..=5 {
            let mut rows = honest.clone();
            rows[exchanged].root = [99; 32];
            assert!(NativeChain.roots(&*view_of(&rows), first, last).is_err(), "order {exchanged}");
            for order in exchanged..rows.len() {
                rows[order] = following(rows.get(order - 1).copied().as_ref(), order as u64, rows[order].root);
            }
            assert!(NativeChain.roots(&*view_of(&rows), first, last).is_ok(), "another history, whole in itself");
            assert_ne!(digest(&rows), digest(&honest), "order {exchanged}");
        }
        let shorter = NativeChain.window_digest(&*view_of(&honest[..5]), first, last).unwrap();
        assert_eq!(shorter, None, "an end without a record tells nothing");
    }

    /// A view of a chain with roots at these orders; the root of an order is its number, 32 times.
    fn view_of(orders: &[u64]) -> std::sync::Arc<dyn View> {
        let backend = MemoryBackend::new();
        let (mut batch, mut before) = (Batch::new(), None);
        for order in orders {
            let record = following(before.as_ref(), *order, [*order as u8; 32]);
            batch.put(Table::ROOT, Order::new(*order).to_key(), record::encode(&record).unwrap());
            before = Some(record);
        }
        backend.write(&batch, Durability::Logged).unwrap();
        backend.view().unwrap()
    }

    #[test]
    fn every_order_of_a_window_is_answered_in_order_whichever_rows_are_gone() {
        let rows: [&[u64]; 6] = [&[], &[0], &[3, 4, 5, 6], &[1, 2, 4, 6, 9], &[2, 3], &[6, 7]];
        for (present, (first, last)) in rows.into_iter().flat_map(|rows| [(3, 6), (4, 4), (0, 9)].map(|w| (rows, w))) {
            let expected: Vec<_> = (first..=last)
                .map(|order| {
                    let root = StateRoot::new(NodeHash::new([order as u8; 32]));
                    let at = if present.contains(&order) { RootAt::Root(root) } else { RootAt::Hole(Hole::NoRecord) };
                    (Order::new(order), at)
                })
                .collect();
            let answers = NativeChain.roots(&*view_of(present), Order::new(first), Order::new(last)).unwrap();
            assert_eq!(answers, expected, "rows {present:?}, orders {first} to {last}");
        }
    }

    #[test]
    fn the_last_order_of_the_number_range_is_answered() {
        let (first, last) = (Order::new(u64::MAX - 1), Order::new(u64::MAX));
        let answers = NativeChain.roots(&*view_of(&[u64::MAX]), first, last).unwrap();
        assert!(matches!(answers[..], [(_, RootAt::Hole(_)), (order, RootAt::Root(_))] if order == last));
    }

    #[test]
    fn a_row_among_the_roots_that_is_not_one_is_an_error_and_no_absence() {
        let roots = |key: &[u8], value: &[u8]| {
            let backend = MemoryBackend::new();
            let mut batch = Batch::new();
            batch.put(Table::ROOT, key, value);
            backend.write(&batch, Durability::Logged).unwrap();
            NativeChain.roots(&*backend.view().unwrap(), Order::GENESIS, Order::new(9))
        };
        let record = following(None, 5, [1; 32]);
        let good = record::encode(&record).unwrap();
        let key = Order::new(5).to_key();
        assert!(roots(&key, &good).is_ok());
        assert!(matches!(roots(&key, &good[1..]), Err(StoreError::Record { .. })));
        assert!(matches!(roots(&[&key[..], &[0]].concat(), &good), Err(StoreError::Record { .. })));
    }
}
