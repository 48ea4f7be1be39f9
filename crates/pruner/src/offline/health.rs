//! The health of a store from outside: while a node or a prune runs, or nobody does, on a store that may not be written.
//!
//! Costs: a dozen rows, what the engine keeps of its files in memory, and one pass over the write-ahead log, however large the
//! store is. Nothing is written, no lock is taken, and nobody is waited for (O14).

mod heard;

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use state_store::{
    ChainView as _, Head, Holder, NativeChain, RESERVE_FILE, Reserve, RocksBackend, Store, StoreError, Table, View,
    lock_holder,
};

pub use heard::health_by_heartbeat;

use super::{
    AT_REST, StoreLayout,
    folder::{self, canonical, kept_dir},
};
use crate::{
    clock::{Clock as _, SystemClock},
    doubt::Doubted,
    error::PruneError,
    files,
    health::{
        self, CycleAge, Facts, Health, HealthConfig, NoReserve, OldestPin, Recorded, RecordedLock, Room, Unfinished,
        Unread,
    },
    log_cut::told_at_rest,
    outcome::Outcome,
    phase,
    records::{FolderRecords, RecordKey, Records, StoreRecords, ViewRecords},
    recovery::RecoveryConfig,
    retention::{Holds, KeepPolicy, is_filling},
    snapshot::{SnapshotFailures, SnapshotPath, recorded_lock},
    sweep,
    trigger::{Ledger, Window},
    validate::check_record,
};

/// How often a store is looked at that somebody changes while it is looked at. An opening does not try again by itself.
const LOOKS: usize = 20;

/// When the node of a store begins a cycle by orders, as far as whoever asks knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CycleDue {
    /// Nobody says.
    Unknown,
    /// It does not prune.
    Never,
    /// After so many, once there are more than it keeps.
    After {
        /// How many.
        orders: u64,
        /// What it keeps.
        keep: KeepPolicy,
    },
}

impl CycleDue {
    fn orders(self) -> Option<u64> {
        match self {
            Self::Unknown | Self::Never => None,
            Self::After { orders, .. } => Some(orders),
        }
    }
}

/// Which store, and by what it is judged.
#[derive(Debug, Clone)]
pub struct HealthRequest {
    /// Folder of the database.
    pub db: PathBuf,
    /// Where its prunes keep their records, if that is not the folder beside it.
    pub state_dir: Option<PathBuf>,
    /// The bounds.
    pub bounds: HealthConfig,
    /// When its node begins a cycle by orders.
    pub due: CycleDue,
    /// Bytes that its node keeps for a full device; absent where it keeps none, or that is not known.
    pub reserve: Option<NonZeroU64>,
    /// How its node treats snapshots, as its configuration says; full where nobody says, because no record tells.
    pub snapshot_path: SnapshotPath,
    /// Cycles in a row that have to finish before a failure is over.
    pub min_healthy_cycles: u32,
    /// Milliseconds since 1970 by which ages count; without it when the records have been read.
    pub now_ms: Option<u64>,
}

impl HealthRequest {
    /// The default bounds now.
    pub fn new(db: &Path, state_dir: Option<&Path>) -> Self {
        Self {
            db: db.to_owned(),
            state_dir: state_dir.map(Path::to_owned),
            bounds: HealthConfig::default(),
            due: CycleDue::Unknown,
            reserve: None,
            snapshot_path: SnapshotPath::Full,
            min_healthy_cycles: RecoveryConfig::default().min_healthy_cycles,
            now_ms: None,
        }
    }
}

/// The health of a store from its records, read from outside.
///
/// Errors: the store cannot be opened, or a read of it fails: health cannot be told then, unless that is because a store at rest is
/// damaged, or what could be read is critical. A record that is unusable is a reason.
pub fn health_of_store(request: &HealthRequest) -> Result<Health, PruneError> {
    let request = &HealthRequest { db: canonical(&request.db), ..request.clone() };
    match look_often(request) {
        Err(PruneError::Store(StoreError::Corrupt(_))) if lock_holder(&request.db)?.is_none() => at_rest(request),
        told => told,
    }
}

