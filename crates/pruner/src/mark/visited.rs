//! The exact set of visited nodes within bounded memory.
//!
//! Contract: all 32 bytes decide (I6). What does not fit into memory goes to files, as sorted runs. Afterwards the set can be
//! read in sorted order: it is the mark. An error leaves the set as it was.
//!
//! Costs: a hash that certainly was not visited costs no read; one that may have been costs a block per run.

use std::{collections::HashSet, sync::Arc};

use state_tree::NodeHash;

use crate::{
    error::PruneError,
    mark::{
        disk::Scratch,
        ledger::Ledger,
        runs::{self, Merged, Run, RunWriter},
    },
};

/// Bytes of a bucket of the hash table while it doubles, and of the sorted copy made to spill it.
const RECENT_BYTES: u64 = 33 + 17 + 28;
pub(super) const HASH: u64 = 32;
/// Runs beyond this many are merged into one.
pub(super) const MAX_RUNS: usize = 8;
/// Sixteen bits per hash leave a few in a thousand to look up in vain.
const FILTER_BYTES_PER_HASH: u64 = 2;
const MAX_BATCH: u64 = 16 << 10;
const MIN_BATCH: u64 = 64;

/// The least budget a walk works with: one batch, one block per run, two writers.
pub(crate) const LEAST_BUDGET: u64 = 1 << 20;

/// How the budget is shared out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    recent: usize,
    filters: u64,
    pub(super) waiting: usize,
    pub(super) batch: usize,
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

    /// Where it spills to.
    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// What counts its memory.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How the budget is shared out.
    pub(super) fn shares(&self) -> Shares {
        self.shares
    }

    /// Hashes in the set.
    pub(super) fn count(&self) -> u64 {
        self.runs.iter().map(Run::count).sum::<u64>() + self.recent.len() as u64
    }

    /// Whether the hash is certainly in the set; "no" means "not known".
    pub(super) fn is_recent(&self, hash: &NodeHash) -> bool {
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

    /// The set as an earlier process left it, in runs of so many hashes.
    pub(super) fn take_up(
        &mut self,
        runs: &[(u64, u64)],
        alive: &dyn Fn() -> Result<(), PruneError>,
    ) -> Result<(), PruneError> {
        for (number, count) in runs {
            let filter = self.filter_bytes(*count);
            self.runs.push(Run::take_up(self.scratch.take_up(*number)?, (*count, filter), alive)?);
            self.account();
        }
        Ok(())
    }

    /// Moves what is in memory to a run, and makes all of them durable but for their names.
    pub(super) fn settle(&mut self) -> Result<(), PruneError> {
        if !self.recent.is_empty() {
            self.spill()?;
        }
        self.runs.iter_mut().try_for_each(Run::sync)
    }

    /// Each run, by the number of its file, with its length.
    pub(super) fn runs(&self) -> Vec<(u64, u64)> {
        self.runs.iter().map(|run| (run.number(), run.count())).collect()
    }

    /// After an error the set is what it was.
    fn spill(&mut self) -> Result<(), PruneError> {
        let mut sorted: Vec<NodeHash> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let filter = self.filter_bytes(sorted.len() as u64);
        let mut writer = RunWriter::create(&self.scratch, filter)?;
        for hash in &sorted {
            writer.push(hash)?;
        }
        self.runs.push(writer.finish()?);
        self.recent.clear();
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
        self.account();
        match self.merged(&young) {
            Ok(run) => {
                self.runs.push(run);
                Ok(())
            }
            Err(error) => {
                self.runs.extend(young);
                self.account();
                Err(error)
            }
        }
    }

    fn merged(&self, young: &[Run]) -> Result<Run, PruneError> {
        let readers = young.len() as u64 * runs::READER_BYTES + runs::WRITER_BYTES;
        let held = readers + young.iter().map(Run::memory).sum::<u64>();
        self.ledger.take(held);
        let merged = self.merged_beside(young);
        self.ledger.give(held);
        merged
    }

    fn merged_beside(&self, young: &[Run]) -> Result<Run, PruneError> {
        let total = young.iter().map(Run::count).sum();
        let mut writer = RunWriter::create(&self.scratch, self.filter_bytes(total))?;
        let mut merged = Merged::new(young)?;
        while let Some(hash) = merged.next()? {
            writer.push(&hash)?;
        }
        writer.finish()
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
