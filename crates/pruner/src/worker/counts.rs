//! What the worker tells of the counts of commits: without them nothing is deleted between cycles, and nobody may be left to
//! find that out by a full disk.

use serde::Serialize;
use state_store::{CountsLost, LostBy};

use super::{Inner, shared::Shared, steady::IncrementalStatus};
use crate::{events::Event, incremental::RoundEnd};

/// Why nothing can be deleted between cycles. A cycle is owed, which begins by itself (trigger `counts`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Uncounted {
    /// No cycle has found yet which nodes are shared.
    NoCycleYet,
    /// Commits were counted exactly, and are no more.
    Lost {
        /// By what.
        by: LostBy,
        /// At which order.
        order: u64,
    },
}

impl IncrementalStatus {
    /// The same while nothing can be deleted: what waited before is not known any more (I13).
    pub(super) fn while_uncounted(self, uncounted: Option<Uncounted>) -> Self {
        if uncounted.is_none() {
            return self;
        }
        let last = Some(RoundEnd::Uncounted);
        Self { last, uncounted, lag_orders: None, lag_nodes: None, lag_ms: None, ..self }
    }
}

impl Inner {
    /// Why nothing can be deleted between cycles, if so. Does not wait for a commit.
    pub(super) fn uncounted(&self) -> Option<Uncounted> {
        if self.parts.store.counts_are_settled() {
            return None;
        }
        let lost = |CountsLost { by, order }| Uncounted::Lost { by, order };
        Some(self.parts.store.counts_lost().map_or(Uncounted::NoCycleYet, lost))
    }
}

impl Shared {
    /// Notes why counting is not exact any more; whether the worker has something to tell. What was told stays known: who looked
    /// before it came is late.
    pub(super) fn note_lost(&mut self, lost: Option<CountsLost>) -> bool {
        let Some(CountsLost { by, order }) = lost.filter(|_| self.lost != lost) else { return false };
        self.lost = lost;
        self.untold.push(Event::CountsLost { why: by.words().to_owned(), order });
        true
    }
}
