//! The heartbeat of a node: what its records say, in a small file beside its store, so that health can be told from outside in a
//! time that does not grow with the store.
//!
//! Promises: one that is damaged, or of another era of the store, is none (C5), nor is one that is older than a quarter of a minute
//! while a process has the store open. The last one of a process is written behind the end of its store, which nobody else had; it
//! counts until a file comes to the folder of the store, or goes.
//!
//! Costs: a look at a dozen rows each second; a write of them where they changed, and every five seconds; once an hour a list of the
//! files. Nobody waits for the disk but at the end of a node: after a power loss there may be none.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use state_store::{
    Era, Excerpt, Holder, Rest, Store, Table, lock_holder,
    record::{self, Record},
};

use crate::{clock::Clock, error::PruneError, files, records::RecordKey, sweep};

/// One is written at least this often.
const AT_LEAST: Duration = Duration::from_secs(5);
/// What the next cycle needs is asked for again after so long: whoever lists many files holds the engine's own lock (I12).
const NEED_HOLDS: Duration = Duration::from_secs(3600);
/// While a process has the store open, an older one is of its predecessor, or its disk does not answer.
const FRESH_MS: u64 = 15_000;
/// How long the last one waits for one that is being written.
const PATIENCE: Duration = Duration::from_secs(1);
/// No heartbeat is longer: pins and consumers are bounded.
const MOST_BYTES: u64 = 16 << 20;

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
    /// Its process, as that calls itself.
    pid: u32,
    era: Era,
    /// Of the last one: the store as its process left it.
    rest: Option<Rest>,
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
    /// It is damaged, or whether it counts cannot be told.
    #[error("whether it counts cannot be told: {0}")]
    Unreadable(#[from] PruneError),
    /// The store was opened for writing since, copied or restored.
    #[error("the store was opened, copied or restored since, or lacks a file")]
    OfAnotherEra,
    /// A process has the store open, and this is not of the last quarter of a minute.
    #[error("{0} has the store open, and has written none for a while")]
    Stale(Holder),
}

impl Beat {
    fn of(store: &Store, era: Era, at_ms: u64) -> Result<Self, PruneError> {
        let rows = JUDGED.into_iter().map(RecordKey::row).chain(Excerpt::chain_ends());
        let rows = Excerpt::of(&*store.view()?, rows)?;
        Ok(Self { at_ms, pid: std::process::id(), era, rest: None, need: None, rows })
    }

    /// The heartbeat of a store, where it counts now, and who has the store open.
    pub(crate) fn read(db: &Path, now_ms: u64) -> Result<(Self, Option<Holder>), NoHeartbeat> {
        let before = Self::load(db)?;
        let holder = lock_holder(db).map_err(PruneError::from)?;
        let beat = if holder.is_none() { Self::load(db)? } else { before }; // whoever has ended since has written its last one
        // AFTER the question who has it open: whoever opens it since begins another era.
        let rest = beat.rest.map(|_| Rest::of(db)).transpose().map_err(PruneError::from)?;
        if rest != beat.rest || Era::of(db).map_err(PruneError::from)? != beat.era {
            return Err(NoHeartbeat::OfAnotherEra);
        }
        match holder {
            Some(holder) if now_ms.abs_diff(beat.at_ms) > FRESH_MS => Err(NoHeartbeat::Stale(holder)),
            holder => Ok((beat, holder)),
        }
    }

    fn load(db: &Path) -> Result<Self, NoHeartbeat> {
        let path = file_of(db);
        let bytes = files::read_plain(&path, MOST_BYTES)?.ok_or(NoHeartbeat::Absent)?;
        Ok(record::decode(&path.display().to_string(), &bytes).map_err(PruneError::from)?)
    }

