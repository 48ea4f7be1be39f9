//! Readers whose orders nobody else retains: each is shown with its age, told once it is too old, and then let go, if that
//! is wanted (L4).
//!
//! What such a reader holds stays on disk. A reader that is let go reads "pruned" from then on, never anything wrong. One
//! whose order is in the window, or is kept below it, costs nothing and is never too old. Ages are counted by a clock that
//! never goes back, from when a look found it so first: they may be a little greater.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use state_store::PinOwner;
use state_tree::Order;

use crate::clock::millis;

/// How long a reader may hold an order below the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderLimit {
    /// So long, from when nobody else retains it; absent means without end.
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
    /// Its order is below the window and is kept there, by name or as one of every few.
    Kept,
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
    /// Milliseconds since nobody but readers holds its order; absent while somebody does.
    pub alone_ms: Option<u64>,
    /// How it is.
    pub state: ReaderState,
}

impl std::fmt::Display for ReaderStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (owner, order, since, seconds) = (&self.owner, self.order, self.since_order, self.age_ms / 1000);
        write!(f, "{owner} holds order {order} since order {since}, for {seconds} s")?;
        self.alone_ms.map_or(Ok(()), |ms| write!(f, ", {} s of them without anybody else", ms / 1000))
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
    /// Since when nobody but readers holds its order.
    alone: Option<Duration>,
    /// Whether it was told that it is too old.
    told: bool,
}

/// What stays readable without readers.
pub(super) struct Retained {
    /// From this order on everything does.
    pub(super) floor: Order,
    /// Single orders below it.
    pub(super) kept: BTreeSet<Order>,
}

impl Readers {
    /// How readers are; those that have gone are forgotten.
    pub(super) fn look(
        &mut self,
        pins: Vec<(Order, Vec<PinOwner>)>,
        (retained, now): (&Retained, Duration),
        limit: Option<Duration>,
    ) -> Vec<Reader> {
        let owners = pins.into_iter().flat_map(|(order, owners)| owners.into_iter().map(move |owner| (order, owner)));
        let (mut readers, mut still) = (Vec::new(), BTreeMap::new());
        for (order, PinOwner { id, owner, since, .. }) in owners {
            let mut seen = self.seen.get(&id).copied().unwrap_or(Seen { at: now, alone: None, told: false });
            let state = seen.judge(order, (retained, now), limit);
            still.insert(id, seen);
            let (age_ms, alone_ms) = (millis(now.saturating_sub(seen.at)), seen.alone_for(now).map(millis));
            let status = ReaderStatus { order: order.get(), owner, since_order: since.get(), age_ms, alone_ms, state };
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

impl Seen {
    fn judge(&mut self, order: Order, (retained, now): (&Retained, Duration), limit: Option<Duration>) -> ReaderState {
        let is_in_window = order >= retained.floor;
        if is_in_window || retained.kept.contains(&order) {
            (self.alone, self.told) = (None, false);
            return if is_in_window { ReaderState::InWindow } else { ReaderState::Kept };
        }
        self.alone.get_or_insert(now);
        let is_old = limit.zip(self.alone_for(now)).is_some_and(|(limit, alone)| alone > limit);
        if is_old { ReaderState::TooOld } else { ReaderState::Below }
    }

    fn alone_for(&self, now: Duration) -> Option<Duration> {
        self.alone.map(|since| now.saturating_sub(since))
    }
}
