//! Section `[events]`: the journal of what happens.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use state_pruner::events::{EventsConfig, EventsSync, journal_dir};

use super::{Config, source::Source};

/// Below this a few cycles would not fit.
const LEAST_BYTES: u64 = 1 << 20;
/// Above this what an operator looks at is too old, and what a power loss takes too much.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Below this a value was probably mistyped.
const LEAST_KEEP: Duration = Duration::from_secs(60);

/// Section `[events]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsSection {
    /// How long an event may wait in memory.
    pub flush_every: Duration,
    /// When events are made durable.
    pub sync: EventsSync,
    /// How long they may wait for that with `interval`.
    pub sync_every: Duration,
    /// Bytes beyond which the older half of the journal goes.
    pub max_bytes: u64,
    /// Events older than this go.
    pub keep: Duration,
}

impl Default for EventsSection {
    fn default() -> Self {
        let EventsConfig { flush_every, sync, sync_every, max_bytes, keep, room_within: _ } = EventsConfig::default();
        Self { flush_every, sync, sync_every, max_bytes: max_bytes.get(), keep }
    }
}

impl EventsSection {
    pub(super) fn read(&mut self, source: &mut Source) {
        source.take_duration("events.flush_every", &mut self.flush_every);
        source.take_choice("events.sync", &mut self.sync);
        source.take_duration("events.sync_every", &mut self.sync_every);
        source.take_bytes("events.max_bytes", &mut self.max_bytes);
        source.take_duration("events.keep", &mut self.keep);
    }

    pub(super) fn check(&self, wrong: &mut dyn FnMut(&str, String)) {
        for (name, wait) in [("events.flush_every", self.flush_every), ("events.sync_every", self.sync_every)] {
            if wait.is_zero() || wait > LONGEST_WAIT {
                let message = "more than nothing and at most a minute is allowed; sync = \"each\" waits for neither";
                wrong(name, message.to_owned());
            }
        }
        if self.max_bytes < LEAST_BYTES {
            let least = bytesize::ByteSize::b(LEAST_BYTES).display().iec();
            wrong("events.max_bytes", format!("at least {least} is needed"));
        }
        if self.keep < LEAST_KEEP {
            wrong("events.keep", "at least a minute is needed".to_owned());
        }
    }
}

impl Config {
    /// How the journal of events behaves.
    pub fn events(&self) -> EventsConfig {
        let EventsSection { flush_every, sync, sync_every, max_bytes, keep } = self.events;
        let max_bytes = NonZeroU64::new(max_bytes).map_or(NonZeroU64::MIN, |bytes| bytes);
        EventsConfig { flush_every, sync, sync_every, max_bytes, keep, ..EventsConfig::default() }
    }

    /// Folder of the journal of events.
    pub fn events_dir(&self) -> PathBuf {
        journal_dir(&self.node.data_dir)
    }
}