/// Nobody writes any more: whoever did may have ended between a look and the question for it.
fn at_rest(request: &HealthRequest) -> Result<Health, PruneError> {
    match look(request) {
        Err(PruneError::Store(error @ StoreError::Corrupt(_))) if lock_holder(&request.db)?.is_none() => {
            Ok(health::of_damage(&error))
        }
        told => told,
    }
}

fn look_often(request: &HealthRequest) -> Result<Health, PruneError> {
    for _ in 1..LOOKS {
        match look(request) {
            // A node removes files that a reader has not opened yet: that is haste, not damage.
            Err(PruneError::Store(StoreError::Corrupt(_) | StoreError::Io { .. }))
                if lock_holder(&request.db)?.is_some() => {}
            told => return told,
        }
    }
    look(request)
}

fn look(request: &HealthRequest) -> Result<Health, PruneError> {
    let backend = RocksBackend::open_without_nodes(&request.db)?;
    health_of_opened(Arc::new(Store::foreign(backend, AT_REST)?), request)
}

/// The same through a store that is open already.
///
/// Errors: a read that fails, unless what could be read is critical.
pub fn health_of_opened(store: Arc<Store>, request: &HealthRequest) -> Result<Health, PruneError> {
    let mut unread = Unread::default();
    let view = store.view()?;
    let facts = if view.has_table(&Table::META) {
        let backend = store.backend();
        let looked = Looked {
            view: &*view,
            holder: unread.known(lock_holder_if_there(&request.db)).flatten(),
            free: backend.free_bytes(),
            need: &|| sweep::least_need(backend).map_err(|error| error.to_string()),
            cut: told_at_rest(backend),
        };
        of_node(looked, request, &mut unread)
    } else {
        let facts = of_rest(&store, request, &mut unread);
        let Facts { freeze, last, unfinished, doubt, .. } = &facts;
        let is_known = freeze.is_some() || last.is_some() || unfinished.is_some() || doubt.is_some();
        if !is_known && unread.is_empty() {
            return Err(PruneError::NothingKnown { db: request.db.clone() }); // silence is not health (I13)
        }
        facts
    };
    unread.judge(facts, &request.bounds)
}

/// Whether live nodes of a store may be damaged, by the records of its node, or of prunes that kept theirs beside it.
pub(crate) fn doubt_of(db: &Path, backend: &Arc<RocksBackend>) -> Option<Doubted> {
    let records = Store::foreign(Arc::clone(backend) as _, AT_REST).and_then(|store| {
        let records: Box<dyn Records> = match store.view()?.has_table(&Table::META) {
            true => Box::new(StoreRecords(Arc::new(store))),
            false => Box::new(FolderRecords(kept_dir(&canonical(db), None))),
        };
        Ok(records)
    });
    let records = records.map_err(PruneError::from);
    let recorded = records.map_or_else(|error| Some(Doubted::unknown(&error)), |records| Doubted::recorded(&*records));
    recorded.or_else(|| told_at_rest(&**backend).map(Doubted::log_cut))
}

/// Remembers damage that was found in a store at rest which is not a node's own, beside it. That one has its records inside,
/// where nobody at rest writes.
pub(crate) fn remember_damage(db: &Path, layout: StoreLayout, error: &PruneError) {
    if layout == StoreLayout::Native || !error.is_live_fault() {
        return;
    }
    let kept = kept_dir(&canonical(db), None);
    let made = files::create_dir(&kept);
    if let Err(unsaved) = made.and_then(|()| folder::remember(error, kept)) {
        tracing::error!(%unsaved, "that live nodes may be damaged could not be saved; older snapshots are not held for it");
    }
}

/// What is looked at of a node's own store.
struct Looked<'a> {
    /// The records are among its rows.
    view: &'a dyn View,
    holder: Option<Holder>,
    /// Bytes on its device.
    free: Result<Option<u64>, StoreError>,
    /// Bytes that the next cycle needs.
    need: &'a dyn Fn() -> Result<u64, String>,
    /// Damage of a write-ahead log that no record tells of.
    cut: Option<String>,
}

