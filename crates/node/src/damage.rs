//! Damage that the node meets where it reads, for clients, for copies and to make blocks: told by health until the process ends, and deletes
//! freeze by what may lie in live nodes (I11).
//!
//! A row that is not what was written says nothing of nodes. A node under a root that is retained and pinned does, and so does
//! whatever the engine finds: its checksums cover the file, not the row, and who changed one may have changed others (I8).
//!
//! Promises: a fault is told by health, and deletes are frozen by it, before anything waits for a disk. One at a time saves
//! what was met, and nobody waits for it: who meets a fault meanwhile leaves it to that one. What cannot be saved is tried again
//! when a fault is met, and at each look of the watch. What blocks meet is saved on a thread of its own, as a commit waits for
//! no record (I12).

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use parking_lot::Mutex;
use state_pruner::{Doubted, Found, Imposed, LogCuts, PruneError, Pruner, StoreRecords};
use state_store::{Store, StoreError};
use state_tree::TreeError;

use crate::chain::{ChainError, ReadError};

/// Different faults that are remembered as told, and that wait to be saved: after so many they are told anew.
const REMEMBERED: usize = 64;

/// The operator who lifts a freeze knows what it was for, so it takes a cycle after that which finds the store whole, or another
/// freeze that is lifted, for a fault to be news again: two steps of [`Pruner::freeze_epoch`].
const NEWS_AFTER: u64 = 2;

/// What freezes deletes, and writes it down.
trait Freezer: Send + Sync {
    /// In memory: waits for no disk.
    fn impose(&self, fault: &PruneError) -> Imposed;

    /// On record.
    fn keep(&self, fault: &PruneError) -> Result<Found, PruneError>;

    /// Grows when a freeze is lifted and when a cycle settles what was in doubt.
    fn epoch(&self) -> u64;
}

/// Those of a node. One without its pruner deletes nothing, and has the records of one that found it.
struct OfNode {
    pruner: Option<Arc<Pruner>>,
    store: Arc<Store>,
}

impl Freezer for OfNode {
    fn impose(&self, fault: &PruneError) -> Imposed {
        self.pruner.as_ref().map_or(Imposed::Before, |pruner| pruner.impose(fault))
    }

    fn keep(&self, fault: &PruneError) -> Result<Found, PruneError> {
        if let Some(pruner) = &self.pruner {
            return pruner.found(fault);
        }
        Doubted::remember(fault, &StoreRecords(Arc::clone(&self.store)))?;
        Ok(Found::Told)
    }

    fn epoch(&self) -> u64 {
        self.pruner.as_ref().map_or(0, |pruner| pruner.freeze_epoch())
    }
}

/// What was met since the process began.
pub struct Damage {
    freezer: Box<dyn Freezer>,
    /// Taken BEFORE the locks of the pruner, and while nothing waits for a disk.
    met: Mutex<Met>,
    /// Held by the one who saves.
    saving: Mutex<()>,
    /// What went with a damaged write-ahead log.
    cuts: Option<LogCuts>,
}

#[derive(Default)]
struct Met {
    first: Option<String>,
    times: u64,
    /// What became of each fault, once that was saved.
    told: BTreeMap<String, Told>,
    owed: VecDeque<Owed>,
    /// Failures to save in a row.
    unsaved: u64,
}

/// A fault that is to be told and saved.
#[derive(Clone)]
struct Owed {
    words: String,
    fault: Arc<PruneError>,
    /// When it could not be saved first: whoever has lifted a freeze since has written it down as a doubt.
    unsaved_at: Option<u64>,
}

/// A fault that was told.
struct Told {
    found: Found,
    /// When it was.
    epoch: u64,
}

impl Told {
    /// Who lifts a freeze knows of what it is for, and not of what was met beside it.
    fn is_over(&self, now: u64) -> bool {
        match self.found {
            Found::Told => now >= self.epoch + NEWS_AFTER,
            Found::InDoubt => now > self.epoch,
        }
    }
}

impl Met {
    /// Beyond the bound one of a kind waits: that is all that the record of a doubt keeps of several.
    fn has_room(&self, fault: &PruneError) -> bool {
        self.owed.len() < REMEMBERED || self.owed.iter().all(|owed| owed.fault.code() != fault.code())
    }

