//! Blocks that a damaged write-ahead log took with it: on record until an operator has seen to it.
//!
//! The engine opens such a store with what was written before the damage, and the opening after that finds nothing wrong. So
//! whoever opens the store for writing takes over what the engine met, BEFORE anything else is written.
//!
//! Promises: the record is durable before the store forgets what it met; a record that is unusable is told, and one that cannot
//! be written is told by this process and by the next one. What was lost is not guessed: the newest order that is left is known,
//! the newest that was is not.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use state_store::{
    Backend, LogCut, Store, StoreError, Table,
    record::{self, Record},
};

use crate::{
    clock::Clock,
    error::PruneError,
    events::{Event, EventSink},
    records::{self, RecordKey, Records, StoreRecords},
    when::When,
};

/// What was met in the write-ahead log of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lost {
    /// Milliseconds since 1970 when the store was opened.
    pub(crate) at: u64,
    /// The newest order that was left; absent where none was.
    pub(crate) head: Option<u64>,
    /// In the words of the engine: the log, how much of it was dropped at once, and why.
    pub(crate) what: String,
    /// Where the logs are kept, if they are.
    pub(crate) kept: Option<String>,
    /// How often it was met since nobody has seen to it.
    pub(crate) times: u64,
}

impl Record for Lost {
    const KIND: [u8; 4] = *b"LCUT";
    const VERSION: u16 = 1;
}

impl Lost {
    pub(crate) fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        records::read(records, RecordKey::LogCut)
    }

    /// For people.
    pub(crate) fn told(&self) -> String {
        let Self { at, head, what, kept, times } = self;
        let left =
            head.map_or_else(|| "no block was left".to_owned(), |head| format!("order {head} was the newest left"));
        let again =
            if *times > 1 { format!("; it was met {times} times by now, this is the first") } else { String::new() };
        format!(
            "the write-ahead log was damaged when the store was opened at {}: {what}; {left}, so later ones that were \
             acknowledged before that are gone, and new ones come under their orders{again}. {}. Compare with what peers or clients \
             have. No older snapshot goes until `state-node acknowledge log_cut --url URL`",
            When(*at),
            logs(kept.as_deref()),
        )
    }
}

fn logs(kept: Option<&str>) -> String {
    kept.map_or_else(
        || "The damaged log could not be kept".to_owned(),
        |kept| format!("The logs as they were are in {kept}: remove them when they are of no use"),
    )
}

/// For people, of a store that nobody has opened for writing since; nothing where its log is whole.
pub(crate) fn told_at_rest(backend: &dyn Backend) -> Option<String> {
    let LogCut { what, .. } = backend.log_cut()?;
    Some(format!(
        "the write-ahead log is damaged: {what}. The next start goes on without the blocks that come after that: copy the folder of \
         the store before, and restore the data of a peer if they are needed"
    ))
}

/// What is known of it to whoever only reads a store: by its records, where it has such, and by its log.
///
/// Errors: a failed read; a record that a newer program wrote.
pub(crate) fn known(store: &Arc<Store>) -> Result<Option<String>, PruneError> {
    let has_records = store.view()?.has_table(&Table::META);
    let recorded = match has_records.then(|| Lost::load(&StoreRecords(Arc::clone(store)))) {
        Some(Err(error @ PruneError::Store(StoreError::Record { .. }))) => Some(unusable(&error)),
        Some(loaded) => loaded?.map(|lost| lost.told()),
        None => None,
    };
    Ok(recorded.or_else(|| told_at_rest(store.backend())))
}

/// What is on record of it for a store that is open.
#[derive(Debug)]
pub struct LogCuts {
    records: Arc<dyn Records>,
    told: Mutex<Option<String>>,
}

impl LogCuts {
    /// Takes over what opening the store has met, durably, and reads what earlier ones did.
    pub fn take_over(store: &Arc<Store>, clock: &dyn Clock, events: &dyn EventSink) -> Self {
        let records: Arc<dyn Records> = Arc::new(StoreRecords(Arc::clone(store)));
        let known = Lost::load(&*records);
        let told = match (store.backend().log_cut(), known) {
            (None, Ok(known)) => known.map(|lost| lost.told()),
            (None, Err(error)) => Some(unusable(&error)),
            (Some(cut), known) => Some(Self::meet((store, &*records), &cut, known, (clock, events))),
        };
        Self { records, told: Mutex::new(told) }
    }

    fn meet(
        (store, records): (&Store, &dyn Records),
        cut: &LogCut,
        earlier: Result<Option<Lost>, PruneError>,
        (clock, events): (&dyn Clock, &dyn EventSink),
    ) -> String {
        let head = store.head().map(|head| head.order);
        let kept = cut.kept.as_ref().map(|kept| kept.display().to_string());
        let new = Lost { at: clock.unix_ms(), head, what: cut.what.clone(), kept, times: 1 };
        let lost = match earlier {
            Ok(Some(earlier)) if earlier.what == new.what => Ok(earlier), // its process died before the store forgot it
            Ok(Some(earlier)) => Ok(Lost { times: earlier.times.saturating_add(1), ..earlier }),
            Ok(None) | Err(PruneError::Store(StoreError::Record { .. })) => Ok(new.clone()),
            Err(error) => Err(error), // nothing is written over that a newer program wrote, or that cannot be read (C17, I8)
        };
        let told = lost.as_ref().map_or_else(|_| new.told(), Lost::told);
        let saved = lost
            .and_then(|lost| records.save(RecordKey::LogCut, &record::encode(&lost)?))
            .and_then(|()| Ok(store.backend().log_cut_is_kept()?));
        if let Err(error) = saved {
            tracing::error!(%error, "that the write-ahead log was cut could not be written down; the next start tries again");
        }
        let Lost { head, what, kept, .. } = new;
        events.emit(Event::LogCut { what, head, kept });
        told
    }

    /// What health tells.
    pub fn told(&self) -> Option<String> {
        self.told.lock().clone()
    }

    /// An operator has seen to it. False where there was nothing.
    ///
    /// Errors: a failed write; it is told further on then.
    pub fn acknowledge(&self) -> Result<bool, PruneError> {
        let mut told = self.told.lock();
        if told.is_none() {
            return Ok(false);
        }
        self.records.remove(RecordKey::LogCut)?;
        *told = None;
        Ok(true)
    }
}

fn unusable(error: &PruneError) -> String {
    format!(
        "blocks may be gone with a damaged write-ahead log, and what was written down of it cannot be read: {error}. Compare the head \
         with what peers have, then `state-node acknowledge log_cut --url URL`"
    )
}
