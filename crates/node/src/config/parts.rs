//! What the parts of a node are built from.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use state_pruner::{
    CycleConfig, IncrementalConfig, KeepPolicy, PrunerConfig, ReaderLimit, TriggerConfig,
    snapshot::{SnapshotManagerConfig, SnapshotPath},
};
use state_store::{Durability, StoreConfig};

use super::{Config, DurabilityChoice, IncrementalChoice, PrunerSection};
use crate::chain::ChainConfig;

impl Config {
    /// Folder of the database.
    pub fn store_dir(&self) -> PathBuf {
        self.node.data_dir.join("store")
    }

    /// Folder of mark files and certificates.
    pub fn pruner_dir(&self) -> PathBuf {
        self.node.data_dir.join("pruner")
    }

    /// How the store behaves.
    pub fn store(&self) -> StoreConfig {
        let durability = match self.chain.durability {
            DurabilityChoice::Synced => Durability::Synced,
            DurabilityChoice::Logged => Durability::Logged,
        };
        let pending_limit = match self.pruner.incremental {
            IncrementalChoice::On => self.pruner.pending_limit.get(),
            IncrementalChoice::Off => 0, // nobody asks for the index
        };
        StoreConfig {
            barrier_limit: self.pruner.barrier_limit.get(),
            journal: self.pruner.enabled,
            pending_limit,
            ..StoreConfig::new(durability)
        }
    }

    /// How blocks are made.
    pub fn chain(&self) -> ChainConfig {
        ChainConfig {
            block_interval: self.chain.block_interval,
            max_block_transactions: self.chain.max_block_transactions,
            mempool_limit: self.chain.mempool_limit,
            mempool_bytes: usize::try_from(self.chain.mempool_bytes).map_or(usize::MAX, |bytes| bytes),
        }
    }

    /// What is retained, or nothing if nothing goes.
    pub fn keep(&self) -> Option<KeepPolicy> {
        let PrunerSection { enabled, keep_last, keep_time, keep_every, .. } = self.pruner;
        enabled.then_some(KeepPolicy { last: keep_last, time: keep_time, every: keep_every })
    }

    /// How long readers may hold what has left the window.
    pub fn readers(&self) -> ReaderLimit {
        ReaderLimit { max_age: self.pruner.max_reader_age, then: self.pruner.old_readers }
    }

    /// How the pruner works, or nothing if it does not.
    pub fn pruner(&self) -> Option<PrunerConfig> {
        let PrunerSection {
            enabled,
            keep_last,
            keep_time: _,  // of the policy
            keep_every: _, // of the policy
            max_reader_age: _,
            old_readers: _,
            every_orders,
            every,
            jitter,
            garbage_ratio,
            low_disk,
            reserve: _, // of the store
            cooldown,
            mark,
            sweep,
            note_every,
            memory_budget,
            rehash,
            io_limit,
            verify_sample,
            lock_timeout,
            lock_wait,
            max_snapshot_age,
            snapshots,
            barrier_limit: _, // of the store
            incremental,
            pending_limit: _, // of the store
            recovery,
        } = self.pruner;
        enabled.then(|| PrunerConfig {
            keep_last,
            every_orders,
            incremental: match incremental {
                IncrementalChoice::On => Some(IncrementalConfig::for_window(keep_last)),
                IncrementalChoice::Off => None,
            },
            triggers: TriggerConfig {
                node: self.node.id.clone(),
                every,
                jitter,
                garbage_ratio,
                low_disk: low_disk.and_then(NonZeroU64::new),
                cooldown,
            },
            cycle: CycleConfig {
                mark,
                sweep,
                note_every,
                memory_budget,
                rehash,
                io_limit: io_limit.and_then(NonZeroU64::new),
                verify_sample: verify_sample.get(),
                ..PrunerConfig::for_server(&self.node.id, keep_last, self.pruner_dir()).cycle
            },
            snapshots: SnapshotManagerConfig {
                lock_timeout_ms: millis(lock_timeout),
                lock_wait_ms: millis(lock_wait),
                max_snapshot_age_ms: millis(max_snapshot_age),
                ..match snapshots {
                    SnapshotPath::Full => SnapshotManagerConfig::default(),
                    SnapshotPath::Basic => SnapshotManagerConfig::basic(),
                }
            },
            recovery,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).map_or(u64::MAX, |millis| millis)
}
