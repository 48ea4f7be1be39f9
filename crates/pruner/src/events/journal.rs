//! The journal as producers and watchers see it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

use super::{
    EventSink,
    event::{Event, Happened},
    file::{EventFile, FILE, Found, Need},
    medium::{Mount, plain},
    queue::{Flushed, Queue, Refused, Sent},
    read::{Filter, JournalRead, read_journal},
    status::{EventsConfig, JournalStatus, Replay, Told, WriteFailure},
    writer::{Writer, WriterParts},
};
use crate::{clock::Clock, error::PruneError};

/// Events that a watcher may be behind before it loses the oldest.
const WATCHED: usize = 2048;
/// How long a journal that is dropped waits for its disk.
const PATIENCE: Duration = Duration::from_secs(10);

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).map_or(u64::MAX, |us| us)
}

/// How a journal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopping {
    /// Everything that was taken is on disk, or is counted as lost: [`JournalStatus::lost_total`] tells.
    Whole,
    /// The disk did not answer in time, and so many events are given up.
    GivenUp {
        /// How many.
        events: u64,
    },
}

/// What a watcher hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The next event.
    Event(Arc<Happened>),
    /// It was too slow: so many events are lost to it.
    Missed(u64),
    /// The journal is open at last, and the events that came without a number have theirs in it, up to this one.
    Numbered(u64),
    /// The journal has ended.
    Ended,
}

/// What is sent to watchers.
#[derive(Debug, Clone)]
pub(super) enum Live {
    Event(Arc<Happened>),
    Numbered(u64),
}

impl From<Live> for Heard {
    fn from(live: Live) -> Self {
        match live {
            Live::Event(happened) => Self::Event(happened),
            Live::Numbered(seq) => Self::Numbered(seq),
        }
    }
}

/// Watches a journal live. Nobody waits for it.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Live>);

impl Subscription {
    /// Waits for the next event.
    pub async fn next(&mut self) -> Heard {
        match self.0.recv().await {
            Ok(live) => live.into(),
            Err(RecvError::Lagged(missed)) => Heard::Missed(missed),
            Err(RecvError::Closed) => Heard::Ended,
        }
    }

    /// What is there to hear now, if anything.
    pub fn try_next(&mut self) -> Option<Heard> {
        match self.0.try_recv() {
            Ok(live) => Some(live.into()),
            Err(TryRecvError::Lagged(missed)) => Some(Heard::Missed(missed)),
            Err(TryRecvError::Closed) => Some(Heard::Ended),
            Err(TryRecvError::Empty) => None,
        }
    }
}

/// The journal of one process. Dropping it stops it; stopping is better, because it tells how it went.
pub struct EventJournal {
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    live: broadcast::Sender<Live>,
    told: Arc<Mutex<Told>>,
    path: PathBuf,
    /// How long a producer waits for a writer that makes no progress.
    patience: Duration,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether somebody has seen to the damage that its opening found.
    seen_to: AtomicBool,
}

impl std::fmt::Debug for EventJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventJournal").field("path", &self.path).finish_non_exhaustive()
    }
}

impl EventJournal {
    /// Opens the journal of a folder, or makes one, and starts its writer.
    ///
    /// Errors: a journal of a newer program or a file that is none, before anything is written; another process that writes
    /// to it; a failed read or write; a thread that cannot be started.
    pub fn open(dir: &Path, config: EventsConfig, clock: Arc<dyn Clock>) -> Result<Self, PruneError> {
        Self::mounted(dir, config, clock, plain())
    }

    pub(super) fn mounted(
        dir: &Path,
        config: EventsConfig,
        clock: Arc<dyn Clock>,
        mount: Mount,
    ) -> Result<Self, PruneError> {
        let (file, found) = EventFile::open(dir, Arc::clone(&mount), clock.unix_ms())?;
        let replay = Replay::of(found.counts.clone());
        let begun = replay.started();
        let told = Told { last_seq: found.last_seq, bytes: file.bytes(), replay, ..Told::default() };
        let journal = Self::start((config, clock), (dir, mount), told, (Some(file), found))?;
        journal.emit(begun);
        Ok(journal)
    }

