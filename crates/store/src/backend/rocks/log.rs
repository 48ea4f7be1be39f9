//! The engine's log lines: passed on to tracing instead of a LOG file in the store's folder.
//!
//! A manual compaction through the C interface loses its status; the last one that the engine logged is kept here,
//! how often it told of a lack of room, the first damage that it met, the list of files that it could not write, and whether
//! it has stopped for good.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use rocksdb::{InfoLogger, LogLevel};

use super::{aside::LogsAside, classify};
use crate::backend::LogCut;

/// Where the status text of a failed background job is found.
#[derive(Debug, Default)]
pub(super) struct EngineLog {
    of: Opening,
    failures: Mutex<Failures>,
    failed: Condvar,
    /// The write-ahead logs, while a writer opens its store.
    aside: Mutex<Option<LogsAside>>,
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
    lacks_of_room: u64,
    damage: Option<String>,
    /// The first line that told of damage other than a torn end, without where in the engine it comes from.
    told: Option<String>,
    list: Option<String>,
    has_stopped: bool,
}

impl Failures {
    fn note(&mut self, line: &str) {
        self.lacks_of_room += u64::from(classify::lacks_room(line));
        let Some(status) = classify::status_in(line) else { return };
        if classify::is_failed_removal(line) {
            return; // nothing that was asked for has failed
        }
        self.last = Some(status.to_owned());
        if self.damage.is_none() && classify::is_damage(status) {
            self.damage = Some(status.to_owned());
        }
        if classify::is_damage(status) && !classify::is_torn_end(status) {
            self.told.get_or_insert_with(|| classify::without_place(line).to_owned());
        }
        if let Some(list) = classify::unwritten_list(line) {
            self.list = Some(list.to_owned());
        }
    }
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
        if matches!(level, LogLevel::Warn | LogLevel::Error | LogLevel::Fatal) {
            let told = {
                let mut failures = self.failures.lock();
                failures.note(line);
                failures.told.clone()
            };
            if let (Some(told), Some(aside)) = (told, &*self.aside.lock()) {
                aside.met(&told);
            }
            self.failed.notify_all();
        } else if classify::tells_the_end(line) {
            self.failures.lock().has_stopped = true;
        }
    }

    /// The last failure since the previous call, as the engine worded it.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.failures.lock().last.take()
    }

    /// How often a flush or compaction failed for want of room since the store was opened, or was put off for it.
    pub(super) fn lacks_of_room(&self) -> u64 {
        self.failures.lock().lacks_of_room
    }

    /// Whether the engine takes no write any more until the store is opened again, whatever becomes of the device.
    pub(super) fn has_stopped(&self) -> bool {
        self.failures.lock().has_stopped
    }

    /// The name of the last list of files to which a write failed. The engine writes to that list no more.
    pub(super) fn failed_list(&self) -> Option<String> {
        self.failures.lock().list.clone()
    }

    /// The list is whole again, or another is in force.
    pub(super) fn list_is_settled(&self) {
        self.failures.lock().list = None;
    }

    /// The first damage that it told of since the store was opened, as the engine worded it.
    pub(super) fn damage(&self) -> Option<String> {
        self.failures.lock().damage.clone()
    }

    /// A writer begins to open its store: what is met in the write-ahead logs is noted beside them.
    pub(super) fn opening(&self, aside: LogsAside) {
        *self.aside.lock() = Some(aside);
    }

    /// What opening met was got over, or there is no store. Gives what was damaged, but for a torn end.
    pub(super) fn opened(&self) -> Option<LogCut> {
        let told = {
            let mut failures = self.failures.lock();
            failures.damage = None;
            failures.told.take()
        };
        match self.aside.lock().take() {
            Some(aside) => aside.end(),
            None => told.map(|what| LogCut { what, kept: None }),
        }
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
        assert_eq!((log.take_failure(), log.damage(), log.lacks_of_room()), (None, None, 1));
        for file in ["y.sst", "z.sst"] {
            log.line(LogLevel::Warn, &format!("Compaction error: Corruption: block checksum mismatch in {file}"));
        }
        assert_eq!(log.damage().as_deref(), Some("Corruption: block checksum mismatch in y.sst"), "the first");
        let what = "Compaction error: Corruption: block checksum mismatch in y.sst".to_owned();
        assert_eq!(log.opened(), Some(LogCut { what, kept: None }));
        assert_eq!(log.damage(), None);
    }
    #[test]
    fn a_lack_of_room_is_heard_of_whoever_in_the_engine_tells_it() {
        let (log, _logger) = EngineLog::install(Opening::Writer);
        for line in [
            "Background IO error IO error: No space left on device: While appending to file: x.sst: No space left",
            "free space [4096 bytes] is less than needed headroom [65536 bytes]",
            "free space [4096 bytes] is less than required disk buffer [65536 bytes]",
            "free space [4096 bytes] is less than free space for compaction trigger [65536 bytes]",
        ] {
            let before = log.lacks_of_room();
            log.line(LogLevel::Warn, line);
            assert_eq!(log.lacks_of_room(), before + 1, "{line}");
        }
        log.line(LogLevel::Warn, "Background IO error IO error: Input/output error: While fdatasync: x.sst");
        assert_eq!(log.lacks_of_room(), 4);
    }

    #[test]
    fn a_file_that_cannot_be_removed_is_the_failure_of_no_job() {
        let (log, _logger) = EngineLog::install(Opening::Writer);
        let why = "IO error: while unlink() file: /s/000011.sst: Input/output error";
        log.line(LogLevel::Error, &format!("[JOB 12] Failed to delete /s/000011.sst type=2 #11 -- {why}"));
        assert_eq!(log.take_failure(), None);
    }

    #[test]
    fn an_engine_that_will_not_go_on_by_itself_is_told_from_one_that_will() {
        let (log, _logger) = EngineLog::install(Opening::Writer);
        log.line(LogLevel::Info, "ErrorHandler: Set regular background error, auto_recovery=1, stop=1");
        assert!(!log.has_stopped());
        log.line(LogLevel::Info, "ErrorHandler: Set regular background error, auto_recovery=0, stop=1");
        assert!(log.has_stopped());
    }

    #[test]
    fn the_list_that_could_not_be_written_is_known_by_its_name() {
        let (log, _logger) = EngineLog::install(Opening::Writer);
        log.line(LogLevel::Warn, "reading failed: IO error: While pread: /s/MANIFEST-000003: Input/output error");
        assert_eq!(log.failed_list(), None);
        let why =
            "IO error: No space left on device: While appending to file: /s/MANIFEST-000005: No space left on device";
        log.line(LogLevel::Error, &format!("[db/version_set.cc:6040] MANIFEST write {why}"));
        assert_eq!(log.failed_list().as_deref(), Some("MANIFEST-000005"));
        log.list_is_settled();
        assert_eq!(log.failed_list(), None);
    }
}