/// A node's own store.
fn of_node(looked: Looked<'_>, request: &HealthRequest, unread: &mut Unread) -> Facts {
    let Looked { view, holder, free, need, cut } = looked;
    let records = ViewRecords(view);
    let recorded = Recorded::read(&records, request.min_healthy_cycles, (now_ms(request), unread));
    let free = unread.measured(free);
    let reserved = free.and_then(|free| unread.measured(Reserved::look(free, request, holder.as_ref())));
    let reserved = reserved.map_or(Reserved { kept: 0, let_go: None }, |reserved| reserved); // told as unmeasured
    let free = free.flatten().map(|free| free.saturating_add(reserved.kept));
    let holds = unread.record(RecordKey::Holds, Holds::load(&records).map(Some));
    let of_store = Facts {
        log_cut: recorded.log_cut().or(cut),
        oldest_pin: holds.and_then(|holds| OldestPin::of(&holds.pins, now_ms(request))),
        snapshot_path: request.snapshot_path,
        room: free.and_then(|free| unread.measured(need()).map(|need| Room { free, need })),
        reserve: reserved.let_go.map(|bytes| NoReserve::NotThere { bytes }),
        ..Facts::default()
    };
    if request.due == CycleDue::Never {
        return over(recorded.facts_without_cycles(), of_store);
    }
    let ledger = unread.record(RecordKey::Triggers, Ledger::load(&records));
    let newest = unread.known(NativeChain.head(view).map_err(PruneError::from)).flatten();
    let head = newest.as_ref().map_or(0, |head| head.order.get()); // no commit: none went by
    let counted = Counted { ledger: ledger.as_ref(), last: recorded.last.as_ref() };
    let lag = unread.known(Lag::look(view, newest.as_ref(), counted, request.due));
    let lag = lag.map_or(Lag { known: None, uncounted: None }, |lag| lag);
    let lock = unread.record(RecordKey::Lock, recorded_lock(&records));
    let failures = unread.record(RecordKey::SnapshotFailures, SnapshotFailures::load(&records).map(Some));
    unread.record(RecordKey::LastCycle, phase::last_cycle(&records).map(Some));
    // AFTER the reads: a cycle that ends while they go on would lie in the future.
    let now_ms = now_ms(request);
    let age = CycleAge::told(recorded.last.as_ref(), ledger.as_ref(), (head, now_ms));
    let lock_record = lock.map(|record| RecordedLock::of(record, now_ms, holder.clone()));
    let unfinished = match (recorded.begun, holder) {
        (Some(begun), Some(by)) => Some(Unfinished::HeldByNode { begun, by }),
        (Some(begun), None) => Some(Unfinished::WithItsNode { begun }),
        (None, _) => recorded.given_up.then_some(Unfinished::AtRest { begun: None }),
    };
    Facts {
        unfinished,
        lock_record,
        snapshot_failures: failures.map_or(0, |failures| failures),
        lag: lag.known,
        uncounted: lag.uncounted,
        cycle_age: age.map(|age| CycleAge { due_after: request.due.orders(), ..age }),
        ..over(recorded.facts(), of_store)
    }
}

/// What the records tell, beside what else is known of a node's store.
fn over(recorded: Facts, of_store: Facts) -> Facts {
    let Facts { oldest_pin, snapshot_path, room, reserve, log_cut, .. } = of_store;
    Facts { oldest_pin, snapshot_path, room, reserve, log_cut, ..recorded }
}

fn now_ms(request: &HealthRequest) -> u64 {
    request.now_ms.unwrap_or_else(|| SystemClock::new().unix_ms())
}

/// How far pruning is behind, as the worker of a node tells it.
#[derive(Default)]
struct Lag {
    /// Orders since a cycle was due to be behind, and after how many one is due.
    known: Option<(u64, u64)>,
    /// Orders that no cycle has counted, where nobody says after how many one is due.
    uncounted: Option<u64>,
}

/// What tells up to which order cycles have counted.
struct Counted<'a> {
    ledger: Option<&'a Ledger>,
    last: Option<&'a Outcome>,
}

impl Lag {
    /// A node spreads its first cycle by chance, which only it draws: until then it is behind by that less than is told.
    fn look(view: &dyn View, head: Option<&Head>, counted: Counted<'_>, due: CycleDue) -> Result<Self, PruneError> {
        let Some(head) = head else { return Ok(Self::default()) };
        let Counted { ledger, last } = counted;
        let new; // as a node begins it that finds none
        let ledger = match ledger {
            Some(ledger) => ledger,
            None => {
                new = Ledger::new(0, last.and_then(|last| last.head_order).map_or(0, |order| order));
                &new
            }
        };
        let order = head.order.get();
        Ok(match due {
            CycleDue::Never => Self::default(),
            CycleDue::Unknown => Self { uncounted: Some(ledger.uncounted(order)), ..Self::default() },
            CycleDue::After { keep, .. } if is_filling(view, keep, head)? => Self::default(),
            CycleDue::After { orders, keep } => {
                let window = Window::of(Some(NativeChain.floor(view)?), keep.last.get());
                let lag = order.saturating_add(orders).saturating_sub(ledger.due_at(orders, window));
                Self { known: Some((lag, orders)), ..Self::default() }
            }
        })
    }
}

