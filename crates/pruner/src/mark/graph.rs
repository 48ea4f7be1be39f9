//! The scanned graph, and the parallel traversal that marks what the roots reach.
//!
//! Contract: nothing lossy decides that a node is not visited (I6). An edge is the first bytes of a child's hash; it is
//! followed at once only if exactly one present key fits each edge of the node and the fits add up to the node's
//! check. Otherwise the node itself is read from the view, which settles the matter exactly: the true child, a missing
//! child (I11), or a node that does not decode or hash to its key.
//! A node is known by the first eight bytes of its hash, and all that share them are followed together (I6). One of them may be
//! dead, and what it names may be gone: a fault that is met once nodes were followed so says nothing about a live node.
//! Work is counted before it is published and discounted after it is done, so the traversal ends exactly when no work
//! is outstanding (S8).

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use state_store::KeyRange;
use state_tree::{NodeHash, StateRoot, TreeError};

use crate::{
    control::{Progress, Stage},
    error::PruneError,
    mark::{
        Marking,
        bits::{Bits, Children, ones},
        edges::{Demand, EdgeFile, EdgeReader},
        joined,
        segment::{REREAD, Record, Segment, Span, check_part},
    },
    panics::StopOnPanic,
    priority::give_way,
    threads,
};

/// A share of a segment's nodes above which all its spilled edges are read at once.
const MUCH: usize = 8;

/// Every scanned node.
#[derive(Debug)]
pub(crate) struct Graph {
    segments: Vec<Segment>,
    edges: EdgeFile,
    width: usize,
}

/// A traversal that reached its end without a fault. Only [`Graph::traverse`] makes one.
#[derive(Debug)]
pub(crate) struct Traversed {
    live_nodes: u64,
    read_again: u64,
    shared: Option<Vec<u64>>,
}

impl Traversed {
    /// Fingerprints, ascending, of the nodes that two references of the traced state lead to, if one was traced.
    pub(crate) fn into_shared(self) -> Option<Vec<u64>> {
        self.shared
    }

    /// Nodes reached.
    pub(crate) fn live_nodes(&self) -> u64 {
        self.live_nodes
    }

    /// Nodes that were read from the view once more.
    pub(crate) fn read_again(&self) -> u64 {
        self.read_again
    }
}

impl Graph {
    pub(crate) fn new(segments: Vec<Segment>, edges: EdgeFile, width: usize) -> Self {
        Self { segments, edges, width }
    }

    /// Marks what the roots reach and shows every marked fingerprint in ascending order. Nothing where what is at fault may be
    /// dead: only who compares whole hashes can tell.
    ///
    /// Errors: a live node that is missing, malformed or under a wrong hash, with its path.
    pub(crate) fn traverse(
        &self,
        marking: &Marking<'_>,
        each: &mut dyn FnMut(u64) -> Result<(), PruneError>,
    ) -> Result<Option<Traversed>, PruneError> {
        let traced = marking.traced;
        let new = |segment: &Segment| match traced {
            Some(_) => Bits::new(segment.len()).counting(),
            None => Bits::new(segment.len()),
        };
        let bits: Vec<Bits> = self.segments.iter().map(new).collect();
        let memory = bits.iter().map(Bits::memory).sum();
        marking.ledger.take(memory);
        let traversal = Traversal {
            graph: self,
            marking,
            bits,
            outstanding: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            counts: AtomicBool::new(traced.is_some()),
            marked: AtomicU64::new(0),
            read_again: AtomicU64::new(0),
            twins: AtomicBool::new(false),
        };
        let spread = traced.map_or(Ok(()), |root| traversal.spread(&[root])).and_then(|()| {
            traversal.counts.store(false, Ordering::Release); // between two spreads nobody works
            traversal.spread(&marking.roots)
        });
        match spread {
            Ok(()) => {}
            Err(Halt::Fault(fault)) if traversal.twins.load(Ordering::Acquire) => {
                tracing::warn!(%fault, "met where nodes share their first eight bytes, so it may be of a dead one");
                return Ok(None);
            }
            Err(Halt::Fault(fault)) => return Err(marking.locator().lift(fault)),
            Err(Halt::Failed(error)) => return Err(error),
        }
        let mut shared = Vec::new();
        for (number, (segment, bits)) in self.segments.iter().zip(&traversal.bits).enumerate() {
            bits.for_each_marked(|node| each(segment.fingerprint(number, node)))?;
            bits.for_each_shared(|node| {
                shared.push(segment.fingerprint(number, node));
                Ok(())
            })?;
        }
        shared.dedup();
        marking.ledger.give(memory);
        Ok(Some(Traversed {
            live_nodes: traversal.marked.into_inner(),
            read_again: traversal.read_again.into_inner(),
            shared: traced.map(|_| shared),
        }))
    }
}

