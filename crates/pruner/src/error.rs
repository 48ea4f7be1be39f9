//! Everything that ends a phase, each with its disposition (see docs/operations.md, one heading per error).

mod disposition;
mod words;

use std::{io, path::PathBuf, time::Duration};

use state_store::{Holder, Hole, StoreError};
use state_tree::{NodeError, NodeHash, Order, TreeError};
use thiserror::Error;

use crate::{clock::millis, when::Span};
pub(crate) use words::{Counted, FROZEN_ADVICE, Way, iec};
use words::{Holes, Met, Suggested};

/// A failure of the pruner.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A node under a retained root is absent (I11).
    #[error("live node {hash} is missing; {}", Way(path))]
    MissingLiveNode {
        /// The absent node.
        hash: NodeHash,
        /// From a retained root down to it; empty when the path could not be found.
        path: Vec<NodeHash>,
    },
    /// A node under a retained root does not decode (I11).
    #[error("live node {hash} does not decode ({fault}); {}", Way(path))]
    BadNode {
        /// The key it was read under.
        hash: NodeHash,
        /// What is wrong with it.
        fault: NodeError,
        /// From a retained root down to it.
        path: Vec<NodeHash>,
    },
    /// A node under a retained root does not hash to its key (I11).
    #[error("live node {hash} hashes to {actual}; {}", Way(path))]
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
    #[error("the store has no committed state yet, so there is nothing to retain")]
    NoHead,
    /// The store has no family of the layout asked for.
    #[error("{db} holds no records of the layout `{asked}`; {}", Suggested(*found))]
    OtherLayout {
        /// The store.
        db: PathBuf,
        /// The name of the layout asked for.
        asked: &'static str,
        /// The name of the layout whose families it has, if it has those of one.
        found: Option<&'static str>,
    },
    /// Orders inside the window have no usable root (S11).
    #[error("{} of the retained orders have no usable root: {}. If these holes are known, name each with --allow-hole", holes.len(), Holes(holes))]
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
    /// Another phase held the snapshot for as long as this one was ready to wait.
    #[error("waited {} for the snapshot: {blocked}", Span(*waited_ms))]
    LockTimeout {
        /// How long it waited, in milliseconds.
        waited_ms: u64,
        /// Who held it at the end.
        blocked: crate::snapshot::Blocked,
    },
    /// The worker of the pruner has not ended in the time that a stop allowed it.
    #[error(
        "the pruner has not ended within {}: it is at {doing}. End the process: what was acknowledged is on disk, and the \
         next start goes on",
        Span(millis(*waited))
    )]
    StillWorking {
        /// What the worker is at.
        doing: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Failures followed each other, so nothing is tried for a while.
    #[error(
        "{failures} attempts in a row failed, so nothing is tried for another {}; `prune-run` tries at once",
        Span(*wait_ms)
    )]
    BreakerOpen {
        /// Executions in a row that failed.
        failures: u32,
        /// Milliseconds until one is let through.
        wait_ms: u64,
    },
    /// Deletes are frozen until an operator looks (I11).
    #[error("deletes are frozen: {why}. {FROZEN_ADVICE}")]
    Frozen {
        /// Why they were frozen.
        why: String,
    },
    /// The memory budget does not even hold one batch.
    #[error("a memory budget of {} is too small: give at least {} (--memory-budget, in a node pruner.memory_budget)", iec(*given), iec(*least))]
    MemoryBudget {
        /// Bytes given.
        given: u64,
        /// Bytes needed.
        least: u64,
    },
    /// Less room on the device than the next range may need (C13).
    #[error("{} are free and the sweep may need {} for its next range; free space first", iec(*free), iec(*need))]
    NoRoom {
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The system has no thread to give for a moment.
    #[error(
        "the system has no thread to give for `{name}` ({source}): try again, or raise what it may have of them (TasksMax, pids.max, ulimit -u)"
    )]
    NoThread {
        /// What it is for.
        name: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// A store of the reference node cannot be swept at rest.
    #[error(
        "a store of the reference node is pruned by the node, which moves its oldest readable order first; start it, or use --dry-run"
    )]
    NativeAtRest,
    /// The write-ahead log is damaged, and opening the store for writing would cut it.
    #[error(
        "{what}. Nothing was changed: let the node of the store start on it, and try again once it goes on with what is left"
    )]
    LogCut {
        /// What is known of it.
        what: String,
    },
    /// The window asked for reaches below what an earlier prune of this store retained (S54).
    #[error(
        "orders below {floor} were pruned by an earlier run, so their states are gone: ask for {left} orders or fewer, with --keep-last, or --orders of a snapshot ({})",
        Met(error)
    )]
    PrunedBefore {
        /// The oldest order that run retained.
        floor: u64,
        /// Orders from there to the head.
        left: u64,
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
    #[error(
        "{holder} changed the store while it was read, or has a damaged one; run again, and if that does not help stop it and verify the store at rest"
    )]
    Moving {
        /// Who runs on the store.
        holder: Holder,
    },
    /// A name that is none.
    #[error("`{name}` is no {rule}")]
    BadName {
        /// What was given.
        name: String,
        /// What it should be, and what that has to look like.
        rule: &'static str,
    },
    /// The configuration retains so many orders, its policy so many others.
    #[error("the configuration retains {0} orders and its retention policy {1}: give both the same number")]
    TwoWindows(u64, u64),
    /// Pins or consumers are on record, and a window of orders alone would let go of what they keep.
    #[error(
        "{0} are on record, and a window of orders alone would let go of what they keep: start under a policy that knows of them, or remove them"
    )]
    HeldByName(String),
    /// A name that belongs to another order, or to somebody else.
    #[error("pin `{name}` of {owner} keeps order {order}: remove it first, or choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        owner: String,
        /// The order it keeps.
        order: u64,
    },
    /// A rollback would take away an order that a pin keeps.
    #[error(
        "pin `{name}` of {owner} keeps order {order}, which a rollback would take away: remove it in the running node, `state-node pin remove {name} --url URL`, or go back to that order or a later one"
    )]
    PinnedAbove {
        /// The name of the pin.
        name: String,
        /// Who asked for it.
        owner: String,
        /// The order it keeps.
        order: u64,
    },
    /// A name that nothing has.
    #[error("there is no {what} named `{name}`")]
    UnknownName {
        /// Pin or consumer.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// As many pins or consumers as there may be.
    #[error("there are {limit} already, the most there may be: remove one first")]
    TooManyNames {
        /// The most.
        limit: usize,
    },
    /// A file of ours could not be read or written.
    #[error("{path}: {source}. Another folder is chosen with --state-dir, in a node with node.data_dir")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The operator ended the work.
    #[error("cancelled")]
    Cancelled,
    /// The process ends, or deletes were frozen; after the next start, or the freeze, a sweep goes on, so does a walk that was
    /// written down where no damage was met, and another mark begins anew.
    #[error(
        "stopped; the same command, the next start of the node, or the end of a freeze goes on with a sweep or with a walk that was \
         written down, or marks anew"
    )]
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
    /// The same, met by somebody who has to write too.
    #[must_use]
    pub(crate) fn of_a_writer(self) -> Self {
        let Self::Store(error) = self else { return self };
        error.of_a_writer().into()
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

    /// Whether a record or a file of ours is damaged while no live node is: it can be made anew.
    pub(crate) fn is_damaged_artefact(&self) -> bool {
        crate::recovery::remedy(self) == crate::recovery::Remedy::NewSnapshot
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
            Self::OtherLayout { .. } => "other_layout",
            Self::Holes { .. } => "holes",
            Self::BadMark { .. } => "bad_mark",
            Self::BadSnapshot { .. } => "bad_snapshot",
            Self::Blocked(_) => "blocked",
            Self::LockTimeout { .. } => "lock_timeout",
            Self::StillWorking { .. } => "still_working",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::Frozen { .. } => "frozen",
            Self::MemoryBudget { .. } => "memory_budget",
            Self::NoRoom { .. } => "no_room",
            Self::NoThread { .. } => "no_thread",
            Self::Changed { .. } => "changed",
            Self::NativeAtRest => "native_at_rest",
            Self::LogCut { .. } => "log_cut",
            Self::PrunedBefore { .. } => "pruned_before",
            Self::NothingKnown { .. } => "nothing_known",
            Self::Moving { .. } => "moving",
            Self::BadName { .. } => "bad_name",
            Self::TwoWindows(..) => "two_windows",
            Self::HeldByName(_) => "held_by_name",
            Self::NameTaken { .. } => "name_taken",
            Self::UnknownName { .. } => "unknown_name",
            Self::PinnedAbove { .. } => "held_above",
            Self::TooManyNames { .. } => "too_many_names",
            Self::File { .. } => "file",
            Self::Cancelled => "cancelled",
            Self::Stopped => "stopped",
            Self::NotResumable { .. } => "not_resumable",
            Self::Invariant(_) => "internal",
        }
    }
}
