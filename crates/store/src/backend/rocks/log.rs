//! The engine's log lines: passed on to tracing instead of a LOG file in the store's folder.
//!
//! A manual compaction through the C interface loses its status; the last one that the engine logged is kept here,
//! whether a flush or compaction ever failed for want of room, and the first damage that one met.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use rocksdb::{InfoLogger, LogLevel};

use super::classify;

/// Where the status text of a failed background job is found.
#[derive(Debug, Default)]
pub(super) struct EngineLog {
    of: Opening,
    failures: Mutex<Failures>,
    failed: Condvar,
}

/// For whom the engine works. A reader beside a writer meets files that are gone; it tries again, and what its engine
/// says meanwhile helps nobody.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    #[default]
    Writer,
    Reader,
}

#[derive(Debug, Default)]
struct Failures {
    last: Option<String>,
    ran_out_of_room: bool,
    damage: Option<String>,
}

impl EngineLog {
    /// A log, and the logger to install in the database options.
    pub(super) fn install(of: Opening) -> (Arc<Self>, InfoLogger) {
        let log = Arc::new(Self { of, ..Self::default() });
        let sink = Arc::clone(&log);
        let logger = InfoLogger::new_callback_logger(LogLevel::Info, move |level, line| sink.line(level, line));
        (log, logger)
    }

    fn line(&self, level: LogLevel, line: &str) {
        let line = line.trim_end();
        match level {
            LogLevel::Debug | LogLevel::Info | LogLevel::Header => tracing::debug!(target: "rocksdb", "{line}"),
            LogLevel::Warn if self.of == Opening::Reader => tracing::debug!(target: "rocksdb", "{line}"),
            LogLevel::Warn => tracing::warn!(target: "rocksdb", "{line}"),
            LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "rocksdb", "{line}"),
        }
        if matches!(level, LogLevel::Warn | LogLevel::Error | LogLevel::Fatal)
            && let Some(status) = classify::status_in(line)
        {
            let mut failures = self.failures.lock();
            failures.last = Some(status.to_owned());
            failures.ran_out_of_room |= classify::is_no_room(status);
            if failures.damage.is_none() && classify::is_damage(status) {
                failures.damage = Some(status.to_owned());
            }
            self.failed.notify_all();
        }
    }

    /// The last failure since the previous call, as the engine worded it.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.failures.lock().last.take()
    }

    /// Whether any flush or compaction failed for want of room since the store was opened.
    pub(super) fn has_run_out_of_room(&self) -> bool {
        self.failures.lock().ran_out_of_room
    }

    /// The first damage that it told of since the store was opened, as the engine worded it.
    pub(super) fn damage(&self) -> Option<String> {
        self.failures.lock().damage.clone()
    }

    /// What opening met was got over, or there is no store. Gives what it was.
    pub(super) fn opened(&self) -> Option<String> {
        self.failures.lock().damage.take()
    }

    /// Waits for the next failure, at most this long.
    pub(super) fn wait(&self, at_most: Duration) {
        self.failed.wait_for(&mut self.failures.lock(), at_most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_failed_job_is_found_in_its_log_line() {
        let (log, _logger) = EngineLog::install(Opening::Writer);
        log.line(LogLevel::Info, "an info line with IO error: in it");
        assert_eq!(log.take_failure(), None);
        log.line(
            LogLevel::Warn,
            "[state_node] Compaction error: IO error: No space left on device: While appending to file: x.sst\n",
        );
        assert_eq!(
            log.take_failure().as_deref(),
            Some("IO error: No space left on device: While appending to file: x.sst")
        );
        assert_eq!((log.take_failure(), log.damage()), (None, None));
        for file in ["y.sst", "z.sst"] {
            log.line(LogLevel::Warn, &format!("Compaction error: Corruption: block checksum mismatch in {file}"));
        }
        assert_eq!(log.damage().as_deref(), Some("Corruption: block checksum mismatch in y.sst"), "the first");
        assert_eq!(log.opened().as_deref(), Some("Corruption: block checksum mismatch in y.sst"));
        assert_eq!(log.damage(), None);
    }
}
