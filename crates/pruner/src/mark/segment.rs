//! One 256th of a scanned store, by the first byte of the key, as compact as lookups allow.
//!
//! Contract: nodes are the distinct first eight bytes of keys, ascending. Nodes whose fingerprints are equal are one
//! node here, and it is marked to be read again, so that the children of all of them are followed (I6, S3).
//!
//! Layout: six bytes per key (the first is the segment's, the second a table's); a byte for the number of children;
//! the offset of every sixteenth node's edges; per node with children a check of four bytes and `width` bytes per
//! child. The check is the sum of the low halves of the children's fingerprints: edges that were resolved to present
//! keys must add up to it, so a missing child is found although its edge was cut.

use std::ops::Range;

use state_tree::NodeHash;

use crate::{error::PruneError, mark::edges::Edges};

/// How many segments a store has.
pub(crate) const SEGMENTS: usize = 256;
/// A node that must be read from the view to know its children: malformed, under a wrong hash, with very many
/// children, or one of several with equal fingerprints.
pub(crate) const REREAD: u8 = u8::MAX;

const KEY: usize = 6;
const LOW_48: u64 = (1 << 48) - 1;
const STRIDE: usize = 16;
const CHECK: usize = 4;
const MOST_CHILDREN: usize = 250;

/// Memory of a segment that does not depend on its nodes.
pub(crate) const FIXED_BYTES: u64 = (257 * 4 + size_of::<Segment>()) as u64;

/// Every fingerprint from `low` to `high`, which share at least their first two bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

impl Span {
    /// One fingerprint.
    pub(crate) fn exactly(fingerprint: u64) -> Self {
        Self { low: fingerprint, high: fingerprint }
    }

    /// Every fingerprint that starts with the bytes.
    pub(crate) fn prefix(bytes: &[u8]) -> Self {
        let low = bytes.iter().rev().fold(0, |low, byte| (low >> 8) | (u64::from(*byte) << 56));
        let free = 64 - 8 * bytes.len() as u32;
        Self { low, high: low | u64::MAX.checked_shr(64 - free).map_or(0, |mask| mask) }
    }

    /// The segment that the fingerprints are in.
    pub(crate) fn segment(&self) -> usize {
        (self.low >> 56) as usize
    }
}

/// The part of a fingerprint that checks add up.
pub(crate) fn check_part(fingerprint: u64) -> u32 {
    fingerprint as u32
}

/// The edges of one node, as stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    /// What the check parts of the children add up to.
    pub(crate) check: u32,
    /// The cut fingerprints of the children, one after the other.
    pub(crate) children: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes a record apart.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (check, children) = bytes.split_first_chunk::<CHECK>()?;
        Some(Self { check: u32::from_le_bytes(*check), children })
    }
}

/// A segment being filled.
#[derive(Debug)]
pub(crate) struct SegmentBuilder {
    width: usize,
    keys: Vec<u8>,
    degrees: Vec<u8>,
    starts: Vec<u32>,
    offsets: Vec<u32>,
    edges: Vec<u8>,
    last: Option<u64>,
    last_edges: usize,
}

impl SegmentBuilder {
    /// An empty segment whose edges are cut to `width` bytes, which is 4, 5 or 6.
    pub(crate) fn new(width: usize) -> Self {
        Self {
            width: width.clamp(4, 6),
            keys: Vec::new(),
            degrees: Vec::new(),
            starts: Vec::new(),
            offsets: Vec::new(),
            edges: Vec::new(),
            last: None,
            last_edges: 0,
        }
    }

    /// Adds a node; they come in ascending order. Without children known it is read again should it be live.
    pub(crate) fn add(&mut self, fingerprint: u64, children: Option<&[NodeHash]>) -> Result<(), PruneError> {
        if self.last == Some(fingerprint) {
            self.edges.truncate(self.last_edges);
            if let Some(degree) = self.degrees.last_mut() {
                *degree = REREAD;
            }
            return Ok(());
        }
        let index = count(self.degrees.len())?;
        let bucket = (fingerprint >> 48) as usize & 0xff;
        while self.starts.len() <= bucket {
            self.starts.push(index);
        }
        if self.degrees.len().is_multiple_of(STRIDE) {
            self.offsets.push(count(self.edges.len())?);
        }
        let [_, _, key @ ..] = fingerprint.to_be_bytes();
        self.keys.extend_from_slice(&key);
        self.last = Some(fingerprint);
        self.last_edges = self.edges.len();
        let known = children.filter(|children| children.len() <= MOST_CHILDREN);
        self.degrees.push(known.map_or(REREAD, |children| children.len() as u8));
        self.add_edges(known.map_or(&[], |children| children));
        Ok(())
    }

