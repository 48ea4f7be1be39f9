//! What helps against an error, by its type. Pure.

use state_store::{Disposition, StoreError};

use crate::error::PruneError;

/// What helps against an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same again, later.
    Retry,
    /// The same again, when there is room on the device.
    AwaitRoom {
        /// Bytes that have to be free; absent where nobody knows.
        need: Option<u64>,
    },
    /// The same again on a new snapshot: a record or a file of ours is damaged, no live node is.
    NewSnapshot,
    /// Nothing: the phase ends. Live data that is damaged freezes deletes (I11); a fault of ours is for us to mend.
    Stop,
    /// Nothing is wrong: somebody ended the phase.
    Ended,
}

/// Whether what stands in the way may pass by itself, so that nothing has to be given up for it.
pub(crate) fn may_pass(error: &PruneError) -> bool {
    match remedy(error) {
        Remedy::Retry | Remedy::AwaitRoom { .. } => true,
        Remedy::NewSnapshot | Remedy::Stop | Remedy::Ended => false,
    }
}

/// What helps against an error.
pub fn remedy(error: &PruneError) -> Remedy {
    match error {
        PruneError::Store(error) => of_store(error),
        PruneError::Cancelled | PruneError::Stopped => Remedy::Ended,
        PruneError::BadMark { .. } | PruneError::BadSnapshot { .. } => Remedy::NewSnapshot,
        PruneError::NoRoom { need, .. } => Remedy::AwaitRoom { need: Some(*need) },
        PruneError::NoThread { .. } => Remedy::Retry, // room on the device brings none
        // More memory, names or time is for somebody else to give, and a pin for its owner to remove.
        PruneError::MemoryBudget { .. }
        | PruneError::TooManyNames { .. }
        | PruneError::PinnedAbove { .. }
        | PruneError::BreakerOpen { .. } => Remedy::Stop,
        PruneError::File { .. }
        | PruneError::MissingLiveNode { .. }
        | PruneError::BadNode { .. }
        | PruneError::WrongHash { .. }
        | PruneError::Frozen { .. }
        | PruneError::Tree(_)
        | PruneError::Changed { .. }
        | PruneError::Moving { .. }
        | PruneError::Blocked(_)
        | PruneError::LockTimeout { .. }
        | PruneError::StillWorking { .. }
        | PruneError::NoHead
        | PruneError::OtherLayout { .. }
        | PruneError::NativeAtRest
        | PruneError::LogCut { .. }
        | PruneError::PrunedBefore { .. }
        | PruneError::NothingKnown { .. }
        | PruneError::Holes { .. }
        | PruneError::BadName { .. }
        | PruneError::TwoWindows(..)
        | PruneError::HeldByName(_)
        | PruneError::NameTaken { .. }
        | PruneError::UnknownName { .. }
        | PruneError::NotResumable { .. }
        | PruneError::Invariant(_) => by_disposition(error.disposition()),
    }
}

fn of_store(error: &StoreError) -> Remedy {
    match error {
        StoreError::Cancelled => Remedy::Ended,
        StoreError::DiskFull { .. } => Remedy::AwaitRoom { need: None },
        StoreError::Record { .. } | StoreError::JournalGap(_) => Remedy::NewSnapshot,
        // Whoever took the lock, or reads, lets go again.
        StoreError::PermitRevoked | StoreError::HeldByReader { .. } | StoreError::HeldAbove { .. } => Remedy::Retry,
        StoreError::BarrierFull { .. } => Remedy::Stop, // the same cycle would fill it again
        StoreError::Io { .. }
        | StoreError::HeadMoved { .. }
        | StoreError::Superseded
        | StoreError::Corrupt(_)
        | StoreError::Poisoned { .. }
        | StoreError::NotADatabase { .. }
        | StoreError::MissingFamily { .. }
        | StoreError::Locked { .. }
        | StoreError::Permission { .. }
        | StoreError::Newer { .. }
        | StoreError::NoTable(_)
        | StoreError::ReadOnly
        | StoreError::Unsupported(_)
        | StoreError::BaseNotRetained { .. }
        | StoreError::Pruned { .. }
        | StoreError::KeptBelow { .. }
        | StoreError::NoSuchOrder { .. }
        | StoreError::Invariant(_) => by_disposition(error.disposition()),
    }
}

fn by_disposition(disposition: Disposition) -> Remedy {
    match disposition {
        Disposition::Transient => Remedy::Retry,
        Disposition::Resource => Remedy::AwaitRoom { need: None },
        Disposition::Corrupt | Disposition::Input | Disposition::Bug => Remedy::Stop,
    }
}
