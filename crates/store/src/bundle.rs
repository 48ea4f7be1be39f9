//! Bundles: the marks that a commit has made, all of them in one row, until each has a row of its own.
//!
//! Each mark's own row lies at another place of the engine's memtable, which is in no cache: they would be the dearest rows of a
//! commit. So it writes one, and somebody who has time writes theirs ([`crate::Store::catch_up`]). A mark is made once the bundle is
//! written: it is in the batch of its commit (I9), a crash loses none, and a rollback takes the bundles above its target away.
//!
//! Promise: marks in bundles are few, and in memory, so whoever asks the disk asks them too. Whoever takes marks away, or writes over
//! them, has all of them in their rows first: what a bundle says later would undo it.
//!
//! Key: `bundle/`, then the order, big-endian, in `prune_meta`; value: a record of kind `BNDL`, which names the order, too, so that a
//! flipped bit of either is found (C5): a row that says it is a bundle under another key counts as one that cannot be read.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use state_tree::Order;

use crate::{
    backend::{Batch, KeyRange, View, visit_rows},
    error::StoreError,
    many::{self, Mark},
    record::{self, Record},
    schema::Table,
};

/// Marks of one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BundleRecord {
    /// That of the commit.
    pub(crate) order: u64,
    /// Fingerprints of nodes that nothing had marked before.
    pub(crate) marked: Vec<u64>,
}

impl Record for BundleRecord {
    const KIND: [u8; 4] = *b"BNDL";
    const VERSION: u16 = 1;
}

const PREFIX: &[u8] = b"bundle/";
/// The first key behind the prefix.
const BEHIND: &[u8] = b"bundle0";

/// Where the bundles are.
pub(crate) fn range() -> KeyRange {
    KeyRange::between(PREFIX, BEHIND)
}

pub(crate) fn key(order: Order) -> Vec<u8> {
    [PREFIX, &order.to_key()].concat()
}

/// What is in a bundle.
///
/// Errors: [`StoreError::Record`] with what is wrong, [`StoreError::Newer`].
pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<BundleRecord, StoreError> {
    let bundle: BundleRecord = record::decode("bundle of marks", value)?;
    if key == self::key(Order::new(bundle.order)) {
        return Ok(bundle);
    }
    let why = "its key is not the one of its order".to_owned();
    Err(StoreError::Record { name: "bundle of marks".to_owned(), why })
}

/// Takes every bundle above an order away, whoever left it.
pub(crate) fn delete_above(batch: &mut Batch, order: Order) {
    if let Some(first) = order.next() {
        batch.delete_range(Table::META, key(first), BEHIND);
    }
}

/// The bundles that are not unpacked, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bundles {
    bundles: VecDeque<Bundle>,
    /// Marks in all of them.
    marks: usize,
    /// Keys of bundles that cannot be read.
    torn: Vec<Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Bundle {
    order: Order,
    marked: Vec<u64>,
}

impl Bundles {
    /// Marks in bundles, at most: beyond that a commit writes rows for its own.
    pub(crate) const MOST: usize = 4096;

    /// Those of a view, and the first that cannot be read.
    ///
    /// Errors: a failed read, a record of a newer program (C17).
    pub(crate) fn load(view: &dyn View) -> Result<(Self, Option<StoreError>), StoreError> {
        let (mut bundles, mut unreadable, range) = (Self::default(), None, range());
        visit_rows(view, &Table::META, &KeyRange::ALL, &mut |key, value| {
            if !range.contains(key) && !record::is_of::<BundleRecord>(value) {
                return Ok(());
            }
            match decode(key, value) {
                Ok(BundleRecord { order, marked }) => bundles.push(Order::new(order), marked),
                Err(error @ StoreError::Newer { .. }) => return Err(error),
                Err(error) => {
                    bundles.torn.push(key.to_vec());
                    unreadable = unreadable.take().or(Some(error));
                }
            }
            Ok(())
        })?;
        Ok((bundles, unreadable))
    }

    /// A bundle that is written, or is to be.
    pub(crate) fn push(&mut self, order: Order, marked: Vec<u64>) {
        self.marks += marked.len();
        self.bundles.push_back(Bundle { order, marked });
    }