/// Why a traversal ended early.
enum Halt {
    Fault(TreeError),
    Failed(PruneError),
}

impl From<PruneError> for Halt {
    fn from(error: PruneError) -> Self {
        Self::Failed(error)
    }
}

struct Traversal<'a> {
    graph: &'a Graph,
    marking: &'a Marking<'a>,
    bits: Vec<Bits>,
    /// Segments that are dirty or being expanded.
    outstanding: AtomicUsize,
    stop: AtomicBool,
    /// Whether references are counted: while the traced state is followed, which comes first.
    counts: AtomicBool,
    marked: AtomicU64,
    read_again: AtomicU64,
    /// Whether nodes were followed that share a fingerprint.
    twins: AtomicBool,
}

impl Traversal<'_> {
    /// Marks what these roots reach and nothing reached before.
    fn spread(&self, roots: &[StateRoot]) -> Result<(), Halt> {
        for root in roots {
            if let Some(node) = root.node() {
                self.mark_exactly(&node)?;
            }
        }
        let most = self.marking.job.threads.max(1);
        std::thread::scope(|scope| {
            let share = |worker| {
                let first = worker * self.bits.len() / most;
                move || {
                    give_way();
                    self.work(first)
                }
            };
            let workers = threads::begin_some(scope, "pruner-mark", most, share)?;
            let ended: Vec<Result<(), Halt>> = workers.into_iter().map(joined).collect();
            ended.into_iter().collect::<Result<(), Halt>>()
        })?;
        if self.outstanding.load(Ordering::Acquire) == 0 {
            Ok(())
        } else {
            Err(PruneError::Invariant("the traversal ended with work outstanding".to_owned()).into())
        }
    }

    /// Expands dirty segments until none is outstanding anywhere.
    fn work(&self, first: usize) -> Result<(), Halt> {
        let _guard = StopOnPanic(&self.stop);
        let segments = self.bits.len();
        while self.outstanding.load(Ordering::Acquire) > 0 && !self.stop.load(Ordering::Relaxed) {
            let mut found = false;
            for number in (first..segments).chain(0..first).filter(|number| self.take(*number)) {
                found = true;
                let expanded = self.expand_segment(number);
                self.outstanding.fetch_sub(1, Ordering::AcqRel);
                if expanded.is_err() {
                    self.stop.store(true, Ordering::Relaxed);
                    return expanded;
                }
            }
            if !found {
                self.marking.job.control.checkpoint()?; // while paused nobody spins
                std::thread::yield_now(); // another worker still expands and may publish work
            }
        }
        Ok(())
    }

    fn take(&self, number: usize) -> bool {
        let dirty = self.bits.get(number).map(|bits| &bits.dirty);
        dirty.is_some_and(|dirty| dirty.load(Ordering::Relaxed) && dirty.swap(false, Ordering::SeqCst))
    }

    fn expand_segment(&self, number: usize) -> Result<(), Halt> {
        let (Some(segment), Some(bits)) = (self.graph.segments.get(number), self.bits.get(number)) else {
            return Ok(());
        };
        self.marking.job.control.checkpoint()?;
        let demand = if bits.pending_nodes() > segment.len() / MUCH { Demand::Much } else { Demand::Little };
        let mut edges = EdgeReader::new(&segment.edges, Some(&self.graph.edges), demand)?;
        let mut marked = 0;
        for (index, word) in bits.pending.iter().enumerate() {
            if word.load(Ordering::SeqCst) == 0 {
                continue;
            }
            for bit in ones(word.swap(0, Ordering::SeqCst)) {
                let node = index * 64 + bit;
                marked += 1;
                self.expand(segment, node, &mut edges, number)?;
            }
        }
        let marked = self.marked.fetch_add(marked, Ordering::Relaxed) + marked;
        self.marking.job.observer.progress(Progress { stage: Stage::Mark, done: marked, share: None });
        Ok(())
    }

    fn expand(&self, segment: &Segment, node: usize, edges: &mut EdgeReader<'_>, number: usize) -> Result<(), Halt> {
        match segment.degree(node) {
            0 => Ok(()),
            REREAD => self.read_again(segment.fingerprint(number, node)),
            _ => {
                let record = edges.record(segment.record(node))?;
                match Record::parse(record).and_then(|record| self.resolve(record)) {
                    Some(children) => {
                        children.iter().for_each(|(segment, node)| self.mark(segment, node));
                        Ok(())
                    }
                    None => self.read_again(segment.fingerprint(number, node)),
                }
            }
        }
    }

    /// The children of a record, if there is exactly one way to take its edges for present keys that adds up.
    fn resolve(&self, record: Record<'_>) -> Option<Children> {
        let mut children = Children::default();
        let mut check = 0u32;
        let mut doubtful = None;
        for cut in record.children.chunks_exact(self.graph.width) {
            let span = Span::prefix(cut);
            let segment = self.graph.segments.get(span.segment())?;
            let found = segment.find(span);
            match found.len() {
                0 => return None,
                1 => {
                    check = check.wrapping_add(check_part(segment.fingerprint_in(span, found.start)));
                    children.push(span.segment(), found.start);
                }
                _ if doubtful.is_none() => doubtful = Some((span, found)),
                _ => return None,
            }
        }
        let missing = record.check.wrapping_sub(check);
        let Some((span, found)) = doubtful else {
            return (missing == 0).then_some(children);
        };
        let segment = self.graph.segments.get(span.segment())?;
        let mut fitting = found.filter(|node| check_part(segment.fingerprint_in(span, *node)) == missing);
        let child = fitting.next()?;
        children.push(span.segment(), child);
        fitting.next().is_none().then_some(children)
    }

    /// Reads every node with this fingerprint from the view, checks it, and marks its children.
    fn read_again(&self, fingerprint: u64) -> Result<(), Halt> {
        let job = self.marking.job;
        let range = KeyRange {
            start: Some(fingerprint.to_be_bytes().to_vec()),
            end: fingerprint.checked_add(1).map(|end| end.to_be_bytes().to_vec()),
        };
        let (mut children, mut fault, mut nodes) = (Vec::new(), None, 0);
        let scanned = job.view.scan_nodes(&range, &mut |key, value| {
            let Ok(hash) = NodeHash::try_from(key) else {
                return ControlFlow::Continue(()); // I8
            };
            nodes += 1;
            match job.layout.read(value, &mut children) {
                Ok(actual) if actual == hash => {}
                Ok(actual) => fault = Some(TreeError::WrongHash { key: hash, actual }),
                Err(source) => fault = Some(TreeError::Malformed { hash, source }),
            }
            ControlFlow::Continue(())
        });
        scanned.map_err(PruneError::Store)?;
        if nodes > 1 {
            self.twins.store(true, Ordering::Release); // BEFORE anything is followed, or found to be wrong
        }
        if let Some(fault) = fault {
            return Err(Halt::Fault(fault));
        }
        if nodes == 0 {
            return Err(PruneError::Invariant("a scanned node is not in its own view".to_owned()).into());
        }
        self.read_again.fetch_add(nodes, Ordering::Relaxed);
        children.iter().try_for_each(|child| self.mark_exactly(child))
    }

    /// Marks every present node with the fingerprint of the hash; there must be one (I11).
    fn mark_exactly(&self, hash: &NodeHash) -> Result<(), Halt> {
        let span = Span::exactly(hash.fingerprint());
        let found = self.graph.segments.get(span.segment()).map_or(0..0, |segment| segment.find(span));
        if found.is_empty() {
            return Err(Halt::Fault(TreeError::Missing(*hash)));
        }
        found.for_each(|node| self.mark(span.segment(), node));
        Ok(())
    }

    /// Marks a node and publishes it, unless it was marked before.
    fn mark(&self, segment: usize, node: usize) {
        let Some(bits) = self.bits.get(segment) else { return };
        let (Some(marked), Some(pending)) = (bits.marked.get(node / 64), bits.pending.get(node / 64)) else {
            return;
        };
        let bit = 1u64 << (node % 64);
        if marked.load(Ordering::Relaxed) & bit != 0 || marked.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            if self.counts.load(Ordering::Relaxed)
                && let Some(twice) = bits.twice.get(node / 64)
            {
                twice.fetch_or(bit, Ordering::Relaxed);
            }
            return;
        }
        // Sequentially consistent with `take` and the read of `pending` after it: if the flag is still seen up, whoever
        // lowers it next sees this bit.
        pending.fetch_or(bit, Ordering::SeqCst);
        if bits.dirty.load(Ordering::SeqCst) {
            return;
        }
        self.outstanding.fetch_add(1, Ordering::AcqRel); // BEFORE it is published (S8)
        if bits.dirty.swap(true, Ordering::SeqCst) {
            self.outstanding.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
