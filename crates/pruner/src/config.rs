//! How the pruner behaves. Safety is not among the choices.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    error::PruneError,
    mark::{MarkChoice, RehashChoice},
    recovery::RecoveryConfig,
    retention::KeepPolicy,
    snapshot::{RetentionPolicy, SnapshotManagerConfig},
    trigger::{Share, TriggerConfig},
};

/// Which way to sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepChoice {
    /// By the amount of garbage and by what the store offers.
    Auto,
    /// Rewrite range after range through the compaction filter.
    Filter,
    /// Delete in batches under the commit gate, then rewrite to give the space back.
    Delete,
}

/// How one cycle works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleConfig {
    /// Which way to mark.
    pub mark: MarkChoice,
    /// Which way to sweep.
    pub sweep: SweepChoice,
    /// What to hash again while marking.
    pub rehash: RehashChoice,
    /// Most bytes of memory marking may use.
    pub memory_budget: u64,
    /// Threads that mark.
    pub threads: NonZeroUsize,
    /// How often a walk is written down, so that a restart costs no more of it; absent means never.
    pub note_every: Option<Duration>,
    /// Bytes of files that one range of the sweep rewrites, about: the grain of progress, pause and extra disk.
    pub range_bytes: NonZeroU64,
    /// A store with fewer bytes of nodes is rewritten, however little of it is garbage: that takes no time, and what the engine
    /// leaves in its youngest files would be large against it.
    pub small_store: u64,
    /// Most nodes in one delete batch: the longest a commit may wait for the pruner (I12).
    pub delete_batch: NonZeroUsize,
    /// Bytes the sweep may move per second; absent means no brake.
    pub io_limit: Option<NonZeroU64>,
    /// Live nodes read back after the sweep.
    pub verify_sample: u64,
    /// Folder for mark files and certificates, beside the store.
    pub state_dir: PathBuf,
}

impl CycleConfig {
    /// How often a walk is written down by default.
    pub const NOTE_EVERY: Duration = Duration::from_secs(300);

    /// The defaults, with the given folder.
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            mark: MarkChoice::Auto,
            sweep: SweepChoice::Auto,
            rehash: RehashChoice::Sample,
            memory_budget: 1 << 30,
            threads: NonZeroUsize::MIN.saturating_add(1),
            note_every: Some(Self::NOTE_EVERY),
            range_bytes: NonZeroU64::MIN.saturating_add((256 << 20) - 1),
            small_store: 64 << 20,
            delete_batch: NonZeroUsize::MIN.saturating_add(999),
            io_limit: None,
            verify_sample: 1000,
            state_dir,
        }
    }
}

/// How the journal is swept between cycles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncrementalConfig {
    /// Orders by which the floor moves at once, while commits come.
    pub stride: NonZeroU64,
}

impl IncrementalConfig {
    /// A stride of a sixteenth of the window: what waits for it is small beside the window, and rounds are few.
    pub fn for_window(keep_last: NonZeroU64) -> Self {
        Self { stride: NonZeroU64::MIN.saturating_add((keep_last.get() / 16).saturating_sub(1)) }
    }
}

/// How the background pruner of a node works.
#[derive(Debug, Clone, PartialEq)]
pub struct PrunerConfig {
    /// The last so many orders are retained, head included.
    pub keep_last: NonZeroU64,
    /// A cycle begins when so many orders were committed since the snapshot of the last one.
    pub every_orders: NonZeroU64,
    /// What else makes one begin, or holds it back.
    pub triggers: TriggerConfig,
    /// How the journal is swept between cycles; absent means not at all.
    pub incremental: Option<IncrementalConfig>,
    /// How one cycle works.
    pub cycle: CycleConfig,
    /// How snapshots and locks behave.
    pub snapshots: SnapshotManagerConfig,
    /// How failures are met.
    pub recovery: RecoveryConfig,
}

impl PrunerConfig {
    /// What suits a node on a server, and the reference node has where no key is set (config/node.toml): a full cycle is rare, and
    /// comes early where garbage grows; deletes go on between cycles; a rewrite is braked. `node` is the name of this node in its
    /// fleet, of its own, for what keeps them apart is drawn from it.
    pub fn for_server(node: &str, keep_last: NonZeroU64, state_dir: PathBuf) -> Self {
        Self {
            keep_last,
            every_orders: NonZeroU64::MIN.saturating_add(99_999),
            triggers: TriggerConfig {
                node: node.to_owned(),
                jitter: Share::TENTH,
                garbage_ratio: Some(Share::TENTH),
                cooldown: Duration::from_secs(1),
                ..TriggerConfig::default()
            },
            incremental: Some(IncrementalConfig::for_window(keep_last)),
            cycle: CycleConfig {
                range_bytes: NonZeroU64::MIN.saturating_add((64 << 20) - 1), // a pause comes within three seconds
                io_limit: NonZeroU64::new(24 << 20), // commits keep their pace at this one: docs/performance.md
                ..CycleConfig::new(state_dir)
            },
            snapshots: SnapshotManagerConfig::default(),
            recovery: RecoveryConfig::default(),
        }
    }
}

/// The bounds of a policy, which must be what the configuration says (O9).
///
/// Errors: two numbers of orders.
pub(crate) fn keep_of(keep_last: NonZeroU64, policy: &dyn RetentionPolicy) -> Result<KeepPolicy, PruneError> {
    let keep = policy.keep().unwrap_or_else(|| KeepPolicy::last(keep_last));
    if keep.last == keep_last { Ok(keep) } else { Err(PruneError::TwoWindows(keep_last.get(), keep.last.get())) }
}

/// SHA-256 over what decides which nodes may go: a cycle never mixes two of these (C9).
///
/// Pins and consumers are not among it: one can only ask for what is readable, which a mark holds already, and where one
/// is let go the mark keeps more.
pub(crate) fn fingerprint(keep_last: NonZeroU64, policy: &dyn RetentionPolicy) -> Result<[u8; 32], PruneError> {
    let holes: Vec<u64> = policy.retention()?.allowed_holes.iter().map(|order| order.get()).collect();
    let keep = keep_of(keep_last, policy)?;
    let every = keep.every.map(NonZeroU64::get);
    let bytes = bcs::to_bytes(&("retention", 2u16, keep_last.get(), keep.time_ms(), every, holes))
        .map_err(|error| PruneError::Invariant(format!("the configuration does not encode: {error}")))?;
    Ok(Sha256::digest(bytes).into())
}
