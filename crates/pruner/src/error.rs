//! Everything that ends a phase, each with its disposition (see docs/operations.md, one heading per error).

use std::{io, path::PathBuf};

use state_store::{Disposition, Holder, Hole, StoreError};
use state_tree::{NodeError, NodeHash, Order, TreeError};
use thiserror::Error;

/// A failure of the pruner.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A node under a retained root is absent (I11).
    #[error("live node {hash} is missing; path from its root: {}", Path(path))]
    MissingLiveNode {
        /// The absent node.
        hash: NodeHash,
        /// From a retained root down to it; empty when the path could not be found.
        path: Vec<NodeHash>,
    },
    /// A node under a retained root does not decode (I11).
    #[error("live node {hash} does not decode ({fault}); path from its root: {}", Path(path))]
    BadNode {
        /// The key it was read under.
        hash: NodeHash,
        /// What is wrong with it.
        fault: NodeError,
        /// From a retained root down to it.
        path: Vec<NodeHash>,
    },
    /// A node under a retained root does not hash to its key (I11).
    #[error("live node {hash} hashes to {actual}; path from its root: {}", Path(path))]
    WrongHash {
        /// The key it was read under.
        hash: NodeHash,
        /// What its bytes hash to.
        actual: NodeHash,
        /// From a retained root down to it.
        path: Vec<NodeHash>,
    },
    /// The traversal failed for a reason that says nothing about a node.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// There is no state to retain.
    #[error("the store has no committed state; nothing is deleted")]
    NoHead,
    /// Orders inside the window have no usable root (S11).
    #[error("{} of the retained orders have no usable root: {}. Nothing was deleted; if these holes are known, name each with --allow-hole", holes.len(), Holes(holes))]
    Holes {
        /// The orders, each with what is wrong with it.
        holes: Vec<(Order, Hole)>,
    },
    /// A mark file that is torn, foreign or of another cycle (I7, S19).
    #[error("mark file {path} is unusable: {why}")]
    BadMark {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A snapshot that failed validation.
    #[error("snapshot {id} is unusable: {why}")]
    BadSnapshot {
        /// Its id.
        id: u64,
        /// What is wrong with it.
        why: String,
    },
    /// Another phase holds the snapshot.
    #[error("{0}")]
    Blocked(crate::snapshot::Blocked),
    /// Deletes are frozen until an operator looks (I11).
    #[error("deletes are frozen: {why}. Run `verify`, repair the store, then unfreeze")]
    Frozen {
        /// Why they were frozen.
        why: String,
    },
    /// The memory budget does not even hold one batch.
    #[error("a memory budget of {given} bytes is too small; at least {least} are needed")]
    MemoryBudget {
        /// Bytes given.
        given: u64,
        /// Bytes needed.
        least: u64,
    },
    /// Less room on the device than the next range may need (C13).
    #[error("{free} bytes are free and the sweep may need {need} for its next range; free space first")]
    NoRoom {
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        need: u64,
    },
    /// A store of the reference node cannot be swept at rest.
    #[error(
        "a store of the reference node is pruned by the node, which moves its oldest readable order first; start it, or use --dry-run"
    )]
    NativeAtRest,
    /// The window asked for reaches below what an earlier prune of this store retained (S54).
    #[error(
        "orders below {floor} were pruned by an earlier run, so their states are gone: keep fewer orders. ({error})"
    )]
    PrunedBefore {
        /// The oldest order that run retained.
        floor: u64,
        /// What was met.
        error: Box<PruneError>,
    },
    /// A store without any record of ours.
    #[error("no cycle has run on {db}, or its records lie in another folder: nothing is known about its health")]
    NothingKnown {
        /// The store.
        db: PathBuf,
    },
    /// The store changed between mark and sweep.
    #[error("the store changed after it was marked (sequence {marked}, now {now}); run again while nothing writes")]
    Changed {
        /// The sequence number the mark was made at.
        marked: u64,
        /// The sequence number now.
        now: u64,
    },
    /// A running node changed the store under a reader.
    #[error("{holder} changed the store while it was read; run again, or verify a copy")]
    Moving {
        /// Who runs on the store.
        holder: Holder,
    },
    /// A file of ours could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The operator ended the work.
    #[error("cancelled")]
    Cancelled,
    /// The process ends; the work goes on after the next start.
    #[error("stopped; the same command, or the next start of the node, goes on where it was")]
    Stopped,
    /// An interrupted cycle cannot go on, and is abandoned; nothing is lost by that.
    #[error("cycle {cycle} cannot be resumed: {why}; a new cycle starts from the beginning")]
    NotResumable {
        /// The cycle.
        cycle: u64,
        /// What has changed.
        why: String,
    },
    /// A promise of ours does not hold.
    #[error("internal error: {0}")]
    Invariant(String),
}

