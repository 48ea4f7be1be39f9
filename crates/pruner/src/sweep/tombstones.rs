//! What deleted rows still take in the files of the node family, and giving a range of it back.
//!
//! The sweep between cycles deletes by tombstones, which ordinary compaction absorbs as commits go on. Where none come, a
//! range that holds some is rewritten: nothing is judged and nothing but tombstones, and what they hide, is left out.
//!
//! Costs: listing the files holds the engine's own lock for as long as there are many; a range is read and written once.

use state_store::{Backend, KeyRange, NodeFile};

use super::{ranges, room};
use crate::error::PruneError;

/// From this share of the rows on tombstones are worth a rewrite: each hides a row, so twice as much of the files is dead.
const MANY: f64 = 0.05;

/// Tombstones in the files of the node family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tombstones {
    /// Deletes that the files hold.
    pub deletes: u64,
    /// Everything that they hold, deletes among it.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

impl Tombstones {
    /// Counts them, with what is in memory written to files first.
    ///
    /// Errors: a failed flush or listing.
    pub(crate) fn measure(backend: &dyn Backend) -> Result<Self, PruneError> {
        if backend.buffered_deletes()? > 0 {
            backend.flush()?;
        }
        let files = backend.node_files()?;
        let sum = |of: fn(&NodeFile) -> u64| files.iter().map(of).sum();
        Ok(Self { deletes: sum(|file| file.deletes), rows: sum(|file| file.entries), bytes: sum(|file| file.bytes) })
    }

    /// Whether they are worth a rewrite.
    pub(crate) fn are_many(self) -> bool {
        self.deletes > 0 && self.deletes as f64 >= self.rows as f64 * MANY
    }
}

/// The next range from a key on that holds tombstones; nothing if there is none up to the end of the keys.
///
/// Errors: a failed listing.
pub(crate) fn next_range(
    backend: &dyn Backend,
    from: Option<Vec<u8>>,
    range_bytes: u64,
) -> Result<Option<KeyRange>, PruneError> {
    let files = backend.node_files()?;
    let ranges = ranges::cut(&files, from, range_bytes);
    let deletes = room::inside(&files, &ranges, |file| file.deletes);
    Ok(ranges.into_iter().zip(deletes).find(|(_, deletes)| *deletes > 0).map(|(range, _)| range))
}

/// Rewrites a range, if it has room; returns the bytes of its files.
///
/// Errors: no room, a failed rewrite, one that was told to end.
pub(crate) fn rewrite(backend: &dyn Backend, range: &KeyRange) -> Result<u64, PruneError> {
    let bytes = room::check_range(backend, range, backend.node_blob_bytes()?)?;
    backend.rewrite_files(range)?;
    Ok(bytes)
}
