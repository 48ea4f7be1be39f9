//! Readers whose orders have left the window: each is shown with its age, told once it is too old, and then let go, if that
//! is wanted (L4).
//!
//! What such a reader holds stays on disk. A reader that is let go reads "pruned" from then on, never anything wrong.
//! An age is counted from when the reader was seen first, by a clock that never goes back: it may be a little older.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use state_store::PinOwner;
use state_tree::Order;

use crate::clock::millis;

/// How long a reader may hold an order below the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderLimit {
    /// So long; absent means without end.
    pub max_age: Option<Duration>,
    /// What happens then.
    pub then: OldReaders,
}

/// What happens to readers that are too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldReaders {
    /// They are told.
    Report,
    /// They are told and let go.
    LetGo,
}

/// How a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReaderState {
    /// Its order is in the window, and stays without it.
    InWindow,
    /// It alone, or others like it, may hold its order.
    Below,
    /// The same, for longer than the limit.
    TooOld,
}

/// A reader, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderStatus {
    /// The order it holds.
    pub order: u64,
    /// What it said of itself.
    pub owner: String,
    /// The head when it began.
    pub since_order: u64,
    /// Milliseconds since it was seen first.
    pub age_ms: u64,
    /// How it is.
    pub state: ReaderState,
}

impl std::fmt::Display for ReaderStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (owner, order, since, seconds) = (&self.owner, self.order, self.since_order, self.age_ms / 1000);
        write!(f, "{owner} holds order {order} since order {since}, for {seconds} s")
    }
}

/// A pin of a reader.
pub(super) struct Reader {
    pub(super) id: u64,
    pub(super) status: ReaderStatus,
}

/// Since when each pin of a reader is known.
#[derive(Debug, Default)]
pub(super) struct Readers {
    seen: BTreeMap<u64, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Duration,
    /// Whether it was told that it is too old.
    told: bool,
}

impl Readers {
    /// How readers are; those that have gone are forgotten.
    pub(super) fn look(
        &mut self,
        pins: Vec<(Order, Vec<PinOwner>)>,
        (floor, now): (Order, Duration),
        limit: Option<Duration>,
    ) -> Vec<Reader> {
        let owners = pins.into_iter().flat_map(|(order, owners)| owners.into_iter().map(move |owner| (order, owner)));
        let (mut readers, mut still) = (Vec::new(), BTreeMap::new());
        for (order, PinOwner { id, owner, since, .. }) in owners {
            let seen = self.seen.get(&id).copied().unwrap_or(Seen { at: now, told: false });
            still.insert(id, seen);
            let age = now.saturating_sub(seen.at);
            let state = match limit {
                _ if order >= floor => ReaderState::InWindow,
                Some(limit) if age > limit => ReaderState::TooOld,
                Some(_) | None => ReaderState::Below,
            };
            let age_ms = millis(age);
            let status = ReaderStatus { order: order.get(), owner, since_order: since.get(), age_ms, state };
            readers.push(Reader { id, status });
        }
        self.seen = still;
        readers
    }

    /// Whether this is the first time that a reader is told.
    pub(super) fn tell(&mut self, id: u64) -> bool {
        self.seen.get_mut(&id).is_some_and(|seen| !std::mem::replace(&mut seen.told, true))
    }
}
