//! Walk mark: from the roots down with large sorted batches, every node hashed again (design 4.2).
//!
//! Contract: the visited set is exact and is itself the mark; memory keeps to the budget whatever the store holds.
//! A fault ends the walk at once and there is no sealed mark (S5, S7).
//!
//! Costs: one random read per live node.

use std::sync::Arc;

use state_tree::{NodeHash, Reading, Rehash, Step, TreeError, Visitor, Walked, WorkList, walk};

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
    let job = marking.job;
    let mut work = SpillingWork::new(Arc::clone(&marking.scratch), Arc::clone(&marking.ledger))?;
    for root in &marking.roots {
        if let Some(node) = root.node() {
            work.push(node).map_err(fault::unwrap)?;
        }
    }
    let mut marker = Marker { marking, nodes: 0, fault: None };
    let reading = Reading { layout: job.layout, rehash: Rehash::Every };
    let walked = walk(&marking.source(), reading, &mut work, &mut marker).map_err(fault::unwrap)?;
    match (walked, marker.fault) {
        (Walked::Complete(complete), None) => {
            let read = complete.counts().nodes;
            let evidence = AllRootsWalked::by_walk(&complete);
            let sealed = write(marking, work.into_visited())?.seal(&evidence)?;
            Ok(Outcome { sealed, nodes_read: read, nodes_rehashed: read, present: None })
        }
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
