//! What goes over the wire: the JSON of answers, for the server and for clients alike.

use serde::{Deserialize, Serialize};
use state_tree::{NodeHash, ObjectState, Proof, ProofError, StateRoot};

use crate::chain::{Answer, Block, Hex32, HexBytes, Included, ObjectPath, Outcome};

/// The answer to transactions that were committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// The newest order among the receipts: state that contains all of them.
    pub order: u64,
    /// One per transaction, as submitted.
    pub receipts: Vec<WireReceipt>,
}

/// One receipt with the order of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireReceipt {
    /// Order of the block.
    pub order: u64,
    /// The id of the transaction.
    pub id: Hex32,
    /// What it did.
    pub outcome: Outcome,
}

impl From<Included> for WireReceipt {
    fn from(included: Included) -> Self {
        Self { order: included.order.get(), id: included.receipt.id, outcome: included.receipt.outcome }
    }
}

/// The answer to transactions that wait for their block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Their ids, as submitted.
    pub ids: Vec<Hex32>,
}

/// One object as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireObject {
    /// The keys of the place where it was created: its identity, which it keeps when it moves or is copied.
    pub id: Vec<Hex32>,
    /// The account that owns it.
    pub owner: Hex32,
    /// Its value.
    pub value: HexBytes,
    /// How many fields lie directly below it.
    pub fields: u64,
    /// The root of its fields.
    pub fields_root: Hex32,
}

impl From<&ObjectState> for WireObject {
    fn from(object: &ObjectState) -> Self {
        Self {
            id: object.metadata.id.components().iter().copied().map(Hex32).collect(),
            owner: Hex32(object.metadata.owner),
            value: HexBytes(object.value.clone()),
            fields: object.metadata.size,
            fields_root: Hex32(*object.fields().hash().as_bytes()),
        }
    }
}

/// A proof as JSON: enough for a client that trusts a root to check the answer without the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireProof {
    /// The order it belongs to.
    pub order: u64,
    /// The root of that order.
    pub root: Hex32,
    /// The evidence, as `state_tree::Proof` has it.
    pub segments: Vec<Vec<HexBytes>>,
    /// The value the proof shows; absent when it shows that there is no object.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<HexBytes>,
}

/// Why a proof that came over the wire proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireProofError {
    /// The evidence is wrong.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The evidence is right, and shows another value than the one beside it.
    #[error("the proof shows another value than the one beside it")]
    Value,
}

impl WireProof {
    /// The object that the evidence shows at `path`, checked against the root in the proof.
    ///
    /// Errors: evidence for another root or path, a value that is not the proven one.
    pub fn verify(&self, path: &ObjectPath) -> Result<Option<ObjectState>, WireProofError> {
        let proof = Proof {
            segments: self.segments.iter().map(|items| items.iter().map(|item| item.0.clone()).collect()).collect(),
        };
        let root = StateRoot::new(NodeHash::new(self.root.0));
        let object = proof.verify(root, &path.keys())?;
        let proven = object.as_ref().map(|object| object.value.as_slice());
        if proven == self.value.as_ref().map(|value| value.0.as_slice()) {
            Ok(object)
        } else {
            Err(WireProofError::Value)
        }
    }
}

impl From<&Answer> for WireProof {
    fn from(answer: &Answer) -> Self {
        let segments = &answer.proof.segments;
        Self {
            order: answer.order.get(),
            root: Hex32(*answer.root.hash().as_bytes()),
            segments: segments.iter().map(|items| items.iter().cloned().map(HexBytes).collect()).collect(),
            value: answer.object.as_ref().map(|object| HexBytes(object.value.clone())),
        }
    }
}

/// What the state of one order says about one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireAnswer {
    /// The order read.
    pub order: u64,
    /// Its root.
    pub root: Hex32,
    /// The path asked for.
    pub path: ObjectPath,
    /// The object; null when the state has none there.
    pub object: Option<WireObject>,
    /// The evidence, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proof: Option<WireProof>,
}

/// A block with its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireBlock {
    /// SHA-256 over the canonical BCS of the block.
    pub hash: Hex32,
    /// The block.
    #[serde(flatten)]
    pub block: Block,
}
