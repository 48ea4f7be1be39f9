//! Walk mark: from the roots down with large sorted batches, every node hashed again (docs/design.md, section 5).
//!
//! Contract: the visited set is exact and is itself the mark; memory keeps to the budget whatever the store holds.
//! A fault ends the walk at once and there is no sealed mark (S5, S7).
//!
//! What it has visited is written down at times ([`crate::mark::note`]), so a restart costs at most that time (C6).
//!
//! Costs: one random read per live node.

use std::sync::Arc;

use state_tree::{
    CompleteWalk, NodeHash, Reading, Rehash, StateRoot, Step, TreeError, Visitor, Walked, WorkList as _, walk,
};

use crate::{
    control::{Progress, Stage},
    error::PruneError,
    mark::{
        Marking, Outcome,
        evidence::AllRootsWalked,
        fault,
        file::OpenMark,
        note::{NotedWork, Noting, Reached},
        visited::Visited,
        work::SpillingWork,
    },
    priority::giving_way,
};

const SHOW_EVERY: u64 = 8192;

struct Marker<'a> {
    marking: &'a Marking<'a>,
    nodes: u64,
    fault: Option<TreeError>,
}

impl Visitor for Marker<'_> {
    fn node(&mut self, _hash: &NodeHash, _bytes: &[u8], _children: &[NodeHash]) -> Step {
        self.nodes += 1;
        if self.nodes.is_multiple_of(SHOW_EVERY) {
            self.marking.job.observer.progress(Progress { stage: Stage::Mark, done: self.nodes, share: None });
        }
        Step::Descend
    }

    fn fault(&mut self, fault: TreeError) -> Step {
        self.fault = Some(fault);
        Step::Stop
    }
}

/// Marks by walking, from the roots or from where an earlier process was.
pub(crate) fn mark(marking: &Marking<'_>) -> Result<Outcome, PruneError> {
    let mut work = SpillingWork::new(Arc::clone(&marking.scratch), Arc::clone(&marking.ledger))?;
    let reached = match marking.job.from {
        Some(saved) => saved.take_up(&mut work, marking)?,
        None => None,
    };
    let before = work.handed_out();
    let mut walk =
        Walk { marking, noting: Noting::of(marking), marker: Marker { marking, nodes: before, fault: None } };
    let walks = walk.from(reached, &mut work)?;
    let shared = walk.noting.shared.take();
    let evidence = AllRootsWalked::by_walks(before, &walks);
    let read = evidence.live_nodes();
    if work.handed_out() != read {
        let why = format!("a walk visited {} nodes and has evidence for {read}", work.handed_out());
        return Err(PruneError::Invariant(why));
    }
    let sealed = write(marking, work.into_visited())?.seal(&evidence)?;
    Ok(Outcome { sealed, shared, nodes_read: read, nodes_rehashed: read, present: None })
}

struct Walk<'a> {
    marking: &'a Marking<'a>,
    noting: Noting<'a>,
    marker: Marker<'a>,
}

impl Walk<'_> {
    /// The traced state first, while what it shares is noted; then everything. Roots that were reached are on the list.
    fn from(&mut self, reached: Option<Reached>, work: &mut SpillingWork) -> Result<Vec<CompleteWalk>, PruneError> {
        let (traced, marking) = (self.marking.traced, self.marking);
        let mut walks = Vec::new();
        let rest = match reached {
            Some(Reached::All(shared)) => {
                self.noting.shared = shared;
                &[]
            }
            Some(Reached::Traced(shared)) => {
                work.count_from(shared);
                walks.push(self.follow(&[], work)?);
                self.noting.shared = work.take_shared();
                &*marking.roots
            }
            None => {
                if let Some(root) = traced {
                    work.count_from(Vec::new());
                    walks.push(self.follow(&[root], work)?);
                    self.noting.shared = work.take_shared();
                }
                &*marking.roots
            }
        };
        walks.push(self.follow(rest, work)?);
        Ok(walks)
    }

    /// Visits what these roots and what is on the list reach and was not visited before.
    fn follow(&mut self, roots: &[StateRoot], work: &mut SpillingWork) -> Result<CompleteWalk, PruneError> {
        let Self { marking, noting, marker } = self;
        for node in roots.iter().filter_map(StateRoot::node) {
            work.push(node).map_err(fault::unwrap)?;
        }
        let (reading, mut work) =
            (Reading { layout: marking.job.layout, rehash: Rehash::Every }, NotedWork { work, noting });
        let walked = giving_way(|| walk(&marking.source(), reading, &mut work, marker))?.map_err(fault::unwrap)?;
        match (walked, marker.fault.take()) {
            (Walked::Complete(complete), None) => Ok(complete),
            (_, Some(fault)) => Err(marking.locator().lift(fault)),
            (Walked::Faulty(_) | Walked::Stopped(_), None) => {
                Err(PruneError::Invariant("a walk ended early without naming a fault".to_owned()))
            }
        }
    }
}

/// The visited set, sorted, is the mark.
fn write(marking: &Marking<'_>, visited: Visited) -> Result<OpenMark, PruneError> {
    let mut mark = OpenMark::create(&marking.scratch, &marking.job.dir, marking.identity())?;
    let sorted = visited.into_sorted()?;
    let mut reader = sorted.reader()?;
    while let Some(hash) = reader.next()? {
        mark.push(hash.fingerprint())?;
    }
    Ok(mark)
}
