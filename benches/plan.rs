//! How long two runs of one history are, and under which settings: what `steady` was asked for.

use std::{num::NonZeroU64, path::Path};

use state_pruner::{
    CycleConfig, IncrementalConfig, PrunerConfig, Share, TriggerConfig, recovery::RecoveryConfig,
    snapshot::SnapshotManagerConfig,
};
use state_store::{Durability, RocksConfig};

use crate::{Error, args, chain::NODE_IO_LIMIT_MIB, workload::Profile};

/// Bytes per range of a node's sweep. Smaller ones are no help to a small store: each rewrites the level under what was
/// flushed meanwhile whole.
const NODE_RANGE_BYTES: u64 = 64 << 20;

/// `pruner.garbage_ratio` of config/node.toml, in per cent.
const NODE_GARBAGE_PERCENT: u64 = 10;

/// Settings of both runs, those of a node unless told otherwise, except the write buffer: it is smaller (64 MiB in a node),
/// as the state is.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The histories.
    pub profiles: Vec<Profile>,
    /// Their seed.
    pub seed: u64,
    /// Objects of the state, about.
    pub objects: u64,
    /// Changes per commit.
    pub changes: u64,
    /// How often the state is overwritten: changes made per object.
    pub times: u64,
    /// Parts into which a run is cut, to alternate with the other run.
    pub segments: u64,
    /// Samples per segment.
    pub samples: u64,
    /// Orders retained.
    pub keep_last: NonZeroU64,
    /// Orders between two cycles.
    pub every_orders: NonZeroU64,
    /// The share of the nodes that may be garbage at which a cycle begins, if it is looked at.
    pub garbage_ratio: Option<Share>,
    /// The brake on the sweep, in bytes per second.
    pub io_limit: Option<NonZeroU64>,
    /// Whether commits are synced.
    pub durability: Durability,
    /// Sizes of the engine.
    pub rocks: RocksConfig,
}

impl Plan {
    /// Reads the command line.
    ///
    /// Errors: a number that is zero, a profile that there is not.
    pub fn from_command_line() -> Result<Self, Error> {
        let number = |name: &str, default| args::number(name).map_or(default, |number| number);
        let positive =
            |name: &str, default| NonZeroU64::new(number(name, default)).ok_or_else(|| format!("{name} is at least 1"));
        let io_limit = if args::flag("--no-io-limit") { 0 } else { number("--io-limit", NODE_IO_LIMIT_MIB) };
        let garbage = number("--garbage", NODE_GARBAGE_PERCENT);
        let write_buffer_bytes = positive("--write-buffer", 4)?.get() as usize * (1 << 20);
        Ok(Self {
            profiles: Profile::asked_for()?,
            seed: number("--seed", 1),
            objects: positive("--objects", 80_000)?.get(),
            changes: positive("--changes", 100)?.get(),
            times: positive("--times", 2)?.get(),
            segments: positive("--segments", 4)?.get(),
            samples: positive("--samples", 12)?.get(),
            keep_last: positive("--keep-last", 128)?,
            every_orders: positive("--every-orders", 100_000)?,
            garbage_ratio: Share::new(garbage as f64 / 100.0).filter(|ratio| *ratio > Share::NONE),
            io_limit: NonZeroU64::new(io_limit << 20),
            durability: if args::flag("--logged") { Durability::Logged } else { Durability::Synced },
            rocks: RocksConfig { write_buffer_bytes, ..RocksConfig::default() },
        })
    }

    /// Commits between two samples, so that the state is overwritten as often as asked for or a little more.
    pub fn commits_per_sample(&self, objects: u64) -> u64 {
        (objects * self.times).div_ceil(self.changes * self.segments * self.samples)
    }

    /// The pruner of a node that keeps its files in `dir`.
    pub fn pruner(&self, dir: &Path) -> PrunerConfig {
        let range_bytes = NonZeroU64::MIN.saturating_add(NODE_RANGE_BYTES - 1);
        PrunerConfig {
            keep_last: self.keep_last,
            every_orders: self.every_orders,
            incremental: Some(IncrementalConfig::for_window(self.keep_last)),
            triggers: TriggerConfig { garbage_ratio: self.garbage_ratio, ..TriggerConfig::default() },
            cycle: CycleConfig { range_bytes, io_limit: self.io_limit, ..CycleConfig::new(dir.to_owned()) },
            snapshots: SnapshotManagerConfig::default(),
            recovery: RecoveryConfig::default(),
        }
    }
}