    /// A journal that cannot be opened, because of this error: whoever watches hears events, and the disk does once it can be, which
    /// is tried again and again.
    ///
    /// Errors: a thread that cannot be started.
    pub fn unwritten(
        dir: &Path,
        error: &PruneError,
        config: EventsConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PruneError> {
        let told = Told { failure: Some(WriteFailure::of(error, 1)), ..Told::default() };
        Self::start((config, clock), (dir, plain()), told, (None, Found::default()))
    }

    fn start(
        (config, clock): (EventsConfig, Arc<dyn Clock>),
        (dir, mount): (&Path, Mount),
        told: Told,
        (file, found): (Option<EventFile>, Found),
    ) -> Result<Self, PruneError> {
        let (queue, told) = (Arc::new(Queue::default()), Arc::new(Mutex::new(told)));
        let (live, _) = broadcast::channel(WATCHED);
        let patience = config.room_within;
        let parts = WriterParts {
            queue: Arc::clone(&queue),
            clock: Arc::clone(&clock),
            config,
            live: live.clone(),
            told: Arc::clone(&told),
            file,
            place: (dir.to_owned(), mount),
        };
        let need = if found.headless { Need::Rewriting } else { Need::Nothing };
        let writer = Writer::new(parts, (found.last_seq, found.oldest_ms), need);
        let ending = (Arc::clone(&queue), Arc::clone(&told));
        let spawned = Builder::new().name("events".to_owned()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
                panicked(&ending.0, &ending.1);
            }
        });
        let thread = spawned.map_err(|source| PruneError::NoThread { name: "events", source })?;
        let path = dir.join(FILE);
        let thread = Mutex::new(Some(thread));
        Ok(Self { queue, clock, live, told, path, patience, thread, seen_to: AtomicBool::new(false) })
    }

    /// Watches what happens from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.live.subscribe())
    }

    /// Waits until everything that was emitted before is written; not longer than this.
    ///
    /// Errors: it took longer; the disk fails, so that not everything is.
    pub fn flush(&self, patience: Duration) -> Result<(), PruneError> {
        match self.queue.flush(patience) {
            Flushed::Whole => Ok(()),
            Flushed::Unwritten(WriteFailure { message, .. }) => {
                Err(PruneError::File { path: self.path.clone(), source: std::io::Error::other(message) })
            }
            Flushed::Late => Err(self.late("the disk does not answer in time".to_owned())),
        }
    }

    fn late(&self, why: String) -> PruneError {
        let source = std::io::Error::new(std::io::ErrorKind::TimedOut, why);
        PruneError::File { path: self.path.clone(), source }
    }

    /// Why events are not written, while they find no room.
    fn stuck(&self) -> Option<WriteFailure> {
        let lost = Some(self.queue.unadmitted()).filter(|lost| *lost > 0)?;
        let why = format!("the disk does not answer, and {lost} events that found no room are lost");
        Some(WriteFailure::of(&self.late(why), lost))
    }

    fn lose(&self, events: u64) {
        self.told.lock().lost += events;
        metrics::counter!("state_pruner_events_lost_total").increment(events);
    }

    /// Reads what was written.
    ///
    /// Errors: a failed read.
    pub fn read(&self, filter: &Filter) -> Result<JournalRead, PruneError> {
        match self.path.parent() {
            Some(dir) => read_journal(dir, filter),
            None => Err(PruneError::Invariant("a journal lies in no folder".to_owned())),
        }
    }

    /// What it tells of itself. Waits for nothing.
    pub fn status(&self) -> JournalStatus {
        let told = self.told.lock().clone();
        JournalStatus {
            path: self.path.clone(),
            last_seq: told.last_seq,
            written_total: told.written,
            lost_total: told.lost,
            waiting: self.queue.waiting(),
            bytes: told.bytes,
            failure: self.stuck().or(told.failure),
            replay: told.replay,
            compactions_total: told.compactions,
            longest_swap_us: micros(told.longest_swap),
            longest_stall_us: micros(told.longest_stall),
            subscribers: self.live.receiver_count() as u64,
        }
    }

    /// The damage that its opening found, until somebody has seen to it. Waits for nothing.
    pub fn damage(&self) -> Option<Replay> {
        let replay = self.told.lock().replay.clone();
        (replay.damaged > 0 && !self.seen_to.load(Ordering::Acquire)).then_some(replay)
    }

    /// An operator has seen to that damage. False where there is none, or somebody had.
    pub fn acknowledge_damage(&self) -> bool {
        self.damage().is_some() && !self.seen_to.swap(true, Ordering::AcqRel)
    }

    /// From now on no producer waits for a disk that hangs: what finds the queue full is lost, and counted. Call BEFORE the
    /// producers are stopped: one that waits could not be joined.
    pub fn let_producers_go(&self) {
        self.queue.let_go();
    }

    /// Takes nothing more, writes what waits, makes it durable and ends the writer. A disk that does not answer within
    /// `patience` is left alone with what it has in hand. Stopped before, there is nothing to do.
    pub fn stop(&self, patience: Duration) -> Stopping {
        let mut thread = self.thread.lock();
        let Some(writer) = thread.take() else { return Stopping::Whole };
        let lost = self.told.lock().lost;
        self.queue.close(Some(Sent { at_ms: self.clock.unix_ms(), event: Event::Stopped { lost } }));
        if let Err(events) = self.queue.wait_for_end(patience) {
            self.lose(events);
            tracing::error!(events, "the disk of the event journal does not answer: these events are given up");
            return Stopping::GivenUp { events }; // the thread ends when the disk answers
        }
        if writer.join().is_err() {
            tracing::error!("the writer of the event journal panicked");
        }
        Stopping::Whole
    }
}

/// The writer has ended before it was told to: nobody waits for it, and nothing is taken any more.
fn panicked(queue: &Queue, told: &Mutex<Told>) {
    let what =
        "the writer of the event journal panicked, which is a bug of ours; restart to have events written".to_owned();
    let failure = WriteFailure::of(&PruneError::Invariant(what), 1);
    told.lock().failure = Some(failure.clone());
    let lost = queue.died(failure);
    told.lock().lost += lost;
    metrics::counter!("state_pruner_events_lost_total").increment(lost);
}

impl EventSink for EventJournal {
    /// Waits while 2,048 events wait, but not for a disk that hangs: then, at the end and near it an event is lost, and
    /// counted.
    fn emit(&self, event: Event) {
        let code = event.code();
        match self.queue.send(Sent { at_ms: self.clock.unix_ms(), event }, self.patience) {
            Ok(()) => {}
            Err(why @ (Refused::Closed | Refused::Stuck)) => {
                self.lose(1);
                tracing::debug!(event = code, why = why.name(), "an event found no place in the journal, and is lost");
            }
        }
    }
}

impl Drop for EventJournal {
    fn drop(&mut self) {
        match self.stop(PATIENCE) {
            Stopping::Whole | Stopping::GivenUp { .. } => {} // told by the stop itself
        }
    }
}