    /// Writes the one of the newest order as it is in memory, or takes it away.
    ///
    /// Errors: a fault of ours.
    pub(crate) fn put_newest(&self, rows: &mut Batch, order: Order) -> Result<(), StoreError> {
        let Some(Bundle { order, marked }) = self.bundles.back().filter(|newest| newest.order == order) else {
            rows.delete(Table::META, key(order));
            return Ok(());
        };
        let bundle = BundleRecord { order: order.get(), marked: marked.clone() };
        rows.put(Table::META, key(*order), record::encode(&bundle)?);
        Ok(())
    }

    /// Marks in all of them.
    pub(crate) fn marks(&self) -> usize {
        self.marks
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    /// Every mark in them.
    pub(crate) fn all(&self) -> impl Iterator<Item = u64> + '_ {
        self.bundles.iter().flat_map(|bundle| bundle.marked.iter().copied())
    }

    pub(crate) fn has(&self, fingerprint: u64) -> bool {
        self.all().any(|marked| marked == fingerprint)
    }

    /// Rows for at most so many of the oldest marks, and how many they are. The row of a bundle goes with its last mark.
    pub(crate) fn rows(&self, most: usize) -> (Batch, usize) {
        let (mut batch, mut left) = (Batch::new(), most);
        for Bundle { order, marked } in &self.bundles {
            let kept = marked.len().saturating_sub(left);
            for fingerprint in marked.iter().skip(kept) {
                many::put(&mut batch, *fingerprint, Mark::first(*order));
            }
            left -= marked.len() - kept;
            if kept > 0 {
                break;
            }
            batch.delete(Table::META, key(*order));
        }
        (batch, most - left)
    }

    /// Forgets so many of the oldest marks, with what is empty then: their rows are written.
    pub(crate) fn unpacked(&mut self, mut marks: usize) {
        self.marks -= marks;
        while let Some(bundle) = self.bundles.front_mut() {
            let kept = bundle.marked.len().saturating_sub(marks);
            marks -= bundle.marked.len() - kept;
            bundle.marked.truncate(kept);
            if kept > 0 {
                break;
            }
            self.bundles.pop_front();
        }
    }

    /// Takes those away that cannot be read: call once every mark that is needed is there without them.
    pub(crate) fn delete_torn(&self, batch: &mut Batch) {
        self.torn.iter().for_each(|key| batch.delete(Table::META, key.as_slice()));
    }

    /// The same is written.
    pub(crate) fn forget_torn(&mut self) {
        self.torn = Vec::new();
    }

