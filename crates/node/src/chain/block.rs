//! Blocks: what is hashed, what is stored, and how one is built from waiting transactions.
//!
//! The hash of a block is SHA-256 over the canonical BCS of the whole block, receipts included.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use state_store::record::Record;
use state_tree::{Order, StateRoot};

use super::{
    bytes::Hex32,
    transaction::{Receipt, Transaction},
};

/// One committed block. Its height is its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Position in the chain.
    pub height: u64,
    /// Hash of the block before; zero for genesis.
    pub parent_hash: Hex32,
    /// Milliseconds since 1970 by the clock of the sequencer, never less than the parent's.
    pub timestamp_ms: u64,
    /// Root of the state after it.
    pub state_root: Hex32,
    /// What it contains, in order of execution.
    pub transactions: Vec<Transaction>,
    /// What each transaction did, in the same order.
    pub receipts: Vec<Receipt>,
}

impl Record for Block {
    const KIND: [u8; 4] = *b"BLCK";
    const VERSION: u16 = 1;
}

impl Block {
    /// The first block: no transactions over the empty state.
    pub(crate) fn genesis(timestamp_ms: u64) -> Self {
        Self {
            height: Order::GENESIS.get(),
            parent_hash: Hex32([0; 32]),
            timestamp_ms,
            state_root: Hex32(*StateRoot::EMPTY.hash().as_bytes()),
            transactions: Vec::new(),
            receipts: Vec::new(),
        }
    }

    /// The hash that names the block.
    ///
    /// Errors: the encoding refused a value, which a checked transaction does not cause.
    pub fn hash(&self) -> Result<Hex32, bcs::Error> {
        let mut hasher = Sha256::new();
        hasher.update(b"state-node block 1");
        hasher.update(bcs::to_bytes(self)?);
        Ok(Hex32(hasher.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_block_covers_every_field() {
        let block = Block::genesis(5);
        let hash = block.hash().unwrap();
        let changed = [
            Block { height: 1, ..block.clone() },
            Block { parent_hash: Hex32([1; 32]), ..block.clone() },
            Block { timestamp_ms: 6, ..block.clone() },
            Block { state_root: Hex32([1; 32]), ..block.clone() },
            Block {
                receipts: vec![Receipt { id: Hex32([1; 32]), outcome: super::super::Outcome::Applied }],
                ..block.clone()
            },
        ];
        for block in changed {
            assert_ne!(block.hash().unwrap(), hash, "{block:?}");
        }
    }
}
