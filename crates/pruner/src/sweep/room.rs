//! Room for ranges: what each of them needs, beside what is free.
//!
//! Costs: one sort of the files and one pass over them and the ranges, however many there are: whoever asks for health
//! waits for it (O14).

use std::{iter::Peekable, vec::IntoIter};

use state_store::{Backend, KeyRange, NodeFile, Reserve, Store};

use super::{ranges::cut, share_of_keys};
use crate::{error::PruneError, health::Room};

/// Kept free beside what a range needs.
const ROOM_MARGIN: u64 = 16 << 20;

/// What is free beside what the largest range of a whole sweep needs; nothing where there is no device. A sweep that lacks
/// room lets the reserve go, so the bytes that it keeps are free to it.
pub(crate) fn room(backend: &dyn Backend, reserve_kept: u64, range_bytes: u64) -> Result<Option<Room>, PruneError> {
    let Some(free) = free(backend, reserve_kept)? else { return Ok(None) };
    Ok(Some(Room { free, need: largest_need(backend, range_bytes)? }))
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

/// Bytes that the largest range of a whole sweep asks for. Lists the files, and reads none of them.
pub(crate) fn largest_need(backend: &dyn Backend, range_bytes: u64) -> Result<u64, PruneError> {
    let (files, blobs) = (backend.node_files()?, backend.node_blob_bytes()?);
    let ranges = cut(&files, None, range_bytes);
    let inside = inside(&files, &ranges, |file| file.bytes);
    let needs = ranges.iter().zip(inside).map(|(range, inside)| need(range, inside, blobs));
    Ok(needs.max().map_or(ROOM_MARGIN, |need| need))
}

/// Refuses a sweep that has no room for one of its ranges, before the store is opened for writing.
pub(crate) fn check_room(backend: &dyn Backend, range_bytes: u64) -> Result<(), PruneError> {
    match room(backend, 0, range_bytes)? {
        Some(Room { free, need }) if free < need => Err(PruneError::NoRoom { free, need }),
        Some(_) | None => Ok(()),
    }
}

/// Bytes of files in the range as the store is now, if it has room: its files exist twice until the rewrite ends. Blob files
/// are shared by every range, and an old one goes only with the last range that points into it: what lies behind the start
/// of the range is still to be written a second time.
pub(super) fn check_range(backend: &dyn Backend, range: &KeyRange, blobs: u64) -> Result<u64, PruneError> {
    let files = backend.node_files()?;
    let inside = files.iter().filter(|file| overlaps(file, range)).map(|file| file.bytes).sum();
    let need = need(range, inside, blobs);
    match backend.free_bytes()? {
        Some(free) if free < need => Err(PruneError::NoRoom { free, need }),
        Some(_) | None => Ok(inside),
    }
}

/// Bytes that must be free before a range with so many bytes of files is rewritten.
fn need(range: &KeyRange, inside: u64, blobs: u64) -> u64 {
    let behind = range.start.as_deref().map_or(1.0, |start| 1.0 - share_of_keys(start));
    inside + (blobs as f64 * behind) as u64 + ROOM_MARGIN
}

fn overlaps(file: &NodeFile, range: &KeyRange) -> bool {
    range.start.as_ref().is_none_or(|start| file.last >= *start)
        && range.end.as_ref().is_none_or(|end| file.first < *end)
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
    use std::{cell::Cell, cmp::Ordering};

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
