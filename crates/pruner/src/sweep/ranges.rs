//! The filtered sweep: one range of files after another is rewritten down to the bottom level.
//!
//! Ranges begin where files of the largest level begin, so that none of those is rewritten for two ranges. At the end
//! no file is left that was there at the beginning (L16). Extra disk is one range, whose files, with those that the engine
//! merges them with, exist twice until the rewrite ends, and the blob files of the family, which ranges share; a range starts
//! only if that much is free (C13). One that has no room is cut in two, again and again; the reserve goes where none is left to cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use state_store::{Backend, Haste, KeyRange, NodeFile, Point, StoreError, reached};

use super::{Saved, SweepCursor, SweepJob, SweepReport, rest_of_keys, room::check_range};
use crate::{control::Stage, error::PruneError};

pub(super) fn sweep(
    job: &SweepJob<'_>,
    cursor: &mut dyn SweepCursor,
    report: &mut SweepReport,
) -> Result<(), PruneError> {
    let (pace, backend, before) = (job.pace.clone(), job.store.backend(), report.clone());
    let active = job.store.sweep(job.permit.clone(), job.barrier.clone(), job.mark.clone(), pace)?;
    let Some(rest) = rest_of_keys(cursor) else { return Ok(()) };
    let old = Old { files: backend.node_files()?, from: rest.start };
    let blobs = backend.node_blob_bytes()?;
    let mut left = VecDeque::from(cut(&old.files, old.from.clone(), job.range_bytes));
    while let Some((range, _)) = next_with_room(job, &mut left, blobs)? {
        active.rewrite(&range).map_err(|error| job.control.unless_ended(error))?;
        let tally = active.tally(); // drops by compactions that the engine began by itself included
        report.deleted_bytes = before.bytes_so_far().map(|bytes| bytes + tally.dropped_bytes);
        report.deleted = before.deleted + tally.dropped;
        (report.spared, report.foreign) = (before.spared + tally.created, before.foreign + tally.foreign);
        let next = range.end.as_deref().map_or(&[][..], |end| end);
        if next.is_empty() {
            // BEFORE the cursor says that everything is done
            old.rewrite_leftovers(job, &|range| active.rewrite(range).map(|_| ()))?;
        }
        job.mark.was_read()?; // BEFORE the cursor passes what was kept unread
        report.ranges += 1;
        reached(Point::RangeRewritten);
        cursor.advance(next, report.deleted, Saved::NotYet)?; // the work first: it is idempotent
        reached(Point::RangePassed);
        job.show(Stage::Sweep, report.deleted, Some(next));
    }
    Ok(())
}

/// The files that a series of rewrites must replace.
struct Old {
    files: Vec<NodeFile>,
    from: Option<Vec<u8>>,
}

impl Old {
    /// Every range that a file has keys in was rewritten, so none is left. One that is all the same is rewritten alone.
    fn rewrite_leftovers(&self, job: &SweepJob<'_>, rewrite: &Rewrite<'_>) -> Result<(), PruneError> {
        let backend = job.store.backend();
        for file in self.left(backend)? {
            tracing::warn!(file = file.number, "a file outlived the rewrite of its range and is rewritten again");
            let range = KeyRange { start: Some(file.first), end: Some([file.last.as_slice(), &[0]].concat()) };
            job.admit()?;
            let_reserve_go_for(job, &range, backend.node_blob_bytes()?)?;
            rewrite(&range).map_err(|error| job.control.unless_ended(error))?;
        }
        match self.left(backend)?.len() {
            0 => Ok(()),
            left => Err(PruneError::Invariant(format!("{left} files outlived the rewrite of every range"))),
        }
    }

    fn left(&self, backend: &dyn Backend) -> Result<Vec<NodeFile>, PruneError> {
        let old: BTreeSet<u64> = self.files.iter().map(|file| file.number).collect();
        let mut left = backend.node_files()?;
        left.retain(|file| old.contains(&file.number) && self.from.as_ref().is_none_or(|from| file.last >= *from));
        Ok(left)
    }
}

type Rewrite<'a> = dyn Fn(&KeyRange) -> Result<(), StoreError> + 'a;

