//! What to retain, for a store with a chain and for a store at rest.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    num::NonZeroU64,
    ops::Range,
    sync::Arc,
};

use state_store::{Batch, PinOwner, Store};
use state_tree::{Order, StateRoot};

use crate::{
    error::PruneError,
    roots::{KeptBy, RetainedRoot, Retention, Window},
    snapshot::RetentionPolicy,
};

/// Rows of the chain that go when the floor moves over these orders, in the same batch: from where it was, up to where it will
/// be. The first move of a process under a [`LiveRetention`](crate::LiveRetention) begins at the first order, for an earlier process
/// may have kept more. [`Batch::delete_orders`] deletes them without a range for each move.
pub type FloorRows = Arc<dyn Fn(Range<Order>) -> Batch + Send + Sync>;

/// What a policy retains, and with it whatever the store keeps readable below its floor: what readers hold, and single orders that
/// were kept when the floor passed them. A policy that does not know of one retains it all the same (S41). Each root of an order
/// once, with everybody who keeps it.
///
/// Errors: those of the policy.
pub fn retained(policy: &dyn RetentionPolicy, store: &Store) -> Result<Retention, PruneError> {
    let retention = policy.retention()?;
    let mut roots: BTreeMap<(Order, StateRoot), RetainedRoot> =
        retention.pins.into_iter().map(|kept| ((kept.order, kept.root), kept)).collect();
    for (order, root) in store.kept() {
        roots.entry((order, root)).or_insert(RetainedRoot { order, root, kept_by: KeptBy::Leaving });
    }
    for (order, owners) in store.pins() {
        for PinOwner { root, owner, since, .. } in owners {
            let reader = format!("{owner} since order {since}");
            match roots.entry((order, root)) {
                Entry::Vacant(place) => {
                    place.insert(RetainedRoot { order, root, kept_by: KeptBy::Pin(reader) });
                }
                Entry::Occupied(mut kept) => kept.get_mut().kept_by.joined_by(reader),
            }
        }
    }
    Ok(Retention { pins: roots.into_values().collect(), ..retention })
}

impl KeptBy {
    /// A reader keeps it, too. What a bound keeps is kept by that as long as the bound is in force.
    fn joined_by(&mut self, reader: String) {
        match self {
            Self::Pin(names) => {
                names.push_str(", ");
                names.push_str(&reader);
            }
            Self::Leaving => *self = Self::Pin(reader),
            Self::Head | Self::Window | Self::Candidate | Self::Every => {}
        }
    }
}

/// The last orders of a live chain, and whatever readers pin. A node has [`LiveRetention`](crate::LiveRetention), which
/// can do more; one store has one of them.
///
/// Orders that a `LiveRetention` left below the floor stay: this one lets none of them go.
pub struct LiveWindow {
    /// The store whose floor moves.
    pub store: Arc<Store>,
    /// Orders retained, head included.
    pub keep_last: NonZeroU64,
    /// What else goes with them.
    pub floor_rows: Option<FloorRows>,
}

impl RetentionPolicy for LiveWindow {
    fn advance(&self) -> Result<(), PruneError> {
        let Some(floor) = self.due_floor()? else { return Ok(()) };
        let rows = self.floor_rows.as_ref().map_or_else(Batch::new, |rows| rows(self.store.passed(floor)));
        Ok(self.store.raise_floor(floor, rows)?)
    }

    fn due_floor(&self) -> Result<Option<Order>, PruneError> {
        let Some(head) = self.store.head() else { return Ok(None) };
        let floor = Order::new(head.order).minus(self.keep_last.get() - 1);
        Ok(floor.filter(|floor| self.store.floor().is_some_and(|current| *floor > current)))
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        // Everything readable is retained: from the floor, not from where the window would begin by now (S41).
        let floor = self.store.floor().map_or(Order::GENESIS, |floor| floor);
        Ok(Retention { window: Window::From(floor), pins: Vec::new(), allowed_holes: BTreeSet::new() })
    }
}

/// The last orders of a store that nobody writes.
#[derive(Debug, Clone)]
pub struct RestWindow {
    /// Executed orders retained, head included.
    pub keep_last: NonZeroU64,
    /// Orders known to have no root.
    pub allowed_holes: BTreeSet<Order>,
    /// Single orders below the window that somebody keeps.
    pub below: Vec<RetainedRoot>,
}

impl RetentionPolicy for RestWindow {
    fn advance(&self) -> Result<(), PruneError> {
        Ok(())
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        Ok(Retention {
            window: Window::Last(self.keep_last),
            pins: self.below.clone(),
            allowed_holes: self.allowed_holes.clone(),
        })
    }
}
