//! What the catalog refuses, and what fails in it, each with its disposition (docs/operations.md has a heading per code).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::io::Errno;
use state_store::{Disposition, Holder, StoreError};
use thiserror::Error;

use super::SnapshotId;
use crate::{error::PruneError, when::When};

/// A failure of the catalog.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The store, or the work on it, failed.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// A file or folder could not be read or written, though there was room and permission.
    #[error("{path}: {source}. {}", advice(source))]
    File {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The folder is no catalog.
    #[error("{dir} {why}: give the folder that `snapshot create` was given")]
    NoCatalog {
        /// The folder.
        dir: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// The folder holds something else.
    #[error("{dir} is not empty and is no snapshot catalog: give an empty folder, or one that does not exist")]
    NotACatalog {
        /// The folder.
        dir: PathBuf,
    },
    /// A text that is no id.
    #[error("`{id}` is no id of a snapshot: `snapshot list` shows those there are")]
    BadId {
        /// The text.
        id: String,
    },
    /// No snapshot has the id, or it was removed meanwhile.
    #[error("there is no snapshot {id} in {dir}: it was removed, or lies in another catalog")]
    UnknownSnapshot {
        /// The id.
        id: SnapshotId,
        /// The catalog.
        dir: PathBuf,
    },
    /// A snapshot whose manifest or files are not what was written (C5).
    #[error("snapshot {id} was damaged after it was made: {what}. Do not use it; delete it and make another one")]
    DamagedSnapshot {
        /// The id.
        id: SnapshotId,
        /// What is wrong with it, with the file.
        what: String,
    },
    /// A snapshot whose files are what was written, and hold damage (C5): a store was copied that had it.
    #[error(
        "snapshot {id} was made of a damaged store: {what}. Its files are what was written then. Do not use it, and verify that store: \
         if it is damaged still, put an older snapshot that `snapshot verify --deep` finds sound, or the data of a peer, in its place; \
         if it is not, make another snapshot"
    )]
    DamagedSource {
        /// The id.
        id: SnapshotId,
        /// What is wrong with it, with the file or the folder.
        what: String,
    },
    /// A snapshot that another program wrote.
    #[error(
        "snapshot {id} has a manifest of version {version}, and this program reads none above {known}: use the one that wrote it"
    )]
    OtherVersion {
        /// The id.
        id: SnapshotId,
        /// Its version.
        version: u64,
        /// The newest that is read.
        known: u64,
    },
    /// The next ordinal is not known: the lock file has lost the last one, and a manifest that may have the greatest cannot be
    /// read (I8).
    #[error(
        "{}: whether snapshot {id} is the newest cannot be told, nor which number comes next, for {} has lost the last one. Try again when the snapshot can be read, or give it up with `snapshot delete {id}`",
        source.fault(),
        lock.display()
    )]
    OrdinalUnknown {
        /// The snapshot that cannot be read.
        id: SnapshotId,
        /// The lock file.
        lock: PathBuf,
        /// Why.
        source: Box<CatalogError>,
    },
    /// Somebody reads the snapshot, or has just made it.
    #[error("snapshot {id} is in use by {holder}: wait until it is done with it")]
    SnapshotInUse {
        /// The id.
        id: SnapshotId,
        /// Who.
        holder: Holder,
    },
    /// The lock of the catalog, or of the folder in which a store is restored, was not to be had.
    #[error(
        "{holder} has held the lock of {dir} for {waited:?}, where renames take milliseconds: see whether it was stopped"
    )]
    CatalogBusy {
        /// The folder.
        dir: PathBuf,
        /// Who.
        holder: Holder,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The node makes a snapshot already.
    #[error(
        "busy: capture {id} by process {pid} since {}. A node makes one at a time: ask again when that one is done, `snapshot list` of the catalog it is for shows it then",
        When(*since_ms)
    )]
    CaptureBusy {
        /// The one at work.
        id: SnapshotId,
        /// The process.
        pid: u32,
        /// When it began, in milliseconds since 1970.
        since_ms: u64,
    },
    /// Snapshots were removed, and the folder could not be synced.
    #[error("{}: removed, but {}: a power loss may bring that back. Look at the disk", listed(ids), source.fault())]
    Unsettled {
        /// The snapshots.
        ids: Vec<SnapshotId>,
        /// What failed.
        source: Box<CatalogError>,
    },
    /// A process has the store open for writing, so only it can copy the store.
    #[error(
        "{db} is in use by {holder}: if that is a node, give --url to make the snapshot through it; or stop it, or wait for its end"
    )]
    InUse {
        /// The store.
        db: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// The node ends, and with it the snapshot that it was making.
    #[error("the node stopped before the copy was done; nothing is left of it: ask again when it runs")]
    NodeStopped,
    /// A path that cannot be the one asked for.
    #[error("{path} {why}")]
    BadPlace {
        /// The path.
        path: PathBuf,
        /// What is wrong with it, and what to give instead.
        why: String,
    },
}

