//! BuildReach: the exact set of nodes that the retained roots reach, as of one view.
//!
//! Two ways lead to the same mark: a scan of every node with the traversal in memory, and a walk from the roots with
//! batched reads. Both produce a sealed mark file or an error; nothing else (I7).

mod bits;
mod blocks;
pub(crate) mod choose;
pub(crate) mod difference;
pub(crate) mod disk;
mod edges;
mod evidence;
pub(crate) mod fault;
mod file;
mod graph;
pub(crate) mod ledger;
mod note;
mod overflow;
mod runs;
mod scan;
mod segment;
pub(crate) mod source;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod visited;
mod walk;
pub(crate) mod work;

use std::{panic::resume_unwind, path::PathBuf, sync::Arc, thread::ScopedJoinHandle};

use serde::{Deserialize, Serialize};
use state_store::View;
use state_tree::{NodeLayout, StateRoot};

use crate::{
    clock::Clock,
    control::{Control, Observer},
    error::PruneError,
    roots::RetainedRoots,
};
pub use blocks::MarkReader;
pub(crate) use disk::forget_walk;
pub use disk::remove_leftovers;
pub use file::{MarkIdentity, OpenMark, SealedMark};
pub use note::{Notes, SavedWalk};

use choose::Plan;
use disk::Scratch;
use fault::Locator;
use ledger::Ledger;
use source::ViewSource;

/// Which way to mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkChoice {
    /// By predicted cost and memory.
    Auto,
    /// Read every node in key order.
    Scan,
    /// Read from the roots down.
    Walk,
}

/// The way that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkStrategy {
    /// Read every node in key order.
    Scan,
    /// Read from the roots down.
    Walk,
}

/// Which nodes that are read are hashed again and compared with their key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RehashChoice {
    /// Every node that is read.
    All,
    /// Every live node that is read; during a scan, where it is not known which nodes are live, a sample.
    Sample,
}

/// Everything one mark needs.
pub struct MarkJob<'a> {
    /// The instant to mark.
    pub view: &'a dyn View,
    /// Reads the nodes.
    pub layout: &'a dyn NodeLayout,
    /// Where to start.
    pub roots: &'a RetainedRoots,
    /// The retained root whose shared nodes are told as well ([`SealedMark::take_shared`]).
    pub traced: Option<StateRoot>,
    /// The cycle the mark belongs to.
    pub cycle: u64,
    /// Folder for the mark file and for spill files.
    pub dir: PathBuf,
    /// Which way.
    pub choice: MarkChoice,
    /// What to hash again.
    pub rehash: RehashChoice,
    /// Most bytes of memory the marking may use.
    pub memory_budget: u64,
    /// Rows in the node family by the engine's estimate, for planning.
    pub rows_hint: u64,
    /// Threads that may read.
    pub threads: usize,
    /// How a walk is written down for a later process, if it is to be.
    pub notes: Option<Notes>,
    /// The walk of an earlier process, of the same cycle and the same roots, to go on with.
    pub from: Option<&'a SavedWalk>,
    /// Measures the wall time of the report.
    pub clock: &'a dyn Clock,
    /// Pause and cancel.
    pub control: &'a Control,
    /// Who watches.
    pub observer: &'a dyn Observer,
}

/// What marking found and cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarkReport {
    /// The way taken.
    pub strategy: MarkStrategy,
    /// Why that way.
    pub why: String,
    /// Nodes the retained roots reach.
    pub live_nodes: u64,
    /// Nodes read, live or not.
    pub nodes_read: u64,
    /// Nodes hashed again.
    pub nodes_rehashed: u64,
    /// Nodes present in the family, if every one was read.
    pub present_nodes: Option<u64>,
    /// Rows whose key is not 32 bytes, if every row was read: kept.
    pub foreign_rows: Option<u64>,
    /// Most bytes of memory accounted for at once.
    pub peak_bytes: u64,
    /// SHA-256 over the sorted fingerprints of the live nodes: the digest in the sealed mark file.
    pub live_digest: String,
    /// Wall time.
    pub seconds: f64,
}

