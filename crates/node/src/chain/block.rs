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
    use state_store::record;

    use super::{
        super::{HexBytes, ObjectPath, Outcome, Reason},
        *,
    };

    /// One transaction of each kind, applied or failed.
    fn full() -> Block {
        let name = |n| Hex32([n; 32]);
        let top = |n| ObjectPath::top([n; 32]);
        let value = |bytes: &[u8]| HexBytes(bytes.to_vec());
        let inner = top(1).child(name(2)).unwrap();
        let transactions = vec![
            Transaction::CreateObject { id: top(1), owner: name(9), value: value(&[0xaa]) },
            Transaction::SetValue { id: inner, value: value(&[]) },
            Transaction::SetFields { id: top(1), put: vec![(name(3), value(&[1, 2]))], remove: vec![name(4)] },
            Transaction::DeleteObject { id: top(5) },
            Transaction::MoveObject { from: top(1), to: top(6) },
            Transaction::CloneFields { from: top(6), to: top(7) },
        ];
        let receipts = vec![
            Receipt { id: name(0xe1), outcome: Outcome::Applied },
            Receipt { id: name(0xe2), outcome: Outcome::Failed(Reason::TooLarge) },
        ];
        let (parent_hash, state_root) = (name(0xb0), name(0xb1));
        Block { height: 7, parent_hash, timestamp_ms: 0x0102, state_root, transactions, receipts }
    }

    #[test]
    fn the_bytes_of_a_block_its_hash_and_the_ids_of_its_transactions_are_pinned() {
        let n = |n: &str| n.repeat(32);
        let payload = [
            // Height, parent, time, root, and the number of transactions; each begins with the number of its kind.
            format!("0700000000000000{}0201000000000000{}06", n("b0"), n("b1")),
            format!("0001{}{}01aa", n("01"), n("09")), // create: path of one name, owner, value
            format!("0102{}{}00", n("01"), n("02")),   // set value: path of two names, value
            format!("0201{}01{}02010201{}", n("01"), n("03"), n("04")), // set fields: path, put, remove
            format!("0301{}", n("05")),                // delete
            format!("0401{}01{}", n("01"), n("06")),   // move: from, to
            format!("0501{}01{}", n("06"), n("07")),   // clone fields: from, to
            format!("02{}00{}0105", n("e1"), n("e2")), // two receipts: applied; failed for the sixth reason
        ]
        .concat();
        let block = full();
        let bytes = hex::encode(record::encode(&block).unwrap());
        let (header, rest) = bytes.split_at(28);
        assert_eq!(header, "53505231424c434b01002b020000", "SPR1 BLCK, version 1, length of the payload");
        assert_eq!(rest, format!("{payload}844946d0"));
        assert_eq!(
            block.hash().unwrap().to_string(),
            "54821bdfe90d5063fa798a7d0b8411ec2c8cb985905de7b41adf62b1582873f2"
        );
        let id = block.transactions.first().unwrap().id().unwrap();
        assert_eq!(id.to_string(), "4d5dc5e51fde19be9f13c598933fab09c1b1cefe74e2a915231830157d4a8c67");
    }

    #[test]
    fn the_hash_of_a_block_covers_every_field() {
        let block = Block::genesis(5);
        let hash = block.hash().unwrap();
        let changed = [
            Block { height: 1, ..block.clone() },
            Block { parent_hash: Hex32([1; 32]), ..block.clone() },
            Block { timestamp_ms: 6, ..block.clone() },
            Block { state_root: Hex32([1; 32]), ..block.clone() },
            Block { receipts: vec![Receipt { id: Hex32([1; 32]), outcome: Outcome::Applied }], ..block.clone() },
        ];
        for block in changed {
            assert_ne!(block.hash().unwrap(), hash, "{block:?}");
        }
    }
}
