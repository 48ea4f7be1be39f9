//! The shapes of a snapshot, and its integrity hash.

use std::num::NonZeroU64;

use primitive_types::H256;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use state_store::record::{self, Record};

use super::holder::{LockRecord, SnapshotLock};
use crate::{
    error::PruneError,
    phase::PrunePhase,
    roots::{KeptBy, RetainedRoots},
};

/// A run of retained orders with one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptOrders {
    /// First order of the run.
    pub first: u64,
    /// Last order of the run.
    pub last: u64,
    /// Orders from one of the run to the next.
    #[serde(default = "each_order")]
    pub step: NonZeroU64,
    /// Why they are kept.
    pub kept_by: KeptBy,
}

/// What a certificate of before there were steps means.
fn each_order() -> NonZeroU64 {
    NonZeroU64::MIN
}

/// What is pruned against: the head and the retained roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneSnapshot {
    /// Root of the head.
    pub state_root: H256,
    /// Order of the head.
    pub latest_order: u64,
    /// Oldest order of the window.
    pub first_order: u64,
    /// The engine's sequence number of the view.
    pub view_sequence: u64,
    /// Every retained order, in runs.
    pub retained: Vec<KeptOrders>,
    /// Number of retained roots.
    pub roots: u64,
    /// A digest of every root of the window.
    pub roots_digest: H256,
    /// Orders of the window without a root, which the operator named.
    pub holes: Vec<u64>,
}

/// What the chain said of itself at the instant of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainMetadata {
    /// Order of the head.
    pub block_height: u64,
    /// Milliseconds since 1970 by the chain's clock; absent where the chain does not record it (I13).
    pub chain_timestamp: Option<u64>,
    /// Hash of the head block, or of the head transaction where there are no blocks; zero where neither is recorded.
    pub latest_block_hash: H256,
    /// Transactions waiting, if the node offers it.
    pub mempool_size: Option<u64>,
    /// Whether the node follows the tip, if it offers it.
    pub sync_status: Option<bool>,
}

/// One instant of the chain, for a cycle to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtomicSnapshot {
    /// What is pruned against.
    pub snapshot: PruneSnapshot,
    /// Its id; never reused.
    pub snapshot_id: u64,
    /// Milliseconds since 1970 by the wall clock, for people.
    pub created_at: u64,
    /// The phase that asked for it.
    pub created_phase: PrunePhase,
    /// What the chain said of itself.
    pub chain_metadata: ChainMetadata,
    /// SHA-256 over the canonical BCS of every other field.
    pub integrity_hash: H256,
}

/// How snapshots and their locks behave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the names and types of the product's configuration")]
pub struct SnapshotManagerConfig {
    /// After so many milliseconds without renewal a lock may be taken over.
    pub lock_timeout_ms: u64,
    /// A phase waits so many milliseconds for a lock that another one holds.
    pub lock_wait_ms: u64,
    /// A snapshot that was neither created nor renewed for so many milliseconds is not locked any more.
    pub max_snapshot_age_ms: u64,
    /// Whether age and integrity are checked at each lock.
    pub enable_validation: bool,
    /// Whether snapshots survive a restart.
    pub enable_persistence: bool,
}

impl SnapshotManagerConfig {
    /// Neither kept over a restart nor checked at each lock: an interrupted cycle begins anew.
    pub fn basic() -> Self {
        Self { enable_validation: false, enable_persistence: false, ..Self::default() }
    }

    /// Which of the two ways that is.
    pub fn path(&self) -> SnapshotPath {
        if self.enable_validation && self.enable_persistence { SnapshotPath::Full } else { SnapshotPath::Basic }
    }
}

/// How snapshots are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotPath {
    /// Kept over a restart, and checked at each lock.
    #[default]
    Full,
    /// Not both: a cycle that is interrupted begins anew, or a snapshot is believed as it is.
    Basic,
}

impl Default for SnapshotManagerConfig {
    fn default() -> Self {
        Self {
            lock_timeout_ms: 30 * 60 * 1000,
            lock_wait_ms: 10_000,
            max_snapshot_age_ms: 2 * 60 * 60 * 1000,
            enable_validation: true,
            enable_persistence: true,
        }
    }
}

