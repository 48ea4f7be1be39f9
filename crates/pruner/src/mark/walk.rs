//! Walk mark: from the roots down with large sorted batches, every node hashed again (design 4.2).
//!
//! Contract: the visited set is exact and is itself the mark; memory keeps to the budget whatever the store holds.
//! A fault ends the walk at once and there is no sealed mark (S5, S7).
//!
//! Costs: one random read per live node.

use std::sync::Arc;

use state_tree::{
    CompleteWalk, NodeHash, Reading, Rehash, StateRoot, Step, TreeError, Visitor, Walked, WorkList, walk,
};

use crate::{
    control::{Progress, Stage},
    error::PruneError,
    mark::{
        Marking, Outcome,
        evidence::AllRootsWalked,
        fault,
        file::OpenMark,
        visited::{SpillingWork, Visited},
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

/// Marks by walking.
pub(crate) fn mark(marking: &Marking<'_>) -> Result<Outcome, PruneError> {
    let mut work = SpillingWork::new(Arc::clone(&marking.scratch), Arc::clone(&marking.ledger))?;
    let mut marker = Marker { marking, nodes: 0, fault: None };
    let traced = match marking.traced {
        Some(root) => Some(follow(marking, &[root], work.counting(), &mut marker)?),
        None => None,
    };
    let shared = work.take_shared();
    let rest = follow(marking, &marking.roots, &mut work, &mut marker)?;
    let walks: Vec<CompleteWalk> = traced.into_iter().chain([rest]).collect();
    let evidence = AllRootsWalked::by_walks(&walks);
    let read = evidence.live_nodes();
    let sealed = write(marking, work.into_visited())?.seal(&evidence)?;
    Ok(Outcome { sealed, shared, nodes_read: read, nodes_rehashed: read, present: None })
}

/// Visits what these roots reach and was not visited before.
fn follow(
    marking: &Marking<'_>,
    roots: &[StateRoot],
    work: &mut SpillingWork,
    marker: &mut Marker<'_>,
) -> Result<CompleteWalk, PruneError> {
    for node in roots.iter().filter_map(StateRoot::node) {
        work.push(node).map_err(fault::unwrap)?;
    }
    let reading = Reading { layout: marking.job.layout, rehash: Rehash::Every };
    let walked = giving_way(|| walk(&marking.source(), reading, work, marker)).map_err(fault::unwrap)?;
    match (walked, marker.fault.take()) {
        (Walked::Complete(complete), None) => Ok(complete),
        (_, Some(fault)) => Err(marking.locator().lift(fault)),
        (Walked::Faulty(_) | Walked::Stopped(_), None) => {
            Err(PruneError::Invariant("a walk ended early without naming a fault".to_owned()))
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
