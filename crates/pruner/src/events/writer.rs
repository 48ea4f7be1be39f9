//! The thread that writes: it numbers events, tees them to whoever watches, and keeps the file in order.
//!
//! Events that come together are written together. What could not be written is kept, up to a bound, and tried again each second;
//! beyond the bound it is lost, which is counted and told in the journal itself once that can be written again. After a failed
//! sync the file is written anew: what the system had not written yet may be gone from it (C4).

mod compacting;

use std::{path::PathBuf, sync::Arc, time::Duration};

use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::{
    compact::Compaction,
    due::{Due, WRITE_AGAIN},
    event::{Event, Happened},
    file::{EventFile, Found, Need},
    frame,
    journal::Live,
    medium::Mount,
    queue::{Queue, Sent, Taken},
    status::{EventsConfig, EventsSync, Replay, Told, WriteFailure},
    unopened::Unopened,
};
use crate::{clock::Clock, error::PruneError};

/// Events that are taken from the queue together, at most.
const BATCH: usize = 256;
/// Bytes that are written together.
const BUFFER: usize = 64 << 10;
/// Bytes that are kept while they cannot be written.
const HELD: usize = 1 << 20;

/// What the writer works with.
pub(super) struct WriterParts {
    pub(super) queue: Arc<Queue>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: EventsConfig,
    pub(super) live: broadcast::Sender<Live>,
    pub(super) told: Arc<Mutex<Told>>,
    /// Nothing until the journal can be opened.
    pub(super) file: Option<EventFile>,
    /// Where it is opened, and how.
    pub(super) place: (PathBuf, Mount),
}

/// The writer.
pub(super) struct Writer {
    parts: WriterParts,
    seq: u64,
    oldest_ms: Option<u64>,
    need: Need,
    buffer: Vec<u8>,
    buffered: u64,
    due: Due,
    /// The last number that is in the buffer, or was last.
    encoded: u64,
    /// The last number that the file has.
    written: u64,
    /// Events that were written since everything was durable last.
    unsynced: u64,
    /// Events that a failed sync may have taken, until the file is written anew.
    unsure: u64,
    /// Since when the writer is at work, by both clocks.
    began: (Duration, u64),
    compaction: Option<Compaction>,
    compact_from: Duration,
    /// Events that were lost since it was told.
    lost: u64,
    /// Of those that are told, as many as are told by what is not written yet.
    telling: u64,
    failures: u64,
    /// While the journal is not open.
    unopened: Option<Unopened>,
    /// Whether the last words were taken, behind which nothing is told.
    is_over: bool,
}

impl Writer {
    pub(super) fn new(parts: WriterParts, (seq, oldest_ms): (u64, Option<u64>), need: Need) -> Self {
        let (dir, mount) = parts.place.clone();
        let unopened = parts.file.is_none().then(|| Unopened::new(dir, mount, &*parts.clock));
        Self {
            began: (parts.clock.monotonic(), parts.clock.unix_ms()),
            parts,
            seq,
            encoded: seq,
            written: seq,
            oldest_ms,
            need,
            buffer: Vec::with_capacity(2 * BUFFER),
            buffered: 0,
            due: Due::default(),
            unsynced: 0,
            unsure: 0,
            compaction: None,
            compact_from: Duration::ZERO,
            lost: 0,
            telling: 0,
            failures: u64::from(unopened.is_some()), // told already
            unopened,
            is_over: false,
        }
    }

    /// Writes until the queue is closed and empty, then makes everything durable.
    pub(super) fn run(mut self) {
        let queue = Arc::clone(&self.parts.queue);
        loop {
            let taken = queue.take(BATCH, self.buffered, self.patience());
            self.lost += queue.take_untold(); // counted by whoever found no room
            match taken {
                Taken::Events(sent) => {
                    sent.into_iter().for_each(|sent| self.record(sent));
                    self.flush_if_due();
                }
                Taken::Nothing if self.compaction.is_some() => self.flush_if_due(),
                Taken::Nothing => self.flush_or_sync(),
                Taken::Flush(ticket) => {
                    self.flush(); // whoever reads wants it written; durable it is when the configuration says
                    self.flush_if_due();
                    queue.flushed(ticket, self.outcome());
                }
                Taken::End => break,
            }
            self.compact_beside_events();
            self.tell();
        }
        self.finish();
        let left = self.buffered.saturating_add(queue.ended(self.outcome()));
        self.lose(left);
        self.tell();
    }