/// What to do about a file that could not be read or written. Where room or permission is missing, another error says so.
fn advice(source: &io::Error) -> &'static str {
    use io::ErrorKind::{
        AlreadyExists, CrossesDevices, DirectoryNotEmpty, FileTooLarge, InvalidFilename, InvalidInput, IsADirectory,
        NotADirectory, NotFound, TooManyLinks, Unsupported,
    };
    let is = |errors: &[Errno]| errors.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()));
    let kind = source.kind();
    if is(&[Errno::MFILE, Errno::NFILE]) {
        "Let the process open more files (`ulimit -n`), and try again"
    } else if matches!(kind, FileTooLarge | InvalidFilename | CrossesDevices | TooManyLinks | Unsupported) {
        "The file system there does not take it: choose a folder on another one"
    } else if matches!(kind, NotFound | NotADirectory | IsADirectory | AlreadyExists | DirectoryNotEmpty | InvalidInput)
        || is(&[Errno::LOOP])
    {
        "Something else changes what is there: see what does, and try again"
    } else {
        "Look at the disk and at the log of the system, and try again when it answers"
    }
}

fn listed(ids: &[SnapshotId]) -> String {
    ids.iter().map(SnapshotId::to_string).collect::<Vec<_>>().join(", ")
}

impl From<StoreError> for CatalogError {
    fn from(error: StoreError) -> Self {
        Self::Prune(error.into())
    }
}

