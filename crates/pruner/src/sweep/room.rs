//! Room for ranges: what each of them needs, beside what is free.
//!
//! Costs: a few sorts of the files and passes over them and the ranges, however many there are: whoever asks for health
//! waits for it (O14).

use std::{cmp::Reverse, collections::BTreeMap, iter::Peekable, vec::IntoIter};

use state_store::{Backend, KeyRange, NodeFile, Reserve, Store};

use super::{
    ranges::{SMALLEST, cut},
    share_of_keys,
};
use crate::{error::PruneError, health::Room};

/// Kept free beside what a range needs.
pub(super) const ROOM_MARGIN: u64 = 16 << 20;

/// What is free beside what a whole sweep needs; nothing where there is no device. A sweep that lacks
/// room lets the reserve go, so the bytes that it keeps are free to it.
pub(crate) fn room(backend: &dyn Backend, reserve_kept: u64) -> Result<Option<Room>, PruneError> {
    let Some(free) = free(backend, reserve_kept)? else { return Ok(None) };
    Ok(Some(Room { free, need: least_need(backend)? }))
}

/// Bytes that the reserve of a store keeps now, if it has one.
pub(crate) fn reserve_kept(store: &Store) -> u64 {
    let kept = store.reserve().filter(|reserve| reserve.room() == state_store::Room::Kept);
    kept.map_or(0, Reserve::bytes)
}

/// What is free to a sweep.
pub(crate) fn free(backend: &dyn Backend, reserve_kept: u64) -> Result<Option<u64>, PruneError> {
    Ok(backend.free_bytes()?.map(|free| free.saturating_add(reserve_kept)))
}

/// Bytes that a whole sweep needs at least. Lists the files, and reads none of them.
pub(crate) fn least_need(backend: &dyn Backend) -> Result<u64, PruneError> {
    Ok(need_of_all(&backend.node_files()?, backend.node_blob_bytes()?))
}

/// The largest range where each is as small as a range may be, and every blob file once more: those that earlier ranges have
/// written are there when it begins, and the old ones may still be, too.
fn need_of_all(files: &[NodeFile], blobs: u64) -> u64 {
    let rewrites = rewrites(files, &cut(files, None, SMALLEST));
    rewrites.iter().map(|rewrite| rewrite.bytes).max().map_or(0, |bytes| bytes) + blobs + ROOM_MARGIN
}

/// Refuses a sweep that has no room for one of its ranges, before the store is opened for writing.
pub(crate) fn check_room(backend: &dyn Backend) -> Result<(), PruneError> {
    match room(backend, 0)? {
        Some(Room { free, need }) if free < need => Err(PruneError::NoRoom { free, need }),
        Some(_) | None => Ok(()),
    }
}

/// Bytes of files in the range as the store is now, if it has room: what is rewritten exists twice until the rewrite ends. Blob
/// files are shared by every range, and an old one goes only with the last range that points into it: what lies behind the start
/// of the rewrite is still to be written a second time.
pub(super) fn check_range(backend: &dyn Backend, range: &KeyRange, blobs: u64) -> Result<u64, PruneError> {
    let (files, range) = (backend.node_files()?, std::slice::from_ref(range));
    let need = rewrites(&files, range).iter().map(|rewrite| rewrite.need(blobs)).sum();
    match backend.free_bytes()? {
        Some(free) if free < need => Err(PruneError::NoRoom { free, need }),
        Some(_) | None => Ok(inside(&files, range, |file| file.bytes).iter().sum()),
    }
}

/// What the engine writes anew for a range.
pub(super) struct Rewrite {
    /// Where it begins: before the range, if a file does that lies across its start.
    from: Option<Vec<u8>>,
    /// Bytes of the files.
    bytes: u64,
}

impl Rewrite {
    /// Bytes that must be free before it.
    pub(super) fn need(&self, blobs: u64) -> u64 {
        let behind = self.from.as_deref().map_or(1.0, |from| 1.0 - share_of_keys(from));
        self.bytes + (blobs as f64 * behind) as u64 + ROOM_MARGIN
    }
}

