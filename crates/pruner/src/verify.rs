//! Verification: what the retained roots need is there and intact, and, if asked, nothing else is there.
//!
//! Contract: a full verification reads and hashes every reachable node once, goes on past faults, and counts them; the
//! digests are SHA-256 over the sorted 32-byte hashes. What was not measured is absent from the report (I13). Memory
//! keeps to the budget; what does not fit is spilled. Nothing in the store is written.

mod readback;
mod report;
mod sampled;

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use sha2::{Digest, Sha256};
use state_store::{KeyRange, View};
use state_tree::{NodeHash, NodeLayout, Reading, Rehash, StateRoot, Step, TreeError, Visitor, Walked, WorkList, walk};

use crate::{
    clock::Clock,
    control::{Control, Observer, Progress, Stage},
    error::PruneError,
    mark::{
        disk::Scratch,
        fault::{self, Locator},
        ledger::Ledger,
        source::ViewSource,
        visited::Sorted,
        work::SpillingWork,
    },
    roots::RetainedRoots,
    snapshot::KeptOrders,
    sweep::visit_nodes,
};
pub use readback::{SampleReport, sample_live};
pub use report::{FaultReport, VerifyReport};

/// Faults that are listed with their path; the others are counted.
const LISTED_FAULTS: usize = 5;
/// Threads that read nodes.
const READERS: usize = 2;
/// Spill files of a verification carry this instead of the id of a cycle.
const NO_CYCLE: u64 = u64::MAX;
const SHOW_EVERY: u64 = 8192;

/// Whether present nodes that no retained root reaches are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaks {
    /// They are.
    Count,
    /// They are not: the report leaves the number out.
    Ignore,
}

/// Everything one verification needs.
pub struct VerifyJob<'a> {
    /// The instant to verify.
    pub view: &'a dyn View,
    /// Reads the nodes.
    pub layout: &'a dyn NodeLayout,
    /// Where to start.
    pub roots: &'a RetainedRoots,
    /// Folder for spill files.
    pub dir: PathBuf,
    /// Whether to look for leaks.
    pub leaks: Leaks,
    /// Follow so many random paths instead of reading everything.
    pub sample: Option<u64>,
    /// Selects the random paths.
    pub seed: u64,
    /// Most bytes of memory.
    pub memory_budget: u64,
    /// Measures the wall time of the report.
    pub clock: &'a dyn Clock,
    /// Pause and cancel.
    pub control: &'a Control,
    /// Who watches.
    pub observer: &'a dyn Observer,
}

/// Verifies a view.
///
/// Errors: a failed read, a cancel, a budget that holds not even one batch. Missing and corrupt nodes are counted.
pub fn verify(job: &VerifyJob<'_>) -> Result<VerifyReport, PruneError> {
    let started = job.clock.monotonic();
    let mut report = match job.sample {
        Some(paths) => sampled::verify(job, paths)?,
        None => full(job)?,
    };
    report.seconds = job.clock.monotonic().saturating_sub(started).as_secs_f64();
    Ok(report)
}

fn full(job: &VerifyJob<'_>) -> Result<VerifyReport, PruneError> {
    let scratch = Arc::new(Scratch::open(&job.dir, NO_CYCLE)?);
    let ledger = Arc::new(Ledger::new(job.memory_budget));
    let mut work = SpillingWork::new(scratch, ledger)?;
    let roots: Vec<StateRoot> = job.roots.distinct().into_iter().collect();
    for root in roots.iter().filter_map(StateRoot::node) {
        work.push(root).map_err(fault::unwrap)?;
    }
    let mut auditor = Auditor::new(job);
    let reading = Reading { layout: job.layout, rehash: Rehash::Every };
    match walk(&source(job), reading, &mut work, &mut auditor).map_err(fault::unwrap)? {
        Walked::Complete(_) | Walked::Faulty(_) => {}
        Walked::Stopped(_) => return Err(PruneError::Invariant("a verification stopped early".to_owned())),
    }
    let audit = auditor.audit;
    let present = Census::take(job, &work.into_visited().into_sorted()?)?;
    if present.unreached_work != audit.missing {
        return Err(PruneError::Invariant(format!(
            "{} reachable nodes were absent one by one, {} in key order",
            audit.missing, present.unreached_work
        )));
    }
    Ok(VerifyReport {
        live_nodes: Some(present.live),
        present_nodes: Some(present.nodes),
        leaked_nodes: (job.leaks == Leaks::Count).then_some(present.nodes - present.live),
        foreign_rows: Some(present.foreign),
        live_sha256: Some(hex::encode(present.live_digest.finalize())),
        present_sha256: Some(hex::encode(present.digest.finalize())),
        ..audit.report(job, &roots)
    })
}

fn source<'a>(job: &'a VerifyJob<'a>) -> ViewSource<'a> {
    ViewSource { view: job.view, threads: READERS, control: job.control }
}

/// Faults met so far.
#[derive(Default)]
struct Audit {
    read: u64,
    missing: u64,
    corrupt: u64,
    faults: Vec<(NodeHash, String)>,
}