    /// The marks that a rollback to an order takes away with their bundles.
    pub(crate) fn above(&self, to: Order) -> impl Iterator<Item = u64> + '_ {
        self.bundles.iter().filter(move |bundle| bundle.order > to).flat_map(|bundle| bundle.marked.iter().copied())
    }

    /// They are gone.
    pub(crate) fn roll_back(&mut self, to: Order) {
        self.bundles.retain(|bundle| bundle.order <= to);
        self.marks = self.bundles.iter().map(|bundle| bundle.marked.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{Backend, Durability, MemoryBackend},
        many::marked_on_disk,
    };

    /// A store with bundles of three and of two marks, and what of them is in memory.
    fn bundled() -> (MemoryBackend, Bundles) {
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        for (order, marked) in [(1, vec![11, 12, 13]), (4, vec![21, 22])] {
            batch.put(Table::META, key(Order::new(order)), record::encode(&BundleRecord { order, marked }).unwrap());
        }
        backend.write(&batch, Durability::Logged).unwrap();
        let (bundles, torn) = Bundles::load(&*backend.view().unwrap()).unwrap();
        assert!(torn.is_none());
        (backend, bundles)
    }

    fn in_bundles(backend: &MemoryBackend) -> usize {
        Bundles::load(&*backend.view().unwrap()).unwrap().0.marks()
    }

    #[test]
    fn marks_are_on_disk_at_every_step_of_unpacking_and_a_crash_in_between_only_writes_some_again() {
        for most in 1..=6 {
            let (backend, mut bundles) = bundled();
            while !bundles.is_empty() {
                let (rows, marks) = bundles.rows(most);
                assert!(marks > 0 && marks <= most, "{marks}, not {most} at most");
                backend.write(&rows, Durability::Logged).unwrap();
                bundles.unpacked(marks);
                let left = bundles.marks();
                assert!(in_bundles(&backend) >= left, "what memory has is there after a crash");
                assert_eq!(marked_on_disk(&*backend.view().unwrap()).unwrap(), [11, 12, 13, 21, 22].into());
            }
            assert_eq!(in_bundles(&backend), 0, "{most} at a time");
            let marks = many::read(&*backend.view().unwrap(), &[11, 12, 13, 21, 22]).unwrap();
            let orders: Vec<Mark> = marks.into_values().collect();
            assert_eq!(orders, [1, 1, 1, 4, 4].map(|order| Mark::first(Order::new(order))));
        }
    }

    #[test]
    fn a_rollback_takes_the_bundles_above_it_with_their_marks() {
        let (_, mut bundles) = bundled();
        let above = |order| bundles.above(Order::new(order)).collect::<Vec<_>>();
        assert_eq!((above(4), above(3)), (vec![], vec![21, 22]));
        bundles.roll_back(Order::new(3));
        assert_eq!((bundles.marks(), bundles.all().collect::<Vec<_>>()), (3, vec![11, 12, 13]));
        assert!(bundles.has(12) && !bundles.has(21));
    }

    #[test]
    fn a_bundle_that_cannot_be_read_is_told_and_one_of_a_newer_program_is_refused() {
        let good = record::encode(&BundleRecord { order: 7, marked: vec![1] }).unwrap();
        let mut bad = vec![(key(Order::new(7)), b"torn".to_vec()), (b"bundle/x".to_vec(), Vec::new())];
        for bit in 0..key(Order::new(7)).len() * 8 {
            let mut flipped = key(Order::new(7));
            flipped[bit / 8] ^= 1 << (bit % 8);
            bad.push((flipped, good.clone()));
        }
        for (name, value) in bad {
            let (backend, _) = bundled();
            let mut batch = Batch::new();
            batch.put(Table::META, name.as_slice(), value.as_slice());
            backend.write(&batch, Durability::Logged).unwrap();
            let (bundles, torn) = Bundles::load(&*backend.view().unwrap()).unwrap();
            assert!(matches!(torn, Some(StoreError::Record { .. })));
            assert_eq!(bundles.marks(), 5, "the others are there");
            let mut batch = Batch::new();
            bundles.delete_torn(&mut batch);
            backend.write(&batch, Durability::Logged).unwrap();
            assert!(Bundles::load(&*backend.view().unwrap()).unwrap().1.is_none(), "it is met no more");
        }
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        let mut newer = record::encode(&BundleRecord { order: 7, marked: vec![1] }).unwrap();
        newer[8] += 1;
        let body = newer.len() - 4;
        let sum = crc32fast::hash(&newer[..body]).to_le_bytes();
        newer[body..].copy_from_slice(&sum);
        batch.put(Table::META, key(Order::new(7)), newer);
        backend.write(&batch, Durability::Logged).unwrap();
        assert!(matches!(Bundles::load(&*backend.view().unwrap()), Err(StoreError::Newer { .. })));
    }

    #[test]
    fn the_bytes_of_a_bundle_are_pinned() {
        let bytes = record::encode(&BundleRecord { order: 258, marked: vec![0x0102, 3] }).unwrap();
        let payload =
            [&[2, 1, 0, 0, 0, 0, 0, 0][..], &[2u8, 2, 1, 0, 0, 0, 0, 0, 0], &[3, 0, 0, 0, 0, 0, 0, 0]].concat();
        let mut expected = [&b"SPR1BNDL"[..], &[1, 0, 25, 0, 0, 0], &payload].concat();
        expected.extend_from_slice(&crc32fast::hash(&expected).to_le_bytes());
        assert_eq!(bytes, expected);
        assert_eq!(key(Order::new(258)), [&b"bundle/"[..], &[0, 0, 0, 0, 0, 0, 1, 2]].concat());
    }
}
