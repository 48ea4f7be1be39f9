//! One row of a mark: what it says, and reading and writing them.

use std::collections::{BTreeMap, BTreeSet};

use state_tree::Order;

use crate::{
    backend::{Batch, Flow, KeyRange, View},
    ending::{Ending, GoesOn},
    error::StoreError,
    schema::Table,
};

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) order: Order,
    /// Whether nothing had marked the node before that order.
    is_first: bool,
}

/// In a row, beside the order: it was the first. A row without it is kept by every rollback.
const FIRST: u64 = 1 << 63;

impl Mark {
    /// Stands for a row that cannot be read: it is not older than anything (I8).
    pub(crate) const UNREADABLE: Self = Self { order: Order::new(u64::MAX), is_first: false };

    pub(crate) fn first(order: Order) -> Self {
        Self { order, is_first: true }
    }

    /// An earlier order may have made it, too.
    pub(crate) fn again(order: Order) -> Self {
        Self { order, is_first: false }
    }

    /// Whether a rollback to this order takes it back.
    pub(crate) fn is_first_above(self, order: Order) -> bool {
        self.is_first && self.order > order
    }

    fn of(number: u64) -> Self {
        Self { order: Order::new(number & !FIRST), is_first: number & FIRST != 0 }
    }

    fn number(self) -> u64 {
        self.order.get() | if self.is_first { FIRST } else { 0 }
    }
}

/// Marks a node.
pub(crate) fn put(batch: &mut Batch, fingerprint: u64, mark: Mark) {
    let (key, number) = (fingerprint.to_be_bytes(), mark.number().to_be_bytes());
    let sum = sum(&key, &number).to_le_bytes();
    batch.put(Table::MANY, key, [&number[..], &sum].concat());
}

/// Takes a mark away.
pub(crate) fn delete(batch: &mut Batch, fingerprint: u64) {
    batch.delete(Table::MANY, fingerprint.to_be_bytes());
}

/// The marks of some fingerprints, sorted and unique, as far as they have one.
///
/// Errors: a failed read.
pub(crate) fn read(view: &dyn View, fingerprints: &[u64]) -> Result<BTreeMap<u64, Mark>, StoreError> {
    let mut marked = BTreeMap::new();
    if fingerprints.is_empty() {
        return Ok(marked);
    }
    let keys: Vec<[u8; 8]> = fingerprints.iter().map(|fingerprint| fingerprint.to_be_bytes()).collect();
    view.rows(&Table::MANY, &keys, &mut |index, value| {
        if let (Some(fingerprint), Some(value)) = (fingerprints.get(index), value) {
            marked.insert(*fingerprint, mark_of(&fingerprint.to_be_bytes(), value));
        }
    })?;
    Ok(marked)
}

/// Which of some fingerprints are marked.
///
/// Errors: a failed read.
pub(crate) fn marked_of(view: &dyn View, asked: BTreeSet<u64>) -> Result<BTreeSet<u64>, StoreError> {
    let asked: Vec<u64> = asked.into_iter().collect();
    Ok(read(view, &asked)?.into_keys().collect())
}

/// What a row says, or [`Mark::UNREADABLE`].
pub(crate) fn mark_of(key: &[u8], value: &[u8]) -> Mark {
    match decode(key, value) {
        Ok(mark) => mark,
        Err(_) => Mark::UNREADABLE,
    }
}

/// The nodes that nothing had marked before an order above this one did.
///
/// Errors: a failed read.
pub(crate) fn first_made_above(view: &dyn View, order: Order) -> Result<Vec<u64>, StoreError> {
    let mut made = Vec::new();
    view.scan(&Table::MANY, &KeyRange::ALL, &mut |key, value| {
        made.extend(number(key).filter(|_| mark_of(key, value).is_first_above(order)));
        Flow::Continue(())
    })?;
    Ok(made)
}

/// Whether a row is what was written.
///
/// Errors: [`StoreError::Record`] with what is wrong.
pub(crate) fn check(key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    decode(key, value).map(|_| ())
}

/// The first row that is not what was written, with what is wrong.
///
/// Errors: a failed read, [`StoreError::Cancelled`] once told to end.
pub(crate) fn first_bad(view: &dyn View, goes_on: GoesOn<'_>) -> Result<Option<StoreError>, StoreError> {
    let (mut ending, mut found) = (Ending::new(goes_on), Ok(None));
    view.scan(&Table::MANY, &KeyRange::ALL, &mut |key, value| {
        found = ending.go_on().map(|()| check(key, value).err());
        if matches!(found, Ok(None)) { Flow::Continue(()) } else { Flow::Break(()) }
    })?;
    found
}

fn decode(key: &[u8], value: &[u8]) -> Result<Mark, StoreError> {
    let bad = |why: String| StoreError::Record { name: "mark of a shared node".to_owned(), why };
    number(key).ok_or_else(|| bad(format!("its key has {} bytes, not 8", key.len())))?;
    let parts = value.split_last_chunk::<4>().and_then(|(order, sum)| Some((number(order)?, order, sum)));
    let (number, order, told) = parts.ok_or_else(|| bad(format!("its value has {} bytes, not 12", value.len())))?;
    if sum(key, order) != u32::from_le_bytes(*told) {
        return Err(bad("its checksum does not match".to_owned()));
    }
    Ok(Mark::of(number))
}

fn sum(key: &[u8], number: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(number);
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

    #[test]
    fn every_single_flipped_bit_of_a_mark_is_found_and_never_makes_it_old() {
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        put(&mut batch, 7, Mark::again(Order::new(258)));
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
            assert_eq!(mark_of(key, value), Mark::UNREADABLE, "bit {bit}");
        }
        for cut in 0..12 {
            assert!(check(&row[..8], &row[8..8 + cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_row_says_whether_its_order_was_the_first() {
        let (first, again) = (Mark::first(Order::new(258)), Mark::again(Order::new(258)));
        assert_eq!((first.number(), again.number()), (0x8000_0000_0000_0102, 0x102));
        for mark in [first, again] {
            assert_eq!(Mark::of(mark.number()), mark);
        }
        let above = |at: u64| [first, again].map(|mark| mark.is_first_above(Order::new(at)));
        assert_eq!((above(257), above(258)), ([true, false], [false, false]));
    }
}
