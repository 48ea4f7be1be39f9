//! What can go wrong between a client and the chain, each with what the client can do.

use std::time::Duration;

use state_store::{Disposition, HeadOrder, StoreError};
use state_tree::{Order, TreeError};
use thiserror::Error;

use super::{overlay::ExecutionError, transaction::Malformed};

/// The code where nobody knows yet whether a transaction is committed.
pub(crate) const OUTCOME_UNKNOWN: &str = "outcome_unknown";

/// A failure of the chain itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The write of a commit failed on its way to the disk: what the log kept of it comes back at the next start.
    #[error("{0}; restart the node to find out whether the block is there")]
    Unsettled(StoreError),
    /// The state cannot be read, or an update of it failed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A promise of ours does not hold.
    #[error("internal error: {0}")]
    Invariant(String),
}

impl From<ExecutionError> for ChainError {
    fn from(error: ExecutionError) -> Self {
        match error {
            ExecutionError::Tree(error) => Self::Tree(error),
            ExecutionError::Invariant(what) => Self::Invariant(what.to_owned()),
        }
    }
}

impl From<bcs::Error> for ChainError {
    fn from(error: bcs::Error) -> Self {
        Self::Invariant(format!("a value has no canonical encoding: {error}"))
    }
}

impl ChainError {
    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Unsettled(_) => OUTCOME_UNKNOWN,
            Self::Tree(_) => "state_unreadable",
            Self::Invariant(_) => "internal",
        }
    }

    /// What it asks of the operator.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Store(error) | Self::Unsettled(error) => error.disposition(),
            Self::Tree(_) => Disposition::Corrupt,
            Self::Invariant(_) => Disposition::Bug,
        }
    }
}

/// Why a transaction did not enter the mempool.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// No state could accept it.
    #[error("transaction {index}: {why}")]
    Malformed {
        /// Which of those submitted together, from 0.
        index: usize,
        /// What is wrong with it.
        why: Malformed,
    },
    /// More submitted together than the mempool can ever hold.
    #[error("{given} transactions were submitted together, the mempool holds {limit}")]
    TooMany {
        /// How many.
        given: usize,
        /// The most.
        limit: usize,
    },
    /// Longer together than the mempool can ever hold.
    #[error("{given} bytes of transactions were submitted together, the mempool holds {limit}")]
    TooLarge {
        /// How many bytes.
        given: usize,
        /// The most.
        limit: usize,
    },
    /// The mempool is full; none of them entered.
    #[error("the mempool has no room for them (it holds {limit} transactions and {limit_bytes} bytes)")]
    Full {
        /// The most transactions it holds.
        limit: usize,
        /// The most bytes it holds.
        limit_bytes: usize,
        /// When there may be room.
        retry_after: Duration,
    },
    /// The node is shutting down, or block production has ended.
    #[error("the node takes no transactions: it is stopping")]
    Stopping,
    /// A promise of ours does not hold.
    #[error("internal error: {0}")]
    Invariant(String),
}

/// Why an accepted transaction is in no block. Nothing of it was committed unless the outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {message}", self.outcome())]
pub struct Refusal {
    /// A stable word for scripts.
    pub code: &'static str,
    /// What happened.
    pub message: String,
    /// Whether trying again may help.
    pub disposition: Disposition,
}

impl Refusal {
    fn outcome(&self) -> &'static str {
        if self.code == OUTCOME_UNKNOWN {
            "whether the transaction was committed is unknown"
        } else {
            "the transaction was not committed"
        }
    }
}

impl From<&ChainError> for Refusal {
    fn from(error: &ChainError) -> Self {
        Self { code: error.code(), message: error.to_string(), disposition: error.disposition() }
    }
}

/// Why a read has no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The state or block was there once (O19).
    #[error("{what} of order {order} was pruned; every one from order {floor} on can be read")]
    Pruned {
        /// What was asked for.
        what: &'static str,
        /// The order asked for.
        order: Order,
        /// The oldest that can be read.
        floor: Order,
    },
    /// No such order was ever committed.
    #[error("there is no order {order}: {}", HeadOrder(Some(*head)))]
    NeverExisted {
        /// The order asked for.
        order: Order,
        /// The newest one.
        head: Order,
    },
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl From<StoreError> for ReadError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "two errors mean something else to a reader, all others pass through"
    )]
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Pruned { order, floor } => Self::Pruned { what: "the state", order, floor },
            StoreError::NoSuchOrder { order, head: HeadOrder(Some(head)) } => Self::NeverExisted { order, head },
            other => Self::Chain(ChainError::Store(other)),
        }
    }
}

impl From<TreeError> for ReadError {
    fn from(error: TreeError) -> Self {
        Self::Chain(ChainError::Tree(error))
    }
}
