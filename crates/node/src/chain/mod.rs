//! The reference chain: one sequencer, blocks by time or size, state at any retained order with proofs.
//!
//! Promises: transactions of a block see each other in order; a transaction applies whole or not at all; a block is
//! one commit with its row in the same batch; a receipt is handed out only after that commit returned.

mod block;
mod bytes;
mod error;
mod mempool;
mod overlay;
mod path;
mod pending;
mod produce;
mod producer;
mod read;
mod reader;
mod rollback;
mod transaction;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use state_pruner::Clock;
use state_store::{Base, HeadRecord, Store, StoreError, Table};
use state_tree::{Changes, NodeHash, Order, StateRoot, update};

pub use block::Block;
pub use bytes::{Hex32, HexBytes};
pub(crate) use error::OUTCOME_UNKNOWN;
pub use error::{ChainError, ReadError, Refusal, SubmitError};
pub use mempool::{Included, Reply, Ticket};
pub use overlay::{ExecutionError, Overlay, Verdict};
pub use path::{MAX_PATH, ObjectPath, PathError, key_of};
pub use produce::Produced;
pub use producer::{BlockObserver, Producer};
pub use read::{Answer, At};
pub(crate) use rollback::rows_above;
pub use transaction::{MAX_FIELDS, MAX_VALUE, Malformed, Outcome, Reason, Receipt, Transaction};

use mempool::{Limit, Mempool};
use reader::ViewReader;

/// How blocks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainConfig {
    /// The least time between two blocks that are not full.
    pub block_interval: Duration,
    /// A block is made at once when so many transactions wait; no block holds more.
    pub max_block_transactions: NonZeroUsize,
    /// The most transactions that wait.
    pub mempool_limit: NonZeroUsize,
    /// The most bytes of them.
    pub mempool_bytes: usize,
}

/// The last block that could not be committed, until one could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub refusal: Refusal,
    /// How many blocks in a row.
    pub times: u64,
}

/// Whether transactions become blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Production {
    /// They are taken.
    Accepting,
    /// Those that wait still do, new ones are refused.
    Closing,
    /// They do not: block production has died of a fault of ours.
    Dead,
}

/// What the chain says of itself.
#[derive(Debug, Clone)]
pub struct ChainStatus {
    /// The newest state with its counts.
    pub head: HeadRecord,
    /// The oldest readable order.
    pub floor: Order,
    /// Transactions that wait.
    pub mempool: usize,
    /// The most that may wait.
    pub mempool_limit: usize,
    /// Bytes of those that wait.
    pub mempool_bytes: usize,
    /// The most bytes that may wait.
    pub mempool_bytes_limit: usize,
    /// Whether transactions become blocks.
    pub production: Production,
    /// The last block that could not be committed, if the one after it could not either.
    pub failure: Option<Failure>,
}

impl ChainStatus {
    /// Whether the next transaction may find no room.
    pub fn is_mempool_full(&self) -> bool {
        self.mempool >= self.mempool_limit || self.mempool_bytes + MAX_VALUE > self.mempool_bytes_limit
    }
}

/// The chain over its store.
#[derive(Debug)]
pub struct Chain {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    config: ChainConfig,
    mempool: Mempool,
    failure: Mutex<Option<Failure>>,
    /// Held while a block is made.
    producing: Mutex<()>,
    poisoned: AtomicBool,
}

impl Chain {
    /// Opens the chain of a store; an empty store gets its genesis block at order 0.
    ///
    /// Errors: the newest block is absent or is not the one the head names; the genesis commit failed.
    pub fn open(store: Arc<Store>, config: ChainConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, ChainError> {
        match store.head() {
            None => commit_genesis(&store, clock.unix_ms())?,
            Some(head) => check_head(&store, &head)?,
        }
        Ok(Arc::new(Self {
            mempool: Mempool::new(Limit { transactions: config.mempool_limit, bytes: config.mempool_bytes }),
            store,
            clock,
            config,
            failure: Mutex::new(None),
            producing: Mutex::new(()),
            poisoned: AtomicBool::new(false),
        }))
    }

    /// Hands transactions to block production, all of them or none.
    ///
    /// Errors: a malformed one, no room, a node that is stopping.
    pub fn submit(&self, transactions: Vec<Transaction>) -> Result<Vec<Ticket>, SubmitError> {
        self.mempool.push(transactions, self.config.block_interval)
    }

    /// What the chain says of itself.
    ///
    /// Errors: a promise of ours does not hold.
    pub fn status(&self) -> Result<ChainStatus, ChainError> {
        let gone = || ChainError::Invariant("a chain without genesis".to_owned());
        let limit = self.mempool.limit();
        Ok(ChainStatus {
            head: self.store.head().ok_or_else(gone)?,
            floor: self.store.floor().ok_or_else(gone)?,
            mempool: self.mempool.len(),
            mempool_limit: limit.transactions.get(),
            mempool_bytes: self.mempool.bytes(),
            mempool_bytes_limit: limit.bytes,
            production: self.production(),
            failure: self.failure.lock().clone(),
        })
    }

    fn production(&self) -> Production {
        if self.poisoned.load(Ordering::Acquire) {
            Production::Dead
        } else if self.mempool.is_open() {
            Production::Accepting
        } else {
            Production::Closing
        }
    }

    /// Transactions that wait.
    pub fn mempool_len(&self) -> usize {
        self.mempool.len()
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    fn note_success(&self) {
        *self.failure.lock() = None;
    }

    fn note_failure(&self, error: &ChainError) {
        let mut failure = self.failure.lock();
        let times = failure.as_ref().map_or(0, |failure| failure.times) + 1;
        *failure = Some(Failure { refusal: Refusal::from(error), times });
    }
}

fn commit_genesis(store: &Store, now_ms: u64) -> Result<(), ChainError> {
    let reader = ViewReader::new(store.view()?);
    let delta = update(StateRoot::EMPTY, &Changes::default(), &reader)?;
    produce::commit(store, &Block::genesis(now_ms), Base::Genesis, Arc::new(delta)).map(|_| ())
}

/// The head and the newest block were one batch: if they disagree, the store is not one of ours, or damaged.
fn check_head(store: &Store, head: &HeadRecord) -> Result<(), ChainError> {
    let order = Order::new(head.order);
    let name = format!("block {order}");
    let bad = |why: &str| ChainError::Store(StoreError::Record { name: name.clone(), why: why.to_owned() });
    let row = store.view()?.row(&Table::BLOCK, &order.to_key())?;
    let (block, hash) = read::decode_block(order, &row.ok_or_else(|| bad("the head has no block"))?)?;
    let root = StateRoot::new(NodeHash::new(block.state_root.0));
    if hash.0 != head.at.block_hash || root != produce::root_of(head) {
        return Err(bad("it is not the block that the head names"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
