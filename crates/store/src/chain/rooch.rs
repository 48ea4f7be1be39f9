//! The records of a Rooch database: order to root by the change set of the order, or by its transaction.
//!
//! Promises: a read that fails is an error, never a hole (S14); a row that exists and is not understood is a hole that
//! says so; a transaction hash that stands for several orders makes each of them a hole with the root as candidate
//! (S11). Orders are keys of eight bytes little-endian here, so nothing is ever scanned by order (S51).
//!
//! Rooch sequences a transaction before it executes it, so the newest sequenced order may be ahead of the head. The
//! head is the greatest sequenced order that has a root, and that root must be the one the node would start from.

mod rows;

use std::collections::HashMap;

use state_tree::{NodeHash, Order, StateRoot};

use super::{ChainView, Head, Hole, RootAt};
use crate::{backend::View, error::StoreError, schema::Table};

const STARTUP: &str = "config_startup_info";
const STARTUP_KEY: &[u8] = b"\x0cstartup_info";
const SEQUENCER: &str = "meta_sequencer_info";
const SEQUENCER_KEY: &[u8] = b"\x0esequencer_info";
const CHANGE_SET: &str = "state_change_set";
const ORDER_TO_TRANSACTION: &str = "tx_sequence_info_mapping";
const EXECUTION: &str = "transaction_execution_info";
const TRANSACTION: &str = "transaction";

/// Orders that may be sequenced and not executed before the database is refused.
const MAX_UNEXECUTED: u64 = 1 << 16;

/// Reads Rooch's own records.
#[derive(Debug, Clone, Copy)]
pub struct RoochChain;

impl RoochChain {
    /// The families it reads. Versions of Rooch may lack some of them; a store without any is none of Rooch's.
    pub const FAMILIES: [&str; 6] = [STARTUP, SEQUENCER, CHANGE_SET, ORDER_TO_TRANSACTION, EXECUTION, TRANSACTION];
}

impl ChainView for RoochChain {
    fn head(&self, view: &dyn View) -> Result<Option<Head>, StoreError> {
        let Some(startup) = row(view, STARTUP, STARTUP_KEY)? else {
            return Ok(None);
        };
        let startup = rows::startup_root(&startup).map_err(|why| unusable(STARTUP, why))?;
        let last = self.sequenced(view)?;
        let last = last.ok_or_else(|| unusable(SEQUENCER, "it is absent although a head is recorded".to_owned()))?;
        let (order, root) = newest_executed(view, last)?;
        if root != state_root(startup) {
            let head = state_root(startup);
            return Err(unusable(
                STARTUP,
                format!("its root is {head}, but the newest order with a root is {order} with {root}"),
            ));
        }
        let (block_hash, timestamp_ms) = provenance(view, order)?;
        Ok(Some(Head { order, root, timestamp_ms, block_hash }))
    }

    /// Looks for a doubled transaction at the orders beside this one; [`RoochChain::roots`] looks through its window.
    fn root(&self, view: &dyn View, order: Order) -> Result<RootAt, StoreError> {
        if let Some(found) = by_change_set(view, order)? {
            return Ok(found);
        }
        let beside = Transactions::read(view, before(order), after(order))?;
        beside.root(view, order)
    }

    fn sequenced(&self, view: &dyn View) -> Result<Option<Order>, StoreError> {
        let Some(bytes) = row(view, SEQUENCER, SEQUENCER_KEY)? else {
            return Ok(None);
        };
        let order = rows::last_order(&bytes).map_err(|why| unusable(SEQUENCER, why))?;
        Ok(Some(Order::new(order)))
    }

    fn floor(&self, _view: &dyn View) -> Result<Order, StoreError> {
        Ok(Order::GENESIS)
    }

    /// An order is ambiguous if its transaction stands for any other order of the window or next to it.
    fn roots(&self, view: &dyn View, first: Order, last: Order) -> Result<Vec<(Order, RootAt)>, StoreError> {
        let mut found = Vec::new();
        for order in orders(first, last) {
            found.push((order, by_change_set(view, order)?));
        }
        if found.iter().all(|(_, root)| root.is_some()) {
            return Ok(found.into_iter().filter_map(|(order, root)| Some((order, root?))).collect());
        }
        let window = Transactions::read(view, before(first), after(last))?;
        let resolve = |(order, root)| match root {
            Some(root) => Ok((order, root)),
            None => Ok((order, window.root(view, order)?)),
        };
        found.into_iter().map(resolve).collect()
    }
}

/// Walks down from the newest sequenced order to one that was executed.
fn newest_executed(view: &dyn View, last: Order) -> Result<(Order, StateRoot), StoreError> {
    let lowest = last.minus(MAX_UNEXECUTED).map_or(Order::GENESIS, |lowest| lowest);
    for order in (lowest.get()..=last.get()).rev().map(Order::new) {
        match RoochChain.root(view, order)? {
            RootAt::Root(root) => return Ok((order, root)),
            RootAt::Hole(Hole::NoRecord) => {}
            RootAt::Hole(Hole::Ambiguous { why, .. } | Hole::Malformed { why }) => {
                let why = format!("order {order}, at or above the head, has no certain root: {why}");
                return Err(unusable(EXECUTION, why));
            }
        }
    }
    let why = format!("no order from {lowest} to the newest, {last}, has a root");
    Err(unusable(SEQUENCER, why))
}