    /// What has frozen deletes is owed also where it is being saved: that may have been for a freeze that was lifted since.
    fn owe(&mut self, words: String, fault: PruneError, imposed: Imposed) {
        let is_owed = self.owed.iter().any(|owed| owed.words == words);
        if imposed == Imposed::Now || (!is_owed && self.has_room(&fault)) {
            self.owed.push_back(Owed { words, fault: Arc::new(fault), unsaved_at: None });
        }
    }

    /// The first one owed is.
    fn is_saved(&mut self, told: Told) {
        self.unsaved = 0;
        let Some(Owed { words, .. }) = self.owed.pop_front() else { return };
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        self.told.insert(words, told);
    }

    /// The first one owed is not: it stays so.
    fn is_unsaved(&mut self, unsaved: &PruneError, epoch: u64) {
        self.unsaved += 1;
        self.owed.front_mut().into_iter().for_each(|owed| owed.unsaved_at = owed.unsaved_at.or(Some(epoch)));
        if self.unsaved.is_power_of_two() {
            let times = self.unsaved;
            tracing::error!(%unsaved, times, "that live nodes may be damaged could not be saved"); // O15
        }
    }
}

impl fmt::Debug for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Damage").field("met", &self.met()).finish_non_exhaustive()
    }
}

impl Damage {
    /// Nothing was met yet in a store.
    pub fn of(pruner: Option<Arc<Pruner>>, store: Arc<Store>) -> Self {
        Self::told_to(Box::new(OfNode { pruner, store }))
    }

    fn told_to(freezer: Box<dyn Freezer>) -> Self {
        Self { freezer, met: Mutex::default(), saving: Mutex::new(()), cuts: None }
    }

    /// Beside what opening the store has met.
    #[must_use]
    pub fn beside(self, cuts: LogCuts) -> Self {
        Self { cuts: Some(cuts), ..self }
    }

    /// What a damaged write-ahead log took with it, until somebody has seen to it.
    pub(crate) fn log_cut(&self) -> Option<String> {
        self.cuts.as_ref().and_then(LogCuts::told)
    }

    /// An operator has seen to it. False where there was nothing.
    ///
    /// Errors: a failed write.
    pub(crate) fn acknowledge_log_cut(&self) -> Result<bool, PruneError> {
        self.cuts.as_ref().map_or(Ok(false), LogCuts::acknowledge)
    }

    /// The first fault, and how often one was met.
    pub(crate) fn met(&self) -> Option<(String, u64)> {
        let met = self.met.lock();
        met.first.clone().map(|first| (first, met.times))
    }

    /// The first fault that is to be saved and is on no record yet.
    pub(crate) fn owed(&self) -> Option<String> {
        self.met.lock().owed.front().map(|owed| owed.words.clone())
    }

    /// A read of the chain failed.
    pub(crate) fn met_by_read(&self, error: &ReadError) {
        if let ReadError::Chain(error) = error {
            self.met_by_block(error);
            self.save();
        }
    }

    /// A copy of the store failed, or a read or a change of what is retained.
    pub(crate) fn met_by_work(&self, error: PruneError) {
        if error.is_live_fault() {
            self.meet(error);
            self.save();
        } else if let PruneError::Store(StoreError::Record { .. }) = error {
            self.note(&error.to_string());
        }
    }

    /// A block could not be made, or a transaction of it not be judged. Waits for no disk: what is met is to be [`Damage::save`]d.
    fn met_by_block(&self, error: &ChainError) {
        match fault_of(error) {
            Some(fault) => self.meet(fault),
            None if is_bad_row(error) => self.note(&error.to_string()),
            None => {}
        }
    }

    fn meet(&self, fault: PruneError) {
        let words = fault.to_string();
        self.note(&words);
        let mut met = self.met.lock();
        let now = self.freezer.epoch();
        if met.told.get(&words).is_none_or(|told| told.is_over(now)) {
            let imposed = self.freezer.impose(&fault);
            met.owe(words, fault, imposed);
        }
    }

    /// Damage was met once more.
    fn note(&self, words: &str) {
        let mut met = self.met.lock();
        met.times += 1;
        met.first.get_or_insert_with(|| words.to_owned());
        if met.times.is_power_of_two() {
            tracing::error!(damage = words, times = met.times, "the node meets damage where it reads"); // O15
        }
    }

