//! The commit journal: what each commit created, replaced and dropped, in the batch of the commit itself.
//!
//! Key: order, then commit id, both big-endian. Commit ids are never reused, so the rows of an order that was rolled
//! back and committed again cannot be confused. Value: a record of kind `JRNL`. Each order up to the head has one row, so a
//! row with another key is no commit's: it says nothing of what was created, and nothing goes on the strength of it (I8).
//!
//! What it serves: the barrier is rebuilt from `created` after a restart (S20), and what an entry names may go once its
//! order has fallen to the cutoff, unless a later commit created it again ([`crate::pending`]).
//! Costs: 8 bytes per created hash, 32 per stale node or dropped root, 8 per commit.

use serde::{Deserialize, Serialize};
use state_tree::{Delta, Expiring, NodeHash, Order};

use crate::{
    backend::{Flow, KeyRange, View, visit_rows},
    error::StoreError,
    record::{self, Record},
    schema::Table,
};

/// One commit's effect on the set of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRecord {
    /// Milliseconds since 1970 by the chain's clock.
    pub timestamp_ms: u64,
    /// Fingerprints of every node the commit emitted (I4).
    pub created: Vec<u64>,
    /// Nodes that left their last place in this order: it is the first one whose state lacks them (S31).
    #[serde(with = "in_words")]
    pub stale: Vec<[u8; 32]>,
    /// Roots of trees that left their last place in this order.
    #[serde(with = "in_words")]
    pub dropped: Vec<[u8; 32]>,
}

/// Hashes as little-endian words: the same bytes in BCS, in two steps each where single bytes take thirty-two.
mod in_words {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::chain::{to_hash, to_words};