/// Rewrites every range without dropping anything but tombstones.
pub(super) fn reclaim(job: &SweepJob<'_>) -> Result<(), PruneError> {
    let backend = job.store.backend();
    job.admit()?;
    job.show(Stage::Reclaim, 0, None); // the first range may take long
    backend.flush()?;
    let old = Old { files: backend.node_files()?, from: None };
    let (mut done, blobs) = (0, backend.node_blob_bytes()?);
    let mut left = VecDeque::from(cut(&old.files, None, job.range_bytes));
    while let Some((range, bytes)) = next_with_room(job, &mut left, blobs)? {
        backend.rewrite_files(&range).map_err(|error| job.control.unless_ended(error))?;
        reached(Point::RangeReclaimed);
        done += bytes;
        if let Some(pace) = &job.pace {
            pace.spend(bytes, Haste::Usual);
        }
        job.show(Stage::Reclaim, done, Some(range.end.as_deref().map_or(&[][..], |end| end)));
    }
    old.rewrite_leftovers(job, &|range| backend.rewrite_files(range))
}

/// The next range that has room, with the bytes of its files, and nothing behind the last. Asks for room as the store is now, for
/// commits have written since the last range.
fn next_with_room(
    job: &SweepJob<'_>,
    left: &mut VecDeque<KeyRange>,
    blobs: u64,
) -> Result<Option<(KeyRange, u64)>, PruneError> {
    let backend = job.store.backend();
    while let Some(range) = left.pop_front() {
        job.admit()?;
        match check_range(backend, &range, blobs) {
            Err(PruneError::NoRoom { .. }) => {}
            asked => return asked.map(|bytes| Some((range, bytes))),
        }
        let parts = in_two(&backend.node_files()?, &range);
        if parts.is_empty() {
            return let_reserve_go_for(job, &range, blobs).map(|bytes| Some((range, bytes)));
        }
        parts.into_iter().rev().for_each(|part| left.push_front(part));
    }
    Ok(None)
}

/// The two halves of a range; none where it is as small as one may be.
fn in_two(files: &[NodeFile], range: &KeyRange) -> Vec<KeyRange> {
    let largest = largest_level(files);
    let begins_inside = |file: &&NodeFile| Some(file.level) == largest && range.contains(&file.first);
    let inside: Vec<NodeFile> = files.iter().filter(begins_inside).cloned().collect();
    let smallest = cut(&inside, range.start.clone(), SMALLEST);
    let Some(KeyRange { start: Some(middle), .. }) = smallest.get(smallest.len() / 2).filter(|_| smallest.len() > 1)
    else {
        return Vec::new();
    };
    let (start, middle, end) = (range.start.clone(), Some(middle.clone()), range.end.clone());
    vec![KeyRange { start, end: middle.clone() }, KeyRange { start: middle, end }]
}

/// Each range has one file of the largest level.
pub(super) const SMALLEST: u64 = 1;

/// Ranges from `start` to the end of the keys, cut where files of the largest level begin, each of about `bytes`.
pub(super) fn cut(files: &[NodeFile], start: Option<Vec<u8>>, bytes: u64) -> Vec<KeyRange> {
    let largest = largest_level(files);
    let mut bottom: Vec<&NodeFile> = files.iter().filter(|file| Some(file.level) == largest).collect();
    bottom.sort_by(|a, b| a.first.cmp(&b.first));
    let (mut ranges, mut from, mut held) = (Vec::new(), start, 0u64);
    for file in bottom {
        if from.as_ref().is_some_and(|from| file.first <= *from) {
            held += file.bytes;
            continue;
        }
        if held >= bytes {
            ranges.push(KeyRange { start: from, end: Some(file.first.clone()) });
            (from, held) = (Some(file.first.clone()), 0);
        }
        held += file.bytes;
    }
    ranges.push(KeyRange { start: from, end: None });
    ranges
}

/// The level that holds the most bytes; files of level 0 lie across each other and give no cuts.
fn largest_level(files: &[NodeFile]) -> Option<u32> {
    let mut levels = BTreeMap::new();
    for file in files.iter().filter(|file| file.level > 0) {
        *levels.entry(file.level).or_insert(0u64) += file.bytes;
    }
    levels.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(level, _)| level)
}

