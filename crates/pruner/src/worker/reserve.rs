//! The reserve of a store: taken again, and told of.
//!
//! Commits let it go, and nothing on their way tells anybody (I12): whoever looks compares it with what was told last. That is
//! the worker after each run and round, and its node at times, whether a worker is there, may work, or is not wanted.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use state_store::{Reserve, Room, Store, Taking};

use super::Pruner;
use crate::{
    events::{Event, EventSink},
    health::NoReserve,
};

/// The reserve of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveStatus {
    /// Whether it has its room.
    pub kept: bool,
    /// Bytes it keeps when it can.
    pub bytes: u64,
}

/// Looks after the reserve of one store.
pub(crate) struct ReserveKeeper {
    store: Arc<Store>,
    events: Arc<dyn EventSink>,
    /// As it was told last; held while it is told, so that what is told last is what is so.
    told: Mutex<Option<Room>>,
}

impl ReserveKeeper {
    pub(crate) fn new(store: Arc<Store>, events: Arc<dyn EventSink>) -> Self {
        let told = Mutex::new(store.reserve().map(Reserve::room));
        Self { store, events, told }
    }

    pub(super) fn status(&self) -> Option<ReserveStatus> {
        let reserve = self.store.reserve()?;
        Some(ReserveStatus { kept: reserve.room() == Room::Kept, bytes: reserve.bytes() })
    }

    /// The reserve, while it has not its room.
    pub(crate) fn missing(&self) -> Option<NoReserve> {
        let reserve = self.store.reserve()?;
        let bytes = reserve.bytes();
        match reserve.room() {
            Room::Kept => None,
            Room::LetGo => Some(NoReserve::LetGo { bytes }),
            Room::NeverTaken => Some(NoReserve::NeverTaken { bytes }),
        }
    }

    /// Takes the reserve again, if there is room by now; also one that somebody removed. An engine that has stopped for want of room
    /// needs what is free first.
    pub(crate) fn take(&self) {
        self.tell();
        if self.store.backend().stopped_by().is_some() {
            return;
        }
        let found = match self.store.reserve().map(Reserve::take) {
            Some(Ok(Taking { found, .. })) => Some(found),
            Some(Err(error)) => {
                tracing::warn!(%error, "the reserve could not be taken; it is tried again");
                None
            }
            None => None,
        };
        self.tell_from(found);
    }

    /// Tells what became of the reserve since it was told last.
    pub(super) fn tell(&self) {
        self.tell_from(None);
    }

    /// The same where it is known how it was in between.
    fn tell_from(&self, found: Option<Room>) {
        let Some(reserve) = self.store.reserve() else { return };
        let mut told = self.told.lock();
        let bytes = reserve.bytes();
        for room in found.into_iter().chain([reserve.room()]) {
            match room {
                _ if told.replace(room) == Some(room) => {}
                Room::LetGo => self.events.emit(Event::ReserveLetGo { bytes }),
                Room::Kept => self.events.emit(Event::ReserveTaken { bytes }),
                Room::NeverTaken => {} // as it began
            }
        }
    }
}

impl Pruner {
    /// Takes the reserve again that was let go, if there is room by now. Call it at times: a worker that is frozen, switched off
    /// or gone does not. May wait for the disk.
    pub fn take_reserve(&self) {
        self.inner.reserve.take();
    }
}
