//! The exact set of visited nodes, and the nodes that wait, within bounded memory.
//!
//! Contract: every hash pushed is handed out exactly once; all 32 bytes decide (I6). What does not fit into memory
//! goes to files: visited hashes as sorted runs, waiting ones as a stack of blocks, so that the walk stays depth first
//! and its frontier bounded (P20). Afterwards the set can be read in sorted order: it is the mark.
//!
//! Costs: a hash that certainly was not visited costs no read; one that may have been costs a block per run.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use state_tree::{NodeHash, TreeError, WorkList};

use crate::{
    error::PruneError,
    mark::{
        disk::Scratch,
        ledger::Ledger,
        overflow::Overflow,
        runs::{self, Merged, Run, RunWriter},
    },
};

/// Bytes of a bucket of the hash table while it doubles, and of the sorted copy made to spill it.
const RECENT_BYTES: u64 = 33 + 17 + 28;
const HASH: u64 = 32;
/// Runs beyond this many are merged into one.
const MAX_RUNS: usize = 8;
/// Sixteen bits per hash leave a few in a thousand to look up in vain.
const FILTER_BYTES_PER_HASH: u64 = 2;
const MAX_BATCH: u64 = 16 << 10;
const MIN_BATCH: u64 = 64;

/// The least budget a walk works with: one batch, one block per run, two writers.
pub(crate) const LEAST_BUDGET: u64 = 1 << 20;

/// How the budget is shared out.
#[derive(Debug, Clone, Copy)]
struct Shares {
    recent: usize,
    filters: u64,
    waiting: usize,
    batch: usize,
}

impl Shares {
    /// A third for recent hashes, a quarter for filters, an eighth each for what waits and for a batch with its bytes.
    fn of(budget: u64) -> Self {
        let buckets = (budget / 3 / RECENT_BYTES).max(16);
        let buckets = 1u64 << buckets.ilog2();
        Self {
            recent: size(buckets * 7 / 8),
            filters: budget / 4,
            waiting: size(budget / 8 / HASH),
            batch: size((budget / 8 / 1024).clamp(MIN_BATCH, MAX_BATCH)),
        }
    }
}

fn size(of: u64) -> usize {
    usize::try_from(of).map_or(usize::MAX, |of| of)
}

/// Visited hashes: recent ones in memory, the rest in runs.
#[derive(Debug)]
pub(crate) struct Visited {
    scratch: Arc<Scratch>,
    ledger: Arc<Ledger>,
    shares: Shares,
    recent: HashSet<NodeHash>,
    accounted: u64,
    runs: Vec<Run>,
}

impl Visited {
    pub(crate) fn new(scratch: Arc<Scratch>, ledger: Arc<Ledger>, budget: u64) -> Self {
        Self { scratch, ledger, shares: Shares::of(budget), recent: HashSet::new(), accounted: 0, runs: Vec::new() }
    }

    /// Whether the hash is certainly in the set; "no" means "not known".
    fn is_recent(&self, hash: &NodeHash) -> bool {
        self.recent.contains(hash)
    }

    /// Leaves in `batch`, which is sorted and unique, what was not in the set, and puts that into it.
    pub(crate) fn admit(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), PruneError> {
        batch.retain(|hash| !self.recent.contains(hash));
        for run in &self.runs {
            run.subtract_from(batch)?;
        }
        for hash in batch.iter() {
            if self.recent.len() >= self.shares.recent {
                self.spill()?;
            }
            self.recent.insert(*hash);
        }
        self.account();
        Ok(())
    }

    fn account(&mut self) {
        let held =
            (self.recent.capacity() as u64 * 8 / 7) * RECENT_BYTES + self.runs.iter().map(Run::memory).sum::<u64>();
        self.ledger.change(self.accounted, held);
        self.accounted = held;
    }

    fn spill(&mut self) -> Result<(), PruneError> {
        let mut sorted: Vec<NodeHash> = self.recent.drain().collect();
        sorted.sort_unstable();
        let filter = self.filter_bytes(sorted.len() as u64);
        let mut writer = RunWriter::create(&self.scratch, filter)?;
        for hash in &sorted {
            writer.push(hash)?;
        }
        self.runs.push(writer.finish()?);
        if self.runs.len() > MAX_RUNS {
            self.merge()?;
        }
        self.account();
        Ok(())
    }

    /// Filter memory for a run of `count` hashes, so that the filters of all runs stay within their share.
    fn filter_bytes(&self, count: u64) -> u64 {
        let used: u64 = self.runs.iter().map(Run::memory).sum();
        (count * FILTER_BYTES_PER_HASH).min(self.shares.filters.saturating_sub(used))
    }

