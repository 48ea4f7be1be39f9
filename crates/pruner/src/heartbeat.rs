//! The heartbeat of a node: what its records say, in a small file beside its store, so that health can be told from outside in a
//! time that does not grow with the store.
//!
//! Promises: one that is damaged, or of another era of the store, is none (C5); while a process has the store open, neither is one
//! that is not of its last minute. Behind the last one of a process its store is not written, and it says so.
//!
//! Costs: a look at a dozen rows each second, a few kilobytes written where they changed, and every ten seconds. Nobody waits for the
//! disk but at the end of a node: after a power loss there may be none.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use state_store::{
    Era, Excerpt, Holder, Store, Table, lock_holder,
    record::{self, Record},
};

use crate::{clock::Clock, error::PruneError, files, records::RecordKey, sweep};

/// One is written at least this often.
const AT_LEAST: Duration = Duration::from_secs(10);
/// What the next cycle needs is asked for again after so long: whoever lists many files holds the engine's own lock (I12).
const NEED_HOLDS: Duration = Duration::from_secs(600);
/// One that is older is not of the process that has the store open.
const FRESH_MS: u64 = 60_000;
/// How long the last one waits for one that is being written.
const PATIENCE: Duration = Duration::from_secs(1);

/// What health is judged by.
const JUDGED: [RecordKey; 15] = [
    RecordKey::Phase,
    RecordKey::LastCycle,
    RecordKey::Freeze,
    RecordKey::LastOutcome,
    RecordKey::Floor,
    RecordKey::Holds,
    RecordKey::Triggers,
    RecordKey::Validation,
    RecordKey::Recovery,
    RecordKey::Lock,
    RecordKey::Switch,
    RecordKey::SnapshotFailures,
    RecordKey::Doubt,
    RecordKey::Quarantine,
    RecordKey::LogCut,
];

/// The file beside the folder of the store.
fn file_of(db: &Path) -> PathBuf {
    db.with_added_extension("heartbeat")
}

/// What one says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// When it was written, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    era: Era,
    /// Whether its process wrote nothing behind it.
    pub(crate) is_last: bool,
    /// Bytes that the next cycle needs, as far as that was measured.
    pub(crate) need: Option<u64>,
    /// The records, and the ends of the chain.
    pub(crate) rows: Excerpt,
}

impl Record for Beat {
    const KIND: [u8; 4] = *b"BEAT";
    const VERSION: u16 = 1;
}

/// Why there is none that counts.
#[derive(Debug, thiserror::Error)]
pub enum NoHeartbeat {
    /// No node has written one.
    #[error("there is none")]
    Absent,
    /// It is damaged, or cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] PruneError),
    /// The store was opened for writing since, copied or restored.
    #[error("the store was opened, copied or restored since")]
    OfAnotherEra,
    /// A process has the store open, and this is not of its last minute.
    #[error("{0} has the store open, and has written none for a minute")]
    Stale(Holder),
}

impl Beat {
    fn of(store: &Store, era: Era, at_ms: u64) -> Result<Self, PruneError> {
        let rows = JUDGED.into_iter().map(RecordKey::row).chain(Excerpt::chain_ends());
        let rows = Excerpt::of(&*store.view()?, rows)?;
        Ok(Self { at_ms, era, is_last: false, need: None, rows })
    }

    /// The heartbeat of a store, where it counts now, and who has the store open.
    pub(crate) fn read(db: &Path, now_ms: u64) -> Result<(Self, Option<Holder>), NoHeartbeat> {
        let path = file_of(db);
        let bytes = files::read(&path)?.ok_or(NoHeartbeat::Absent)?;
        let beat: Self = record::decode(&path.display().to_string(), &bytes).map_err(PruneError::from)?;
        let holder = lock_holder(db).map_err(PruneError::from)?;
        // AFTER the question who has it open: whoever opens it since begins another era.
        if Era::of(db).map_err(PruneError::from)? != beat.era {
            return Err(NoHeartbeat::OfAnotherEra);
        }
        match holder {
            Some(holder) if now_ms.abs_diff(beat.at_ms) > FRESH_MS => Err(NoHeartbeat::Stale(holder)),
            holder => Ok((beat, holder)),
        }
    }
}