/// A store at rest: the records lie beside it, and no cycle is ever due.
fn of_rest(store: &Store, request: &HealthRequest, unread: &mut Unread) -> Facts {
    let kept = kept_dir(&request.db, request.state_dir.as_deref());
    let (records, holder) = (FolderRecords(kept.clone()), unread.known(folder::holder(&kept)).flatten());
    unread.at_rest();
    unread.record(RecordKey::LastCycle, phase::last_cycle(&records).map(Some));
    unread.record(RecordKey::Snapshot, snapshot_of(&records));
    let recorded = Recorded::read(&records, request.min_healthy_cycles, (now_ms(request), unread));
    let lock = unread.record(RecordKey::Lock, recorded_lock(&records));
    let failures = unread.record(RecordKey::SnapshotFailures, SnapshotFailures::load(&records).map(Some));
    let lock_record = lock.map(|record| RecordedLock::of(record, now_ms(request), holder.clone())); // AFTER the reads, as of a node
    let unfinished = match (recorded.begun, holder) {
        (begun, Some(by)) => Some(Unfinished::Running { begun, by }), // it may not have marked anything yet
        (Some(begun), None) => Some(Unfinished::AtRest { begun: Some(begun) }),
        (None, None) => recorded.given_up.then_some(Unfinished::AtRest { begun: None }),
    };
    Facts {
        unfinished,
        lock_record,
        snapshot_failures: failures.map_or(0, |failures| failures),
        room: unread.measured(sweep::room(store.backend(), 0)).flatten(),
        ..recorded.facts()
    }
}

/// Whether there is one that a prune goes on with.
fn snapshot_of(records: &FolderRecords) -> Result<Option<()>, PruneError> {
    let Some(bytes) = records.load(RecordKey::Snapshot)? else { return Ok(None) };
    match check_record(RecordKey::Snapshot, &bytes) {
        Err(error) if error.is_damaged_artefact() => {
            let name = records.place(RecordKey::Snapshot).to_string();
            let why =
                if let PruneError::Store(StoreError::Record { why, .. }) = error { why } else { error.to_string() };
            Err(StoreError::Record { name, why }.into())
        }
        checked => checked.map(Some),
    }
}

/// A store in memory has no folder that anybody could hold.
fn lock_holder_if_there(db: &Path) -> Result<Option<Holder>, PruneError> {
    Ok(if db.exists() { lock_holder(db)? } else { None })
}

/// Where a node keeps the reserve of its store.
pub(super) fn reserve_of(db: &Path) -> PathBuf {
    db.parent().map_or_else(|| RESERVE_FILE.into(), |data| data.join(RESERVE_FILE))
}

/// The reserve of a node, by its file.
struct Reserved {
    /// Bytes of it: a sweep that lacks room lets them go, so they count as room.
    kept: u64,
    /// Bytes that were let go.
    let_go: Option<u64>,
}

impl Reserved {
    /// One that is not there was let go, unless its node would take it when it starts. `free` is what it would be taken from.
    fn look(free: Option<u64>, request: &HealthRequest, node: Option<&Holder>) -> Result<Self, PruneError> {
        let (there, wanted) = (Reserve::kept_at(&reserve_of(&request.db))?, request.reserve.map(NonZeroU64::get));
        let kept = there.filter(|bytes| wanted.is_none_or(|wanted| wanted == *bytes));
        let is_roomy = |wanted: u64| free.is_none_or(|free| free >= wanted.saturating_mul(2));
        let let_go = wanted.filter(|wanted| kept.is_none() && (node.is_some() || !is_roomy(*wanted)));
        Ok(Self { kept: kept.map_or(0, |bytes| bytes), let_go })
    }
}
