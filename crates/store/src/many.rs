//! The *many* marks: nodes that more than one place may have, each with the order of the commit that marked it last.
//!
//! Key: fingerprint, big-endian; value: order, big-endian, then the CRC-32 of both, little-endian, so that a flipped bit of
//! a row is found (C5). Two nodes that share a fingerprint share the mark, which only keeps more (I6). Only a major cycle takes marks away: a count that is never decremented cannot drift (S32, S34).
//!
//! [`Marks`] holds them in memory, so that neither a commit nor a slice reads for them under the gate, and a mark that is made
//! again is not written again. It is part of what the gate guards: whatever is marked on disk is in it, or it knows that it
//! does not know. An order on disk may therefore be older than the last mark: what an earlier process marked counts as marked
//! when this one began, which only keeps it for longer.
//!
//! A rollback takes back the marks that the orders above it made first: what was not marked before needed no mark in the state
//! that is gone back to. Which those are is known only in the process that made them, while the marks have room in memory and
//! no cycle has looked for shared nodes since; other marks stay, and only keep more.
//!
//! A row whose key has a flipped bit marks another node than it was written for, and nobody who asks for that one comes upon it
//! (C5). So every row is read before marks are relied on: those that have room in memory when the store is opened, the others
//! before the first slice and before each cycle, once per process, without the gate. What goes bad later is the engine's to
//! find: its block checksums cover what was written then.
//!
//! Costs: 20 bytes of disk per shared node; 8 bytes of memory per mark that the orders above the floor made first; in memory
//! about 40 bytes each up to a limit, beyond which marks are read again, one batched read per commit and slice, and written
//! each time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    ops::Bound,
};

use state_tree::{NodeHash, Order};

use crate::{
    backend::{Batch, Flow, KeyRange, View},
    barrier::ByFingerprint,
    error::StoreError,
    schema::Table,
};

/// Fingerprints, each with the order of its last mark.
type Orders = HashMap<u64, Order, ByFingerprint>;

/// The marks as of the last write under the gate.
#[derive(Debug)]
pub(crate) struct Marks {
    /// Nothing once there are too many of them.
    known: Option<Orders>,
    /// The most that are held.
    limit: usize,
    /// Marks that were made again up to this order may have an older one on disk.
    unsure: Order,
    /// Fingerprints that had no mark before these orders marked them.
    new: BTreeMap<Order, Vec<u64>>,
    /// Whether there are rows of an earlier process that nobody has read.
    unchecked: bool,
}

/// What is known of the marks of some nodes.
pub(crate) enum Marked<'a> {
    /// Nobody knows, so every node is (I8).
    All,
    /// These, of all there are.
    Known(&'a Orders),
    /// These, of the nodes that were asked for.
    Read(BTreeSet<u64>),
}

impl Marks {
    /// No marks, and room for so many.
    pub(crate) fn none(limit: usize) -> Self {
        let (unsure, new) = (Order::GENESIS, BTreeMap::new());
        Self { known: Some(Orders::default()), limit, unsure, new, unchecked: false }
    }

    /// The marks of a view whose newest order is `head`, in one scan of at most as many rows as have room, and the first that
    /// cannot be read: it may stand for a node that nothing else marks.
    ///
    /// Errors: a failed read.
    pub(crate) fn load(view: &dyn View, head: Order, limit: usize) -> Result<(Self, Option<StoreError>), StoreError> {
        let (mut marks, mut unreadable) = (Self { unsure: head, ..Self::none(limit) }, None);
        view.scan(&Table::MANY, &KeyRange::ALL, &mut |key, value| {
            unreadable = unreadable.take().or_else(|| check(key, value).err());
            marks.add(number(key), head);
            if marks.known.is_some() { Flow::Continue(()) } else { Flow::Break(()) }
        })?;
        marks.unchecked = marks.known.is_none();
        Ok((marks, unreadable))
    }

    /// These are marked on disk now, as of an order or a later one.
    pub(crate) fn add(&mut self, fingerprints: impl IntoIterator<Item = u64>, order: Order) {
        self.note(fingerprints, order, |_| ());
    }

    /// Shows each that was not marked before.
    fn note(&mut self, fingerprints: impl IntoIterator<Item = u64>, order: Order, mut first: impl FnMut(u64)) {
        let Some(known) = &mut self.known else { return };
        for fingerprint in fingerprints {
            match known.entry(fingerprint) {
                Entry::Occupied(mut last) => *last.get_mut() = order.max(*last.get()),
                Entry::Vacant(place) => {
                    place.insert(order);
                    first(fingerprint);
                }
            }
        }
        if known.len() > self.limit {
            self.forget();
        }
    }

    /// A commit has marked these, on disk as well. No rollback goes below the floor.
    pub(crate) fn make(&mut self, fingerprints: impl IntoIterator<Item = u64>, order: Order, floor: Order) {
        let mut new = Vec::new();
        self.note(fingerprints, order, |fingerprint| new.push(fingerprint));
        if !new.is_empty() && self.known.is_some() {
            self.new.insert(order, new);
        }
        while self.new.first_key_value().is_some_and(|(made, _)| *made <= floor) {
            self.new.pop_first();
        }
    }