/// Writes the heartbeat of a node.
#[derive(Debug)]
pub struct Heart {
    db: PathBuf,
    store: Weak<Store>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    written: Written,
    /// What the next cycle needs, and when that was asked for, by the monotonic clock.
    need: Option<(Duration, u64)>,
}

impl State {
    fn need(&mut self, now: Duration, ask: impl FnOnce() -> Option<u64>) -> Option<u64> {
        let holds = self.need.filter(|(at, _)| now.saturating_sub(*at) < NEED_HOLDS);
        self.need = holds.or_else(|| ask().map(|need| (now, need)));
        self.need.map(|(_, need)| need)
    }
}

#[derive(Debug)]
enum Written {
    Nothing,
    /// This one, then by the monotonic clock.
    Beat(Duration, Beat),
    /// The last one: another would be of a store that somebody else may write.
    Last,
}

impl Written {
    /// Whether another one says the same, and it is too early for that. The chain goes on all the time.
    fn will_do(&self, new: &Beat, now: Duration) -> bool {
        match self {
            Self::Nothing => false,
            Self::Beat(at, beat) => {
                let is_same = beat.era == new.era && beat.rows.is_like(&new.rows, &Table::CHAIN);
                is_same && now.saturating_sub(*at) < AT_LEAST
            }
            Self::Last => true,
        }
    }
}

impl Heart {
    /// Of the store in a folder, which this process has open for writing. It does not keep the store open.
    pub fn of(store: &Arc<Store>, db: &Path, clock: Arc<dyn Clock>) -> Self {
        let (db, store) = (db.to_owned(), Arc::downgrade(store));
        Self { db, store, clock, state: Mutex::new(State { written: Written::Nothing, need: None }) }
    }

    /// Writes one if what it says has changed, or the last one is ten seconds old. Call it each second, where nobody is held
    /// up by a disk. `need` tells the bytes that the next cycle needs, and is asked every ten minutes.
    ///
    /// Errors: a failed read or write. The file is as it was.
    pub fn beat(&self, need: impl FnOnce() -> Option<u64>) -> Result<(), PruneError> {
        let mut state = self.state.lock();
        let Some(store) = self.store.upgrade() else { return Ok(()) };
        let now = self.clock.monotonic();
        let new = self.look(&store)?;
        if state.written.will_do(&new, now) {
            return Ok(());
        }
        let new = Beat { need: state.need(now, need), ..new };
        drop(store); // a disk that hangs does not keep it open
        files::replace_unsynced(&file_of(&self.db), &record::encode(&new)?)?;
        state.written = Written::Beat(now, new);
        Ok(())
    }

    /// Writes the last one, durably: from here on nothing is written to the store, until it is closed. None is written behind it.
    ///
    /// Returns false where none could be, because the one before has not ended for a second, or the store is closed. What is there
    /// then does not pass for the last one.
    ///
    /// Errors: a failed read or write, with the same in the file.
    pub fn last(&self) -> Result<bool, PruneError> {
        let Some(mut state) = self.state.try_lock_for(PATIENCE) else { return Ok(false) };
        let Some(store) = self.store.upgrade() else { return Ok(false) };
        let need = sweep::least_need(store.backend())?; // no commit waits any more
        let last = Beat { is_last: true, need: Some(need), ..self.look(&store)? };
        state.written = Written::Last;
        drop(store); // a disk that hangs does not keep it open
        files::replace(&file_of(&self.db), &record::encode(&last)?)?;
        Ok(true)
    }

    fn look(&self, store: &Store) -> Result<Beat, PruneError> {
        let era = Era::of(&self.db)?; // BEFORE the rows: the engine may name its list anew at any time
        Beat::of(store, era, self.clock.unix_ms())
    }
}