    fn add_edges(&mut self, children: &[NodeHash]) {
        if children.is_empty() {
            return;
        }
        let parts = children.iter().map(|child| check_part(child.fingerprint()));
        let check = parts.fold(0, u32::wrapping_add);
        self.edges.extend_from_slice(&check.to_le_bytes());
        match self.width {
            4 => append_cut::<4>(&mut self.edges, children),
            5 => append_cut::<5>(&mut self.edges, children),
            _ => append_cut::<6>(&mut self.edges, children),
        }
    }

    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> u64 {
        let words = self.starts.capacity() + self.offsets.capacity();
        (self.keys.capacity() + self.degrees.capacity() + self.edges.capacity() + words * 4) as u64
    }

    /// Ends the segment; what was allocated ahead is given back.
    pub(crate) fn finish(mut self) -> Result<Segment, PruneError> {
        let end = count(self.degrees.len())?;
        self.starts.resize(257, end);
        self.keys.shrink_to_fit();
        self.degrees.shrink_to_fit();
        self.starts.shrink_to_fit();
        self.offsets.shrink_to_fit();
        self.edges.shrink_to_fit();
        Ok(Segment {
            width: self.width,
            keys: self.keys,
            degrees: self.degrees,
            starts: self.starts,
            offsets: self.offsets,
            edges: Edges::Held(self.edges),
        })
    }
}

/// A copy whose length is known when compiled: there are several edges per node of the store.
fn append_cut<const WIDTH: usize>(edges: &mut Vec<u8>, children: &[NodeHash]) {
    let cuts = children.iter().filter_map(|child| child.as_bytes().first_chunk::<WIDTH>());
    cuts.for_each(|cut| edges.extend_from_slice(cut));
}

fn count(of: usize) -> Result<u32, PruneError> {
    u32::try_from(of).map_err(|_| PruneError::Invariant("a segment outgrew its offsets".to_owned()))
}

/// The nodes whose key starts with one byte.
#[derive(Debug)]
pub(crate) struct Segment {
    width: usize,
    keys: Vec<u8>,
    degrees: Vec<u8>,
    starts: Vec<u32>,
    offsets: Vec<u32>,
    /// Where the edges are.
    pub(crate) edges: Edges,
}

impl Segment {
    /// Nodes in the segment.
    pub(crate) fn len(&self) -> usize {
        self.degrees.len()
    }

    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> u64 {
        let words = self.starts.len() + self.offsets.len();
        (self.keys.len() + self.degrees.len() + words * 4) as u64 + self.edges.memory()
    }

    /// How many children a node has, or [`REREAD`].
    pub(crate) fn degree(&self, node: usize) -> u8 {
        self.degrees.get(node).map_or(REREAD, |degree| *degree)
    }

    /// Bytes that the record of a node with so many children takes.
    fn record_bytes(&self, degree: u8) -> usize {
        match degree {
            0 | REREAD => 0,
            children => CHECK + usize::from(children) * self.width,
        }
    }

    /// Where the record of a node lies among the edges.
    pub(crate) fn record(&self, node: usize) -> Range<usize> {
        let from = node - node % STRIDE;
        let before = self.degrees.get(from..node).map_or(&[] as &[u8], |before| before);
        let offset = self.offsets.get(node / STRIDE).map_or(0, |offset| *offset as usize);
        let start = before.iter().fold(offset, |at, degree| at + self.record_bytes(*degree));
        start..start + self.record_bytes(self.degree(node))
    }

    /// The nodes with a fingerprint inside the span; more than one only if the span is a cut fingerprint.
    pub(crate) fn find(&self, span: Span) -> Range<usize> {
        let bucket = (span.low >> 48) as usize & 0xff;
        let (Some(start), Some(end)) = (self.starts.get(bucket), self.starts.get(bucket + 1)) else {
            return 0..0;
        };
        let (start, end) = (*start as usize, *end as usize);
        let first = self.lower_bound(start..end, span.low & LOW_48);
        let high = span.high & LOW_48;
        let mut last = first;
        while last < end && self.key(last) <= high {
            last += 1;
        }
        first..last
    }