impl CatalogError {
    /// What the caller must do.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Prune(error) => error.disposition(),
            Self::OrdinalUnknown { source, .. } | Self::Unsettled { source, .. } => source.disposition(),
            Self::File { .. } | Self::CatalogBusy { .. } => Disposition::Transient,
            Self::SnapshotInUse { .. } | Self::CaptureBusy { .. } | Self::NodeStopped => Disposition::Resource,
            Self::DamagedSnapshot { .. } | Self::DamagedSource { .. } => Disposition::Corrupt,
            Self::NoCatalog { .. }
            | Self::NotACatalog { .. }
            | Self::BadId { .. }
            | Self::UnknownSnapshot { .. }
            | Self::OtherVersion { .. }
            | Self::InUse { .. }
            | Self::BadPlace { .. } => Disposition::Input,
        }
    }

    /// What is wrong, without what to do about a damaged snapshot or a file: for a message that says that itself.
    fn fault(&self) -> String {
        if let Self::File { path, source } = self {
            return format!("{}: {source}", path.display());
        }
        let Self::DamagedSnapshot { id, what } = self else { return self.to_string() };
        format!("snapshot {id} is damaged: {what}")
    }

    /// The same of a copy that is gone when this is read, told of what it was made from.
    pub(super) fn told_of(self, copy: &Path, origin: &Path) -> Self {
        let (copy, origin) = (copy.display().to_string(), origin.display().to_string());
        let told = |text: String| text.replace(&copy, &origin);
        let moved = |path: PathBuf| PathBuf::from(told(path.display().to_string()));
        if let Self::DamagedSnapshot { id, what } = self {
            return Self::DamagedSnapshot { id, what: told(what) };
        }
        if let Self::DamagedSource { id, what } = self {
            return Self::DamagedSource { id, what: told(what) };
        }
        if let Self::File { path, source } = self {
            return Self::File { path: moved(path), source };
        }
        let Self::Prune(PruneError::Store(error)) = self else { return self };
        if let StoreError::Corrupt(what) = error {
            return StoreError::Corrupt(told(what)).into();
        }
        let cause = |cause: io::Error| io::Error::new(cause.kind(), told(cause.to_string()));
        if let StoreError::Io { what, source } = error {
            return StoreError::Io { what: told(what), source: cause(source) }.into();
        }
        if let StoreError::Permission { path, need, source } = error {
            return StoreError::Permission { path: moved(path), need, source: cause(source) }.into();
        }
        error.into()
    }

    /// The same where a folder of ours had no room or was refused, which nobody knows: told of `place`, in which it was. `ours` is
    /// in its name.
    pub(super) fn told_in(self, ours: &str, place: &Path, doing: &str) -> Self {
        let Self::Prune(PruneError::Store(error)) = self else { return self };
        if let StoreError::DiskFull { what } = &error
            && what.contains(ours)
        {
            return StoreError::DiskFull { what: format!("{doing} {}", place.display()) }.into();
        }
        if let StoreError::Permission { path, need, source } = error {
            let is_ours = path.display().to_string().contains(ours);
            return StoreError::Permission { path: if is_ours { place.to_owned() } else { path }, need, source }.into();
        }
        error.into()
    }

    /// Whether a file could not be read, which says nothing about what it holds (I8).
    pub(super) fn is_of_a_read(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Prune(PruneError::Store(StoreError::Permission { .. })))
    }

    /// A stable word for scripts, as printed with `--json`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Prune(error) => error.code(),
            Self::File { .. } => "file",
            Self::NoCatalog { .. } => "no_catalog",
            Self::NotACatalog { .. } => "not_a_catalog",
            Self::BadId { .. } => "bad_snapshot_id",
            Self::UnknownSnapshot { .. } => "unknown_snapshot",
            Self::DamagedSnapshot { .. } => "damaged_snapshot",
            Self::DamagedSource { .. } => "damaged_source",
            Self::OtherVersion { .. } => "other_version",
            Self::OrdinalUnknown { .. } => "ordinal_unknown",
            Self::SnapshotInUse { .. } => "snapshot_in_use",
            Self::CatalogBusy { .. } => "catalog_busy",
            Self::CaptureBusy { .. } => "capture_busy",
            Self::Unsettled { .. } => "unsettled",
            Self::InUse { .. } => "in_use",
            Self::NodeStopped => "stopped",
            Self::BadPlace { .. } => "bad_place",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_fails_is_told_with_what_to_do_about_it() {
        let file = |source| CatalogError::File { path: "/there/f".into(), source };
        let of = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let rows = [
            (of(Errno::IO), "the log of the system"),
            (of(Errno::STALE), "the log of the system"),
            (of(Errno::MFILE), "`ulimit -n`"),
            (of(Errno::NFILE), "`ulimit -n`"),
            (of(Errno::FBIG), "on another one"),
            (of(Errno::NAMETOOLONG), "on another one"),
            (of(Errno::XDEV), "on another one"),
            (of(Errno::NOENT), "Something else changes what is there"),
            (of(Errno::LOOP), "Something else changes what is there"),
            (of(Errno::EXIST), "Something else changes what is there"),
            (
                io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"),
                "Something else changes what is there",
            ),
        ];
        for (source, advice) in rows {
            let fault = format!("/there/f: {source}");
            let told = file(source).to_string();
            assert!(told.starts_with(&fault) && told.contains(advice), "{told}");
        }
    }

    #[test]
    fn an_error_that_says_what_to_do_itself_says_nothing_else_of_the_file_it_met() {
        let source = Box::new(CatalogError::File { path: "/there".into(), source: io::Error::other("x") });
        let told = CatalogError::Unsettled { ids: Vec::new(), source }.to_string();
        assert!(told.contains("/there: x: a power loss") && told.matches("ook at the disk").count() == 1, "{told}");
    }
}