/// What is written anew for each of these ranges, which follow one another. The engine goes down level by level: whole files of
/// a level that reach into the range are merged with all those of the next one that any of them reaches into. Files of level
/// 0 lie across each other and go down together.
pub(super) fn rewrites(files: &[NodeFile], ranges: &[KeyRange]) -> Vec<Rewrite> {
    let begun = |range: &KeyRange| Rewrite { from: range.start.clone(), bytes: 0 };
    let mut rewrites: Vec<Rewrite> = ranges.iter().map(begun).collect();
    let mut reached = ranges.to_vec();
    for (level, mut files) in by_level(files) {
        if level == 0 {
            files = together(&files).into_iter().collect();
        }
        let mut passed = Passed::new(files.iter().copied());
        for (rewrite, reached) in rewrites.iter_mut().zip(&reached) {
            rewrite.bytes += passed.inside(reached.start.as_deref(), reached.end.as_deref());
        }
        for (rewrite, merged) in rewrites.iter_mut().zip(reach(&files, &reached)) {
            rewrite.from = rewrite.from.take().min(merged.start);
        }
        reached = reach(&files, ranges);
    }
    rewrites
}

/// First key, last key, bytes.
type Span<'a> = (&'a [u8], &'a [u8], u64);

fn by_level(files: &[NodeFile]) -> BTreeMap<u32, Vec<Span<'_>>> {
    let mut levels: BTreeMap<u32, Vec<Span<'_>>> = BTreeMap::new();
    for file in files {
        levels.entry(file.level).or_default().push((&file.first, &file.last, file.bytes));
    }
    levels
}

fn together<'a>(files: &[Span<'a>]) -> Option<Span<'a>> {
    files.iter().copied().reduce(|(first, last, bytes), (a, b, more)| (first.min(a), last.max(b), bytes + more))
}