    /// A cycle has found which nodes are shared: marks that are there already may be needed by the state it looked at.
    pub(crate) fn keep_all(&mut self) {
        self.new.clear();
    }

    /// The marks that orders above this one made first, as far as that is known.
    pub(crate) fn made_above(&self, order: Order) -> Vec<u64> {
        let above = self.new.range((Bound::Excluded(order), Bound::Unbounded));
        above.flat_map(|(_, new)| new).copied().filter(|fingerprint| self.is_written(*fingerprint)).collect()
    }

    /// Whether rows of an earlier process may be bad without anybody knowing.
    pub(crate) fn is_unchecked(&self) -> bool {
        self.unchecked
    }

    /// Every row was read.
    pub(crate) fn checked(&mut self) {
        self.unchecked = false;
    }

    /// How many there are, as far as they have room.
    pub(crate) fn count(&self) -> Option<u64> {
        self.known.as_ref().map(|known| known.len() as u64)
    }

    /// Nothing above this order has made a mark.
    pub(crate) fn forget_above(&mut self, order: Order) {
        while self.new.last_key_value().is_some_and(|(made, _)| *made > order) {
            self.new.pop_last();
        }
    }

    /// These are not marked on disk any more.
    pub(crate) fn remove<'a>(&mut self, fingerprints: impl IntoIterator<Item = &'a u64>) {
        let Some(known) = &mut self.known else { return };
        for fingerprint in fingerprints {
            known.remove(fingerprint);
        }
    }

    /// What is marked on disk is not known any more: it is read from here on.
    pub(crate) fn forget(&mut self) {
        self.new.clear();
        let last = self.known.take().and_then(|known| known.into_values().max());
        self.unsure = self.unsure.max(last.map_or(Order::GENESIS, |last| last));
    }

    /// Whether the mark is on disk for certain, so that it need not be written when it is made again.
    pub(crate) fn is_written(&self, fingerprint: u64) -> bool {
        self.known.as_ref().is_some_and(|known| known.contains_key(&fingerprint))
    }

    /// Whether a mark, with its order on disk, was not made again after `traced`. One that cannot be read is judged by what is
    /// in memory, or is not old.
    pub(crate) fn is_old(&self, (fingerprint, on_disk): (u64, Order), traced: Order) -> bool {
        let last = match &self.known {
            Some(known) => known.get(&fingerprint).copied(),
            None => Some(self.unsure),
        };
        let is_old = on_disk <= traced || (on_disk == UNREADABLE && self.known.is_some());
        is_old && last.is_none_or(|last| last <= traced)
    }

    /// Looks up those that `asked` names, or all at once where they are in memory.
    ///
    /// Errors: a failed read.
    pub(crate) fn ask(&self, view: &dyn View, asked: impl FnOnce() -> BTreeSet<u64>) -> Result<Marked<'_>, StoreError> {
        if let Some(known) = &self.known {
            return Ok(Marked::Known(known));
        }
        let asked: Vec<u64> = asked().into_iter().collect();
        Ok(Marked::Read(read(view, &asked)?.into_keys().collect()))
    }
}

impl Marked<'_> {
    /// Whether the node, which was asked for, is marked.
    pub(crate) fn contains(&self, hash: &NodeHash) -> bool {
        match self {
            Self::All => true,
            Self::Known(known) => known.contains_key(&hash.fingerprint()),
            Self::Read(read) => read.contains(&hash.fingerprint()),
        }
    }

    /// Whether any node is known to be marked, asked for or not.
    pub(crate) fn is_known(&self, hash: &NodeHash) -> bool {
        matches!(self, Self::Known(_)) && self.contains(hash)
    }
}

/// Marks a node as of an order.
pub(crate) fn put(batch: &mut Batch, fingerprint: u64, order: Order) {
    let key = fingerprint.to_be_bytes();
    let order = order.to_key();
    let sum = sum(&key, &order).to_le_bytes();
    batch.put(Table::MANY, key, [&order[..], &sum].concat());
}

/// Takes a mark away.
pub(crate) fn delete(batch: &mut Batch, fingerprint: u64) {
    batch.delete(Table::MANY, fingerprint.to_be_bytes());
}

/// Which of some fingerprints, sorted and unique, are marked, and as of when.
///
/// Errors: a failed read.
pub(crate) fn read(view: &dyn View, fingerprints: &[u64]) -> Result<BTreeMap<u64, Order>, StoreError> {
    let mut marked = BTreeMap::new();
    if fingerprints.is_empty() {
        return Ok(marked);
    }
    let keys: Vec<[u8; 8]> = fingerprints.iter().map(|fingerprint| fingerprint.to_be_bytes()).collect();
    view.rows(&Table::MANY, &keys, &mut |index, value| {
        if let (Some(fingerprint), Some(value)) = (fingerprints.get(index), value) {
            marked.insert(*fingerprint, order_of(&fingerprint.to_be_bytes(), value));
        }
    })?;
    Ok(marked)
}

/// Stands for an order that cannot be read: no mark of it is older than anything (I8).
pub(crate) const UNREADABLE: Order = Order::new(u64::MAX);

