//! What a traversal knows of each node: one bit for reached, one for still to be followed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::PruneError;

/// What is known of the nodes of one segment.
#[derive(Debug)]
pub(crate) struct Bits {
    /// Nodes that were reached.
    pub(crate) marked: Vec<AtomicU64>,
    /// Reached nodes whose children were not followed yet.
    pub(crate) pending: Vec<AtomicU64>,
    /// Nodes that a second reference of the traced state led to; empty where none is traced.
    pub(crate) twice: Vec<AtomicU64>,
    /// Whether some node may be pending.
    pub(crate) dirty: AtomicBool,
}

impl Bits {
    pub(crate) fn new(nodes: usize) -> Self {
        let words = || (0..nodes.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { marked: words(), pending: words(), twice: Vec::new(), dirty: AtomicBool::new(false) }
    }

    pub(crate) fn memory(&self) -> u64 {
        (self.marked.len() + self.pending.len() + self.twice.len()) as u64 * 8
    }

    pub(crate) fn pending_nodes(&self) -> usize {
        let words = self.pending.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize);
        words.sum()
    }

    /// Bits for nodes that a second reference led to.
    pub(crate) fn counting(self) -> Self {
        let twice = self.marked.iter().map(|_| AtomicU64::new(0)).collect();
        Self { twice, ..self }
    }

    pub(crate) fn for_each_marked(&self, each: impl FnMut(usize) -> Result<(), PruneError>) -> Result<(), PruneError> {
        for_each(&self.marked, each)
    }

    pub(crate) fn for_each_shared(&self, each: impl FnMut(usize) -> Result<(), PruneError>) -> Result<(), PruneError> {
        for_each(&self.twice, each)
    }
}

fn for_each(words: &[AtomicU64], mut each: impl FnMut(usize) -> Result<(), PruneError>) -> Result<(), PruneError> {
    for (index, word) in words.iter().enumerate() {
        for bit in ones(word.load(Ordering::Relaxed)) {
            each(index * 64 + bit)?;
        }
    }
    Ok(())
}

/// The positions of the bits that are set.
pub(crate) fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize);
        word &= word.wrapping_sub(1);
        bit
    })
}

/// Positions of resolved children: a few, on the stack where they fit.
#[derive(Default)]
pub(crate) struct Children {
    inline: [(u8, u32); 16],
    len: usize,
    more: Vec<(u8, u32)>,
}

impl Children {
    pub(crate) fn push(&mut self, segment: usize, node: usize) {
        let entry = (segment as u8, node as u32);
        match self.inline.get_mut(self.len) {
            Some(slot) => {
                *slot = entry;
                self.len += 1;
            }
            None => self.more.push(entry),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        let inline = self.inline.iter().take(self.len);
        inline.chain(&self.more).map(|(segment, node)| (usize::from(*segment), *node as usize))
    }
}
