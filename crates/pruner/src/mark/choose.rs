//! Which way to mark, and why: by predicted cost and memory. Everything here is planning; nothing is reported as
//! measured (I13).
//!
//! The size of the live set is estimated by random descents from the head: the product of the branching on the way
//! down is, on average, the number of nodes of the tree (Knuth). A fault met on the way is left to the mark itself.

use state_tree::NodeHash;

use crate::{
    error::{PruneError, iec},
    mark::{MarkChoice, MarkJob, MarkStrategy, scan, visited},
};

/// One random read of a live node costs as much as this many rows of a scan: 3.5 against 0.18 microseconds, measured by
/// `benches/mark.rs` on ten million nodes in the page cache, which is the case that favours the walk.
const ROWS_PER_READ: u64 = 19;
/// Random descents from the head.
const DESCENTS: u64 = 64;
/// No tree is deeper on any path that a descent follows; a longer one ends the estimate, not the mark.
const DEEPEST: usize = 4096;

/// The way to go.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) strategy: MarkStrategy,
    pub(crate) why: String,
}

/// Chooses a strategy.
///
/// Errors: a read failed; a budget that holds not even one batch of a walk.
pub(crate) fn plan(job: &MarkJob<'_>) -> Result<Plan, PruneError> {
    let budget = job.memory_budget;
    let need = scan::FIXED.saturating_add(job.rows_hint.saturating_mul(scan::LEAST_PER_NODE));
    if budget < visited::LEAST_BUDGET {
        return Err(PruneError::MemoryBudget { given: budget, least: visited::LEAST_BUDGET });
    }
    let asked = match job.choice {
        MarkChoice::Walk => return Ok(Plan::new(MarkStrategy::Walk, "asked for")),
        MarkChoice::Scan => "a scan was asked for, but ",
        MarkChoice::Auto => "",
    };
    if need > budget {
        let (budget, need, rows) = (iec(budget), iec(need), job.rows_hint);
        let why = format!(
            "{asked}the memory budget of {budget} is too small for a scan of about {rows} rows, which needs {need}"
        );
        return Ok(Plan::new(MarkStrategy::Walk, why));
    }
    match job.choice {
        MarkChoice::Auto => by_cost(job),
        MarkChoice::Scan | MarkChoice::Walk => Ok(Plan::new(MarkStrategy::Scan, "asked for")),
    }
}

impl Plan {
    fn new(strategy: MarkStrategy, why: impl Into<String>) -> Self {
        Self { strategy, why: why.into() }
    }

    /// The walk that an earlier process began.
    pub(crate) fn going_on() -> Self {
        Self::new(MarkStrategy::Walk, "an earlier process had begun to walk")
    }

    /// The walk, after a scan turned out to need more memory than predicted.
    pub(crate) fn over_budget(self, job: &MarkJob<'_>) -> Self {
        let why =
            format!("the memory budget of {} became too small during a scan ({})", iec(job.memory_budget), self.why);
        Self::new(MarkStrategy::Walk, why)
    }

    /// The walk, which compares whole hashes, after a scan could not tell a dead node from a live one.
    pub(crate) fn doubtful(self) -> Self {
        let why =
            format!("a scan met a fault among nodes that share the first eight bytes of their hash ({})", self.why);
        Self::new(MarkStrategy::Walk, why)
    }
}

fn by_cost(job: &MarkJob<'_>) -> Result<Plan, PruneError> {
    let rows = job.rows_hint;
    let Some(live) = estimate(job)? else {
        return Ok(Plan::new(MarkStrategy::Scan, "the size of the live set could not be estimated"));
    };
    let cost = live.saturating_mul(ROWS_PER_READ);
    let (strategy, than) = if cost < rows { (MarkStrategy::Walk, "less") } else { (MarkStrategy::Scan, "not less") };
    let why = format!(
        "estimated: about {live} random reads at {ROWS_PER_READ} scanned rows each cost {than} than a scan of about {rows} rows"
    );
    Ok(Plan::new(strategy, why))
}

/// About how many nodes the retained roots reach: the tree of the head, and one path for each further root.
fn estimate(job: &MarkJob<'_>) -> Result<Option<u64>, PruneError> {
    let Some(root) = job.roots.head.root.node() else {
        return Ok(Some(0));
    };
    let mut dice = Dice(u64::from_be_bytes(job.roots.digest.first_chunk().map_or([0; 8], |chunk| *chunk)));
    let (mut nodes, mut steps) = (0.0, 0.0);
    for _ in 0..DESCENTS {
        let Some(descent) = descend(job, root, &mut dice)? else {
            return Ok(None);
        };
        nodes += descent.nodes;
        steps += descent.steps;
    }
    let others = job.roots.distinct().len().saturating_sub(1) as f64;
    let live = (nodes + others * steps) / DESCENTS as f64;
    Ok(Some(live as u64))
}

struct Descent {
    nodes: f64,
    steps: f64,
}

/// One random way down; nothing if it met a fault or did not end.
fn descend(job: &MarkJob<'_>, root: NodeHash, dice: &mut Dice) -> Result<Option<Descent>, PruneError> {
    let (mut at, mut weight) = (root, 1.0);
    let mut descent = Descent { nodes: 0.0, steps: 0.0 };
    let mut children = Vec::new();
    for _ in 0..DEEPEST {
        descent.nodes += weight;
        descent.steps += 1.0;
        children.clear();
        let Some(bytes) = job.view.node(&at)? else {
            return Ok(None);
        };
        if job.layout.children(&bytes, &mut children).is_err() {
            return Ok(None); // the mark will meet it too, and stop there
        }
        let Some(child) = children.get(dice.below(children.len())) else {
            return Ok(Some(descent));
        };
        weight *= children.len() as f64;
        at = *child;
    }
    Ok(None)
}

/// A repeatable source of choices; nothing secret depends on it.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `sides`, or zero when there are none.
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        // The output function of splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * sides as u128) >> 64) as usize
    }
}
