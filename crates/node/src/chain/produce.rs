//! One block: execute what waits on the head, compute the new state, commit, and only then answer.
//!
//! Nothing is acknowledged before the commit returned, so a kill at any moment loses nothing that was acknowledged
//! under the configured durability. A failed commit leaves the head where it was and answers every transaction of
//! the block with the error.

use std::{sync::Arc, time::Duration};

use state_pruner::Clock;
use state_store::{Base, Batch, Commit, Committed, HeadRecord, Store, StoreError, Table, record};
use state_tree::{NodeHash, Order, StateRoot, TreeError, update};

use super::{
    block::Block,
    bytes::Hex32,
    error::{ChainError, Refusal},
    mempool::{Included, Waiting},
    overlay::{Overlay, Verdict},
    reader::ViewReader,
    transaction::{Outcome, Reason, Receipt},
};

/// How often a block is computed anew because another committer moved the head.
const MAX_ATTEMPTS: u32 = 8;

/// What one block did, measured.
#[derive(Debug, Clone)]
pub struct Produced {
    /// What the store committed.
    pub committed: Committed,
    /// Hash of the block.
    pub hash: Hex32,
    /// Transactions that were applied.
    pub applied: u64,
    /// Transactions that failed with a receipt.
    pub failed: u64,
    /// Time to execute the transactions and to compute the new state.
    pub execute: Duration,
    /// Time in the commit.
    pub commit: Duration,
}

/// A block before its commit.
#[derive(Default)]
struct Draft {
    included: Vec<(Waiting, Receipt)>,
    /// Could not be judged; in no block.
    refused: Vec<(Waiting, ChainError)>,
    /// Did not fit.
    left: Vec<Waiting>,
}

impl Draft {
    fn into_waiting(self) -> Vec<Waiting> {
        let included = self.included.into_iter().map(|(waiting, _)| waiting);
        let refused = self.refused.into_iter().map(|(waiting, _)| waiting);
        included.chain(refused).chain(self.left).collect()
    }
}

/// What became of a batch of transactions.
pub(crate) struct Attempt {
    pub(crate) result: Result<Option<Produced>, ChainError>,
    /// Transactions for the next block.
    pub(crate) left: Vec<Waiting>,
}

/// What a block is made with.
pub(crate) struct Making<'a> {
    pub(crate) store: &'a Store,
    pub(crate) clock: &'a Arc<dyn Clock>,
    /// Hears what fails BEFORE the clients do.
    pub(crate) met: &'a dyn Fn(&ChainError),
}

impl Making<'_> {
    /// Produces one block of `batch`, or none if every transaction was refused.
    pub(crate) fn produce(&self, batch: Vec<Waiting>) -> Attempt {
        let mut batch = batch;
        for attempt in 1..=MAX_ATTEMPTS {
            let (draft, result) = self.build(batch);
            let is_overtaken = matches!(result, Err(ChainError::Store(StoreError::HeadMoved { .. })));
            if is_overtaken && attempt < MAX_ATTEMPTS {
                batch = draft.into_waiting();
                continue;
            }
            let unjudged = draft.refused.iter().map(|(_, error)| error).filter(|_| !is_overtaken);
            unjudged.chain(result.as_ref().err()).for_each(self.met);
            return match result {
                Ok(produced) => answer(draft, produced),
                Err(error) => refuse(draft, error),
            };
        }
        let error = ChainError::Invariant("the attempts at a block have no last one".to_owned());
        Attempt { result: Err(error), left: Vec::new() }
    }

    /// Executes the batch on the head and commits what it amounts to.
    fn build(&self, batch: Vec<Waiting>) -> (Draft, Result<Option<Produced>, ChainError>) {
        let Self { store, clock, .. } = *self;
        let mut draft = Draft::default();
        let head = store.head().ok_or_else(|| ChainError::Invariant("a chain without genesis".to_owned()));
        let opened = head.and_then(|head| Ok((head, ViewReader::new(store.view()?))));
        let (head, reader) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                draft.left = batch;
                return (draft, Err(error));
            }
        };
        let begun = clock.monotonic();
        let mut overlay = Overlay::new(root_of(&head), &reader);
        self.execute(&mut overlay, batch, &mut draft);
        if let Some(moved) = draft.refused.iter().find_map(|(_, error)| self.overtaken(&head, error)) {
            return (draft, Err(moved));
        }
        if draft.included.is_empty() {
            return (draft, Ok(None));
        }
        let delta = match update(root_of(&head), overlay.changes(), &reader).map_err(ChainError::from) {
            Ok(delta) => Arc::new(delta),
            Err(error) => return (draft, Err(self.overtaken(&head, &error).map_or(error, |moved| moved))),
        };
        let executed = clock.monotonic();
        let block = block_over(&head, delta.root, clock.unix_ms(), &draft.included);
        let result = commit(store, &block, Base::Head(root_of(&head)), delta).map(|(committed, hash)| {
            let applied = draft.included.iter().filter(|(_, receipt)| receipt.outcome == Outcome::Applied);
            let applied = applied.count() as u64;
            Some(Produced {
                committed,
                hash,
                applied,
                failed: draft.included.len() as u64 - applied,
                execute: executed - begun,
                commit: clock.monotonic() - executed,
            })
        });
        (draft, result)
    }

    /// Another committer was faster: what the state of this head had may be gone, and a node that is missing is no damage.
    fn overtaken(&self, from: &HeadRecord, error: &ChainError) -> Option<ChainError> {
        let ChainError::Tree(TreeError::Missing(_)) = error else { return None };
        let now = self.store.head().filter(|now| now != from)?;
        Some(StoreError::HeadMoved { head: Order::new(now.order) }.into())
    }

    fn execute(&self, overlay: &mut Overlay<'_>, batch: Vec<Waiting>, draft: &mut Draft) {
        let mut batch = batch.into_iter();
        for waiting in batch.by_ref() {
            let outcome = match overlay.apply(&waiting.transaction) {
                Ok(Verdict::Applied) => Outcome::Applied,
                Ok(Verdict::Rejected(reason)) => Outcome::Failed(reason),
                Ok(Verdict::Full) if draft.included.is_empty() => Outcome::Failed(Reason::TooLarge),
                Ok(Verdict::Full) => {
                    draft.left.push(waiting);
                    break;
                }
                Err(error) => {
                    draft.refused.push((waiting, error.into()));
                    continue;
                }
            };
            let receipt = Receipt { id: waiting.id, outcome };
            draft.included.push((waiting, receipt));
        }
        draft.left.extend(batch);
    }
}

