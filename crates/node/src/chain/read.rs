//! Reads for clients: objects with proofs at any retained order, and blocks.
//!
//! A read pins its order for as long as it lasts, so the pruner cannot take nodes from under it (S41).

use state_store::{Flow, KeyRange, StoreError, Table, record};
use state_tree::{ObjectState, Order, Proof, StateRoot, prove};

use super::{
    Chain,
    block::Block,
    bytes::Hex32,
    error::{ChainError, ReadError},
    path::ObjectPath,
    reader::ViewReader,
};

/// How often a read of the head starts anew because the head it chose was pruned meanwhile.
const MAX_ATTEMPTS: u32 = 8;

/// A position in history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest one.
    Head,
    /// This one.
    Order(Order),
}

/// What the state of one order says about one path.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The order read.
    pub order: Order,
    /// Its root.
    pub root: StateRoot,
    /// The object, or nothing when the state has none there.
    pub object: Option<ObjectState>,
    /// The evidence, for presence and absence alike.
    pub proof: Proof,
}

impl Chain {
    /// The object at a path with its proof.
    ///
    /// Errors: a pruned order, one that never existed, a state that cannot be read.
    pub fn object(&self, at: At, path: &ObjectPath) -> Result<Answer, ReadError> {
        for _ in 1..MAX_ATTEMPTS {
            match (at, self.object_at(self.resolve(at)?, path)) {
                (At::Head, Err(ReadError::Pruned { .. })) => {}
                (At::Head | At::Order(_), outcome) => return outcome,
            }
        }
        self.object_at(self.resolve(at)?, path)
    }

    fn object_at(&self, order: Order, path: &ObjectPath) -> Result<Answer, ReadError> {
        let pin = self.store.pin(order, "http read")?;
        let root = pin.root();
        let reader = ViewReader::new(self.store.view()?);
        let keys = path.keys();
        let proof = prove(root, &keys, &reader);
        if proof.is_err() {
            pin.check()?; // let go meanwhile: what is missing is pruned, not lost
        }
        let proof = proof?;
        // The answer is what the evidence shows: they cannot disagree.
        let object = proof
            .verify(root, &keys)
            .map_err(|error| ChainError::Invariant(format!("a proof of ours does not verify: {error}")))?;
        drop(pin);
        Ok(Answer { order, root, object, proof })
    }

    fn resolve(&self, at: At) -> Result<Order, ReadError> {
        match at {
            At::Order(order) => Ok(order),
            At::Head => Ok(self.head_order()?),
        }
    }

    /// A block with its hash.
    ///
    /// Errors: a pruned block, an order that never existed, a row that cannot be read.
    pub fn block(&self, at: At) -> Result<(Block, Hex32), ReadError> {
        let order = self.resolve(at)?;
        // BEFORE the view: a block committed between the two is in the view, and else it was not committed yet.
        let head = self.head_order()?;
        let view = self.store.view()?;
        let Some(bytes) = view.row(&Table::BLOCK, &order.to_key())? else {
            if order > head {
                return Err(ReadError::NeverExisted { order, head });
            }
            return Err(ReadError::Pruned { what: "the block", order, floor: first_block(&*view)? });
        };
        Ok(decode_block(order, &bytes)?)
    }

    pub(crate) fn head_order(&self) -> Result<Order, ChainError> {
        let head = self.store.head();
        let head = head.ok_or_else(|| ChainError::Invariant("a chain without genesis".to_owned()))?;
        Ok(Order::new(head.order))
    }
}

/// Decodes a block and hashes it again.
pub(crate) fn decode_block(order: Order, bytes: &[u8]) -> Result<(Block, Hex32), ChainError> {
    let name = format!("block {order}");
    let block: Block = record::decode(&name, bytes)?;
    if block.height != order.get() {
        let why = format!("it says height {}", block.height);
        return Err(StoreError::Record { name, why }.into());
    }
    let hash = block.hash()?;
    Ok((block, hash))
}

/// The oldest block that is still there.
fn first_block(view: &dyn state_store::View) -> Result<Order, ChainError> {
    let mut first = None;
    view.scan(&Table::BLOCK, &KeyRange::ALL, &mut |key, _| {
        first = <[u8; 8]>::try_from(key).map_or(None, |key| Some(Order::new(u64::from_be_bytes(key))));
        Flow::Break(())
    })?;
    first.ok_or_else(|| ChainError::Invariant("a chain without blocks".to_owned()))
}