/// What the manager holds now.
#[derive(Debug, Clone)]
pub struct SnapshotStatus {
    /// The current snapshot.
    pub snapshot: Option<AtomicSnapshot>,
    /// Its lock.
    pub lock: Option<SnapshotLock>,
    /// The lock that an earlier process left when it died; nobody obeys it.
    pub left: Option<LockRecord>,
    /// Captures in a row that failed.
    pub failures: u32,
    /// Releases of a lock, since the process began, that could not be written down: a restart would tell of a lock that was
    /// left, and not obey it.
    pub unnoted: u64,
    /// Whether a view is held open, which keeps bytes on disk.
    pub holds_view: bool,
}

/// The snapshot as it is stored: raw hashes, because H256 would be text in BCS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    body: Body,
    integrity_hash: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    state_root: [u8; 32],
    latest_order: u64,
    first_order: u64,
    view_sequence: u64,
    retained: Vec<KeptOrders>,
    roots: u64,
    roots_digest: [u8; 32],
    holes: Vec<u64>,
    snapshot_id: u64,
    created_at: u64,
    created_phase: PrunePhase,
    block_height: u64,
    chain_timestamp: Option<u64>,
    latest_block_hash: [u8; 32],
    mempool_size: Option<u64>,
    sync_status: Option<bool>,
}

impl Record for Stored {
    const KIND: [u8; 4] = *b"SNAP";
    const VERSION: u16 = 2; // 1 had a run for each order that stands alone
}

impl Body {
    fn of(it: &AtomicSnapshot) -> Self {
        let (snapshot, chain) = (it.snapshot.clone(), &it.chain_metadata);
        Self {
            state_root: snapshot.state_root.0,
            latest_order: snapshot.latest_order,
            first_order: snapshot.first_order,
            view_sequence: snapshot.view_sequence,
            retained: snapshot.retained,
            roots: snapshot.roots,
            roots_digest: snapshot.roots_digest.0,
            holes: snapshot.holes,
            snapshot_id: it.snapshot_id,
            created_at: it.created_at,
            created_phase: it.created_phase,
            block_height: chain.block_height,
            chain_timestamp: chain.chain_timestamp,
            latest_block_hash: chain.latest_block_hash.0,
            mempool_size: chain.mempool_size,
            sync_status: chain.sync_status,
        }
    }

    fn into_snapshot(self, integrity_hash: [u8; 32]) -> AtomicSnapshot {
        AtomicSnapshot {
            snapshot: PruneSnapshot {
                state_root: H256(self.state_root),
                latest_order: self.latest_order,
                first_order: self.first_order,
                view_sequence: self.view_sequence,
                retained: self.retained,
                roots: self.roots,
                roots_digest: H256(self.roots_digest),
                holes: self.holes,
            },
            snapshot_id: self.snapshot_id,
            created_at: self.created_at,
            created_phase: self.created_phase,
            chain_metadata: ChainMetadata {
                block_height: self.block_height,
                chain_timestamp: self.chain_timestamp,
                latest_block_hash: H256(self.latest_block_hash),
                mempool_size: self.mempool_size,
                sync_status: self.sync_status,
            },
            integrity_hash: H256(integrity_hash),
        }
    }
}

impl AtomicSnapshot {
    /// SHA-256 over the canonical BCS of every field but the hash itself.
    pub fn compute_integrity_hash(&self) -> Result<H256, PruneError> {
        let bytes = bcs::to_bytes(&Body::of(self))
            .map_err(|error| PruneError::Invariant(format!("a snapshot does not encode: {error}")))?;
        Ok(H256(Sha256::digest(bytes).into()))
    }

    /// Checks the integrity hash.
    ///
    /// Errors: [`PruneError::BadSnapshot`] if any field differs from what was hashed.
    pub fn verify_integrity(&self) -> Result<(), PruneError> {
        if self.compute_integrity_hash()? == self.integrity_hash {
            return Ok(());
        }
        Err(PruneError::BadSnapshot { id: self.snapshot_id, why: "its integrity hash does not match".to_owned() })
    }

    /// Whether these are its roots, each kept for the same reason.
    pub(crate) fn is_sealed_over(&self, roots: &RetainedRoots) -> bool {
        PruneSnapshot::of(roots, self.snapshot.view_sequence) == self.snapshot
    }

