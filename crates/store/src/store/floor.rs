//! What is readable, changed at once: the floor, and the single orders below it that stay.

use std::{collections::BTreeSet, ops::Range};

use state_tree::{NodeHash, Order, StateRoot};

use super::Store;
use crate::{
    backend::{Batch, Durability},
    chain::{FloorRecord, NativeChain, RootRecord, native},
    error::{HeadOrder, StoreError},
    kept,
    point::{Point, reached},
    record,
    schema::Table,
};

/// How the readable range changes, in one batch.
#[derive(Debug)]
pub struct FloorMove {
    /// The oldest order of the range afterwards: where it is now, or higher.
    pub to: Order,
    /// Orders that fall below it and stay readable one by one.
    pub keep: BTreeSet<Order>,
    /// Kept orders that are no longer kept.
    pub let_go: BTreeSet<Order>,
    /// Further rows, in the same batch.
    pub rows: Vec<Batch>,
}

impl Store {
    /// Changes what is readable. When this returns, nothing that it let go can be read or pinned any more; nodes may go
    /// only afterwards (S27, S41). Under [`Durability::Logged`] the order of the log keeps that true after a crash.
    ///
    /// Errors: a floor below the present one or above the head, an order to keep that is gone already or does not fall below
    /// the floor, a failed write.
    pub fn move_floor(&self, change: FloorMove, durability: Durability) -> Result<(), StoreError> {
        let records = self.records_to_keep(&change.keep)?; // BEFORE the gate: no commit waits for these reads (I12)
        let FloorMove { to, let_go, rows, keep } = change;
        let batch = batch_of(self.passed(to), (&records, &let_go), rows)?; // nor for this
        let _gate = self.gate.lock();
        let (head, floor) = self.look(|chain| (chain.head_order(), chain.floor()))?;
        if to < floor || head.is_none_or(|head| to > head) {
            return Err(StoreError::NoSuchOrder { order: to, head: HeadOrder(head) });
        }
        if let Some(above) = keep.last().filter(|last| **last >= to) {
            return Err(StoreError::Invariant(format!("order {above} does not fall below the floor at {to}")));
        }
        if let Some(order) = keep.first().filter(|first| **first < floor) {
            return Err(StoreError::Pruned { order: *order, floor }); // the floor moved since it was read
        }
        self.backend().write(&batch, durability)?;
        reached(Point::FloorMoved);
        let root = |record: &RootRecord| StateRoot::new(NodeHash::new(record.root));
        self.change(|chain| {
            let stays = records.iter().map(|(order, record)| (*order, root(record)));
            chain.kept.extend(stays);
            for order in &let_go {
                chain.kept.remove(order); // however many stay (I12)
            }
            chain.raise(to); // BEFORE this returns, so before anything below the floor may go
        })
    }

    /// The orders that a move passes; those before it have deleted what is lower. A range for each move from the first order on
    /// would be sorted by the engine with each read, N of them with N * N numbers.
    pub fn passed(&self, to: Order) -> Range<Order> {
        self.floor().map_or(Order::GENESIS, |floor| floor)..to
    }

    fn records_to_keep(&self, keep: &BTreeSet<Order>) -> Result<Vec<(Order, RootRecord)>, StoreError> {
        if keep.is_empty() {
            return Ok(Vec::new());
        }
        let view = self.view()?;
        let record = |order: &Order| match NativeChain.record(&*view, *order)? {
            Some(record) => Ok((*order, record)),
            None => Err(self.absent(*order)),
        };
        keep.iter().map(record).collect()
    }

    /// Why a record is not there.
    fn absent(&self, order: Order) -> StoreError {
        let (head, floor) = (self.head().map(|head| Order::new(head.order)), self.floor());
        match floor {
            Some(floor) if order < floor => StoreError::Pruned { order, floor },
            Some(_) | None => StoreError::NoSuchOrder { order, head: HeadOrder(head) },
        }
    }

    /// The single orders below the floor that are readable, with their roots.
    pub fn kept(&self) -> Vec<(Order, StateRoot)> {
        let chain = self.chain.read();
        chain.as_ref().map_or_else(Vec::new, |chain| chain.kept.iter().map(|(order, root)| (*order, *root)).collect())
    }

    /// How many those are.
    pub fn kept_count(&self) -> u64 {
        self.chain.read().as_ref().map_or(0, |chain| chain.kept.len() as u64)
    }

    /// Readable orders with this root, newest first, at most so many.
    pub fn orders_of(&self, root: StateRoot, most: usize) -> Vec<Order> {
        self.chain.read().as_ref().map_or_else(Vec::new, |chain| chain.orders_of(root, most))
    }
}

/// The rows of a move over these orders.
fn batch_of(
    passed: Range<Order>,
    (stay, let_go): (&[(Order, RootRecord)], &BTreeSet<Order>),
    rows: Vec<Batch>,
) -> Result<Batch, StoreError> {
    let mut batch = Batch::new();
    rows.into_iter().for_each(|rows| batch.append(rows));
    batch.put(Table::CHAIN, native::FLOOR_KEY, record::encode(&FloorRecord { order: passed.end.get() })?);
    batch.delete_orders(&Table::ROOT, passed);
    for (order, record) in stay {
        batch.put(Table::CHAIN, kept::key(*order), record::encode(record)?);
    }
    let_go.iter().for_each(|order| batch.delete(Table::CHAIN, kept::key(*order)));
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        backend::{MemoryBackend, Op},
        store::StoreConfig,
    };

    fn order(n: u64) -> Order {
        Order::new(n)
    }

    /// I12: the engine sorts the ranges of a memtable with each read.
    #[test]
    fn a_move_deletes_what_it_passes_order_by_order_and_nothing_that_was_deleted_before() {
        let rows = |passed| batch_of(passed, (&[], &BTreeSet::new()), Vec::new()).unwrap();
        let of_roots = |batch: &Batch| -> Vec<Op> { batch.ops().iter().skip(1).cloned().collect() };
        let one = |n| Op::Delete(Table::ROOT, order(n).to_key().into());
        assert_eq!(of_roots(&rows(order(7)..order(9))), [one(7), one(8)]);
        let many = Op::DeleteRange(Table::ROOT, order(7).to_key().into(), order(1_007).to_key().into());
        assert_eq!(of_roots(&rows(order(7)..order(1_007))), [many]);
        let config = StoreConfig::new(Durability::Logged);
        let store = Store::open(Arc::new(MemoryBackend::new()), config).unwrap();
        store.change(|chain| chain.raise(order(7))).unwrap();
        assert_eq!(store.passed(order(9)), order(7)..order(9));
    }
}
