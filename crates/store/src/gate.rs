//! The commit gate: the one place where nodes are put, and the one lock under which they are deleted in batches.
//!
//! Promises: a commit is one batch of nodes, root record, head, counts, journal record, marks and the chain's own rows;
//! orders are dense and total, whoever commits; a commit builds on a retained state or is refused (I3); created hashes
//! reach the barrier before the write (I5).
//!
//! Two locks, taken in this order: the gate, held across a write by commits, deletes and raising the floor; then the
//! chain state, held for a look or a change in memory and never across a read or write of the engine. Readers that
//! look up or pin a root take the second one only, so they never wait for a sync.
//!
//! Costs: the gate is held for one batch write, synced if the store is configured so; a pruning delete holds it for
//! one small batch (I12).

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use state_tree::{Delta, NodeHash, Order, StateRoot};

use crate::{
    backend::{Backend, Batch, KeyRange, View, visit_rows},
    chain::{ChainView as _, HeadRecord, NativeChain, RootRecord, native},
    error::{HeadOrder, StoreError},
    kept::{self, Kept},
    record,
    schema::Table,
};

/// What a commit builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The empty state before the first order.
    Genesis,
    /// The head, which must still have this root: otherwise [`StoreError::HeadMoved`].
    Head(StateRoot),
    /// Any retained order with this root.
    Retained(Order, StateRoot),
}

/// One change to commit.
#[derive(Debug)]
pub struct Commit {
    /// What the delta was computed on.
    pub base: Base,
    /// The change of the tree. The store keeps it until it has looked which of its nodes were there before.
    pub delta: Arc<Delta>,
    /// Milliseconds since 1970 by the chain's clock.
    pub timestamp_ms: u64,
    /// Hash of the block.
    pub block_hash: [u8; 32],
    /// Further rows of the chain, in the same batch.
    pub rows: Batch,
}

/// What was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The order it got.
    pub order: Order,
    /// Root after it.
    pub root: StateRoot,
    /// Nodes put.
    pub nodes: u64,
    /// Bytes of nodes put.
    pub bytes: u64,
}

/// What is committed and readable. Changed only by the holder of the gate, after the write that makes it true; the
/// pins alone belong to readers.
#[derive(Debug)]
pub(crate) struct ChainState {
    head: Option<HeadRecord>,
    /// The retained orders, from the floor on.
    roots: VecDeque<Retained>,
    floor: Order,
    /// Single orders below the floor that stay readable.
    pub(crate) kept: Kept,
    pins: BTreeMap<Order, Vec<PinOwner>>,
    next_pin: u64,
    /// While a rollback is written: what lies above it can be neither read nor pinned any more (S41).
    ceiling: Option<Order>,
}

#[derive(Debug, Clone, Copy)]
struct Retained {
    order: Order,
    root: StateRoot,
    timestamp_ms: u64,
}

impl ChainState {
    /// Reads the state that the last commit left.
    pub(crate) fn load(view: &dyn View) -> Result<Self, StoreError> {
        let (head, floor) = (native::read_head(view)?, NativeChain.floor(view)?);
        let kept = kept::load(view)?;
        let mut state =
            Self { head, roots: VecDeque::new(), floor, kept, pins: BTreeMap::new(), next_pin: 0, ceiling: None };
        let range = KeyRange { start: Some(floor.to_key().to_vec()), end: None };
        visit_rows(view, &Table::ROOT, &range, &mut |key, value| state.load_root(key, value))?;
        Ok(state)
    }

    fn load_root(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let bad = |_| StoreError::Record { name: "root key".to_owned(), why: format!("{} bytes, not 8", key.len()) };
        let order = Order::new(u64::from_be_bytes(key.try_into().map_err(bad)?));
        let record: RootRecord = record::decode("root", value)?;
        self.retain(order, &record);
        Ok(())
    }

    fn retain(&mut self, order: Order, record: &RootRecord) {
        let root = StateRoot::new(NodeHash::new(record.root));
        self.roots.push_back(Retained { order, root, timestamp_ms: record.timestamp_ms });
    }

    pub(crate) fn head_order(&self) -> Option<Order> {
        self.head.map(|head| Order::new(head.order))
    }

    pub(crate) fn head(&self) -> Option<HeadRecord> {
        self.head
    }

    pub(crate) fn floor(&self) -> Order {
        self.floor
    }