    /// Whether everything that was taken is written; what was lost counts until the journal tells it.
    fn outcome(&self) -> Result<(), WriteFailure> {
        let is_whole = self.buffered == 0 && self.lost == 0 && self.need == Need::Nothing && self.parts.file.is_some();
        match self.parts.told.lock().failure.clone() {
            Some(failure) if !is_whole => Err(failure),
            Some(_) | None => Ok(()),
        }
    }

    /// Makes everything durable, whatever the configuration leaves to the system. What cannot be counts as lost.
    fn finish(&mut self) {
        self.unopened.iter_mut().for_each(Unopened::last_time);
        self.flush();
        self.sync();
        self.compact_from = Duration::ZERO; // there is no later time to try it again
        while self.need == Need::Rewriting || self.compaction.is_some() {
            self.compact();
            if self.compaction.is_none() {
                break; // done, or it cannot be done
            }
        }
        self.flush();
        self.sync();
        self.lose(self.unsure);
    }

    /// How long to wait for events: not at all while the file is made smaller, for good while nothing is in memory.
    fn patience(&self) -> Option<Duration> {
        if self.compaction.is_some() {
            return Some(Duration::ZERO);
        }
        let due = self.due.wait(self.parts.clock.monotonic());
        let rewriting = (self.need == Need::Rewriting).then_some(WRITE_AGAIN);
        let open = self.unopened.as_ref().map(|unopened| unopened.due_in(&*self.parts.clock));
        due.into_iter().chain(rewriting).chain(open).min()
    }

    fn record(&mut self, sent: Sent) {
        let Sent { at_ms, event } = sent;
        self.is_over |= matches!(event, Event::Stopped { .. });
        let happened = Arc::new(Happened { seq: self.next_number(), at_ms, event });
        counter!("state_pruner_events_total", "code" => happened.event.code()).increment(1);
        self.due.taken(&self.parts.config, self.parts.clock.monotonic());
        self.buffer(&happened);
        self.oldest_ms = self.oldest_ms.or(Some(at_ms));
        self.tee(Live::Event(happened));
    }

    /// None while the journal is not open: it may have events of earlier processes.
    fn next_number(&mut self) -> u64 {
        if self.unopened.is_some() {
            return Happened::UNNUMBERED;
        }
        self.seq += 1;
        self.seq
    }

    /// Nobody watches, or somebody does: both are fine, and neither waits.
    fn tee(&self, live: Live) {
        match self.parts.live.send(live) {
            Ok(_) | Err(_) => {}
        }
    }

    fn buffer(&mut self, happened: &Arc<Happened>) {
        let kept = match &mut self.unopened {
            Some(unopened) => unopened.hold(happened),
            None => match frame::encode(happened, &mut self.buffer) {
                Ok(()) => {
                    self.encoded = happened.seq;
                    true
                }
                Err(error) => {
                    tracing::error!(%error, "an event cannot be written");
                    false
                }
            },
        };
        if kept { self.buffered += 1 } else { self.lose(1) }
    }

    /// Tries to open the journal, if it is not and it is time.
    fn open_again(&mut self) {
        match self.unopened.as_mut().and_then(|unopened| unopened.open(&*self.parts.clock)) {
            Some(Ok(opened)) => self.opened(opened),
            Some(Err(error)) => self.failed(&error),
            None => {}
        }
    }

    /// What happened meanwhile gets numbers behind those of earlier processes.
    fn opened(&mut self, (file, found): (EventFile, Found)) {
        let held = self.unopened.take().map_or_else(Vec::new, Unopened::into_held);
        let replay = Replay::of(found.counts);
        self.parts.told.lock().replay = replay.clone();
        self.parts.file = Some(file);
        (self.seq, self.encoded, self.written) = (found.last_seq, found.last_seq, found.last_seq);
        (self.oldest_ms, self.buffered) = (found.oldest_ms, 0);
        self.need = if found.headless { Need::Rewriting } else { Need::Nothing };
        self.record(Sent { at_ms: self.began.1, event: replay.started() });
        for happened in held {
            let Happened { at_ms, event, .. } = &*happened;
            let (seq, at_ms, event) = (self.next_number(), *at_ms, event.clone());
            self.buffer(&Arc::new(Happened { seq, at_ms, event }));
        }
        self.tee(Live::Numbered(self.seq));
    }

