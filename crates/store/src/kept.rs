//! Kept orders: single orders below the floor whose states stay whole and readable, because somebody asked for them.
//!
//! Each has a row in `chain_meta`, under `kept/` and the order: a copy of its root record, for the record itself goes
//! when the floor passes it. The rows change in the batch that moves the floor, so after a crash an order is either
//! above the floor, or kept, or pruned.

use std::collections::BTreeMap;

use state_tree::{NodeHash, Order, StateRoot};

use crate::{
    backend::{KeyRange, View, visit_rows},
    chain::RootRecord,
    error::StoreError,
    record,
    schema::Table,
};

const PREFIX: &[u8] = b"kept/";
/// The first key behind the prefix.
const BEHIND: &[u8] = b"kept0";

/// The kept orders with their roots.
pub(crate) type Kept = BTreeMap<Order, StateRoot>;

/// The key of one kept order in `chain_meta`.
pub(crate) fn key(order: Order) -> Vec<u8> {
    [PREFIX, &order.to_key()].concat()
}

/// The keys of every kept order.
pub(crate) fn range() -> KeyRange {
    KeyRange::between(PREFIX, BEHIND)
}

/// Reads every row.
pub(crate) fn load(view: &dyn View) -> Result<Kept, StoreError> {
    let mut kept = Kept::new();
    visit_rows(view, &Table::CHAIN, &range(), &mut |key, value| {
        let (order, root) = decode(key, value)?;
        kept.insert(order, root);
        Ok(())
    })?;
    Ok(kept)
}

/// The record of one order, if it is kept.
pub(crate) fn read(view: &dyn View, order: Order) -> Result<Option<RootRecord>, StoreError> {
    view.row(&Table::CHAIN, &key(order))?.map(|bytes| record::decode("kept", &bytes)).transpose()
}

/// One row.
pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<(Order, StateRoot), StoreError> {
    let bad = || StoreError::Record { name: "kept key".to_owned(), why: format!("{} bytes, not 13", key.len()) };
    let order = key.strip_prefix(PREFIX).and_then(|rest| rest.first_chunk::<8>().filter(|_| rest.len() == 8));
    let order = Order::new(u64::from_be_bytes(*order.ok_or_else(bad)?));
    let record: RootRecord = record::decode("kept", value)?;
    Ok((order, StateRoot::new(NodeHash::new(record.root))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_kept_orders_are_pinned_and_lie_between_their_bounds() {
        assert_eq!(key(Order::new(258)), b"kept/\0\0\0\0\0\0\x01\x02");
        let range = KeyRange::between(PREFIX, BEHIND);
        for order in [0, 1, u64::MAX] {
            assert!(range.contains(&key(Order::new(order))));
        }
        assert!(!range.contains(b"head") && !range.contains(b"floor"));
    }
}