impl PruneError {
    /// What the caller must do.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Store(error) => error.disposition(),
            Self::MissingLiveNode { .. }
            | Self::BadNode { .. }
            | Self::WrongHash { .. }
            | Self::BadMark { .. }
            | Self::BadSnapshot { .. }
            | Self::Frozen { .. } => Disposition::Corrupt,
            Self::Tree(_) | Self::File { .. } | Self::Changed { .. } | Self::Moving { .. } | Self::Blocked(_) => {
                Disposition::Transient
            }
            Self::NoHead
            | Self::NativeAtRest
            | Self::PrunedBefore { .. }
            | Self::NothingKnown { .. }
            | Self::Holes { .. }
            | Self::NotResumable { .. } => Disposition::Input,
            Self::MemoryBudget { .. } | Self::NoRoom { .. } | Self::Cancelled | Self::Stopped => Disposition::Resource,
            Self::Invariant(_) => Disposition::Bug,
        }
    }

    /// Whether the fault lies in live data, so that deletes must freeze (I11).
    pub fn is_live_fault(&self) -> bool {
        matches!(
            self,
            Self::MissingLiveNode { .. }
                | Self::BadNode { .. }
                | Self::WrongHash { .. }
                | Self::Store(StoreError::Corrupt(_)) // which node it hit is unknown, so it may be a live one (I8)
        )
    }

    /// A stable word for scripts, as printed with `--json`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::MissingLiveNode { .. } => "missing_live_node",
            Self::BadNode { .. } => "bad_node",
            Self::WrongHash { .. } => "wrong_hash",
            Self::Tree(_) => "tree",
            Self::NoHead => "no_head",
            Self::Holes { .. } => "holes",
            Self::BadMark { .. } => "bad_mark",
            Self::BadSnapshot { .. } => "bad_snapshot",
            Self::Blocked(_) => "blocked",
            Self::Frozen { .. } => "frozen",
            Self::MemoryBudget { .. } => "memory_budget",
            Self::NoRoom { .. } => "no_room",
            Self::Changed { .. } => "changed",
            Self::NativeAtRest => "native_at_rest",
            Self::PrunedBefore { .. } => "pruned_before",
            Self::NothingKnown { .. } => "nothing_known",
            Self::Moving { .. } => "moving",
            Self::File { .. } => "file",
            Self::Cancelled => "cancelled",
            Self::Stopped => "stopped",
            Self::NotResumable { .. } => "not_resumable",
            Self::Invariant(_) => "internal",
        }
    }
}

struct Path<'a>(&'a [NodeHash]);

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("not found");
        }
        for (index, hash) in self.0.iter().enumerate() {
            write!(f, "{}{hash}", if index == 0 { "" } else { " > " })?;
        }
        Ok(())
    }
}

const HOLES_SHOWN: usize = 20;

struct Holes<'a>(&'a [(Order, Hole)]);

impl std::fmt::Display for Holes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (order, hole)) in self.0.iter().take(HOLES_SHOWN).enumerate() {
            write!(f, "{}{order} ({hole})", if index == 0 { "" } else { ", " })?;
        }
        if self.0.len() > HOLES_SHOWN { write!(f, " and {} more", self.0.len() - HOLES_SHOWN) } else { Ok(()) }
    }
}