    /// After events came.
    fn flush_if_due(&mut self) {
        let now = self.parts.clock.monotonic();
        let syncs = self.parts.config.sync == EventsSync::Each || self.due.is_to_sync(now);
        if syncs || self.due.is_to_flush(now) || self.buffer.len() >= BUFFER {
            self.flush();
        }
        if syncs {
            self.sync();
        }
    }

    /// After nothing came for as long as there was to wait.
    fn flush_or_sync(&mut self) {
        self.flush();
        if self.due.is_to_sync(self.parts.clock.monotonic()) {
            self.sync();
        }
    }

    /// Writes what is in memory. What cannot be is due again.
    fn flush(&mut self) {
        self.open_again();
        self.write();
        let left = self.buffered.max(self.lost); // what is lost is to be told, also where nothing else comes
        self.due.flushed(left, self.parts.clock.monotonic());
    }

    fn write(&mut self) {
        if self.parts.file.is_some() && self.buffer.is_empty() && self.failures > 0 {
            self.tell_lost();
        }
        let Some(file) = self.parts.file.as_ref().filter(|_| !self.buffer.is_empty()) else { return };
        match file.append_below(self.parts.config.max_bytes.get(), &self.buffer) {
            Ok(()) => {
                let written = std::mem::take(&mut self.buffered);
                self.written = self.encoded;
                self.parts.told.lock().written += written;
                (self.unsynced, self.telling) = (self.unsynced + written, 0);
                self.due.written(&self.parts.config, self.parts.clock.monotonic());
                self.buffer.clear();
                self.parts.queue.none_is_kept();
                self.recovered();
            }
            Err(error) => {
                if file.has_leftover() {
                    self.need = Need::Rewriting;
                }
                self.failed(&error);
                if self.buffer.len() > HELD {
                    self.discard();
                }
            }
        }
    }

    fn discard(&mut self) {
        let lost = std::mem::take(&mut self.buffered);
        self.buffer.clear();
        self.parts.queue.none_is_kept();
        self.lost += std::mem::take(&mut self.telling); // counted before, and untold again
        self.lose(lost);
    }

    fn sync(&mut self) {
        self.due.synced();
        let Some(file) = self.parts.file.as_ref().filter(|_| self.unsynced > 0) else { return };
        let unsynced = std::mem::take(&mut self.unsynced);
        if let Err(error) = file.sync() {
            self.need = Need::Rewriting;
            self.unsure += unsynced;
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &PruneError) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            tracing::error!(%error, failures = self.failures, "events cannot be written; pruning goes on"); // O15
        }
        self.parts.told.lock().failure = Some(WriteFailure::of(error, self.failures));
    }

    /// The journal can be written: whatever was lost meanwhile is told in it.
    fn recovered(&mut self) {
        if self.need == Need::Rewriting {
            return;
        }
        if self.failures > 0 {
            tracing::info!(lost = self.lost, "events can be written again");
            self.failures = 0;
            self.parts.told.lock().failure = None;
        }
        self.tell_lost();
    }

    fn tell_lost(&mut self) {
        if self.lost > 0 && !self.is_over {
            let count = std::mem::take(&mut self.lost);
            self.telling += count;
            self.record(Sent { at_ms: self.parts.clock.unix_ms(), event: Event::EventsLost { count } });
        }
    }

    fn lose(&mut self, count: u64) {
        self.lost += count;
        self.parts.told.lock().lost += count;
        counter!("state_pruner_events_lost_total").increment(count);
    }

    fn tell(&self) {
        let bytes = self.parts.file.as_ref().map_or(0, EventFile::bytes);
        let mut told = self.parts.told.lock();
        (told.last_seq, told.bytes) = (self.seq, bytes);
    }
}
