//! Scan mark: one sequential pass over every node, then a traversal in memory (docs/design.md, section 5).
//!
//! Contract: while scanning nobody knows what is live, so a node that does not decode or hash to its key is only noted;
//! it stops the cycle if it turns out to be live (S5, I11). Keys that are not 32 bytes are counted and ignored (I8).
//! Memory: at most [`PER_NODE`] bytes per node and [`FIXED`]; what exceeds that goes to a file.
//!
//! Costs: one sequential read of the family, by several threads, each a stripe of the keys at a time.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use state_store::KeyRange;
use state_tree::NodeHash;

use crate::{
    control::{Progress, Stage},
    error::PruneError,
    mark::{
        Marking, Outcome, Present, RehashChoice,
        edges::{EdgeFile, Edges},
        evidence::AllRootsWalked,
        file::OpenMark,
        graph::Graph,
        joined,
        segment::{FIXED_BYTES, SEGMENTS, Segment, SegmentBuilder},
    },
    panics::StopOnPanic,
    priority::give_way,
    threads,
};

/// Most bytes of memory per node present, everything included.
pub(crate) const PER_NODE: u64 = 24;
/// What keys, degrees and bitmaps take even with every edge in the file.
pub(crate) const LEAST_PER_NODE: u64 = 9;
/// Memory that does not depend on the number of nodes: tables, buffers, the segments being filled.
pub(crate) const FIXED: u64 = SEGMENTS as u64 * FIXED_BYTES + (2 << 20);
/// What is left of [`PER_NODE`] for the bitmaps of the traversal and for segments being filled.
const RESERVE_PER_NODE: u64 = 2;
/// Stripes per thread: enough that no thread waits long for the last one, and each many readaheads long.
const STRIPES_PER_THREAD: usize = 4;
/// Rows between two looks at pause, cancel and budget.
const TICK: u64 = 4096;
/// Nodes hashed again under [`RehashChoice::Sample`]: those whose fingerprint has these bits clear, one in sixty-four.
const SAMPLE_MASK: u64 = 0x3f;

/// How a scan ended.
pub(crate) enum Scanned {
    /// With a mark.
    Marked(Box<Outcome>),
    /// It needs more memory than it may use.
    OverBudget,
    /// It met a fault that may be of a dead node, which it cannot tell from a live one.
    Doubtful,
}

/// Bytes that an edge is cut to: enough that few other present keys share them.
fn edge_width(rows_hint: u64) -> usize {
    match rows_hint {
        0..=0x00ff_ffff => 4,
        0x0100_0000..=0xffff_ffff => 5,
        _ => 6,
    }
}

/// Marks by scanning.
pub(crate) fn mark(marking: &Marking<'_>) -> Result<Scanned, PruneError> {
    let pass = Pass {
        marking,
        width: edge_width(marking.job.rows_hint),
        edges: EdgeFile::create(&marking.scratch)?,
        segments: Mutex::new((0..SEGMENTS).map(|_| None).collect()),
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        rows: AtomicU64::new(0),
        foreign: AtomicU64::new(0),
        rehashed: AtomicU64::new(0),
    };
    marking.ledger.take(SEGMENTS as u64 * FIXED_BYTES);
    if let Ended::OverBudget = pass.run()? {
        return Ok(Scanned::OverBudget);
    }
    let present = Present { nodes: pass.rows.load(Ordering::Relaxed), foreign: pass.foreign.load(Ordering::Relaxed) };
    let nodes_rehashed = pass.rehashed.load(Ordering::Relaxed);
    let graph = pass.into_graph()?;
    let mut mark = OpenMark::create(&marking.scratch, &marking.job.dir, marking.identity())?;
    let Some(traversed) = graph.traverse(marking, &mut |fingerprint| mark.push(fingerprint))? else {
        return Ok(Scanned::Doubtful);
    };
    let sealed = mark.seal(&AllRootsWalked::by_scan(&traversed))?;
    let read_again = traversed.read_again();
    Ok(Scanned::Marked(Box::new(Outcome {
        sealed,
        shared: traversed.into_shared(),
        nodes_read: present.nodes + read_again,
        nodes_rehashed: nodes_rehashed + read_again,
        present: Some(present),
    })))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Complete,
    OverBudget,
}

