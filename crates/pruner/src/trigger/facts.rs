//! What the coordinator is told, and how it says that triggers stand.

use std::time::Duration;

use serde::Serialize;
use state_tree::Order;

/// What holds a cycle back whose trigger is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// A run is at work; what it does not count makes at most one more due.
    Running,
    /// The chain goes back to an older order.
    RollingBack,
    /// Deletes are frozen.
    Frozen,
    /// The worker has ended.
    WorkerGone,
    /// What earlier processes left cannot be read yet.
    Unread,
    /// An operator has switched pruning off.
    SwitchedOff,
    /// Failures followed each other, and nothing is tried for a while.
    Breaker,
    /// A sweep that an earlier process left waits for another look at what it was made from.
    Leftover,
    /// No order is older than what is retained.
    ShortChain,
    /// The node follows its chain, and is not at its head.
    CatchingUp,
    /// The last run began too recently, or ended too recently without success.
    Cooldown,
    /// Orders come first: a window of them after the last run, and what keeps this node apart from others.
    Window,
    /// A run has begun for it, and neither was there room since nor is much less free.
    Fired,
}

/// How a trigger stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TriggerState {
    /// It is not configured.
    Off,
    /// What it looks at is not known yet, or not here.
    Unmeasured,
    /// It waits for its condition.
    Armed,
    /// Its condition is met, and something holds the cycle back.
    Held {
        /// What.
        by: HeldBy,
    },
    /// A cycle begins.
    Due,
}

/// Whether an operator's request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    No,
    Yes,
}

/// Whether commits are counted as the sweep between cycles needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    Settled,
    /// A cycle has to finish first.
    Owed,
}

/// What is known when the coordinator looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Monotonic.
    pub(crate) now: Duration,
    /// The newest order.
    pub(crate) head: u64,
    /// [`state_store::Store::nodes_stored`].
    pub(crate) nodes_stored: Option<u64>,
    /// Whether the node is at the head of its chain, if it tells.
    pub(crate) synced: Option<bool>,
    pub(crate) asked: Asked,
    /// Whether a cycle is owed to the counts of commits; nothing where nobody sweeps by them.
    pub(crate) counts: Option<Counts>,
    /// The oldest readable order.
    pub(crate) floor: Option<Order>,
    /// Whether no order has left the window yet for another reason than their number.
    pub(crate) filling: bool,
    /// Nodes that the sweep between cycles is about to delete; nothing until a round of it has ended since the last run.
    pub(crate) waiting: Option<u64>,
    /// What holds every cycle back.
    pub(crate) held: Option<HeldBy>,
}