    /// Whether its process has neither closed the store behind it nor, as far as can be seen, has it open.
    pub(crate) fn is_cut(&self, holder: Option<&Holder>) -> bool {
        self.rest.is_none() && !holder.is_some_and(|holder| holder.may_be(self.pid))
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
    /// The one before, and when it was written, by the monotonic clock.
    written: Option<(Duration, Beat)>,
    /// What the next cycle needs, and when that was asked for, by the monotonic clock.
    need: Option<(Duration, u64)>,
}

impl State {
    fn need(&mut self, now: Duration, ask: impl FnOnce() -> Option<u64>) -> Option<u64> {
        let holds = self.need.filter(|(at, _)| now.saturating_sub(*at) < NEED_HOLDS);
        self.need = holds.or_else(|| ask().map(|need| (now, need)));
        self.need.map(|(_, need)| need)
    }

    /// Whether the one before says the same, and it is too early to say it again. The chain goes on all the time.
    fn will_do(&self, new: &Beat, now: Duration) -> bool {
        self.written.as_ref().is_some_and(|(at, beat)| {
            let is_same = beat.era == new.era && beat.rows.is_like(&new.rows, &Table::CHAIN);
            is_same && now.saturating_sub(*at) < AT_LEAST
        })
    }
}

impl Heart {
    /// Of the store in a folder, which this process has open for writing. It does not keep the store open.
    pub fn of(store: &Arc<Store>, db: &Path, clock: Arc<dyn Clock>) -> Self {
        let (db, store) = (db.to_owned(), Arc::downgrade(store));
        Self { db, store, clock, state: Mutex::new(State { written: None, need: None }) }
    }

    /// Whether the store is closed, so that no other one comes.
    pub fn is_over(&self) -> bool {
        self.store.strong_count() == 0
    }

    /// Writes one if what it says has changed, or the one before is five seconds old. Call it each second, where nobody is held
    /// up by a disk. `need` tells the bytes that the next cycle needs, and is asked once an hour, and until it tells.
    ///
    /// Errors: a failed read or write. The one before is removed then, for it may be true no more, if it can be.
    pub fn beat(&self, need: impl FnOnce() -> Option<u64>) -> Result<(), PruneError> {
        let mut state = self.state.lock();
        let Some(store) = self.store.upgrade() else { return Ok(()) };
        self.say(&mut state, store, need).inspect_err(|_| {
            state.written = None;
            if let Err(error) = files::remove(&file_of(&self.db)) {
                tracing::debug!(%error, "a heartbeat that may be true no more stays for a while");
            }
        })
    }

    fn say(&self, state: &mut State, store: Arc<Store>, need: impl FnOnce() -> Option<u64>) -> Result<(), PruneError> {
        let now = self.clock.monotonic();
        let new = self.look(&store)?;
        drop(store); // a disk that hangs does not keep it open
        if state.will_do(&new, now) {
            return Ok(());
        }
        let new = Beat { need: state.need(now, need), ..new };
        files::replace_unsynced(&file_of(&self.db), &record::encode(&new)?)?;
        state.written = Some((now, new));
        Ok(())
    }

    /// Closes the store, and writes its last heartbeat, durably. None is written behind it.
    ///
    /// Returns false where there is none: somebody else still has the store and may write to it, somebody has opened it since, or
    /// the heartbeat before has not ended for a second. What is there then does not pass for the last one.
    ///
    /// Errors: a failed read or write, with the same in the file. The store is closed.
    pub fn last(&self, store: Arc<Store>) -> Result<bool, PruneError> {
        let Some(state) = self.state.try_lock_for(PATIENCE) else { return Ok(false) }; // it would take the place of this one
        let Some(store) = Arc::into_inner(store) else { return Ok(false) };
        let beat = self.look(&store)?;
        let measured = sweep::least_need(store.backend()); // no commit waits any more
        let need = measured.map_or_else(|_| state.need.map(|(_, need)| need), Some); // health tells where none is known
        drop(store);
        let rest = Rest::of(&self.db)?; // AFTER the engine has ended
        if Era::of(&self.db)? != beat.era {
            return Ok(false);
        }
        let last = Beat { rest: Some(rest), need, ..beat };
        files::replace(&file_of(&self.db), &record::encode(&last)?)?;
        Ok(true)
    }

    fn look(&self, store: &Store) -> Result<Beat, PruneError> {
        let era = Era::of(&self.db)?; // BEFORE the rows: the engine may name its list anew at any time
        Beat::of(store, era, self.clock.unix_ms())
    }
}
