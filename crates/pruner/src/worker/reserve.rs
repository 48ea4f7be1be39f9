//! The reserve of the store, as the worker takes it and tells of it.
//!
//! Commits let it go, and nothing on their way tells anybody (I12): the worker compares it with what it told last.

use serde::{Deserialize, Serialize};
use state_store::{Reserve, Room};

use super::Inner;
use crate::events::Event;

/// The reserve of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveStatus {
    /// Whether it has its room.
    pub kept: bool,
    /// Bytes it keeps when it can.
    pub bytes: u64,
}

impl Inner {
    pub(super) fn reserve_status(&self) -> Option<ReserveStatus> {
        let reserve = self.parts.store.reserve()?;
        Some(ReserveStatus { kept: reserve.room() == Room::Kept, bytes: reserve.bytes() })
    }

    /// Bytes of the reserve, while it is let go.
    pub(super) fn reserve_let_go(&self) -> Option<u64> {
        self.reserve_status().filter(|reserve| !reserve.kept).map(|reserve| reserve.bytes)
    }

    /// Takes the reserve again, if there is room by now.
    pub(super) fn take_reserve(&self) {
        self.tell_reserve();
        if let Some(Err(error)) = self.parts.store.reserve().map(Reserve::take) {
            tracing::warn!(%error, "the reserve could not be taken; it is tried again after the next run");
        }
        self.tell_reserve();
    }

    /// Tells what became of the reserve since it was told last.
    pub(super) fn tell_reserve(&self) {
        let Some(reserve) = self.parts.store.reserve() else { return };
        let (now, bytes) = (reserve.room(), reserve.bytes());
        let before = self.reserve_told.lock().replace(now);
        match now {
            _ if before == Some(now) => {}
            Room::LetGo => self.parts.events.emit(Event::ReserveLetGo { bytes }),
            Room::Kept => self.parts.events.emit(Event::ReserveTaken { bytes }),
        }
    }
}
