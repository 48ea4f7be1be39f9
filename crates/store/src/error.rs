//! Everything that can go wrong below the pruner, each with what the caller must do.
//!
//! The engine reports errors as text; `backend/rocks` is the one place that turns that text into these types.

use std::{io, path::PathBuf};

use state_tree::{Order, StateRoot};
use thiserror::Error;

/// What an error asks of whoever meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Try again after a while.
    Transient,
    /// Wait for room, memory or a shorter list; nothing is damaged.
    Resource,
    /// Freeze deletes and keep serving (I11).
    Corrupt,
    /// The operator's input cannot be served as given.
    Input,
    /// A fault of ours: stop the phase.
    Bug,
}

/// The process that holds a store open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id, where the system tells.
    pub pid: Option<u32>,
    /// Its command name, where the system tells.
    pub command: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.pid, &self.command) {
            (Some(pid), Some(command)) => write!(f, "process {pid} ({command})"),
            (Some(pid), None) => write!(f, "process {pid}"),
            (None, _) => f.write_str("another process"),
        }
    }
}

/// What a refused access was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To read what is there.
    Read,
    /// To read and write, or to create something.
    Write,
}

/// A failure of the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The path holds no database.
    #[error("{path} is not a database: {why}. Give the folder that holds the file CURRENT")]
    NotADatabase {
        /// The path given.
        path: PathBuf,
        /// What is absent or unreadable.
        why: String,
    },
    /// The database lacks a family that the layout needs.
    #[error("{path} has no column family `{family}`; it is a database of another kind (it has: {present})")]
    MissingFamily {
        /// The path given.
        path: PathBuf,
        /// The family looked for.
        family: String,
        /// The families there are.
        present: String,
    },
    /// Another process has the store open for writing.
    #[error(
        "{path} is in use by {holder}: stop it first. A running node is asked with --url (`prune-run`, `rollback`, `pin`), and beside it `verify`, `validate`, `health-check`, `explain` and `journal` look with --db; another node needs a folder of its own (node.data_dir)"
    )]
    Locked {
        /// The path given.
        path: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// The system refuses access.
    #[error("no permission for {path}: {source}. {}", advice_on(source, *need))]
    Permission {
        /// The path refused.
        path: PathBuf,
        /// What whoever was refused needs.
        need: Need,
        /// The system's word.
        source: io::Error,
    },
    /// The device is full.
    #[error("the disk is full: {what}. Free space on the device")]
    DiskFull {
        /// What was being written.
        what: String,
    },
    /// Reading or writing failed for a reason that may pass.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's or the engine's word.
        source: io::Error,
    },
    /// The engine found its own data damaged.
    #[error("the database is damaged: {0}. Restore it from a backup")]
    Corrupt(String),
    /// A record that is torn or foreign.
    #[error("record `{name}` is unusable: {why}")]
    Record {
        /// The name of the record.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A record that a newer program wrote; whoever opens what it belongs to refuses before any write (C17).
    #[error(
        "record `{name}` has version {version} and was written by a newer program, this one reads version {reads}: use that program"
    )]
    Newer {
        /// The name of the record.
        name: String,
        /// Its version.
        version: u32,
        /// The one that is read here.
        reads: u32,
    },
    /// The store has no such table.
    #[error("the store has no table `{0}`")]
    NoTable(String),
    /// A write was refused because an earlier one failed and left unknown what is on disk; only reopening helps (C4).
    #[error(
        "an earlier write failed, so it is not known what is on disk; reopen the store before writing again. It was: {why}"
    )]
    Poisoned {
        /// The failure.
        why: String,
    },
    /// The store was opened for reading.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// The phase was told to end.
    #[error("cancelled")]
    Cancelled,
    /// The permit was revoked: another holder has the phase, or the lock timed out (I10).
    #[error("the permit of this phase was revoked")]
    PermitRevoked,
    /// More nodes were created since the view than the barrier may remember (P22).
    #[error(
        "the barrier is full: {limit} nodes were created since the view, as many as `barrier_limit` lets be remembered; the cycle is abandoned"
    )]
    BarrierFull {
        /// The most it may remember.
        limit: usize,
    },
    /// A commit builds on a state that is not retained (I3).
    #[error("order {order} with root {root} is not a retained state; commit on one of orders {floor} to {head}")]
    BaseNotRetained {
        /// The order named as base.
        order: Order,
        /// The root named as base.
        root: StateRoot,
        /// The oldest order that may be built on.
        floor: Order,
        /// The newest one.
        head: Order,
    },
    /// A commit lost a race: the head moved since its changes were computed.
    #[error("the head is now order {head}; compute the changes again on it")]
    HeadMoved {
        /// The head now.
        head: Order,
    },
    /// The state was pruned (O19): distinct from one that never existed.
    #[error("order {order} was pruned; the oldest readable order is {floor}")]
    Pruned {
        /// The order asked for.
        order: Order,
        /// The oldest readable one.
        floor: Order,
    },
    /// The order is readable by itself, below the range that is readable without a gap: the chain does not go on from it.
    #[error(
        "order {order} is kept by itself below the readable range: it can be read, and no more than that; the chain goes back to order {floor} or a later one, and a consumer begins there"
    )]
    KeptBelow {
        /// The order asked for.
        order: Order,
        /// The oldest of the range.
        floor: Order,
    },
    /// No such order was ever committed.
    #[error("there is no order {order}: {head}")]
    NoSuchOrder {
        /// The order asked for.
        order: Order,
        /// The newest one, if any.
        head: HeadOrder,
    },
    /// A slice of the journal was read before a cycle or a rollback changed what it stands on.
    #[error("the slice was overtaken; read the next one")]
    Superseded,
    /// A reader holds a state that may have what a slice would delete (S41).
    #[error("{owner} holds order {order}, which may have what would be deleted; it goes on when the reader lets go")]
    HeldByReader {
        /// The order held.
        order: Order,
        /// What the reader said of itself.
        owner: String,
    },
    /// A rollback would take away a state that a reader holds.
    #[error(
        "{owner} holds order {order}, which a rollback would take away: go back when it has let go, or to that order or a later one"
    )]
    HeldAbove {
        /// The order held.
        order: Order,
        /// What the reader said of itself.
        owner: String,
    },
    /// The engine has not what was asked of it.
    #[error("this engine has no {0}")]
    Unsupported(&'static str),
    /// The journal does not cover what it must (C11).
    #[error("the commit journal has no record of order {0}")]
    JournalGap(Order),
    /// A promise of ours does not hold.
    #[error("internal error: {0}")]
    Invariant(String),
}

