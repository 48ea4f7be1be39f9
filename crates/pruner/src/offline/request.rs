//! What may be asked of a store at rest.

use std::{
    collections::BTreeSet,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use state_tree::Order;

use super::StoreLayout;
use crate::{
    config::SweepChoice,
    mark::{MarkChoice, RehashChoice},
    verify,
};

/// Whether to delete, or to count what would be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneMode {
    /// Mark, and count what a sweep would delete.
    Plan,
    /// Mark and sweep.
    Apply,
}

/// What to do about the freeze that an earlier prune left when it met damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// Refuse.
    Refuse,
    /// Lift it: an operator has looked, and repaired.
    Lift,
}

/// One prune of a store at rest.
#[derive(Debug, Clone)]
pub struct PruneRequest {
    /// Folder of the database.
    pub db: PathBuf,
    /// Whose records it holds.
    pub layout: StoreLayout,
    /// Executed orders retained, head included.
    pub keep_last: NonZeroU64,
    /// Plan or apply.
    pub mode: PruneMode,
    /// What to do about a freeze.
    pub frozen: Frozen,
    /// Which way to mark.
    pub mark: MarkChoice,
    /// Which way to sweep.
    pub sweep: SweepChoice,
    /// What to hash again.
    pub rehash: RehashChoice,
    /// Most bytes of memory marking may use.
    pub memory_budget: u64,
    /// Threads that mark.
    pub threads: NonZeroUsize,
    /// How often a walk is written down, so that a prune that is run again costs no more of it; absent means never.
    pub note_every: Option<Duration>,
    /// Bytes the sweep may move per second.
    pub io_limit: Option<NonZeroU64>,
    /// Live nodes read back afterwards.
    pub verify_sample: u64,
    /// Folder for records, marks and certificates; absent means a folder beside the database.
    pub state_dir: Option<PathBuf>,
    /// Orders known to have no root.
    pub allowed_holes: BTreeSet<Order>,
}

/// One verification of a store at rest, or beside a running node.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// Folder of the database.
    pub db: PathBuf,
    /// Whose records it holds.
    pub layout: StoreLayout,
    /// Executed orders whose states are checked, head included.
    pub keep_last: NonZeroU64,
    /// Whether every present node is compared with what the roots reach.
    pub leaks: verify::Leaks,
    /// Check so many random paths instead of every node.
    pub sample: Option<u64>,
    /// Most bytes of memory.
    pub memory_budget: u64,
    /// Folder for spilled work, where earlier prunes may have left their records; absent means where the system keeps
    /// temporary files, and the folder beside the database.
    pub state_dir: Option<PathBuf>,
    /// Orders known to have no root.
    pub allowed_holes: BTreeSet<Order>,
}