/// Asks for room as the store is now; the reserve goes where there is none.
fn let_reserve_go_for(job: &SweepJob<'_>, range: &KeyRange, blobs: u64) -> Result<u64, PruneError> {
    let backend = job.store.backend();
    let asked = check_range(backend, range, blobs);
    let (Err(PruneError::NoRoom { .. }), Some(reserve)) = (&asked, job.store.reserve()) else { return asked };
    match reserve.let_go()? {
        Some(_) => check_range(backend, range, blobs),
        None => asked,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use sha2::{Digest as _, Sha256};
    use state_store::{
        Base, Batch, Commit, Durability, LiveReader, LiveSet, Pace, RocksBackend, RocksConfig, Store, StoreConfig,
    };
    use state_tree::{Created, Delta, NodeHash, StateRoot};

    use super::*;
    use crate::sweep::room::{ROOM_MARGIN, least_need, rewrites};

    fn file(level: u32, first: u8, last: u8, bytes: u64) -> NodeFile {
        NodeFile { number: 1, level, bytes, first: vec![first], last: vec![last], entries: 1, deletes: 0 }
    }

    #[test]
    fn ranges_cover_every_key_once_and_begin_where_bottom_files_begin() {
        let files = [file(0, 0, 255, 50), file(6, 0, 9, 100), file(6, 10, 19, 100), file(6, 20, 29, 100)];
        let ranges = cut(&files, None, 150);
        assert_eq!(
            ranges,
            [KeyRange { start: None, end: Some(vec![20]) }, KeyRange { start: Some(vec![20]), end: None }]
        );
        for key in 0..=255u8 {
            assert_eq!(ranges.iter().filter(|range| range.contains(&[key])).count(), 1, "key {key}");
        }
    }

    #[test]
    fn a_range_is_cut_in_two_down_to_one_file_of_the_largest_level() {
        let files = [file(0, 0, 255, 50), file(5, 11, 12, 150), file(5, 13, 14, 150)].into_iter();
        let files: Vec<NodeFile> = files.chain((0..5).map(|n| file(6, 10 * n, 10 * n + 9, 100))).collect();
        let range =
            |start: Option<u8>, end: Option<u8>| KeyRange { start: start.map(|n| vec![n]), end: end.map(|n| vec![n]) };
        let halves = [range(None, Some(20)), range(Some(20), None)];
        assert_eq!(in_two(&files, &KeyRange::ALL), halves);
        assert_eq!(in_two(&files, &halves[0]), [range(None, Some(10)), range(Some(10), Some(20))]);
        assert_eq!(in_two(&files, &range(Some(10), Some(20))), []);
        assert_eq!(in_two(&files, &range(Some(12), Some(20))), [], "it has the rest of a file");
        assert_eq!(in_two(&files, &range(Some(40), None)), []);
        assert_eq!(in_two(&[], &KeyRange::ALL), []);
    }

    #[test]
    fn a_resumed_sweep_begins_at_its_cursor() {
        let files = [file(6, 0, 9, 100), file(6, 10, 19, 100), file(6, 20, 29, 100)];
        let ranges = cut(&files, Some(vec![10]), 1);
        assert_eq!(
            ranges,
            [KeyRange { start: Some(vec![10]), end: Some(vec![20]) }, KeyRange { start: Some(vec![20]), end: None }]
        );
    }

    #[test]
    fn a_deepest_level_that_has_just_begun_does_not_make_one_range_of_everything() {
        let files = [file(2, 0, 9, 100), file(2, 10, 19, 100), file(2, 20, 29, 100), file(3, 5, 6, 1)];
        let starts: Vec<_> = cut(&files, None, 100).into_iter().map(|range| range.start).collect();
        assert_eq!(starts, [None, Some(vec![10]), Some(vec![20])]);
    }

    #[test]
    fn files_of_the_first_level_alone_are_one_range() {
        assert_eq!(cut(&[file(0, 0, 9, 100), file(0, 5, 20, 100)], None, 1), [KeyRange::ALL]);
        assert_eq!(cut(&[], None, 1), [KeyRange::ALL]);
    }

    /// Nodes whose values lie in the tables, enough for a few files, and nodes with values in blob files, beside which a margin
    /// is small.
    const SMALL: (u64, usize) = (90_000, 900);
    const LARGE: (u64, usize) = (1_800, 16 << 10);
    /// More than keys that are not quite uniform and the list of files make out.
    const SLACK: u64 = 2 << 20;

    fn commit(store: &Store, order: u64, (from, count, bytes): (u64, u64, usize)) {
        let hash = |n: u64| NodeHash::new(Sha256::digest(n.to_be_bytes()).into());
        let block = |n: u64, at: u64| Sha256::digest([n, at].map(u64::to_be_bytes).concat());
        let value = |n| (0..bytes.div_ceil(32) as u64).flat_map(|at| block(n, at)).collect(); // nothing to compress
        let created = |n| (hash(n), Created { bytes: value(n), places: 1, below: None, sole: false });
        let root = |order: u64| StateRoot::new(hash(order | 1 << 60));
        let (base, parent) = match order.checked_sub(1) {
            Some(before) => (Base::Head(root(before)), root(before)),
            None => (Base::Genesis, StateRoot::EMPTY),
        };
        let delta = Delta {
            parent,
            root: root(order),
            created: (from..from + count).map(created).collect(),
            replaced: Vec::new(),
            dropped: Vec::new(),
            adopted: Vec::new(),
            astray: false,
        };
        store
            .commit(Commit {
                base,
                delta: std::sync::Arc::new(delta),
                timestamp_ms: 1,
                block_hash: [0; 32],
                rows: Batch::new(),
            })
            .unwrap();
        store.catch_up().unwrap(); // holds no view
    }

    /// A mark that keeps all, or about half.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Keep {
        All,
        Half,
    }

    impl LiveSet for Keep {
        fn reader(&self) -> Box<dyn LiveReader> {
            Box::new(*self)
        }
    }

    impl LiveReader for Keep {
        fn contains(&mut self, hash: &NodeHash) -> bool {
            *self == Self::All || hash.as_bytes()[31].is_multiple_of(2)
        }
    }

    /// The most bytes that all files of the store had where a rewrite asked for its pace. It does after each stretch of what it
    /// reads, and at the end of each compaction: what that has written is whole then, and nothing that it replaces is gone.
    struct MostBytes {
        backend: Arc<RocksBackend>,
        most: AtomicU64,
    }

    impl Pace for MostBytes {
        fn spend(&self, _bytes: u64, _haste: Haste) {
            self.most.fetch_max(self.backend.space().unwrap().total(), Ordering::AcqRel);
        }
    }

    /// C13: what a range asks for, and what a whole sweep does, is what it takes at most, blob files included.
    #[test]
    fn a_sweep_takes_no_more_room_than_its_ranges_ask_for() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Arc::new(RocksBackend::open(&dir.path().join("store"), &RocksConfig::default()).unwrap());
        let config = StoreConfig { barrier_limit: 1 << 20, ..StoreConfig::new(Durability::Logged) };
        let store = Store::open(Arc::clone(&backend) as _, config).unwrap();
        for part in 0..60 {
            if part == 30 {
                backend.flush().unwrap();
                backend.rewrite_files(&KeyRange::ALL).unwrap();
            }
            let (from, (count, bytes)) = if part < 30 { (0, SMALL) } else { (1 << 40, LARGE) };
            commit(&store, part, (from + part * count / 30, count / 30, bytes));
        }
        backend.flush().unwrap(); // one file across all keys, with one blob file
        for keep in [Keep::All, Keep::Half] {
            let (files, blobs) = (backend.node_files().unwrap(), backend.node_blob_bytes().unwrap());
            let (whole, before) = (least_need(&*backend).unwrap(), backend.space().unwrap().total());
            let (capture, ranges) = (store.capture().unwrap(), cut(&files, None, 1));
            let files_of = Arc::new(MostBytes { backend: Arc::clone(&backend), most: AtomicU64::new(0) });
            let pace: Arc<dyn Pace> = Arc::clone(&files_of) as _;
            let active =
                store.sweep(store.issue_permit(), capture.barrier.clone(), Arc::new(keep), Some(pace)).unwrap();
            let (mut most, mut widest) = (0, 0);
            for range in &ranges {
                let now = backend.node_files().unwrap();
                let [rewrite] = &rewrites(&now, std::slice::from_ref(range))[..] else { panic!("one range") };
                let asked = rewrite.need(blobs) - ROOM_MARGIN;
                let plain = check_range(&*backend, range, blobs).unwrap();
                let begun = backend.space().unwrap().total();
                assert!(active.rewrite(range).unwrap().seen > 0);
                let bytes = files_of.most.swap(0, Ordering::AcqRel);
                let extra = bytes.saturating_sub(begun);
                widest = widest.max(extra.saturating_sub(plain + blobs));
                assert!(extra <= asked + SLACK, "{keep:?}: {extra} bytes more for {range:?}, which asked for {asked}");
                most = most.max(bytes);
            }
            let extra = most.saturating_sub(before);
            assert!(extra <= whole - ROOM_MARGIN + SLACK, "{keep:?}: {extra} bytes more than {before}");
            if keep == Keep::All {
                assert!(ranges.len() > 2 && blobs > LARGE.0 * LARGE.1 as u64, "{} ranges", ranges.len());
                assert!(extra > whole - ROOM_MARGIN - blobs + SLACK, "blob files count: {extra} of {whole}");
                assert!(widest > ROOM_MARGIN, "so do the files that a range drags along: {widest}");
            }
        }
    }
}