/// What to do about a refused access.
fn advice_on(refused: &io::Error, need: Need) -> &'static str {
    if refused.kind() == io::ErrorKind::ReadOnlyFilesystem {
        return "Its device is mounted for reading only: mount it for writing, or, where something is to be made, give a folder on another one";
    }
    match need {
        Need::Read => {
            "Run as its owner, or let this user read it (a folder: list and enter it), and enter the folders above"
        }
        Need::Write => {
            "Run as its owner, or let this user read and write there (for what is to be created: in the folder above)"
        }
    }
}

/// A head that may not exist yet, and what to do where a later order was asked for, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadOrder(pub Option<Order>);

impl std::fmt::Display for HeadOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(order) => write!(f, "the head is order {order}; ask for that one or an earlier one"),
            None => f.write_str("nothing is committed yet; ask again after the first block"),
        }
    }
}

impl StoreError {
    /// The same, met by somebody who has to write too: told at once, or he would be refused again.
    #[must_use]
    pub fn of_a_writer(self) -> Self {
        let Self::Permission { path, source, .. } = self else { return self };
        Self::Permission { path, need: Need::Write, source }
    }

    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotADatabase { .. } => "not_a_database",
            Self::MissingFamily { .. } => "missing_family",
            Self::Locked { .. } => "locked",
            Self::Permission { .. } => "permission",
            Self::DiskFull { .. } => "disk_full",
            Self::Io { .. } => "io",
            Self::Corrupt(_) => "corrupt",
            Self::Record { .. } => "record",
            Self::Newer { .. } => "newer",
            Self::NoTable(_) => "no_table",
            Self::Poisoned { .. } => "poisoned",
            Self::ReadOnly => "read_only",
            Self::Cancelled => "cancelled",
            Self::PermitRevoked => "permit_revoked",
            Self::BarrierFull { .. } => "barrier_full",
            Self::BaseNotRetained { .. } => "base_not_retained",
            Self::HeadMoved { .. } => "head_moved",
            Self::Pruned { .. } => "pruned",
            Self::KeptBelow { .. } => "kept_below",
            Self::NoSuchOrder { .. } => "never_existed",
            Self::Superseded => "superseded",
            Self::HeldByReader { .. } => "held_by_reader",
            Self::HeldAbove { .. } => "held_above",
            Self::Unsupported(_) => "unsupported",
            Self::JournalGap(_) => "journal_gap",
            Self::Invariant(_) => "internal",
        }
    }

    /// Whether a write that ended so may be on disk all the same (C4).
    pub fn may_be_written(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Corrupt(_) | Self::Permission { .. })
    }

    /// What the caller must do.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Io { .. } | Self::HeadMoved { .. } | Self::Superseded => Disposition::Transient,
            Self::DiskFull { .. }
            | Self::BarrierFull { .. }
            | Self::Cancelled
            | Self::PermitRevoked
            | Self::HeldByReader { .. }
            | Self::HeldAbove { .. } => Disposition::Resource,
            Self::Corrupt(_) | Self::Record { .. } | Self::JournalGap(_) | Self::Poisoned { .. } => {
                Disposition::Corrupt
            }
            Self::NotADatabase { .. }
            | Self::MissingFamily { .. }
            | Self::Locked { .. }
            | Self::Permission { .. }
            | Self::Newer { .. }
            | Self::NoTable(_)
            | Self::ReadOnly
            | Self::Unsupported(_)
            | Self::BaseNotRetained { .. }
            | Self::Pruned { .. }
            | Self::KeptBelow { .. }
            | Self::NoSuchOrder { .. } => Disposition::Input,
            Self::Invariant(_) => Disposition::Bug,
        }
    }
}
