//! The only unsafe code of the crate: an owned snapshot, four calls of the engine's C interface that the wrapper
//! lacks, and the list of tables, of which the wrapper copies each part: a store may have a hundred thousand. Nothing else
//! may be added here without the same argument written beside it.

use std::{
    ffi::{CStr, c_char, c_int},
    slice,
    sync::Arc,
};

use librocksdb_sys as ffi;
use rocksdb::{AsColumnFamilyRef, AsRawPtr, ColumnFamily, DB, ReadOptions, Snapshot};

use crate::{backend::KeyRange, error::StoreError};

/// A snapshot that keeps its database alive. Fields drop in the order of declaration: the snapshot goes first.
pub(super) struct OwnedSnapshot {
    snapshot: Snapshot<'static>,
    db: Arc<DB>,
}

impl OwnedSnapshot {
    pub(super) fn of(db: &Arc<DB>) -> Self {
        // SAFETY: the database lives on the heap behind the Arc that is stored beside the snapshot and dropped after
        // it, and the 'static reference does not leave this struct.
        let pinned: &'static DB = unsafe { &*Arc::as_ptr(db) };
        Self { snapshot: pinned.snapshot(), db: Arc::clone(db) }
    }

    pub(super) fn db(&self) -> &DB {
        &self.db
    }

    pub(super) fn sequence(&self) -> u64 {
        self.snapshot.sequence_number()
    }

    /// Makes reads with these options read this instant. They must not outlive `self`.
    pub(super) fn bind(&self, options: &mut ReadOptions) {
        options.set_snapshot(&self.snapshot);
    }
}

struct CompactOptions(*mut ffi::rocksdb_compactoptions_t);

impl Drop for CompactOptions {
    fn drop(&mut self) {
        // SAFETY: created by `rocksdb_compactoptions_create` and destroyed once.
        unsafe { ffi::rocksdb_compactoptions_destroy(self.0) }
    }
}

const FORCE_BOTTOM_ONCE: u8 = 3; // BottommostLevelCompaction::kForceOptimized
const FORCE_BLOBS: i32 = 0; // BlobGarbageCollectionPolicy::kForce

/// Rewrites the files that overlap the range, blobs included. The engine's C interface drops the status: the caller
/// must prove from the live files that it happened.
pub(super) fn compact(db: &DB, family: &ColumnFamily, range: &KeyRange, threads: u8) {
    let bound = |key: &Option<Vec<u8>>| {
        key.as_ref().map_or((std::ptr::null(), 0), |key| (key.as_ptr().cast::<c_char>(), key.len()))
    };
    let last = range.end.as_deref().map(last_before);
    let ((start, start_len), (end, end_len)) = (bound(&range.start), bound(&last));
    // SAFETY: all pointers come from live values that outlive the call; the engine copies the keys it keeps.
    unsafe {
        let options = CompactOptions(ffi::rocksdb_compactoptions_create());
        ffi::rocksdb_compactoptions_set_exclusive_manual_compaction(options.0, 0);
        ffi::rocksdb_compactoptions_set_bottommost_level_compaction(options.0, FORCE_BOTTOM_ONCE);
        ffi::rocksdb_compactoptions_set_max_subcompactions(options.0, i32::from(threads));
        ffi::rocksdb_compactoptions_set_blob_garbage_collection_policy(options.0, FORCE_BLOBS);
        ffi::rocksdb_compactoptions_set_blob_garbage_collection_age_cutoff(options.0, 1.0);
        ffi::rocksdb_compact_range_cf_opt(db.as_raw_ptr(), family.inner(), options.0, start, start_len, end, end_len);
    }
}

/// Longer than any key: see [`last_before`].
const LONG_KEY: usize = 128;

/// The last key before an exclusive bound, for the engine's inclusive one: a file that begins at the bound is then not
/// rewritten along. Exact for every key that is no longer than a foreign one can be; the proof that follows a rewrite
/// does not rely on it.
fn last_before(end: &[u8]) -> Vec<u8> {
    match end.split_last() {
        Some((0, rest)) => rest.to_vec(),
        Some((last, rest)) => [rest, &[last - 1], &[0xff; LONG_KEY]].concat(),
        None => Vec::new(),
    }
}

/// Ends the manual compactions that are running, waits for them, and refuses new ones until as many calls of
/// [`admit_manual_compactions`] have followed.
pub(super) fn end_manual_compactions(db: &DB) {
    // SAFETY: the database outlives the call; the engine counts these calls.
    unsafe { ffi::rocksdb_disable_manual_compaction(db.as_raw_ptr()) }
}

