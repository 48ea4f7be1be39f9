//! `MemoryWorkList`: a work list that keeps every hash it ever saw in memory, all 32 bytes of it.
//!
//! Memory: about 64 bytes per hash pushed. Last in, first out, so that what waits stays near one batch of paths.

use std::{collections::HashSet, num::NonZeroUsize};

use crate::{error::TreeError, hash::NodeHash, walk::WorkList};

/// A work list for trees that fit into memory, and the twin that spilling lists are tested against.
#[derive(Debug)]
pub struct MemoryWorkList {
    seen: HashSet<NodeHash>,
    waiting: Vec<NodeHash>,
    batch: NonZeroUsize,
}

impl MemoryWorkList {
    /// An empty list that hands out at most `batch` hashes at a time.
    pub fn new(batch: NonZeroUsize) -> Self {
        Self { seen: HashSet::new(), waiting: Vec::new(), batch }
    }

    /// How many hashes wait to be handed out.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Every hash pushed so far.
    pub fn into_seen(self) -> HashSet<NodeHash> {
        self.seen
    }
}

impl WorkList for MemoryWorkList {
    fn push(&mut self, hash: NodeHash) -> Result<(), TreeError> {
        if self.seen.insert(hash) {
            self.waiting.push(hash);
        }
        Ok(())
    }

    fn take(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), TreeError> {
        let first = self.waiting.len().saturating_sub(self.batch.get());
        batch.clear();
        batch.extend(self.waiting.drain(first..));
        batch.sort_unstable();
        Ok(())
    }
}
