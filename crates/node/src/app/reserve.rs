//! The reserve of the device, from before the store is open until the pruner looks after it.
//!
//! Promises: a store on a full device is opened with the room that an earlier process kept, and that is told once there is a
//! journal. Too little room today is no reason not to start: health tells.

use std::{num::NonZeroU64, path::PathBuf};

use anyhow::Context as _;
use state_pruner::events::{Event, EventSink};
use state_store::{RESERVE_FILE, Reserve, Room, Store, StoreError};

use crate::config::Config;

/// Does what needs room, with that of the reserve if there is no other. Returns with it the bytes that were let go, if any were.
pub(super) fn with_room<T>(
    config: &Config,
    work: impl Fn() -> Result<T, StoreError>,
) -> Result<(T, Option<u64>), StoreError> {
    Reserve::with_room(&path(config), work)
}

/// Gives the store its reserve, and takes the room if there is enough.
pub(super) fn keep(config: &Config, store: &Store, let_go: Option<u64>) -> anyhow::Result<()> {
    let path = path(config);
    let Some(bytes) = config.pruner.reserve.and_then(NonZeroU64::new) else {
        return Reserve::remove(&path).context("removing the reserve of an earlier run");
    };
    let reserve = match let_go {
        Some(_) => Reserve::let_go_before(path, bytes),
        None => Reserve::new(path, bytes),
    };
    let room = store.keep_room(reserve).context("keeping room on the device")?;
    match room {
        Room::Kept => tracing::info!(bytes, "the reserve is kept on the device"),
        Room::LetGo => tracing::warn!(bytes, "the reserve was let go; it is taken again once there is room"),
        Room::NeverTaken => tracing::warn!(bytes, "the device has no room for the reserve; it is taken once there is"),
    }
    Ok(())
}

/// Tells that it was let go before there was a journal, and that it is there again if so.
pub(super) fn tell(store: &Store, let_go: Option<u64>, events: &dyn EventSink) {
    let Some(bytes) = let_go else { return };
    events.emit(Event::ReserveLetGo { bytes });
    if let Some(reserve) = store.reserve().filter(|reserve| reserve.room() == Room::Kept) {
        events.emit(Event::ReserveTaken { bytes: reserve.bytes() });
    }
}

fn path(config: &Config) -> PathBuf {
    config.node.data_dir.join(RESERVE_FILE)
}