    /// Merges the younger runs while they are about as long as the next older one, so that each hash is rewritten a
    /// logarithmic number of times.
    fn merge(&mut self) -> Result<(), PruneError> {
        let mut first = self.runs.len() - 1;
        let mut length = self.runs.last().map_or(0, Run::count);
        while let Some(older) = first.checked_sub(1).and_then(|index| self.runs.get(index))
            && older.count() <= length * 2
        {
            length += older.count();
            first -= 1;
        }
        if first == self.runs.len() - 1 {
            first = 0;
        }
        let young = self.runs.split_off(first);
        let total: u64 = young.iter().map(Run::count).sum();
        self.account();
        let mut writer = RunWriter::create(&self.scratch, self.filter_bytes(total))?;
        let mut merged = Merged::new(&young)?;
        let readers = young.len() as u64 * runs::READER_BYTES + runs::WRITER_BYTES;
        let held = readers + young.iter().map(Run::memory).sum::<u64>();
        self.ledger.take(held);
        while let Some(hash) = merged.next()? {
            writer.push(&hash)?;
        }
        self.ledger.give(held);
        self.runs.push(writer.finish()?);
        Ok(())
    }

    /// Shows every hash of the set in ascending order.
    pub(crate) fn into_sorted(mut self) -> Result<Sorted, PruneError> {
        let mut recent: Vec<NodeHash> = self.recent.drain().collect();
        recent.sort_unstable();
        let runs = std::mem::take(&mut self.runs);
        self.recent = HashSet::new();
        self.account();
        Ok(Sorted { recent, runs })
    }
}

impl Drop for Visited {
    fn drop(&mut self) {
        self.ledger.give(self.accounted);
    }
}

/// The whole set, ready to be read in order as often as needed.
#[derive(Debug)]
pub(crate) struct Sorted {
    recent: Vec<NodeHash>,
    runs: Vec<Run>,
}

impl Sorted {
    /// Reads from the first hash on.
    pub(crate) fn reader(&self) -> Result<SortedReader<'_>, PruneError> {
        let mut runs = Merged::new(&self.runs)?;
        Ok(SortedReader { head: runs.next()?, runs, recent: self.recent.iter() })
    }
}

/// Reads a set in order. No hash is both recent and in a run.
pub(crate) struct SortedReader<'a> {
    runs: Merged<'a>,
    head: Option<NodeHash>,
    recent: std::slice::Iter<'a, NodeHash>,
}

impl SortedReader<'_> {
    /// The next hash, or nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<NodeHash>, PruneError> {
        let recent = self.recent.as_slice().first();
        match (recent, self.head) {
            (Some(recent), head) if head.is_none_or(|head| *recent < head) => Ok(self.recent.next().copied()),
            (_, head) => {
                if head.is_some() {
                    self.head = self.runs.next()?;
                }
                Ok(head)
            }
        }
    }
}

/// The work list of a walk within a budget.
#[derive(Debug)]
pub(crate) struct SpillingWork {
    visited: Visited,
    waiting: Vec<NodeHash>,
    overflow: Option<Overflow>,
    accounted: u64,
    /// Fingerprints of hashes that were pushed more than once, while that is counted.
    shared: Option<BTreeSet<u64>>,
}

impl SpillingWork {
    /// The list, which from here on notes what is pushed more than once.
    pub(crate) fn counting(&mut self) -> &mut Self {
        self.shared = Some(BTreeSet::new());
        self
    }

    /// What was pushed more than once, ascending; it is noted no more.
    pub(crate) fn take_shared(&mut self) -> Option<Vec<u64>> {
        self.shared.take().map(|shared| shared.into_iter().collect())
    }

