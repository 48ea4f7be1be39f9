//! What snapshots are made from, and the two things that an embedder says besides: what to retain, and how its node is.

use std::sync::Arc;

use state_store::{Batch, ChainView, Durability, RolledBack, Store};
use state_tree::Order;

use crate::{
    clock::Clock,
    error::PruneError,
    events::{Event, EventSink},
    records::Records,
    retention::KeepPolicy,
    roots::Retention,
};

/// What a node may tell about itself; each is absent where it does not know (I13).
pub trait NodeFacts: Send + Sync {
    /// Transactions waiting.
    fn mempool_size(&self) -> Option<u64>;
    /// Whether the node follows the tip. Asked after each commit, so it must return at once.
    fn sync_status(&self) -> Option<bool>;
}

/// Takes it up that less is kept. Waits for nobody who changes what is.
pub type LessKept = Box<dyn Fn() + Send + Sync>;

/// Says what to retain, and makes the readable range agree with it before anything is captured.
pub trait RetentionPolicy: Send + Sync {
    /// The bounds in force, if they are more than a number of orders: a cycle never mixes two of them (C9).
    fn keep(&self) -> Option<KeepPolicy> {
        None
    }

    /// Moves the oldest readable order, durably, where there is one. Called BEFORE the capture (S27, S41).
    fn advance(&self) -> Result<(), PruneError>;

    /// The same, durable as asked: for who advances often and whose deletes go through the same log.
    fn advance_under(&self, _durability: Durability) -> Result<(), PruneError> {
        self.advance()
    }

    /// The order to which it would move now; nothing where nobody asks for more than there is.
    fn due_floor(&self) -> Result<Option<Order>, PruneError> {
        Ok(None)
    }

    /// Whom to tell once less is kept although no commit came: a pin that ended, a watermark that moved. Whoever asks last is
    /// told, with nothing held. A policy that only commits change tells nobody.
    fn tell_when_less_is_kept(&self, _tell: LessKept) {}

    /// Whether every order there is lies within the bounds, so that a cycle would delete nothing (S13), as far as the policy
    /// knows more than a number of orders. Waits for nobody who changes them; may read a row.
    ///
    /// Errors: that row cannot be read, so that nobody knows.
    fn is_filling(&self) -> Result<bool, PruneError> {
        Ok(false)
    }

    /// What to retain now, and by whom. Called AFTER `advance`: no pin below the floor can appear any more. What readers hold, and
    /// orders that were kept when the floor passed them, are retained whether it tells them or not.
    fn retention(&self) -> Result<Retention, PruneError>;

    /// What a rollback of the store would do as things stand, without doing it.
    ///
    /// Errors: an order that cannot be gone back to, somebody who keeps a later one.
    fn check_rollback(&self, store: &Store, to: Order) -> Result<RolledBack, PruneError> {
        Ok(store.check_rollback(to)?)
    }

    /// Goes back to an order in the lock in which orders are kept: none that somebody keeps is taken away. Tells nothing itself,
    /// since whoever goes back may hold what commits wait for: what is to be told comes with the answer.
    ///
    /// Errors: those of [`RetentionPolicy::check_rollback`], a failed write; then nothing has changed.
    fn roll_back(&self, store: &Store, to: Order, rows: Batch) -> Result<(RolledBack, Vec<Event>), PruneError> {
        Ok((store.rollback(to, rows)?, Vec::new()))
    }
}

/// Everything the manager works with.
#[derive(Clone)]
pub struct SnapshotParts {
    /// The store.
    pub store: Arc<Store>,
    /// Reads the chain's records.
    pub chain: Arc<dyn ChainView>,
    /// Keeps the snapshot.
    pub records: Arc<dyn Records>,
    /// Says what to retain.
    pub policy: Arc<dyn RetentionPolicy>,
    /// Tells about the node.
    pub facts: Option<Arc<dyn NodeFacts>>,
    /// Reads time.
    pub clock: Arc<dyn Clock>,
    /// Takes what happens.
    pub events: Arc<dyn EventSink>,
}