    pub(super) fn serialize<S: Serializer>(hashes: &[[u8; 32]], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(hashes.iter().map(|hash| to_words(*hash)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<[u8; 32]>, D::Error> {
        let words: Vec<[u128; 2]> = Vec::deserialize(from)?;
        Ok(words.into_iter().map(to_hash).collect())
    }
}

impl Record for JournalRecord {
    const KIND: [u8; 4] = *b"JRNL";
    const VERSION: u16 = 2; // 1 named nodes without asking whether another place has them
}

impl JournalRecord {
    pub(crate) fn new(timestamp_ms: u64, delta: &Delta, expiring: &Expiring) -> Self {
        let raw = |hashes: &[NodeHash]| hashes.iter().map(|hash| *hash.as_bytes()).collect();
        Self {
            timestamp_ms,
            created: delta.created.keys().map(NodeHash::fingerprint).collect(),
            stale: raw(&expiring.stale),
            dropped: raw(&expiring.dropped),
        }
    }

    /// What may go once the order has fallen to the cutoff.
    pub(crate) fn expiring(&self) -> Expiring {
        let hashes = |raw: &[[u8; 32]]| raw.iter().copied().map(NodeHash::new).collect();
        Expiring { stale: hashes(&self.stale), dropped: hashes(&self.dropped) }
    }
}

pub(crate) fn key(order: Order, commit: u64) -> Vec<u8> {
    [order.to_key(), commit.to_be_bytes()].concat()
}

/// Bytes of a key that a commit gives.
const KEY_BYTES: usize = 16;
/// Rows of nobody that go at once; what is left goes with the next cycle.
const MOST_STRAYS: usize = 4096;

/// Whether a key may be one that a commit gave.
pub(crate) fn is_ours(key: &[u8]) -> bool {
    key.len() == KEY_BYTES
}

pub(crate) fn order_of(key: &[u8]) -> Result<Order, StoreError> {
    let bad = || StoreError::Record { name: "journal key".to_owned(), why: format!("{} bytes, not 16", key.len()) };
    let whole: [u8; KEY_BYTES] = key.try_into().map_err(|_| bad())?;
    let [a, b, c, d, e, f, g, h, ..] = whole;
    Ok(Order::new(u64::from_be_bytes([a, b, c, d, e, f, g, h])))
}

/// The order that a row sorts with, also where its key is none of ours.
pub(crate) fn place_of(key: &[u8]) -> Order {
    let mut order = [0; 8];
    order.iter_mut().zip(key).for_each(|(byte, at)| *byte = *at);
    Order::new(u64::from_be_bytes(order))
}

/// The row of the order after `last`, or a further one of `last` itself.
fn following(last: Order, key: &[u8], value: &[u8]) -> Result<(Order, JournalRecord), StoreError> {
    let order = order_of(key)?;
    if order != last && Some(order) != last.next() {
        return Err(StoreError::JournalGap(last.next().map_or(order, |missing| missing)));
    }
    Ok((order, record::decode("journal", value)?))
}

/// Visits the records of the orders after `since` up to `head`, and proves that each of those orders has one (C11).
pub(crate) fn replay(
    view: &dyn View,
    since: Order,
    head: Order,
    each: &mut dyn FnMut(Order, JournalRecord),
) -> Result<(), StoreError> {
    let start = since.next().map(|order| order.to_key().to_vec());
    let range = KeyRange { start, end: head.next().map(|order| order.to_key().to_vec()) };
    let mut last = since;
    visit_rows(view, &Table::JOURNAL, &range, &mut |key, value| {
        if !is_ours(key) {
            return Ok(());
        }
        let (order, row) = following(last, key, value)?;
        last = order;
        each(order, row);
        Ok(())
    })?;
    if last < head { Err(StoreError::JournalGap(last.next().map_or(head, |missing| missing))) } else { Ok(()) }
}

/// Keys before those of the first order and beyond those of the head, as many as may go at once: no commit gave them. Call
/// under the gate, with a view of then.
pub(crate) fn strays(view: &dyn View, head: Option<Order>) -> Result<Vec<Vec<u8>>, StoreError> {
    let bound = |order: Order| Some(order.to_key().to_vec());
    let before = KeyRange { start: None, end: bound(Order::GENESIS) };
    let beyond = head.and_then(Order::next).map(|behind| KeyRange { start: bound(behind), end: None });
    let mut keys = Vec::new();
    for range in [Some(before), beyond].into_iter().flatten() {
        view.scan(&Table::JOURNAL, &range, &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() < MOST_STRAYS { Flow::Continue(()) } else { Flow::Break(()) }
        })?;
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Batch, Durability, MemoryBackend};

    #[test]
    fn the_bytes_of_a_journal_row_are_pinned() {
        let row = JournalRecord {
            timestamp_ms: 0x0a0b,
            created: vec![0x0102_0304_0506_0708, 9],
            stale: vec![[0xc3; 32]],
            dropped: vec![[0xd4; 32], [0xe5; 32]],
        };
        let payload = [
            &[0x0bu8, 0x0a, 0, 0, 0, 0, 0, 0][..],
            &[2, 8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0],
            &[1],
            &[0xc3; 32],
            &[2],
            &[0xd4; 32],
            &[0xe5; 32],
        ]
        .concat();
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let mut expected = [&b"SPR1JRNL"[..], &[2, 0], &length, &payload].concat();
        expected.extend_from_slice(&crc32fast::hash(&expected).to_le_bytes());
        assert_eq!(record::encode(&row).unwrap(), expected);
        let key = key(Order::new(258), 259);
        assert_eq!(key, [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 1, 3]);
        assert_eq!(order_of(&key).unwrap(), Order::new(258));
        assert!(order_of(&key[..15]).is_err());
    }

    /// A journal with the rows of four orders, and with these.
    fn with(keys: &[Vec<u8>]) -> MemoryBackend {
        let row = |n| JournalRecord { timestamp_ms: n, created: vec![n], stale: Vec::new(), dropped: Vec::new() };
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        for n in 0..4 {
            batch.put(Table::JOURNAL, key(Order::new(n), n), record::encode(&row(n)).unwrap());
        }
        keys.iter().for_each(|key| batch.put(Table::JOURNAL, key.as_slice(), record::encode(&row(99)).unwrap()));
        backend.write(&batch, Durability::Logged).unwrap();
        backend
    }

    #[test]
    fn rows_of_nobody_come_back_in_no_barrier_and_stand_in_for_no_order() {
        let order = |n: u64| Order::new(n).to_key().to_vec();
        let foreign = [vec![], order(2), [order(2), vec![0; 9]].concat(), [order(3), vec![1; 7]].concat()];
        let view = with(&foreign).view().unwrap();
        let created = |since, head| {
            let mut created = Vec::new();
            let replayed =
                replay(&*view, Order::new(since), Order::new(head), &mut |_, row| created.extend(row.created));
            replayed.map(|()| created)
        };
        assert_eq!(created(0, 3).unwrap(), [1, 2, 3]);
        assert!(matches!(created(2, 4), Err(StoreError::JournalGap(_))), "order 4 has none");
    }

    #[test]
    fn the_strays_are_what_lies_before_the_first_order_and_beyond_the_head() {
        let own = |n: u64| key(Order::new(n), 7);
        let beyond = [own(5), vec![0xff; 20], vec![0xff]];
        let before = [vec![], vec![0; 7]];
        let within = [vec![0; 8], own(3), [own(2), vec![0]].concat()];
        let view = with(&[&beyond[..], &before, &within].concat()).view().unwrap();
        let mut strays = strays(&*view, Some(Order::new(4))).unwrap();
        strays.sort();
        let mut expected = [&beyond[..], &before].concat();
        expected.sort();
        assert_eq!(strays, expected);
    }
}
