//! The nodes that wait in a walk, beside those it has visited, within bounded memory.
//!
//! Contract: every hash pushed is handed out exactly once. What does not fit into memory goes to a file as a stack of blocks, so
//! that the walk stays depth first and its frontier bounded (P20).

use std::{collections::BTreeSet, sync::Arc};

use state_tree::{NodeHash, TreeError, WorkList};

use crate::{
    error::PruneError,
    mark::{
        disk::Scratch,
        ledger::Ledger,
        overflow::Overflow,
        visited::{HASH, LEAST_BUDGET, Visited},
    },
};

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

/// A work list as it is written down: what was handed out, and what waits.
pub(crate) struct Noted {
    /// The visited set, each run by the number of its file, with its length.
    pub(crate) runs: Vec<(u64, u64)>,
    /// What waits, in a file of its own.
    pub(crate) waiting: Overflow,
    /// What was pushed more than once, ascending, while that is noted.
    pub(crate) shared: Option<Vec<u64>>,
}

impl SpillingWork {
    /// From here on what is pushed more than once is noted, beside what was so before.
    pub(crate) fn count_from(&mut self, shared: Vec<u64>) {
        self.shared = Some(shared.into_iter().collect());
    }

    /// Fills an empty list with what an earlier process left.
    pub(crate) fn take_up(
        &mut self,
        runs: &[(u64, u64)],
        waiting: &Overflow,
        alive: &dyn Fn() -> Result<(), PruneError>,
    ) -> Result<(), PruneError> {
        self.visited.take_up(runs, alive)?;
        self.overflow = Some(Overflow::copy_of(Some(waiting), &[], (self.visited.scratch(), alive))?);
        Ok(())
    }

    /// Makes the list durable but for the names of its files. After an error, too, it goes on as before.
    pub(crate) fn note_down(&mut self, alive: &dyn Fn() -> Result<(), PruneError>) -> Result<Noted, PruneError> {
        self.visited.settle()?;
        let waiting = Overflow::copy_of(self.overflow.as_ref(), &self.waiting, (self.visited.scratch(), alive))?;
        waiting.file().sync()?;
        let shared = self.shared.as_ref().map(|shared| shared.iter().copied().collect());
        Ok(Noted { runs: self.visited.runs(), waiting, shared })
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

    /// Hashes that were handed out.
    pub(crate) fn handed_out(&self) -> u64 {
        self.visited.count()
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
        if self.waiting.len() >= self.visited.shares().waiting {
            self.overflow()?;
        }
        self.waiting.push(hash);
        Ok(())
    }

    /// Moves the older half of what waits to the file.
    fn overflow(&mut self) -> Result<(), PruneError> {
        let file = match self.overflow.take() {
            Some(file) => file,
            None => Overflow::create(self.visited.scratch())?,
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
            let from = self.waiting.len().saturating_sub(self.visited.shares().batch);
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
        self.visited.ledger().change(self.accounted, held);
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
    use crate::mark::{
        testing::{Random, hash_of},
        visited::MAX_RUNS,
    };

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
        assert!(!work.visited.runs().is_empty() && work.overflow.is_some(), "the test must spill");
        assert!(work.visited.runs().len() <= MAX_RUNS);
        assert!(ledger.peak() <= LEAST_BUDGET, "{} bytes", ledger.peak());
        let sorted = work.into_visited().into_sorted().unwrap();
        let (mut reader, mut read) = (sorted.reader().unwrap(), Vec::new());
        while let Some(hash) = reader.next().unwrap() {
            read.push(hash);
        }
        assert!(read.into_iter().eq(pushed));
    }
}
