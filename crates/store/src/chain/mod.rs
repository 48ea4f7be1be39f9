//! `ChainView`: head and order -> root, read from a given view. The second of the two traits an embedder implements.

pub(crate) mod native;
mod rooch;

use state_tree::{Order, StateRoot};

use crate::{backend::View, error::StoreError};
pub(crate) use native::{FloorRecord, to_hash, to_words};
pub use native::{HeadRecord, NativeChain, RootRecord};
pub use rooch::RoochChain;

/// The newest committed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its order.
    pub order: Order,
    /// Its root.
    pub root: StateRoot,
    /// Milliseconds since 1970 by the chain's own clock, if the chain records it.
    pub timestamp_ms: Option<u64>,
    /// Hash of the block or transaction, if the chain records it.
    pub block_hash: Option<[u8; 32]>,
}

/// Why an order inside history has no root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hole {
    /// No record leads from the order to a root.
    NoRecord,
    /// Records exist but do not say which of several orders the root belongs to.
    Ambiguous {
        /// The candidate, which is retained in addition, since keeping is safe.
        candidate: StateRoot,
        /// What makes it ambiguous.
        why: String,
    },
    /// A record exists and cannot be read as one.
    Malformed {
        /// What is wrong.
        why: String,
    },
}

impl std::fmt::Display for Hole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRecord => f.write_str("no record"),
            Self::Ambiguous { why, .. } | Self::Malformed { why } => f.write_str(why),
        }
    }
}

/// The root of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootAt {
    /// Recorded.
    Root(StateRoot),
    /// Inside history but without a usable record: listed, and it stops the cycle unless the operator names it (S11).
    Hole(Hole),
}

/// Reads a chain's own records from a view (I1). An unreadable record is an error, never an absence (S14).
pub trait ChainView: Send + Sync + std::fmt::Debug {
    /// The newest executed state, or nothing on a chain without any commit.
    fn head(&self, view: &dyn View) -> Result<Option<Head>, StoreError>;

    /// The root after `order`, which the caller knows to be at or below the head.
    fn root(&self, view: &dyn View, order: Order) -> Result<RootAt, StoreError>;

    /// The roots of all orders from `first` to `last`, both included. A chain that can see more of a hole when it looks
    /// at a whole window does so here.
    fn roots(&self, view: &dyn View, first: Order, last: Order) -> Result<Vec<(Order, RootAt)>, StoreError> {
        (first.get()..=last.get()).map(Order::new).map(|order| Ok((order, self.root(view, order)?))).collect()
    }

    /// A digest of every root from `first` to `last`, if the chain can tell it without reading them all: a different root
    /// at any order in between gives a different digest. A chain that answers this checks in [`ChainView::roots`] that
    /// each root is the one the digest stands for.
    fn window_digest(&self, _view: &dyn View, _first: Order, _last: Order) -> Result<Option<[u8; 32]>, StoreError> {
        Ok(None)
    }

    /// The newest order that the chain has accepted, executed or not, if it records that apart from the head.
    fn sequenced(&self, view: &dyn View) -> Result<Option<Order>, StoreError>;

    /// The oldest order whose root may still be read.
    fn floor(&self, view: &dyn View) -> Result<Order, StoreError>;
}
