//! The records of our own chain: head, floor, counts and one root per retained order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use state_tree::{NodeHash, Order, StateRoot};

use super::{ChainView, Head, Hole, RootAt};
use crate::{
    backend::{KeyRange, View, visit_rows},
    error::StoreError,
    record::{self, Record},
    schema::Table,
};

pub(crate) const HEAD_KEY: &[u8] = b"head";
pub(crate) const FLOOR_KEY: &[u8] = b"floor";

/// The root of one order, in `chain_root`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Root after the order.
    pub root: [u8; 32],
    /// Milliseconds since 1970 by the chain's clock.
    pub timestamp_ms: u64,
    /// Hash of the block.
    pub block_hash: [u8; 32],
}

impl Record for RootRecord {
    const KIND: [u8; 4] = *b"ROOT";
    const VERSION: u16 = 1;
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
    const VERSION: u16 = 1;
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
        let Some(bytes) = view.row(&Table::ROOT, &order.to_key())? else {
            return Ok(RootAt::Hole(Hole::NoRecord));
        };
        let record: RootRecord = record::decode("root", &bytes)?;
        Ok(RootAt::Root(StateRoot::new(NodeHash::new(record.root))))
    }

    /// One scan: the orders of a window lie side by side. Every order has an answer (S11).
    fn roots(&self, view: &dyn View, first: Order, last: Order) -> Result<Vec<(Order, RootAt)>, StoreError> {
        let behind = last.next().map(|behind| behind.to_key().to_vec());
        let range = KeyRange { start: Some(first.to_key().to_vec()), end: behind };
        let mut found = BTreeMap::new();
        visit_rows(view, &Table::ROOT, &range, &mut |key, value| {
            let record: RootRecord = record::decode("root", value)?;
            found.insert(key.to_vec(), StateRoot::new(NodeHash::new(record.root)));
            Ok(())
        })?;
        let answer = |order: Order| {
            found.get(&order.to_key()[..]).map_or(RootAt::Hole(Hole::NoRecord), |root| RootAt::Root(*root))
        };
        Ok((first.get()..=last.get()).map(Order::new).map(|order| (order, answer(order))).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned<R: Record>(record: &R, kind: &[u8; 4], payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let mut expected = [&b"SPR1"[..], kind, &[1, 0], &length, payload].concat();
        expected.extend_from_slice(&crc32fast::hash(&expected).to_le_bytes());
        assert_eq!(record::encode(record).unwrap(), expected);
    }

    #[test]
    fn the_bytes_of_the_chain_records_are_pinned() {
        let at = RootRecord { root: [0xa1; 32], timestamp_ms: 0x0102_0304, block_hash: [0xb2; 32] };
        let at_bytes = [&[0xa1; 32][..], &[4, 3, 2, 1, 0, 0, 0, 0], &[0xb2; 32]].concat();
        pinned(&at, b"ROOT", &at_bytes);
        let head = HeadRecord { order: 258, at, commits: 259, nodes_put: 1, bytes_put: 2 };
        let le = |n: u64| n.to_le_bytes();
        pinned(&head, b"HEAD", &[&le(258)[..], &at_bytes, &le(259), &le(1), &le(2)].concat());
        pinned(&FloorRecord { order: 7 }, b"FLOR", &le(7));
    }
}