    /// The floor, with its time by the chain's clock; nothing before there is a state.
    pub(crate) fn floor_time(&self) -> Option<(Order, u64)> {
        self.roots.front().map(|oldest| (self.floor, oldest.timestamp_ms))
    }

    /// When a retained order was committed, by the chain's clock.
    pub(crate) fn time(&self, order: Order) -> Option<u64> {
        let index = self.roots.binary_search_by_key(&order, |retained| retained.order);
        index.map_or(None, |index| self.roots.get(index).map(|retained| retained.timestamp_ms))
    }

    /// The root of a retained order.
    pub(crate) fn retained(&self, order: Order) -> Option<StateRoot> {
        let index = self.roots.binary_search_by_key(&order, |retained| retained.order);
        index.map_or(None, |index| self.roots.get(index).map(|retained| retained.root))
    }

    /// I3: refuses a base that is not retained, and returns the order the commit gets with the order it builds on.
    fn admit(&self, base: Base, parent: StateRoot) -> Result<(Order, Option<Order>), StoreError> {
        let (order, root) = match (base, self.head_order()) {
            (Base::Genesis, None) if parent == StateRoot::EMPTY => return Ok((Order::GENESIS, None)),
            (Base::Genesis, Some(head)) => return Err(StoreError::HeadMoved { head }),
            (Base::Genesis | Base::Head(_) | Base::Retained(..), None) => {
                return Err(StoreError::NoSuchOrder { order: Order::GENESIS, head: HeadOrder(None) });
            }
            (Base::Head(root), Some(head)) if self.retained(head) != Some(root) => {
                return Err(StoreError::HeadMoved { head });
            }
            (Base::Head(root), Some(head)) => (head, root),
            (Base::Retained(order, root), Some(_)) => (order, root),
        };
        let Some(head) = self.head_order() else {
            return Err(StoreError::Invariant("no head".to_owned()));
        };
        if self.retained(order) != Some(root) || parent != root {
            return Err(StoreError::BaseNotRetained { order, root, floor: self.floor, head });
        }
        let next = head.next().ok_or_else(|| StoreError::Invariant("the last order is used up".to_owned()))?;
        Ok((next, Some(order)))
    }

    /// The batch of a commit, and the head it leads to. Nothing is changed yet.
    pub(crate) fn plan(&self, commit: Commit) -> Result<Planned, StoreError> {
        let (order, base) = self.admit(commit.base, commit.delta.parent)?;
        let root = commit.delta.root;
        let before = self.head.as_ref().map(|head| &head.at);
        let at = RootRecord {
            root: *root.hash().as_bytes(),
            timestamp_ms: commit.timestamp_ms,
            block_hash: commit.block_hash,
            trail: native::trail(before, order, root.hash().as_bytes()),
        };
        let nodes = commit.delta.created.len() as u64;
        let bytes: u64 = commit.delta.created.values().map(|created| created.bytes.len() as u64).sum();
        let (commits, nodes_put, bytes_put) =
            self.head.map_or((0, 0, 0), |head| (head.commits, head.nodes_put, head.bytes_put));
        let head = HeadRecord {
            order: order.get(),
            at,
            commits: commits + 1,
            nodes_put: nodes_put + nodes,
            bytes_put: bytes_put + bytes,
        };
        let mut batch = Batch::new();
        for (hash, created) in &commit.delta.created {
            batch.put_node(*hash, created.bytes.clone()); // I4: put again even if present (S56)
        }
        batch.put(Table::ROOT, order.to_key(), record::encode(&at)?);
        batch.put(Table::CHAIN, native::HEAD_KEY, record::encode(&head)?);
        batch.append(commit.rows);
        Ok(Planned { batch, head, base, committed: Committed { order, root, nodes, bytes } })
    }

    /// Takes over what a written plan says.
    pub(crate) fn apply(&mut self, planned: &Planned) {
        self.head = Some(planned.head);
        self.retain(planned.committed.order, &planned.head.at);
    }

    /// The root of a readable order; tells pruned from never committed (O19).
    pub(crate) fn root(&self, order: Order) -> Result<StateRoot, StoreError> {
        let head = self.head_order();
        if let Some(kept) = self.kept.get(&order) {
            return Ok(*kept);
        }
        if order < self.floor && head.is_some() {
            return Err(StoreError::Pruned { order, floor: self.floor });
        }
        let there = self.retained(order).filter(|_| self.ceiling.is_none_or(|ceiling| order <= ceiling));
        there.ok_or(StoreError::NoSuchOrder { order, head: HeadOrder(head) })
    }