    /// Saves what is owed, unless somebody does: that one goes on with it. Waits for the disk, without the lock.
    pub(crate) fn save(&self) {
        while let Some(alone) = self.saving.try_lock() {
            if self.save_all() == Saved::InPart {
                return;
            }
            drop(alone);
            if self.met.lock().owed.is_empty() {
                return; // else it was left to us after our last look
            }
        }
    }

    fn save_all(&self) -> Saved {
        loop {
            let Some(owed) = self.met.lock().owed.front().cloned() else { return Saved::All };
            let epoch = self.freezer.epoch(); // BEFORE it is told
            if let Some(epoch) = owed.unsaved_at.filter(|unsaved_at| *unsaved_at < epoch) {
                self.met.lock().is_saved(Told { found: Found::InDoubt, epoch }); // and news when it is met again
                continue;
            }
            match self.freezer.keep(&owed.fault) {
                Ok(found) => self.met.lock().is_saved(Told { found, epoch }),
                Err(unsaved) => {
                    self.met.lock().is_unsaved(&unsaved, epoch);
                    return Saved::InPart;
                }
            }
        }
    }
}

/// Whether what is owed could be saved.
#[derive(PartialEq, Eq)]
enum Saved {
    All,
    InPart,
}

/// Hears what blocks meet, and has it saved by a thread of its own. Dropped, it returns when that was tried.
pub(crate) struct Teller {
    damage: Arc<Damage>,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Teller {
    /// Errors: the system gave no thread.
    pub(crate) fn start(damage: Arc<Damage>) -> io::Result<Self> {
        let ((wake, woken), saves) = (sync_channel(1), Arc::clone(&damage));
        let thread = Builder::new().name("damage".to_owned()).spawn(move || {
            while woken.recv().is_ok() {
                saves.save();
            }
        })?;
        Ok(Self { damage, wake: Some(wake), thread: Some(thread) })
    }

    /// A block could not be made, or a transaction of it not be judged. Returns at once.
    pub(crate) fn met_by_block(&self, error: &ChainError) {
        self.damage.met_by_block(error);
        match self.wake.as_ref().map(|wake| wake.try_send(())) {
            Some(Ok(()) | Err(TrySendError::Full(()))) => {} // full: it looks once more anyway
            Some(Err(TrySendError::Disconnected(()))) | None => {
                tracing::error!(
                    "the thread that saves damage has ended, which is a bug of ours; it is saved by the next read"
                );
            }
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that saves damage had panicked");
        }
    }
}

/// What a failure of the chain says of live nodes, or of the files they lie in.
fn fault_of(error: &ChainError) -> Option<PruneError> {
    match error {
        ChainError::Store(error) | ChainError::Unsettled(error) => of_engine(error),
        ChainError::Tree(error) => of_node(error),
        ChainError::Invariant(_) => None,
    }
}

fn of_engine(error: &StoreError) -> Option<PruneError> {
    let StoreError::Corrupt(what) = error else { return None };
    Some(StoreError::Corrupt(what.clone()).into())
}

/// Whoever reads has no roots at hand, so the path to the node is left to `verify` and to the next mark.
fn of_node(error: &TreeError) -> Option<PruneError> {
    let path = Vec::new();
    if let TreeError::Missing(hash) = error {
        return Some(PruneError::MissingLiveNode { hash: *hash, path });
    }
    if let TreeError::Malformed { hash, source } = error {
        return Some(PruneError::BadNode { hash: *hash, fault: source.clone(), path });
    }
    if let TreeError::WrongHash { key, actual } = error {
        return Some(PruneError::WrongHash { hash: *key, actual: *actual, path });
    }
    let TreeError::Read { source, .. } = error else { return None };
    source.downcast_ref::<StoreError>().and_then(of_engine)
}

/// Whether a row of ours, or the way to a node, is not what was written.
fn is_bad_row(error: &ChainError) -> bool {
    match error {
        ChainError::Store(error) => matches!(error, StoreError::Record { .. }),
        ChainError::Tree(error) => matches!(
            error,
            TreeError::WrongKind { .. }
                | TreeError::Misplaced { .. }
                | TreeError::TooDeep { .. }
                | TreeError::FieldCount { .. }
        ),
        ChainError::Unsettled(_) | ChainError::Invariant(_) => false,
    }
}

#[cfg(test)]
mod tests;