/// Each of these ranges, made longer by the files that reach into it.
fn reach(files: &[Span<'_>], ranges: &[KeyRange]) -> Vec<KeyRange> {
    let mut reached = ranges.to_vec();
    let (mut begin, mut end) = (files.to_vec(), files.to_vec());
    begin.sort_unstable_by_key(|(first, ..)| *first);
    end.sort_unstable_by_key(|(_, last, _)| Reverse(*last));
    let (mut begin, mut farthest) = (begin.into_iter().peekable(), None);
    for range in &mut reached {
        let Some(end) = &mut range.end else { continue };
        while let Some((_, last, _)) = begin.next_if(|(first, ..)| *first < end.as_slice()) {
            farthest = farthest.max(Some(last));
        }
        if let Some(last) = farthest.filter(|last| *last >= end.as_slice()) {
            *end = [last, &[0]].concat();
        }
    }
    let (mut end, mut first_of_all) = (end.into_iter().peekable(), None::<&[u8]>);
    for range in reached.iter_mut().rev() {
        let Some(start) = &mut range.start else { continue };
        while let Some((first, ..)) = end.next_if(|(_, last, _)| *last >= start.as_slice()) {
            first_of_all = Some(first_of_all.map_or(first, |known| known.min(first)));
        }
        if let Some(first) = first_of_all.filter(|first| *first < start.as_slice()) {
            *start = first.to_vec();
        }
    }
    reached
}

/// The sum of something over the files in each of these ranges, which follow one another.
pub(super) fn inside(files: &[NodeFile], ranges: &[KeyRange], of: impl Fn(&NodeFile) -> u64) -> Vec<u64> {
    let mut passed = Passed::new(files.iter().map(|file| (file.first.as_slice(), file.last.as_slice(), of(file))));
    ranges.iter().map(|range| passed.inside(range.start.as_deref(), range.end.as_deref())).collect()
}

/// A pass over spans of keys, each with a weight, by ranges that follow one another.
struct Passed<K> {
    begun: Below<K>,
    ended: Below<K>,
}

impl<K: Ord> Passed<K> {
    fn new(spans: impl Iterator<Item = (K, K, u64)>) -> Self {
        let (begins, ends) = spans.map(|(first, last, weight)| ((first, weight), (last, weight))).unzip();
        Self { begun: Below::new(begins), ended: Below::new(ends) }
    }

    /// What has begun before the end of a range and has not ended before its start.
    fn inside(&mut self, start: Option<K>, end: Option<K>) -> u64 {
        let ended = start.map_or(0, |start| self.ended.below(&start));
        let begun = match end {
            Some(end) => self.begun.below(&end),
            None => self.begun.all(),
        };
        begun.saturating_sub(ended)
    }
}

/// The weight of what lies below a key that only rises.
struct Below<K> {
    rest: Peekable<IntoIter<(K, u64)>>,
    weight: u64,
}

impl<K: Ord> Below<K> {
    fn new(mut points: Vec<(K, u64)>) -> Self {
        points.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Self { rest: points.into_iter().peekable(), weight: 0 }
    }

    fn below(&mut self, key: &K) -> u64 {
        while let Some((_, weight)) = self.rest.next_if(|(point, _)| point < key) {
            self.weight += weight;
        }
        self.weight
    }

    fn all(&mut self) -> u64 {
        self.weight += self.rest.by_ref().map(|(_, weight)| weight).sum::<u64>();
        self.weight
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, cmp::Ordering, collections::BTreeSet};

    use super::*;

    /// Numbers that look random, and are the same each time.
    fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        }
    }

    /// Files of several levels: those of level 0 anywhere, those of the others side by side and of few keys.
    fn files(seed: u64) -> Vec<NodeFile> {
        let mut below = numbers(seed);
        let count = below(40);
        let file = |number| {
            let (level, at, long) = (below(4) as u32, below(250), below(6));
            let last = if level == 0 { at + below(256 - at) } else { (at + long).min(255) };
            NodeFile {
                number,
                level,
                bytes: 1 + below(99),
                first: vec![at as u8],
                last: vec![last as u8],
                entries: 1,
                deletes: 0,
            }
        };
        (0..count).map(file).collect()
    }

    fn overlaps(file: &NodeFile, range: &KeyRange) -> bool {
        range.start.as_ref().is_none_or(|start| file.last >= *start)
            && range.end.as_ref().is_none_or(|end| file.first < *end)
    }

    #[test]
    fn one_pass_finds_in_each_range_what_a_look_at_every_file_finds() {
        let (mut many, mut full) = (0, 0);
        for seed in 0..500 {
            let files = files(seed);
            for (start, bytes) in [(None, 1), (None, 100), (Some(vec![100]), 60), (None, 10_000)] {
                let ranges = cut(&files, start, bytes);
                let naive = |range: &KeyRange| {
                    files.iter().filter(|file| overlaps(file, range)).map(|file| file.bytes).sum::<u64>()
                };
                let expected: Vec<u64> = ranges.iter().map(naive).collect();
                assert_eq!(inside(&files, &ranges, |file| file.bytes), expected, "seed {seed}: {files:?}");
                many += usize::from(ranges.len() > 5);
                full += usize::from(expected.iter().sum::<u64>() > files.iter().map(|file| file.bytes).sum());
            }
        }
        assert!(many > 100 && full > 100, "{many} cases of many ranges, {full} of files in several");
    }

    /// The same, by a look at every file.
    fn rewrite(files: &[NodeFile], range: &KeyRange) -> Rewrite {
        let mut rewrite = Rewrite { from: range.start.clone(), bytes: 0 };
        let mut reached = range.clone();
        let levels: BTreeSet<u32> = files.iter().map(|file| file.level).collect();
        for level in levels {
            let of_level = || files.iter().filter(|file| file.level == level);
            let (low, high) = (of_level().map(|file| &file.first).min(), of_level().map(|file| &file.last).max());
            let whole = KeyRange { start: low.cloned(), end: high.map(|last| [last.as_slice(), &[0]].concat()) };
            let is_reached = |file: &&NodeFile, range: &KeyRange| {
                if level > 0 { overlaps(file, range) } else { meets(&whole, range) }
            };
            for file in of_level().filter(|file| is_reached(file, &reached)) {
                rewrite.bytes += file.bytes;
                rewrite.from = rewrite.from.min(Some(file.first.clone()));
            }
            reached = range.clone();
            for file in of_level().filter(|file| is_reached(file, range)) {
                reached.start = reached.start.min(Some(file.first.clone()));
                reached.end = reached.end.map(|end| end.max([file.last.as_slice(), &[0]].concat()));
            }
        }
        rewrite
    }

    fn meets(one: &KeyRange, other: &KeyRange) -> bool {
        let begins_before = |one: &KeyRange, other: &KeyRange| {
            one.start.as_ref().is_none_or(|start| other.end.as_ref().is_none_or(|end| start < end))
        };
        begins_before(one, other) && begins_before(other, one)
    }

    #[test]
    fn passes_over_each_level_find_what_a_look_at_every_file_finds_that_is_written_anew() {
        let mut wider = 0;
        for seed in 0..500 {
            let files = files(seed);
            for (start, bytes) in [(None, 1), (Some(vec![100]), 60), (None, 100)] {
                let ranges = cut(&files, start, bytes);
                let plain = inside(&files, &ranges, |file| file.bytes);
                for ((found, range), plain) in rewrites(&files, &ranges).iter().zip(&ranges).zip(plain) {
                    let expected = rewrite(&files, range);
                    assert_eq!(
                        (found.bytes, &found.from),
                        (expected.bytes, &expected.from),
                        "{seed}: {files:?} {range:?}"
                    );
                    wider += usize::from(found.bytes > plain);
                }
            }
        }
        assert!(wider > 100, "{wider} cases of files that another one drags along");
    }

    #[test]
    fn a_whole_sweep_asks_for_what_each_of_its_ranges_does_beside_what_those_before_it_have_written() {
        let mut later = 0;
        for seed in 0..1_000 {
            let (files, blobs) = (files(seed), seed * 7);
            let written = |rewrite: &Rewrite| blobs + ROOM_MARGIN + rewrite.bytes - rewrite.need(blobs);
            let rewrites = rewrites(&files, &cut(&files, None, SMALLEST));
            let each: Vec<u64> = rewrites.iter().map(|each| each.need(blobs) + written(each)).collect();
            assert_eq!(Some(&need_of_all(&files, blobs)), each.iter().max(), "seed {seed}: {files:?}");
            later += usize::from(each.iter().max() > each.first().filter(|_| blobs > 0));
        }
        assert!(later > 100, "{later} cases in which it is not the first range");
    }

    /// A key that counts how often it is compared.
    #[derive(Clone, Copy)]
    struct Counted<'a>(u64, &'a Cell<u64>);

    impl Ord for Counted<'_> {
        fn cmp(&self, other: &Self) -> Ordering {
            self.1.set(self.1.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted<'_> {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Counted<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other) == Ordering::Equal
        }
    }

    impl Eq for Counted<'_> {}

    #[test]
    fn ten_times_the_files_take_little_more_than_ten_times_the_comparisons() {
        let compared = |files: u64| {
            let count = Cell::new(0);
            let mut below = numbers(7);
            let spans: Vec<u64> = (0..files).map(|_| below(files)).collect();
            let spans = spans.into_iter().map(|at| (Counted(2 * at, &count), Counted(2 * at + 1, &count), 1));
            let mut passed = Passed::new(spans);
            let ranges = (0..files / 2).map(|n| (Counted(4 * n, &count), Counted(4 * (n + 1), &count)));
            let all: u64 = ranges.map(|(start, end)| passed.inside(Some(start), Some(end))).sum();
            assert_eq!(all, files, "each file lies in one range");
            count.get()
        };
        let (few, many) = (compared(3_200), compared(32_000));
        assert!(many < few * 15, "{few} comparisons became {many}");
    }
}