impl Audit {
    fn fault(&mut self, fault: &TreeError) -> Result<(), PruneError> {
        let (hash, what) = if let TreeError::Missing(hash) = fault {
            self.missing += 1;
            (hash, "is missing".to_owned())
        } else if let TreeError::Malformed { hash, source } = fault {
            self.corrupt += 1;
            (hash, format!("does not decode: {source}"))
        } else if let TreeError::WrongHash { key, actual } = fault {
            self.corrupt += 1;
            (key, format!("hashes to {actual}"))
        } else {
            return Err(PruneError::Invariant(format!("a walk reported as a fault: {fault}")));
        };
        if self.faults.len() < LISTED_FAULTS {
            self.faults.push((*hash, what));
        }
        Ok(())
    }

    /// The part of the report that both kinds of verification share.
    fn report(self, job: &VerifyJob<'_>, roots: &[StateRoot]) -> VerifyReport {
        let locator = Locator { source: source(job), layout: job.layout, roots, budget: job.memory_budget };
        let faults = self.faults.iter().map(|(hash, what)| FaultReport {
            hash: hash.to_string(),
            what: what.clone(),
            path: locator.path(hash).iter().map(NodeHash::to_string).collect(),
        });
        VerifyReport {
            roots: job.roots.roots.len() as u64,
            kept_below: KeptOrders::runs(job.roots.roots.iter().filter(|kept| kept.order < job.roots.first)),
            first_order: job.roots.first.get(),
            last_order: job.roots.head.order.get(),
            shorter_than_asked: job.roots.shorter_than_asked,
            pruned_below: None,
            retained_from: None,
            log_cut: None,
            live_nodes: None,
            present_nodes: None,
            missing_nodes: self.missing,
            corrupt_nodes: self.corrupt,
            leaked_nodes: None,
            foreign_rows: None,
            live_sha256: None,
            present_sha256: None,
            nodes_read: self.read,
            sampled_paths: None,
            faults: faults.collect(),
            seconds: 0.0,
        }
    }
}

struct Auditor<'a> {
    job: &'a VerifyJob<'a>,
    audit: Audit,
}

impl<'a> Auditor<'a> {
    fn new(job: &'a VerifyJob<'a>) -> Self {
        Self { job, audit: Audit::default() }
    }
}

impl Visitor for Auditor<'_> {
    fn node(&mut self, _hash: &NodeHash, _bytes: &[u8], _children: &[NodeHash]) -> Step {
        self.audit.read += 1;
        if self.audit.read.is_multiple_of(SHOW_EVERY) {
            self.job.observer.progress(Progress { stage: Stage::Verify, done: self.audit.read, share: None });
        }
        Step::Descend
    }

    fn fault(&mut self, fault: TreeError) -> Step {
        match self.audit.fault(&fault) {
            Ok(()) => Step::Descend, // there are no children; what lies beside is still visited
            Err(error) => {
                tracing::error!(%error, "verification met a fault it does not know");
                Step::Stop
            }
        }
    }
}

/// Every present node, held against the reachable ones.
#[derive(Default)]
struct Census {
    nodes: u64,
    foreign: u64,
    live: u64,
    unreached_work: u64,
    digest: Sha256,
    live_digest: Sha256,
}

impl Census {
    fn take(job: &VerifyJob<'_>, reachable: &Sorted) -> Result<Self, PruneError> {
        let mut census = Self::default();
        let mut reader = reachable.reader()?;
        let mut wanted = reader.next()?;
        visit_nodes(job.view, &KeyRange::ALL, |key, _| {
            census.row(job, key, &mut wanted, &mut || reader.next()).map(ControlFlow::Continue)
        })?;
        while wanted.is_some() {
            census.unreached_work += 1;
            wanted = reader.next()?;
        }
        Ok(census)
    }

    fn row(
        &mut self,
        job: &VerifyJob<'_>,
        key: &[u8],
        wanted: &mut Option<NodeHash>,
        next: &mut dyn FnMut() -> Result<Option<NodeHash>, PruneError>,
    ) -> Result<(), PruneError> {
        let Ok(hash) = NodeHash::try_from(key) else {
            self.foreign += 1;
            return Ok(());
        };
        self.nodes += 1;
        self.digest.update(key);
        while wanted.is_some_and(|wanted| wanted < hash) {
            self.unreached_work += 1;
            *wanted = next()?;
        }
        if *wanted == Some(hash) {
            self.live += 1;
            self.live_digest.update(key);
            *wanted = next()?;
        }
        if self.nodes.is_multiple_of(SHOW_EVERY) {
            job.control.checkpoint()?;
            let share = Some(hash.fingerprint() as f64 / u64::MAX as f64);
            job.observer.progress(Progress { stage: Stage::Count, done: self.nodes, share });
        }
        Ok(())
    }
}

/// The children of a node that decodes and hashes to its key; the error says what is wrong otherwise.
fn check(layout: &dyn NodeLayout, hash: &NodeHash, bytes: &[u8]) -> Result<Vec<NodeHash>, TreeError> {
    let mut children = Vec::new();
    match layout.read(bytes, &mut children) {
        Ok(actual) if actual == *hash => Ok(children),
        Ok(actual) => Err(TreeError::WrongHash { key: *hash, actual }),
        Err(source) => Err(TreeError::Malformed { hash: *hash, source }),
    }
}

#[cfg(test)]
mod tests;