    pub(super) fn sealed(mut self) -> Result<Self, PruneError> {
        self.integrity_hash = self.compute_integrity_hash()?;
        Ok(self)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, PruneError> {
        let stored = Stored { body: Body::of(self), integrity_hash: self.integrity_hash.0 };
        Ok(record::encode(&stored)?)
    }

    /// `name` is what a message calls the record.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self, PruneError> {
        let stored: Stored = record::decode(name, bytes)?;
        let snapshot = stored.body.into_snapshot(stored.integrity_hash);
        snapshot.verify_integrity()?;
        Ok(snapshot)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn run(first: u64, last: u64, kept_by: KeptBy) -> KeptOrders {
        KeptOrders { first, last, step: NonZeroU64::MIN, kept_by }
    }

    pub(crate) fn sample() -> AtomicSnapshot {
        let snapshot = PruneSnapshot {
            state_root: H256([1; 32]),
            latest_order: 9,
            first_order: 5,
            view_sequence: 77,
            retained: vec![
                run(2, 2, KeptBy::Pin("export".to_owned())),
                run(5, 8, KeptBy::Window),
                run(9, 9, KeptBy::Head),
            ],
            roots: 6,
            roots_digest: H256([2; 32]),
            holes: vec![6],
        };
        let chain_metadata = ChainMetadata {
            block_height: 9,
            chain_timestamp: Some(1_700_000_000_000),
            latest_block_hash: H256([3; 32]),
            mempool_size: Some(4),
            sync_status: Some(true),
        };
        AtomicSnapshot {
            snapshot,
            snapshot_id: 12,
            created_at: 1_700_000_000_500,
            created_phase: PrunePhase::BuildReach,
            chain_metadata,
            integrity_hash: H256::zero(),
        }
        .sealed()
        .unwrap()
    }

    #[test]
    fn a_snapshot_record_with_any_flipped_bit_is_rejected() {
        let bytes = sample().encode().unwrap();
        assert_eq!(AtomicSnapshot::decode("snapshot", &bytes).unwrap(), sample());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(AtomicSnapshot::decode("snapshot", &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_bytes_of_a_snapshot_record_are_pinned() {
        assert_eq!(
            hex::encode(sample().encode().unwrap()),
            concat!(
                "53505231534e415002002901000001010101010101010101010101010101010101010101010101010101010101010900",
                "00000000000005000000000000004d000000000000000302000000000000000200000000000000010000000000000002",
                "066578706f72740500000000000000080000000000000001000000000000000109000000000000000900000000000000",
                "010000000000000000060000000000000002020202020202020202020202020202020202020202020202020202020202",
                "020106000000000000000c00000000000000f469e5cf8b010000010900000000000000010068e5cf8b01000003030303",
                "0303030303030303030303030303030303030303030303030303030301040000000000000001010cecdcfe941cb6215c",
                "cbd3f21bff960fa1a3fe73c50974bd73f5f1d3c2a68ee5e2e2060a",
            )
        );
    }

    #[test]
    fn the_integrity_hash_covers_every_field() {
        let same = |change: &dyn Fn(&mut AtomicSnapshot)| {
            let mut changed = sample();
            change(&mut changed);
            changed.verify_integrity().is_ok()
        };
        assert!(same(&|_| ()));
        let changes: [&dyn Fn(&mut AtomicSnapshot); 16] = [
            &|it| it.snapshot.state_root.0[31] ^= 1,
            &|it| it.snapshot.latest_order += 1,
            &|it| it.snapshot.first_order += 1,
            &|it| it.snapshot.view_sequence += 1,
            &|it| it.snapshot.retained[1].last += 1,
            &|it| it.snapshot.retained[1].step = NonZeroU64::new(3).unwrap(),
            &|it| it.snapshot.roots += 1,
            &|it| it.snapshot.roots_digest.0[0] ^= 1,
            &|it| it.snapshot.holes.clear(),
            &|it| it.snapshot_id += 1,
            &|it| it.created_at += 1,
            &|it| it.created_phase = PrunePhase::SweepExpired,
            &|it| it.chain_metadata.chain_timestamp = None,
            &|it| it.chain_metadata.latest_block_hash.0[5] ^= 1,
            &|it| it.chain_metadata.mempool_size = None,
            &|it| it.chain_metadata.sync_status = Some(false),
        ];
        for (index, change) in changes.iter().enumerate() {
            assert!(!same(change), "change {index} is not covered");
        }
    }
}
