//! What a faulty backend can be told to fail, how, and for how long.

use std::io;

use crate::error::StoreError;

/// What a failing operation reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A passing failure of the device.
    Transient,
    /// A full device.
    DiskFull,
    /// Damaged data.
    Corrupt,
}

impl Fault {
    pub(super) fn error(self, what: &str) -> StoreError {
        match self {
            Self::Transient => StoreError::Io { what: what.to_owned(), source: io::Error::other("injected") },
            Self::DiskFull => StoreError::DiskFull { what: what.to_owned() },
            Self::Corrupt => StoreError::Corrupt(format!("injected while {what}")),
        }
    }
}

/// Declares the operations and lists them, so that a new one is in every test that goes through the list.
macro_rules! operations {
    ($($(#[$doc:meta])* $operation:ident => $what:literal,)*) => {
        /// What an engine is asked for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Operation {
            $($(#[$doc])* $operation,)*
        }

        impl Operation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$operation,)*];

            pub(super) fn what(self) -> &'static str {
                match self {
                    $(Self::$operation => $what,)*
                }
            }
        }
    };
}

operations! {
    /// An instant of every family.
    View => "taking a view",
    /// One node.
    ReadNode => "reading a node",
    /// Nodes by their hashes.
    ReadNodes => "reading nodes",
    /// Nodes in key order.
    ScanNodes => "scanning nodes",
    /// One row.
    ReadRow => "reading a row",
    /// Rows by their keys.
    ReadRows => "reading rows",
    /// Rows in key order.
    ScanRows => "scanning rows",
    /// A batch.
    Write => "writing",
    /// Memtables to files.
    Flush => "flushing",
    /// The rewrite of a range.
    Rewrite => "rewriting",
    /// The list of files.
    ListFiles => "listing files",
    /// The bytes of blob files.
    BlobBytes => "measuring blob files",
    /// The estimate of rows.
    RowsHint => "estimating rows",
    /// The bytes on disk.
    Space => "measuring space",
    /// The bytes that are free.
    FreeBytes => "asking for free space",
    /// The count of the engine's own failures.
    BackgroundErrors => "asking for background errors",
}

/// How long a failure stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// One call.
    Once,
    /// Every call from then on, until [`heal`](super::FaultyBackend::heal).
    UntilHealed,
}

/// A failure to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Injection {
    pub(super) operation: Operation,
    /// Calls that still pass.
    pub(super) passing: u64,
    pub(super) fault: Fault,
    pub(super) lasting: Lasting,
}