    /// Readable orders with this root, newest first.
    pub(crate) fn orders_of(&self, root: StateRoot, most: usize) -> Vec<Order> {
        let kept = self.kept.iter().rev().map(|(order, root)| (*order, *root));
        let readable = self.roots.iter().rev().map(|retained| (retained.order, retained.root)).chain(kept);
        readable.filter(|(_, at)| *at == root).map(|(order, _)| order).take(most).collect()
    }

    /// Pins a readable order: under the one lock under which the floor moves (S41).
    pub(crate) fn pin(&mut self, order: Order, owner: &str) -> Result<(StateRoot, u64), StoreError> {
        let root = self.root(order)?;
        let id = self.next_pin;
        self.next_pin += 1;
        let (owner, since) = (owner.to_owned(), self.head_order().map_or(order, |head| head));
        self.pins.entry(order).or_default().push(PinOwner { root, id, owner, since });
        Ok((root, id))
    }

    pub(crate) fn unpin(&mut self, order: Order, id: u64) {
        if let Some(owners) = self.pins.get_mut(&order) {
            owners.retain(|owner| owner.id != id);
            if owners.is_empty() {
                self.pins.remove(&order);
            }
        }
    }

    pub(crate) fn is_pinned(&self, order: Order, id: u64) -> bool {
        self.pins.get(&order).is_some_and(|owners| owners.iter().any(|owner| owner.id == id))
    }

    pub(crate) fn pins(&self) -> Vec<(Order, Vec<PinOwner>)> {
        self.pins.iter().map(|(order, owners)| (*order, owners.clone())).collect()
    }

    /// The kept orders of a range, with their roots.
    pub(crate) fn kept_in(&self, range: Range<Order>) -> Vec<(Order, StateRoot)> {
        self.kept.range(range).map(|(order, root)| (*order, *root)).collect()
    }

    /// An order below `order` that a reader holds with a root that is not covered, and that reader.
    pub(crate) fn uncovered(&self, order: Order, covers: &dyn Fn(&StateRoot) -> bool) -> Option<(Order, String)> {
        let below = self.pins.range(..order);
        below
            .flat_map(|(order, owners)| owners.iter().map(|owner| (*order, owner)))
            .find(|(_, owner)| !covers(&owner.root))
            .map(|(order, owner)| (order, owner.owner.clone()))
    }

    /// The newest order above `order` that a reader holds, with that reader.
    pub(crate) fn held_above(&self, order: Order) -> Option<(Order, String)> {
        let (order, owners) = self.pins.range(order.next()?..).next_back()?;
        owners.first().map(|owner| (*order, owner.owner.clone()))
    }

    /// Closes what lies above an order, unless a reader holds some of it: then who.
    pub(crate) fn close_above(&mut self, order: Order) -> Option<(Order, String)> {
        let held = self.held_above(order);
        self.ceiling = held.is_none().then_some(order);
        held
    }

    /// Opens it again: there was no rollback.
    pub(crate) fn open_above(&mut self) {
        self.ceiling = None;
    }

    /// Takes the orders after `head` away.
    pub(crate) fn rolled_back(&mut self, head: HeadRecord) {
        (self.head, self.ceiling) = (Some(head), None);
        while self.roots.back().is_some_and(|newest| newest.order.get() > head.order) {
            self.roots.pop_back();
        }
    }

    /// Forgets the roots below the new floor; from here on no reader can pin below it.
    pub(crate) fn raise(&mut self, floor: Order) {
        self.floor = floor;
        let gone = self.roots.partition_point(|retained| retained.order < floor);
        self.roots.drain(..gone); // however many they are, this moves none of them (I12)
    }
}

/// A commit as it will be written.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) batch: Batch,
    pub(crate) head: HeadRecord,
    /// The order of the state it builds on.
    pub(crate) base: Option<Order>,
    pub(crate) committed: Committed,
}

/// Who holds a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinOwner {
    /// The root that is held; its record may be gone with the floor.
    pub root: StateRoot,
    /// Its number: no other pin of this store has it.
    pub id: u64,
    /// What the holder said of itself.
    pub owner: String,
    /// The head when it was pinned: how long it is held, told in orders.
    pub since: Order,
}

/// The engine with the durability commits are written under.
pub(crate) struct Writer {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) durability: crate::backend::Durability,
}