fn answer(draft: Draft, produced: Option<Produced>) -> Attempt {
    let mut unreadable = None;
    for (waiting, error) in draft.refused {
        reply(waiting, Err(Refusal::from(&error)));
        unreadable = Some(error);
    }
    if let Some(produced) = &produced {
        let order = produced.committed.order;
        for (waiting, receipt) in draft.included {
            reply(waiting, Ok(Included { order, receipt }));
        }
    }
    let result = match (produced, unreadable) {
        (None, Some(error)) => Err(error),
        (produced, _) => Ok(produced),
    };
    Attempt { result, left: draft.left }
}

fn refuse(draft: Draft, error: ChainError) -> Attempt {
    let refusal = Refusal::from(&error);
    for waiting in draft.into_waiting() {
        reply(waiting, Err(refusal.clone()));
    }
    Attempt { result: Err(error), left: Vec::new() }
}

fn reply(waiting: Waiting, reply: super::mempool::Reply) {
    if waiting.reply.send(reply).is_err() {
        tracing::trace!(id = %waiting.id, "nobody waits for this transaction any more");
    }
}

fn block_over(head: &HeadRecord, root: StateRoot, now_ms: u64, included: &[(Waiting, Receipt)]) -> Block {
    Block {
        height: head.order + 1,
        parent_hash: Hex32(head.at.block_hash),
        timestamp_ms: now_ms.max(head.at.timestamp_ms), // a wall clock may step back, a chain may not (C16)
        state_root: Hex32(*root.hash().as_bytes()),
        transactions: included.iter().map(|(waiting, _)| waiting.transaction.clone()).collect(),
        receipts: included.iter().map(|(_, receipt)| *receipt).collect(),
    }
}

/// Commits a block with its row in the batch of its nodes.
pub(crate) fn commit(
    store: &Store,
    block: &Block,
    base: Base,
    delta: Arc<state_tree::Delta>,
) -> Result<(Committed, Hex32), ChainError> {
    let hash = block.hash()?;
    let mut rows = Batch::new();
    rows.put(Table::BLOCK, Order::new(block.height).to_key(), record::encode(block)?);
    let commit = Commit { base, delta, timestamp_ms: block.timestamp_ms, block_hash: hash.0, rows };
    let committed = store.commit(commit).map_err(|error| {
        if error.may_be_written() { ChainError::Unsettled(error) } else { ChainError::Store(error) }
    })?;
    if committed.order.get() != block.height {
        let (got, height) = (committed.order, block.height);
        return Err(ChainError::Invariant(format!("block {height} was committed at order {got}")));
    }
    Ok((committed, hash))
}

pub(crate) fn root_of(head: &HeadRecord) -> StateRoot {
    StateRoot::new(NodeHash::new(head.at.root))
}