struct Pass<'a> {
    marking: &'a Marking<'a>,
    width: usize,
    edges: EdgeFile,
    segments: Mutex<Vec<Option<Segment>>>,
    next: AtomicUsize,
    done: AtomicU64,
    stop: AtomicBool,
    rows: AtomicU64,
    foreign: AtomicU64,
    rehashed: AtomicU64,
}

impl Pass<'_> {
    fn run(&self) -> Result<Ended, PruneError> {
        let ended: Vec<Result<Ended, PruneError>> = std::thread::scope(|scope| -> Result<_, PruneError> {
            let scan = || {
                give_way();
                self.scan_stripes()
            };
            let scanners = threads::begin_some(scope, "pruner-scan", self.marking.job.threads.max(1), |_| scan)?;
            Ok(scanners.into_iter().map(joined).collect())
        })?;
        let mut all = Ended::Complete;
        for one in ended {
            if one? == Ended::OverBudget {
                all = Ended::OverBudget;
            }
        }
        Ok(all)
    }

    fn stripes(&self) -> usize {
        (self.marking.job.threads.max(1) * STRIPES_PER_THREAD).min(SEGMENTS)
    }

    fn scan_stripes(&self) -> Result<Ended, PruneError> {
        let _guard = StopOnPanic(&self.stop);
        loop {
            let stripe = self.next.fetch_add(1, Ordering::Relaxed);
            if stripe >= self.stripes() || self.stop.load(Ordering::Relaxed) {
                return Ok(Ended::Complete);
            }
            let scanned = self.scan_stripe(stripe);
            if !matches!(scanned, Ok(Ended::Complete)) {
                self.stop.store(true, Ordering::Relaxed);
                return scanned;
            }
        }
    }

    fn scan_stripe(&self, stripe: usize) -> Result<Ended, PruneError> {
        let job = self.marking.job;
        let bound = |stripe: usize| stripe * SEGMENTS / self.stripes();
        let (first, end) = (bound(stripe), bound(stripe + 1));
        let mut scanner = Scanner {
            pass: self,
            segment: first,
            builder: SegmentBuilder::new(self.width),
            children: Vec::with_capacity(16),
            accounted: 0,
            rows: 0,
            foreign: 0,
            rehashed: 0,
        };
        let mut broken = None;
        job.view.scan_nodes(&range_of(first, end), &mut |key, value| {
            match scanner.row(key, value) {
                Ok(Ended::Complete) => return ControlFlow::Continue(()),
                Ok(Ended::OverBudget) => broken = Some(Ok(Ended::OverBudget)),
                Err(error) => broken = Some(Err(error)),
            }
            ControlFlow::Break(())
        })?;
        match broken {
            Some(broken) => broken,
            None => scanner.finish_up_to(end),
        }
    }

    fn keep(&self, number: usize, mut segment: Segment) -> Result<u64, PruneError> {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let rows = self.rows.load(Ordering::Relaxed);
        if let Edges::Held(edges) = &segment.edges
            && self.marking.ledger.held() > self.allowance(rows, done)
        {
            segment.edges = self.edges.spill(edges)?;
        }
        let memory = segment.memory();
        if let Some(slot) = self.segments.lock().get_mut(number) {
            *slot = Some(segment);
        }
        self.marking.job.observer.progress(Progress {
            stage: Stage::Scan,
            done: rows,
            share: Some(done as f64 / SEGMENTS as f64),
        });
        Ok(memory)
    }

    /// Memory that the nodes seen so far may take: their share of the budget, since keys are uniform, and never more
    /// than so many bytes each.
    fn allowance(&self, rows: u64, segments_done: u64) -> u64 {
        let budget = self.marking.ledger.budget().saturating_sub(FIXED);
        let share = u128::from(budget) * 7 / 8 * u128::from(segments_done) / SEGMENTS as u128;
        let share = u64::try_from(share).map_or(u64::MAX, |share| share);
        FIXED / 2 + share.min(rows * (PER_NODE - RESERVE_PER_NODE))
    }

    fn into_graph(self) -> Result<Graph, PruneError> {
        let segments: Option<Vec<Segment>> = self.segments.into_inner().into_iter().collect();
        let segments = segments.ok_or_else(|| PruneError::Invariant("a segment was not scanned".to_owned()))?;
        Ok(Graph::new(segments, self.edges, self.width))
    }
}