/// The order that the value of a row stands for, or [`UNREADABLE`].
pub(crate) fn order_of(key: &[u8], value: &[u8]) -> Order {
    match decode(key, value) {
        Ok(order) => order,
        Err(_) => UNREADABLE,
    }
}

/// Whether a row is what was written.
///
/// Errors: [`StoreError::Record`] with what is wrong.
pub(crate) fn check(key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    decode(key, value).map(|_| ())
}

/// The first row that is not what was written, with what is wrong.
///
/// Errors: a failed read.
pub(crate) fn first_bad(view: &dyn View) -> Result<Option<StoreError>, StoreError> {
    let mut bad = None;
    view.scan(&Table::MANY, &KeyRange::ALL, &mut |key, value| {
        bad = check(key, value).err();
        if bad.is_none() { Flow::Continue(()) } else { Flow::Break(()) }
    })?;
    Ok(bad)
}

fn decode(key: &[u8], value: &[u8]) -> Result<Order, StoreError> {
    let bad = |why: String| StoreError::Record { name: "mark of a shared node".to_owned(), why };
    number(key).ok_or_else(|| bad(format!("its key has {} bytes, not 8", key.len())))?;
    let parts = value.split_last_chunk::<4>().and_then(|(order, sum)| Some((number(order)?, order, sum)));
    let (number, order, told) = parts.ok_or_else(|| bad(format!("its value has {} bytes, not 12", value.len())))?;
    if sum(key, order) != u32::from_le_bytes(*told) {
        return Err(bad("its checksum does not match".to_owned()));
    }
    Ok(Order::new(number))
}

fn sum(key: &[u8], order: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(order);
    hasher.finalize()
}

/// The number that eight bytes are, if they are eight.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().filter(|_| bytes.len() == 8).map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Durability, MemoryBackend};

    fn hash(n: u64) -> NodeHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        NodeHash::new(bytes)
    }

    #[test]
    fn marks_in_memory_answer_as_those_on_disk_do_and_too_many_are_read_again() {
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        [3, 5].into_iter().for_each(|n| put(&mut batch, n, Order::new(1)));
        backend.write(&batch, Durability::Logged).unwrap();
        let view = backend.view().unwrap();
        let mut marks = Marks::load(&*view, Order::new(1), 9).unwrap().0;
        let answers = |marks: &Marks| {
            let marked = marks.ask(&*view, || (3..7).collect()).unwrap();
            [3, 4, 5, 6].map(|n| marked.contains(&hash(n)))
        };
        assert_eq!(answers(&marks), [true, false, true, false]);
        marks.add([6], Order::new(2));
        marks.remove(&[3]);
        assert_eq!(answers(&marks), [false, false, true, true]);
        marks.add(100..108, Order::new(2));
        assert_eq!(marks.count(), None);
        assert!(matches!(marks.ask(&*view, BTreeSet::new).unwrap(), Marked::Read(_)));
        assert_eq!(answers(&marks), [true, false, true, false], "as the disk has it");
        assert!(
            !marks.ask(&*view, || [3].into()).unwrap().is_known(&hash(3)),
            "only what is in memory is known unasked"
        );
    }

    #[test]
    fn every_single_flipped_bit_of_a_mark_is_found_and_never_makes_it_old() {
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        put(&mut batch, 7, Order::new(258));
        backend.write(&batch, Durability::Logged).unwrap();
        let mut row = None;
        let mut take = |key: &[u8], value: &[u8]| {
            row = Some([key, value].concat());
            Flow::Continue(())
        };
        backend.view().unwrap().scan(&Table::MANY, &KeyRange::ALL, &mut take).unwrap();
        let row = row.unwrap();
        assert_eq!(hex::encode(&row), "00000000000000070000000000000102f176cf7f");
        check(&row[..8], &row[8..]).unwrap();
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (key, value) = flipped.split_at(8);
            assert!(check(key, value).is_err(), "bit {bit}");
            assert_eq!(order_of(key, value), Order::new(u64::MAX), "bit {bit}");
        }
        for cut in 0..12 {
            assert!(check(&row[..8], &row[8..8 + cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_mark_that_may_have_been_made_again_is_not_old() {
        let order = Order::new;
        let is_old = |marks: &Marks, on_disk, traced| marks.is_old((7, order(on_disk)), order(traced));
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        put(&mut batch, 7, order(3));
        backend.write(&batch, Durability::Logged).unwrap();
        let mut marks = Marks::load(&*backend.view().unwrap(), order(5), 9).unwrap().0;
        assert!(marks.is_written(7) && !marks.is_written(8));
        assert!(!is_old(&marks, 3, 4), "the process before may have made it again up to its last order");
        assert!(is_old(&marks, 3, 5));
        marks.add([7], order(9));
        marks.add([7], order(8));
        assert!(!is_old(&marks, 3, 8) && is_old(&marks, 3, 9));
        marks.forget();
        assert!(!marks.is_written(7));
        assert!(!is_old(&marks, 3, 8), "nobody knows any more which of them were made again");
        assert!(is_old(&marks, 3, 9) && !is_old(&marks, 10, 9));
    }
}