/// The hash of the order's transaction and when it was sequenced, as far as rows say so beyond doubt.
fn provenance(view: &dyn View, order: Order) -> Result<(Option<[u8; 32]>, Option<u64>), StoreError> {
    let Some(key) = transaction_row(view, order)? else {
        return Ok((None, None));
    };
    let Ok(hash) = rows::transaction_hash(&key) else {
        return Ok((None, None)); // for display only: whether it can be read changes nothing that is kept
    };
    let transaction = row(view, TRANSACTION, &key)?;
    let timestamp = transaction.and_then(|bytes| rows::sequenced_at(&bytes, order.get()));
    Ok((Some(hash), timestamp))
}

/// The root by the change set of the order; nothing if there is no such row.
fn by_change_set(view: &dyn View, order: Order) -> Result<Option<RootAt>, StoreError> {
    let change = row(view, CHANGE_SET, &order.get().to_le_bytes())?;
    Ok(change.map(|bytes| match rows::change_set_root(&bytes) {
        Ok(root) => RootAt::Root(state_root(root)),
        Err(why) => malformed(CHANGE_SET, &why),
    }))
}

/// Which transaction each order of a window stands for, and which orders each transaction stands for.
struct Transactions {
    by_order: HashMap<Order, Vec<u8>>,
    orders: HashMap<Vec<u8>, Vec<Order>>,
}

impl Transactions {
    fn read(view: &dyn View, first: Order, last: Order) -> Result<Self, StoreError> {
        let (mut by_order, mut users) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for order in orders(first, last) {
            if let Some(transaction) = transaction_row(view, order)? {
                users.entry(transaction.clone()).or_default().push(order);
                by_order.insert(order, transaction);
            }
        }
        Ok(Self { by_order, orders: users })
    }

    /// The root by the execution of the order's transaction.
    fn root(&self, view: &dyn View, order: Order) -> Result<RootAt, StoreError> {
        let Some(key) = self.by_order.get(&order) else {
            return Ok(RootAt::Hole(Hole::NoRecord));
        };
        let transaction = match rows::transaction_hash(key) {
            Ok(transaction) => transaction,
            Err(why) => return Ok(malformed(ORDER_TO_TRANSACTION, &why)),
        };
        let Some(execution) = row(view, EXECUTION, key)? else {
            return Ok(RootAt::Hole(Hole::NoRecord));
        };
        let candidate = match rows::execution_root(&execution, &transaction) {
            Ok(root) => state_root(root),
            Err(why) => return Ok(malformed(EXECUTION, &why)),
        };
        Ok(match self.doubt(view, order, key)? {
            Some(why) => RootAt::Hole(Hole::Ambiguous { candidate, why }),
            None => RootAt::Root(candidate),
        })
    }

    /// What speaks against the order being the only one its transaction stands for: another order that maps to it, or
    /// the transaction's own row, which says by what order it was sequenced last.
    fn doubt(&self, view: &dyn View, order: Order, transaction: &[u8]) -> Result<Option<String>, StoreError> {
        let users = self.orders.get(transaction).into_iter().flatten();
        let others: Vec<String> = users.filter(|user| **user != order).map(Order::to_string).collect();
        if !others.is_empty() {
            return Ok(Some(format!("its transaction also stands for order {}", others.join(", "))));
        }
        let own = row(view, TRANSACTION, transaction)?;
        let confirmed = own.is_none_or(|bytes| rows::sequenced_at(&bytes, order.get()).is_some());
        Ok((!confirmed).then(|| "the row of its transaction does not name this order".to_owned()))
    }
}

fn orders(first: Order, last: Order) -> impl Iterator<Item = Order> {
    (first.get()..=last.get()).map(Order::new)
}

fn before(order: Order) -> Order {
    order.minus(1).map_or(order, |before| before)
}

fn after(order: Order) -> Order {
    order.next().map_or(order, |after| after)
}

fn transaction_row(view: &dyn View, order: Order) -> Result<Option<Vec<u8>>, StoreError> {
    row(view, ORDER_TO_TRANSACTION, &order.get().to_le_bytes())
}

/// One row. A family that a version of Rooch did not have yet holds none.
fn row(view: &dyn View, family: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let table = Table::foreign(family).ok_or_else(|| StoreError::NoTable(family.to_owned()))?;
    if view.has_table(&table) { view.row(&table, key) } else { Ok(None) }
}

fn state_root(hash: [u8; 32]) -> StateRoot {
    StateRoot::new(NodeHash::new(hash))
}

fn malformed(family: &str, why: &str) -> RootAt {
    RootAt::Hole(Hole::Malformed { why: format!("row of `{family}`: {why}") })
}

fn unusable(name: &str, why: String) -> StoreError {
    StoreError::Record { name: name.to_owned(), why }
}

#[cfg(test)]
mod tests;
