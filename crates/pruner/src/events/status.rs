//! How a journal behaves, and what it tells of itself.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    event::Event,
    frame::Counts,
    places::{DamagedPlace, told},
};
use crate::error::PruneError;

/// When written events are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventsSync {
    /// At once: what comes together is written and synced together.
    Each,
    /// When `sync_every` has passed.
    Interval,
    /// When the system wants to, and at the end.
    Never,
}

/// How a journal behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsConfig {
    /// How long an event may wait in memory before it is written, which is before it survives the end of the process.
    pub flush_every: Duration,
    /// When it is made durable, which is when it survives a power loss.
    pub sync: EventsSync,
    /// How long it may be written before that, with [`EventsSync::Interval`].
    pub sync_every: Duration,
    /// Beyond so many bytes the older half goes.
    pub max_bytes: NonZeroU64,
    /// Events older than this go, but for the newest eighth of the most bytes.
    pub keep: Duration,
    /// How long a producer waits for room in memory while nothing is written; then its event is lost.
    pub room_within: Duration,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            flush_every: Duration::from_millis(2),
            sync: EventsSync::Interval,
            sync_every: Duration::from_secs(1),
            max_bytes: NonZeroU64::MIN.saturating_add((16 << 20) - 1),
            keep: Duration::from_secs(90 * 24 * 60 * 60),
            room_within: Duration::from_secs(5),
        }
    }
}

/// Why events could not be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFailure {
    /// The stable word of the error.
    pub code: String,
    /// The error.
    pub message: String,
    /// How often in a row.
    pub times: u64,
}

impl WriteFailure {
    pub(super) fn of(error: &PruneError, times: u64) -> Self {
        Self { code: error.code().to_owned(), message: error.to_string(), times }
    }
}

/// What the opening of a journal found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replay {
    /// Whole records.
    pub records: u64,
    /// Places with bytes that are neither records nor a torn tail, passed over.
    pub damaged: u64,
    /// Bytes behind the last record, cut off.
    pub torn_bytes: u64,
    /// Numbers between two records that no record has.
    pub missing: u64,
    /// The first of the damaged places, at most 8.
    #[serde(default)]
    pub places: Vec<DamagedPlace>,
}

impl Replay {
    pub(super) fn of(counts: Counts) -> Self {
        let Counts { records, damaged, torn_bytes, missing, places } = counts;
        let replay = Self { records, damaged, torn_bytes, missing, places };
        if damaged > 0 {
            let lack = replay.lack_told();
            tracing::warn!(torn_bytes, lack, "the event journal has damage; what is whole is kept");
        } else if torn_bytes > 0 {
            tracing::info!(torn_bytes, "a process ended while it wrote an event, whose beginning was cut off");
        }
        replay
    }

    /// What was damaged and missing, and where, in words.
    pub fn lack_told(&self) -> String {
        told(&self.places, self.damaged, self.missing)
    }

    /// As the journal tells it.
    pub(super) fn started(&self) -> Event {
        let Self { damaged, torn_bytes, .. } = *self;
        Event::Started { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id(), damaged, torn_bytes }
    }
}

/// What a journal tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Its file.
    pub path: PathBuf,
    /// The number of the newest event.
    pub last_seq: u64,
    /// Events written since the process began.
    pub written_total: u64,
    /// Events lost since the process began: they could not be written, found no room, or came after
    /// the end.
    pub lost_total: u64,
    /// Events that wait.
    pub waiting: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Why events are not written, while they are not.
    pub failure: Option<WriteFailure>,
    /// What its opening found.
    pub replay: Replay,
    /// How often it was made smaller since the process began.
    pub compactions_total: u64,
    /// The longest time for which the lock of the file was held for that, in microseconds.
    pub longest_swap_us: u64,
    /// The longest time for which no event was taken because of that, in microseconds: events wait in memory meanwhile.
    #[serde(default)]
    pub longest_stall_us: u64,
    /// Who watches live.
    pub subscribers: u64,
}

/// What the writer tells as it goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) last_seq: u64,
    pub(super) replay: Replay,
    pub(super) written: u64,
    pub(super) lost: u64,
    pub(super) bytes: u64,
    pub(super) failure: Option<WriteFailure>,
    pub(super) compactions: u64,
    pub(super) longest_swap: Duration,
    pub(super) longest_stall: Duration,
}
