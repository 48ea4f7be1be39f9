//! What the sweep between cycles shows of itself.

use serde::Serialize;
use state_store::Lag;

use crate::{incremental::RoundEnd, worker::Uncounted};

/// What the sweep between cycles does now and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct IncrementalStatus {
    /// How its last round ended; absent before the first.
    pub last: Option<RoundEnd>,
    /// Why nothing can be deleted, if so.
    pub uncounted: Option<Uncounted>,
    /// Why the last round failed, if it did.
    pub failure: Option<String>,
    /// What it reads before the next slice; absent where it does not.
    pub walking: Option<Walking>,
    /// Orders at or below the floor whose journal entries still name nodes.
    pub lag_orders: Option<u64>,
    /// Nodes that they name.
    pub lag_nodes: Option<u64>,
    /// Milliseconds of chain time from the oldest of them to the floor.
    pub lag_ms: Option<u64>,
    /// Nodes deleted since the process began.
    pub deleted_total: u64,
    /// Nodes passed over: shared, created since, held by an older state, or not stored.
    pub passed_total: u64,
    /// Nodes, journal rows and cursors that could not be used since the process began, left to a major cycle.
    pub set_aside_total: u64,
    /// Those of this and earlier processes that no later cycle has settled: the total of the quarantine.
    pub poison_items: u64,
    /// Nodes that the index of the journal had no place for, left to a major cycle.
    pub unindexed_total: u64,
    /// Nodes marked as shared, which wait for a cycle when they are lost; absent where they are too many to be held.
    pub marks: Option<u64>,
    /// Slices taken.
    pub slices_total: u64,
    /// Nodes in the next slice, at most.
    pub slice_nodes: u64,
    /// The longest time for which a slice held the commit gate, in milliseconds: no commit waited longer for one.
    pub longest_slice_ms: f64,
    /// The longest time for which one was on a processor meanwhile, in milliseconds: for the rest the machine was short of
    /// processors, or the write waited for the disk. A virtual machine counts what its host takes from the processor, too.
    pub longest_slice_work_ms: f64,
    /// Slices that held the gate for longer than 5 ms.
    pub slices_over_total: u64,
    /// Slices that were on a processor for longer than that meanwhile.
    pub slices_overworked_total: u64,
    /// Time at work, in seconds: reading, and holding the gate. What it waits for is not in it, so what one core could do is
    /// the nodes it dealt with over this.
    pub working_seconds: f64,
    /// Nodes per second that its rounds deal with from begin to end, waiting for the gate, the disk and the lock included;
    /// absent before the first that had work.
    pub capacity_per_second: Option<f64>,
    /// Nodes per second that commits make it deal with; absent while no round measures it.
    pub production_per_second: Option<f64>,
}

/// A walk of states below the floor that are kept and not known: no slice is taken before it is over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Walking {
    /// How many states are not known.
    pub states: u64,
    /// The newest order of those that are kept.
    pub newest: u64,
    /// Nodes read so far.
    pub nodes: u64,
    /// For how long, in seconds.
    pub seconds: f64,
}

impl IncrementalStatus {
    /// How far the journal is ahead, where that is known.
    pub(super) fn lag(&mut self, lag: Option<Lag>) {
        self.lag_orders = lag.map(|lag| lag.orders);
        self.lag_nodes = lag.map(|lag| lag.nodes);
        self.lag_ms = lag.map(|lag| lag.chain_ms);
    }
}