/// Takes one call of [`end_manual_compactions`] back.
pub(super) fn admit_manual_compactions(db: &DB) {
    // SAFETY: as above, and each call follows one of the other kind.
    unsafe { ffi::rocksdb_enable_manual_compaction(db.as_raw_ptr()) }
}

/// The tables that a database had when it was asked. This does not change, and outlives the database.
pub(super) struct LiveTables(*const ffi::rocksdb_livefiles_t);

// SAFETY: the list belongs to this value alone, and the calls below only read it.
unsafe impl Send for LiveTables {}
// SAFETY: as above.
unsafe impl Sync for LiveTables {}

impl Drop for LiveTables {
    fn drop(&mut self) {
        // SAFETY: created by `rocksdb_livefiles` and destroyed once.
        unsafe { ffi::rocksdb_livefiles_destroy(self.0) }
    }
}

impl LiveTables {
    pub(super) fn of(db: &DB) -> Self {
        // SAFETY: the database outlives the call, which copies what it lists and fails by no null.
        Self(unsafe { ffi::rocksdb_livefiles(db.as_raw_ptr()) })
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = LiveTable<'_>> {
        // SAFETY: the list lives as long as `self`.
        let count = unsafe { ffi::rocksdb_livefiles_count(self.0) };
        (0..count).map(|index| LiveTable { of: self, index })
    }
}

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct LiveTable<'a> {
    of: &'a LiveTables,
    index: c_int,
}

impl<'a> LiveTable<'a> {
    pub(super) fn family(self) -> &'a [u8] {
        // SAFETY: the index is one of the list's, and the list, which does not change, outlives what is lent: a text with an end.
        unsafe { CStr::from_ptr(ffi::rocksdb_livefiles_column_family_name(self.of.0, self.index)) }.to_bytes()
    }

    /// By which its file is named.
    pub(super) fn number(self) -> Result<u64, StoreError> {
        // SAFETY: as above.
        let name = unsafe { CStr::from_ptr(ffi::rocksdb_livefiles_name(self.of.0, self.index)) };
        let digits = name.to_str().map_or("", |name| name.trim_start_matches('/').trim_end_matches(".sst"));
        digits.parse().map_err(|_| StoreError::Invariant(format!("the engine has a table by the name {name:?}")))
    }

    pub(super) fn bytes(self) -> u64 {
        // SAFETY: as above.
        unsafe { ffi::rocksdb_livefiles_size(self.of.0, self.index) as u64 }
    }

    pub(super) fn level(self) -> c_int {
        // SAFETY: as above.
        unsafe { ffi::rocksdb_livefiles_level(self.of.0, self.index) }
    }

    pub(super) fn first(self) -> &'a [u8] {
        let mut length = 0;
        // SAFETY: as above; the call gives the length of what it lends.
        unsafe {
            let key = ffi::rocksdb_livefiles_smallestkey(self.of.0, self.index, &raw mut length);
            slice::from_raw_parts(key.cast(), length)
        }
    }

    pub(super) fn last(self) -> &'a [u8] {
        let mut length = 0;
        // SAFETY: as above.
        unsafe {
            let key = ffi::rocksdb_livefiles_largestkey(self.of.0, self.index, &raw mut length);
            slice::from_raw_parts(key.cast(), length)
        }
    }

    pub(super) fn entries(self) -> u64 {
        // SAFETY: as above.
        unsafe { ffi::rocksdb_livefiles_entries(self.of.0, self.index) }
    }

    pub(super) fn deletes(self) -> u64 {
        // SAFETY: as above.
        unsafe { ffi::rocksdb_livefiles_deletions(self.of.0, self.index) }
    }
}

#[cfg(test)]
mod tests {
    use super::last_before;

    #[test]
    fn the_inclusive_bound_lies_between_the_last_key_and_the_exclusive_one() {
        for end in [&[5u8][..], &[5, 0], &[5, 0, 0], &[0], &[1], &[255, 255], &[7; 32]] {
            let last = last_before(end);
            assert!(last.as_slice() < end, "{end:?}");
            let before = match end.split_last() {
                Some((0, rest)) => rest.to_vec(),
                Some((byte, rest)) => [rest, &[byte - 1], &[0xff; 66]].concat(),
                None => Vec::new(),
            };
            assert!(before <= last, "{end:?}: a key of 67 bytes before it");
        }
    }
}
