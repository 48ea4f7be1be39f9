//! What each error asks of whoever meets it: by type, and exhaustive.

use std::io;

use state_store::Disposition;

use super::PruneError;

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
            | Self::LogCut { .. }
            | Self::Frozen { .. } => Disposition::Corrupt,
            Self::File { source, .. } => of_file(source.kind()),
            Self::Tree(_)
            | Self::Changed { .. }
            | Self::Moving { .. }
            | Self::Blocked(_)
            | Self::LockTimeout { .. }
            | Self::StillWorking { .. } => Disposition::Transient,
            Self::NoHead
            | Self::OtherLayout { .. }
            | Self::NativeAtRest
            | Self::PrunedBefore { .. }
            | Self::NothingKnown { .. }
            | Self::Holes { .. }
            | Self::BadName { .. }
            | Self::TwoWindows(..)
            | Self::HeldByName(_)
            | Self::NameTaken { .. }
            | Self::UnknownName { .. }
            | Self::NotResumable { .. } => Disposition::Input,
            Self::MemoryBudget { .. }
            | Self::NoRoom { .. }
            | Self::NoThread { .. }
            | Self::TooManyNames { .. }
            | Self::PinnedAbove { .. }
            | Self::BreakerOpen { .. }
            | Self::Cancelled
            | Self::Stopped => Disposition::Resource,
            Self::Invariant(_) => Disposition::Bug,
        }
    }
}

/// What a failure of one of our files asks for: a full device and a refused access do not pass by waiting.
fn of_file(kind: io::ErrorKind) -> Disposition {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    if [StorageFull, QuotaExceeded].contains(&kind) {
        Disposition::Resource
    } else if [PermissionDenied, ReadOnlyFilesystem].contains(&kind) {
        Disposition::Input
    } else {
        Disposition::Transient
    }
}
