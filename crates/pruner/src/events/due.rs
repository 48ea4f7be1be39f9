//! When the writer writes what it has in memory, and when it makes durable what it has written.

use std::time::Duration;

use super::status::{EventsConfig, EventsSync};

/// What could not be written is tried again after so long.
pub(super) const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Times of the monotonic clock. Nothing where there is nothing to do.
#[derive(Debug, Default)]
pub(super) struct Due {
    flush: Option<Duration>,
    sync: Option<Duration>,
}

impl Due {
    /// An event is in memory.
    pub(super) fn taken(&mut self, config: &EventsConfig, now: Duration) {
        self.flush.get_or_insert(now.saturating_add(config.flush_every));
    }

    /// Events are in the file.
    pub(super) fn written(&mut self, config: &EventsConfig, now: Duration) {
        let wait = match config.sync {
            EventsSync::Each => Duration::ZERO,
            EventsSync::Interval => config.sync_every,
            EventsSync::Never => return,
        };
        self.sync.get_or_insert(now.saturating_add(wait));
    }

    /// It was tried to write what is in memory, and so many events are left there.
    pub(super) fn flushed(&mut self, left: u64, now: Duration) {
        self.flush = (left > 0).then(|| now.saturating_add(WRITE_AGAIN));
    }

    /// It was tried to make everything durable.
    pub(super) fn synced(&mut self) {
        self.sync = None;
    }

    pub(super) fn is_to_flush(&self, now: Duration) -> bool {
        self.flush.is_some_and(|at| now >= at)
    }

    pub(super) fn is_to_sync(&self, now: Duration) -> bool {
        self.sync.is_some_and(|at| now >= at)
    }

    /// How long there is nothing to do.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        self.flush.into_iter().chain(self.sync).min().map(|at| at.saturating_sub(now))
    }
}