    /// The low 48 bits of a node's fingerprint.
    fn key(&self, node: usize) -> u64 {
        let rest = self.keys.get(node * KEY..).map_or(&[] as &[u8], |rest| rest);
        let Some([a, b, c, d, e, f]) = rest.first_chunk::<KEY>() else {
            return u64::MAX;
        };
        u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f])
    }

    /// The first node of the range that is not below `wanted`. Keys are uniform, so it lies near where they say; keys
    /// ground to lie elsewhere cost a binary search.
    fn lower_bound(&self, range: Range<usize>, wanted: u64) -> usize {
        let (mut low, mut high) = (range.start, range.end);
        let guess = low + ((u128::from(wanted) * (high - low) as u128) >> 48) as usize;
        let mut step = 1;
        if low < high && self.key(guess) < wanted {
            low = guess + 1;
            while low + step <= high && self.key(low + step - 1) < wanted {
                low += step;
                step *= 2;
            }
            high = high.min(low + step - 1);
        } else if low < high {
            high = guess;
            while high >= low + step && self.key(high - step) >= wanted {
                high -= step;
                step *= 2;
            }
            low = low.max((high + 1).saturating_sub(step));
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < wanted {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The fingerprint of a node that [`Segment::find`] found for the span.
    pub(crate) fn fingerprint_in(&self, span: Span, node: usize) -> u64 {
        (span.low & !LOW_48) | self.key(node)
    }

    /// The fingerprint of a node of segment `number`.
    pub(crate) fn fingerprint(&self, number: usize, node: usize) -> u64 {
        let bucket = self.starts.partition_point(|start| *start as usize <= node).saturating_sub(1);
        ((number as u64) << 56) | ((bucket as u64) << 48) | self.key(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::testing::{Random, hash_of};

    fn in_segment_7(fingerprint: u64) -> u64 {
        (fingerprint >> 8) | (7 << 56)
    }

    #[test]
    fn a_segment_finds_every_fingerprint_and_no_other() {
        let mut random = Random::new(3);
        for skew in [0, 8, 30, 47] {
            let mut fingerprints: Vec<u64> = (0..2000).map(|_| in_segment_7(random.next() >> skew)).collect();
            fingerprints.sort_unstable();
            fingerprints.dedup();
            let mut builder = SegmentBuilder::new(5);
            for fingerprint in &fingerprints {
                let children: Vec<NodeHash> = (0..fingerprint % 19).map(hash_of).collect();
                builder.add(*fingerprint, Some(&children)).unwrap();
            }
            let segment = builder.finish().unwrap();
            for (index, fingerprint) in fingerprints.iter().enumerate() {
                assert_eq!(segment.fingerprint(7, index), *fingerprint);
                let cut = Span::prefix(&fingerprint.to_be_bytes()[..4]);
                let near = [0, 1, u64::MAX].map(|step| Span::exactly(fingerprint.wrapping_add(step)));
                for span in near.into_iter().chain([cut]).filter(|span| span.segment() == 7) {
                    let inside = |f: &&u64| (span.low..=span.high).contains(*f);
                    assert_eq!(segment.find(span).len(), fingerprints.iter().filter(inside).count());
                }
                assert_eq!(segment.find(Span::exactly(*fingerprint)), index..index + 1);
                assert_eq!(u64::from(segment.degree(index)), fingerprint % 19);
                assert_eq!(children_of(&segment, index), (0..fingerprint % 19).map(cut_hash).collect::<Vec<_>>());
            }
        }
    }

    fn cut_hash(number: u64) -> Vec<u8> {
        hash_of(number).as_bytes()[..5].to_vec()
    }

    fn children_of(segment: &Segment, node: usize) -> Vec<Vec<u8>> {
        let Edges::Held(edges) = &segment.edges else { panic!("nothing spilled this") };
        let record = Record::parse(&edges[segment.record(node)]);
        record.map_or(Vec::new(), |record| record.children.chunks(5).map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn nodes_with_equal_fingerprints_become_one_that_is_read_again() {
        let mut builder = SegmentBuilder::new(4);
        builder.add(in_segment_7(1), Some(&[hash_of(1)])).unwrap();
        builder.add(in_segment_7(1), Some(&[hash_of(2)])).unwrap();
        builder.add(in_segment_7(256), Some(&[hash_of(3)])).unwrap();
        let segment = builder.finish().unwrap();
        assert_eq!((segment.len(), segment.degree(0), segment.degree(1)), (2, REREAD, 1));
        assert_eq!((segment.record(0), segment.record(1)), (0..0, 0..8));
    }
}