    fn note<'a>(&mut self, again: impl IntoIterator<Item = &'a NodeHash>) {
        if let Some(shared) = &mut self.shared {
            shared.extend(again.into_iter().map(NodeHash::fingerprint));
        }
    }

    /// An empty list that keeps to `budget` bytes of memory, the bytes of one batch of nodes included.
    ///
    /// Errors: a budget below [`LEAST_BUDGET`].
    pub(crate) fn new(scratch: Arc<Scratch>, ledger: Arc<Ledger>) -> Result<Self, PruneError> {
        let given = ledger.budget();
        if given < LEAST_BUDGET {
            return Err(PruneError::MemoryBudget { given, least: LEAST_BUDGET });
        }
        Ok(Self {
            visited: Visited::new(scratch, ledger, given),
            waiting: Vec::new(),
            overflow: None,
            accounted: 0,
            shared: None,
        })
    }

    /// Every hash that was handed out.
    pub(crate) fn into_visited(self) -> Visited {
        self.visited
    }

    fn put(&mut self, hash: NodeHash) -> Result<(), PruneError> {
        if self.visited.is_recent(&hash) {
            self.note([&hash]);
            return Ok(());
        }
        if self.waiting.len() >= self.visited.shares.waiting {
            self.overflow()?;
        }
        self.waiting.push(hash);
        Ok(())
    }

    /// Moves the older half of what waits to the file.
    fn overflow(&mut self) -> Result<(), PruneError> {
        let file = match self.overflow.take() {
            Some(file) => file,
            None => Overflow::create(&self.visited.scratch)?,
        };
        let file = self.overflow.insert(file);
        let half = self.waiting.len() / 2;
        if let Some(older) = self.waiting.get(..half) {
            file.put(older)?;
        }
        self.waiting.drain(..half);
        Ok(())
    }

    fn next_batch(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), PruneError> {
        batch.clear();
        loop {
            if self.waiting.is_empty()
                && let Some(overflow) = &mut self.overflow
            {
                overflow.take(&mut self.waiting)?;
            }
            if self.waiting.is_empty() {
                return Ok(());
            }
            let from = self.waiting.len().saturating_sub(self.visited.shares.batch);
            batch.extend(self.waiting.drain(from..));
            batch.sort_unstable();
            self.admit(batch)?;
            self.account();
            if !batch.is_empty() {
                return Ok(());
            }
        }
    }

    /// Leaves what was not handed out before, once each.
    fn admit(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), PruneError> {
        if self.shared.is_none() {
            batch.dedup();
            return self.visited.admit(batch);
        }
        let twice = batch.windows(2).filter(|pair| pair.first() == pair.last()).filter_map(|pair| pair.first());
        let twice: Vec<NodeHash> = twice.copied().collect();
        batch.dedup();
        let asked = batch.clone();
        self.visited.admit(batch)?;
        let visited = asked.iter().filter(|hash| batch.binary_search(hash).is_err());
        self.note(twice.iter().chain(visited));
        Ok(())
    }

    fn account(&mut self) {
        let held = self.waiting.capacity() as u64 * HASH;
        self.visited.ledger.change(self.accounted, held);
        self.accounted = held;
    }
}

impl WorkList for SpillingWork {
    fn push(&mut self, hash: NodeHash) -> Result<(), TreeError> {
        self.put(hash).map_err(list_failed)
    }

    fn take(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), TreeError> {
        self.next_batch(batch).map_err(list_failed)
    }
}

fn list_failed(error: PruneError) -> TreeError {
    TreeError::WorkList { source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::mark::testing::{Random, hash_of};

    #[test]
    fn a_spilling_list_hands_out_every_hash_once_and_forgets_none() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Arc::new(Scratch::open(dir.path(), 1).unwrap());
        let ledger = Arc::new(Ledger::new(LEAST_BUDGET));
        let mut work = SpillingWork::new(scratch, Arc::clone(&ledger)).unwrap();
        let mut random = Random::new(5);
        let (mut pushed, mut taken) = (BTreeSet::new(), BTreeSet::new());
        let mut batch = Vec::new();
        for _ in 0..60 {
            for _ in 0..random.below(9000) {
                let hash = hash_of(random.below(90_000));
                pushed.insert(hash);
                work.push(hash).unwrap();
            }
            for _ in 0..random.below(12) {
                work.take(&mut batch).unwrap();
                assert!(batch.is_sorted());
                batch.iter().for_each(|hash| assert!(taken.insert(*hash), "{hash} twice"));
            }
        }
        loop {
            work.take(&mut batch).unwrap();
            if batch.is_empty() {
                break;
            }
            batch.iter().for_each(|hash| assert!(taken.insert(*hash), "{hash} twice"));
        }
        assert_eq!(taken, pushed);
        assert!(!work.visited.runs.is_empty() && work.overflow.is_some(), "the test must spill");
        assert!(work.visited.runs.len() <= MAX_RUNS);
        assert!(ledger.peak() <= LEAST_BUDGET, "{} bytes", ledger.peak());
        let sorted = work.into_visited().into_sorted().unwrap();
        let (mut reader, mut read) = (sorted.reader().unwrap(), Vec::new());
        while let Some(hash) = reader.next().unwrap() {
            read.push(hash);
        }
        assert!(read.into_iter().eq(pushed));
    }
}
