//! How the nodes of a fleet are kept apart where all of them see the same (F10): orders, counts, garbage and rollbacks come to
//! each of them at the same head.
//!
//! Promises: each node has its own order, drawn from its name, and another one after each run that ended; the delay is at most a window,
//! that of the first cycle for orders aside, and of the first one behind what may have brought all nodes to one order: a run
//! for anything else, or a rollback. Schedule, low disk and operators know no such delay.

use state_tree::Order;

use super::{Coordinator, Share, Window};

/// The draw of the first cycle for orders. The others are numbered by what runs have counted, so that a run that was
/// interrupted is due again where it was.
const FIRST: u64 = 0;

impl Coordinator {
    /// The order at which enough orders make a cycle due, in a chain with this floor.
    pub(crate) fn next_at(&self, floor: Option<Order>) -> u64 {
        let every = self.rules.every_orders;
        let spread = if self.ledger.spread == Some(self.seed.number()) {
            0 // its runs for orders follow its own last one
        } else {
            self.seed.draw(self.rules.config.jitter, every, FIRST)
        };
        self.ledger.due_at(every.saturating_add(spread), Window::of(floor, self.rules.keep_last))
    }

    /// The order that is a window behind what runs have counted, in this node: after a run that failed, too, the next one
    /// is not due at once.
    pub(super) fn window_later(&self) -> u64 {
        self.ledger.counted.saturating_add(self.rules.keep_last).saturating_add(self.delay())
    }

    /// The order at which a cycle is due that a rollback left owed.
    pub(super) fn rollback_at(&self) -> Option<u64> {
        Some(self.ledger.owed_from?.saturating_add(self.delay()))
    }

    /// The ratio of garbage at which the next run is due in this node: all of them have the same garbage. It is half way to all
    /// of the store at most, for a store of nothing but garbage is none.
    pub(super) fn of_this_node(&self, ratio: Share) -> Share {
        let jitter = self.rules.config.jitter;
        ratio.plus(|of, to_all| self.seed.draw(Share::ALL, jitter.of(of).min(to_all / 2), self.ledger.counted))
    }

    /// Orders by which this node is later than others.
    fn delay(&self) -> u64 {
        let most = self.rules.config.jitter.of(self.rules.every_orders).min(self.rules.keep_last);
        self.seed.draw(Share::ALL, most, self.ledger.counted)
    }
}
