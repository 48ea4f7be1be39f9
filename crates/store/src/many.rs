//! The *many* marks: nodes that more than one place may have, each with the order of the commit that marked it last.
//!
//! Key: fingerprint, big-endian; value: order, big-endian. Two nodes that share a fingerprint share the mark, which only
//! keeps more (I6). Only a major cycle takes marks away: a count that is never decremented cannot drift (S32, S34).
//! Costs: 16 bytes per shared node, one batched read per commit.

use std::collections::BTreeMap;

use state_tree::Order;

use crate::{
    backend::{Batch, View},
    error::StoreError,
    schema::Table,
};

/// Marks a node as of an order.
pub(crate) fn put(batch: &mut Batch, fingerprint: u64, order: Order) {
    batch.put(Table::MANY, fingerprint.to_be_bytes(), order.to_key());
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
            marked.insert(*fingerprint, order_of(value));
        }
    })?;
    Ok(marked)
}

/// The order that a value stands for; one that is none is a mark that never gets old (I8).
pub(crate) fn order_of(value: &[u8]) -> Order {
    Order::new(number(value).map_or(u64::MAX, |order| order))
}

/// Whether a row is one of ours. Its eight bytes have no checksum of their own: the engine's covers their block.
pub(crate) fn check(key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    let bad = |what: &str, bytes: &[u8]| {
        let why = format!("its {what} has {} bytes, not 8", bytes.len());
        StoreError::Record { name: "mark of a shared node".to_owned(), why }
    };
    number(key).ok_or_else(|| bad("key", key))?;
    number(value).map(|_| ()).ok_or_else(|| bad("value", value))
}

/// The eight bytes of a key or value of the table, if they are.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().filter(|_| bytes.len() == 8).map(|bytes| u64::from_be_bytes(*bytes))
}