/// What every part of one marking shares.
struct Marking<'a> {
    job: &'a MarkJob<'a>,
    roots: Vec<StateRoot>,
    traced: Option<StateRoot>,
    scratch: Arc<Scratch>,
    ledger: Arc<Ledger>,
}

impl<'a> Marking<'a> {
    fn source(&self) -> ViewSource<'a> {
        ViewSource { view: self.job.view, threads: self.job.threads, control: self.job.control }
    }

    fn locator(&self) -> Locator<'_> {
        Locator { source: self.source(), layout: self.job.layout, roots: &self.roots, budget: self.job.memory_budget }
    }

    fn identity(&self) -> MarkIdentity {
        self.job.identity()
    }
}

/// What a strategy hands back.
struct Outcome {
    sealed: SealedMark,
    shared: Option<Vec<u64>>,
    nodes_read: u64,
    nodes_rehashed: u64,
    present: Option<Present>,
}

/// What a pass over every row counted.
#[derive(Debug, Clone, Copy)]
struct Present {
    nodes: u64,
    foreign: u64,
}

impl MarkJob<'_> {
    /// What the mark of this job belongs to.
    pub fn identity(&self) -> MarkIdentity {
        MarkIdentity { cycle: self.cycle, roots: self.roots.digest }
    }
}

/// Marks what the retained roots reach and seals it in a file of `job.dir`.
///
/// Errors: a live node that is missing, malformed or under a wrong hash, with its path from a root; a failed read; a
/// cancel; a budget that holds not even one batch. After an error there is no sealed mark (I7, I11).
pub fn build_reach(job: &MarkJob<'_>) -> Result<(SealedMark, MarkReport), PruneError> {
    let started = job.clock.monotonic();
    if job.roots.roots.is_empty() {
        return Err(PruneError::NoHead); // S9: nothing retained is never "everything is garbage"
    }
    let mut plan = if job.from.is_some() { Plan::going_on() } else { choose::plan(job)? };
    let mut marking = job.begin()?;
    let mut done = match plan.strategy {
        MarkStrategy::Walk => None,
        MarkStrategy::Scan => match scan::mark(&marking)? {
            scan::Scanned::Marked(outcome) => Some(*outcome),
            scan::Scanned::OverBudget => {
                plan = plan.over_budget(job);
                None
            }
            scan::Scanned::Doubtful => {
                plan = plan.doubtful();
                None
            }
        },
    };
    let scan_peak = marking.ledger.peak();
    let outcome = match done.take() {
        Some(outcome) => outcome,
        None => {
            marking = job.begin()?;
            walk::mark(&marking)?
        }
    };
    let peak_bytes = marking.ledger.peak().max(scan_peak);
    let seconds = job.clock.monotonic().saturating_sub(started).as_secs_f64();
    Ok(report(plan, outcome, peak_bytes, seconds))
}

impl<'a> MarkJob<'a> {
    /// Opens the scratch folder and a fresh account of memory.
    fn begin(&'a self) -> Result<Marking<'a>, PruneError> {
        let scratch = match self.from {
            Some(saved) => Scratch::reopen(&self.dir, self.cycle, saved.files())?,
            None => Scratch::open(&self.dir, self.cycle)?,
        };
        Ok(Marking {
            job: self,
            roots: self.roots.distinct().into_iter().collect(),
            traced: self.traced,
            scratch: Arc::new(scratch),
            ledger: Arc::new(Ledger::new(self.memory_budget)),
        })
    }
}

fn report(plan: Plan, outcome: Outcome, peak_bytes: u64, seconds: f64) -> (SealedMark, MarkReport) {
    let report = MarkReport {
        strategy: plan.strategy,
        why: plan.why,
        live_nodes: outcome.sealed.live_nodes(),
        nodes_read: outcome.nodes_read,
        nodes_rehashed: outcome.nodes_rehashed,
        present_nodes: outcome.present.map(|present| present.nodes),
        foreign_rows: outcome.present.map(|present| present.foreign),
        peak_bytes,
        live_digest: hex::encode(outcome.sealed.live_digest()),
        seconds,
    };
    (outcome.sealed.with_shared(outcome.shared), report)
}

/// Waits for a thread of a mark. One that panicked panics on in whoever waits, as if its work had been done there (P14).
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests;