/// The keys of some segments; the first range takes the empty key too.
fn range_of(first: usize, end: usize) -> KeyRange {
    let bound = |number: usize| match u8::try_from(number) {
        Ok(byte) if byte > 0 => Some(vec![byte]),
        _ => None,
    };
    KeyRange { start: bound(first), end: bound(end) }
}

struct Scanner<'a> {
    pass: &'a Pass<'a>,
    segment: usize,
    builder: SegmentBuilder,
    children: Vec<NodeHash>,
    accounted: u64,
    rows: u64,
    foreign: u64,
    rehashed: u64,
}

impl Scanner<'_> {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<Ended, PruneError> {
        let Ok(hash) = NodeHash::try_from(key) else {
            self.foreign += 1; // I8
            return Ok(Ended::Complete);
        };
        let segment = usize::from(hash.as_bytes()[0]);
        if segment != self.segment && self.finish_up_to(segment)? == Ended::OverBudget {
            return Ok(Ended::OverBudget);
        }
        self.rows += 1;
        self.children.clear();
        let intact = self.read(&hash, value);
        let children = intact.then_some(self.children.as_slice());
        self.builder.add(hash.fingerprint(), children)?;
        if self.rows.is_multiple_of(TICK) {
            return self.tick();
        }
        Ok(Ended::Complete)
    }

    /// Fills `children`; whether the node may be taken at its word.
    fn read(&mut self, hash: &NodeHash, value: &[u8]) -> bool {
        let job = self.pass.marking.job;
        let sampled = hash.fingerprint() & SAMPLE_MASK == 0;
        if job.rehash == RehashChoice::All || sampled {
            self.rehashed += 1;
            return job.layout.read(value, &mut self.children).is_ok_and(|actual| actual == *hash);
        }
        job.layout.children(value, &mut self.children).is_ok()
    }

    fn tick(&mut self) -> Result<Ended, PruneError> {
        let marking = self.pass.marking;
        marking.job.control.checkpoint()?;
        self.account(self.builder.memory());
        if marking.ledger.is_over() {
            return Ok(Ended::OverBudget);
        }
        Ok(Ended::Complete)
    }

    fn account(&mut self, held: u64) {
        self.pass.marking.ledger.change(self.accounted, held);
        self.accounted = held;
    }

    /// Ends the current segment and the empty ones behind it, and goes on with segment `next`.
    fn finish_up_to(&mut self, next: usize) -> Result<Ended, PruneError> {
        while self.segment < next {
            if self.tick()? == Ended::OverBudget {
                return Ok(Ended::OverBudget);
            }
            self.pass.rows.fetch_add(std::mem::take(&mut self.rows), Ordering::Relaxed);
            self.pass.foreign.fetch_add(std::mem::take(&mut self.foreign), Ordering::Relaxed);
            self.pass.rehashed.fetch_add(std::mem::take(&mut self.rehashed), Ordering::Relaxed);
            let builder = std::mem::replace(&mut self.builder, SegmentBuilder::new(self.pass.width));
            let segment = builder.finish()?;
            self.account(segment.memory());
            let kept = self.pass.keep(self.segment, segment)?;
            self.account(kept);
            self.accounted = 0; // the segment's memory is the pass's from here on
            self.segment += 1;
        }
        Ok(Ended::Complete)
    }
}
