//! The background pruner of a node: one thread, one inbox, one cycle at a time.
//!
//! Promises: a commit only moves a number, looks at the triggers and never waits for the pruner (I12); a request while
//! a cycle runs is answered, and at most one follows it; a panic in a cycle is caught here, poisons the status and
//! leaves the node serving (P14); dropping the value stops the thread and joins it.

mod asking;
mod counts;
mod ending;
mod freezing;
mod health;
mod left;
mod recall;
mod reclaim;
mod reserve;
mod rollback;
mod serving;
mod shared;
mod status;
mod steady;
mod stopping;
mod switch;

use std::{
    sync::{
        Arc,
        atomic::AtomicU64,
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::Builder,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use state_store::Store;
use state_tree::{NodeLayout, Order};

use crate::{
    certificate::Trigger,
    clock::Clock,
    config::{PrunerConfig, keep_of},
    control::{FrozenBy, Left, Observer, Pause, Progress, Settled},
    error::PruneError,
    events::EventSink,
    health::Meter,
    metrics,
    phase::PrunePhase,
    policy::{FloorRows, LiveWindow},
    quarantine::SetAside,
    records::Records,
    recovery::{ErrorRecoveryManager, RecoveryMetrics},
    retention::Holds,
    snapshot::{AtomicSnapshotManager, LessKept, NodeFacts, RetentionPolicy, SnapshotParts},
};
pub use counts::Uncounted;
use freezing::Unsaved;
pub use freezing::{Found, Imposed};
use left::TakeUp;
use recall::Recalling;
pub use reclaim::ReclaimStatus;
pub(crate) use reserve::ReserveKeeper;
pub use reserve::ReserveStatus;
use serving::Begin;
use shared::Shared;
pub use status::{Command, PrunerStatus, Reply, StageStatus};
use steady::SteadyShared;
pub use steady::{IncrementalStatus, Walking};
use stopping::Worker;
pub use switch::SwitchedOff;

/// What a node hands to its pruner.
#[derive(Clone)]
pub struct PrunerParts {
    /// The node's store.
    pub store: Arc<Store>,
    /// Reads the chain's records.
    pub chain: Arc<dyn state_store::ChainView>,
    /// Reads the nodes.
    pub layout: Arc<dyn NodeLayout>,
    /// Keeps the pruner's records.
    pub records: Arc<dyn Records>,
    /// Reads time.
    pub clock: Arc<dyn Clock>,
    /// Tells about the node, if it wants to.
    pub facts: Option<Arc<dyn NodeFacts>>,
    /// Rows of the chain that go when the floor moves.
    pub floor_rows: Option<FloorRows>,
    /// Takes what happens.
    pub events: Arc<dyn EventSink>,
}

struct Inner {
    parts: PrunerParts,
    config: PrunerConfig,
    snapshots: Arc<AtomicSnapshotManager>,
    snapshot_parts: SnapshotParts,
    recovery: Arc<ErrorRecoveryManager>,
    shared: Mutex<Shared>,
    /// Told whenever a cycle or a round has ended.
    rested: Condvar,
    /// One rollback at a time.
    rolling_back: Mutex<()>,
    /// One at a time saves what triggers counted; taken BEFORE `shared`.
    saving_ledger: Mutex<()>,
    /// One operator at a time asks for a cycle, or switches pruning off or on, until that is written down; taken BEFORE
    /// `saving_ledger`.
    operating: Mutex<()>,
    /// One at a time changes the freeze or the doubt on record; taken BEFORE `shared`.
    freezing: Mutex<Unsaved>,
    /// Another number whenever a freeze or a doubt is settled.
    freeze_epoch: AtomicU64,
    /// Rows of the journal that could not be read and are not written down yet: a later process would meet them again, this one
    /// reads it once. Taken BEFORE `shared`.
    unlisted: Mutex<Vec<SetAside>>,
    reserve: ReserveKeeper,
    /// When it was looked last what waits for the sweep between cycles while a cycle works.
    lag_looked: Mutex<Option<Duration>>,
    meter: Meter,
}

enum Message {
    /// Look at the triggers.
    Wake,
    Stop,
}

/// The background pruner. Dropping it stops it; whoever shares it stops it by name, because it is dropped with its last owner.
pub struct Pruner {
    inner: Arc<Inner>,
    inbox: SyncSender<Message>,
    worker: Mutex<Worker>,
}

impl std::fmt::Debug for Pruner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pruner").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Pruner {
    /// Starts the worker; a sweep that a restart interrupted goes on in the background. Call BEFORE the first commit
    /// of the process: an interrupted cycle then knows that its history is the one it was marked from.
    ///
    /// Records that are unusable stop the pruner, not the node (O11): it starts poisoned, and health says why.
    ///
    /// Errors: a record that a newer program wrote, a thread that cannot be started; pins or consumers on record, which this window
    /// would not keep, or a record of them that cannot be read. Nothing has begun then.
    pub fn start(parts: PrunerParts, config: PrunerConfig) -> Result<Self, PruneError> {
        Holds::load(&*parts.records)?.refuse()?; // BEFORE the floor moves over what they keep
        let policy = LiveWindow {
            store: Arc::clone(&parts.store),
            keep_last: config.keep_last,
            floor_rows: parts.floor_rows.clone(),
        };
        Self::start_under(parts, config, Arc::new(policy))
    }

    /// The same under a policy that somebody else asks and changes too; its number of orders is `keep_last`, too.
    ///
    /// Errors: [`PruneError::TwoWindows`], a record that a newer program wrote, a thread that cannot be started; nothing has begun then.
    pub fn start_under(
        parts: PrunerParts,
        config: PrunerConfig,
        policy: Arc<dyn RetentionPolicy>,
    ) -> Result<Self, PruneError> {
        keep_of(config.keep_last, &*policy)?;
        metrics::describe();
        let snapshot_parts = SnapshotParts {
            store: Arc::clone(&parts.store),
            chain: Arc::clone(&parts.chain),
            records: Arc::clone(&parts.records),
            policy,
            facts: parts.facts.clone(),
            clock: Arc::clone(&parts.clock),
            events: Arc::clone(&parts.events),
        };
        let snapshots = Arc::new(AtomicSnapshotManager::new(snapshot_parts.clone(), config.snapshots.clone()));
        let recovery = Arc::new(ErrorRecoveryManager::new(
            Arc::clone(&snapshots),
            Arc::clone(&parts.store),
            RecoveryMetrics::new(),
            Some(config.recovery),
        ));
        let recalling = Recalling { parts: &parts, config: &config, snapshots: &snapshots, recovery: &recovery };
        let recalled = recalling.recall(0)?;
        let (coordinator, is_ledger_unsaved) = recalling.coordinate(&recalled);
        let head = parts.store.head().map_or(0, |head| head.order);
        let mut shared = Shared::new(recalled, coordinator, SteadyShared::new(config.incremental), head);
        if shared.unread.is_some() && shared.poisoned.is_none() {
            shared.left.again(TakeUp::Recall, parts.clock.monotonic());
        }
        let look = shared.unread.is_none().then(|| shared.hold(Trigger::Resumed));
        let reserve = ReserveKeeper::new(Arc::clone(&parts.store), Arc::clone(&parts.events));
        let meter = Meter::new(Arc::clone(&parts.store), Arc::clone(&parts.clock));
        let inner = Arc::new(Inner {
            parts,
            config,
            snapshots,
            snapshot_parts,
            recovery,
            shared: Mutex::new(shared),
            rested: Condvar::new(),
            rolling_back: Mutex::new(()),
            saving_ledger: Mutex::new(()),
            operating: Mutex::new(()),
            freezing: Mutex::default(),
            freeze_epoch: AtomicU64::new(0),
            unlisted: Mutex::default(),
            reserve,
            lag_looked: Mutex::new(None),
            meter,
        });
        let (inbox, messages) = mpsc::sync_channel(16);
        let less_kept = less_kept(&inner, &inbox);
        inner.snapshot_parts.policy.tell_when_less_is_kept(less_kept);
        let (worker, (alive, ended)) = (Arc::clone(&inner), mpsc::channel());
        let spawned = Builder::new().name("pruner".to_owned()).spawn(move || {
            let _alive = alive; // told when the thread ends, however it does
            worker.serve_or_tell(&messages, Begin { is_ledger_unsaved, look });
        });
        let thread = spawned.map_err(|source| PruneError::NoThread { name: "pruner", source })?;
        Ok(Self { inner, inbox, worker: Mutex::new(Worker::new(thread, ended)) })
    }

    /// Tells that an order was committed. Returns at once.
    pub fn committed(&self, order: Order) {
        self.committed_in(order, None);
    }

    /// The same, with the time that the commit took: the sweep between cycles gives way when commits get slower.
    pub fn committed_in(&self, order: Order, took: Option<Duration>) {
        let outside = self.inner.outside();
        let due = {
            let mut shared = self.inner.shared.lock();
            shared.head = self.inner.head_after(order);
            self.inner.end_a_paused_cycle_that_is_lost(&shared);
            let look = shared.coordinator.look(&shared.facts(&outside));
            shared.steady.committed(outside.now, took);
            shared.committed_beside_reclaim(outside.now);
            shared.give_way(&outside);
            let news = shared.note_lost(outside.lost);
            let idle = shared.running.is_none() && shared.steady.control.is_none();
            let sweeps = shared.steady.look(shared.head, outside.now).is_ok() && outside.lets_rounds_begin();
            let is_left = shared.is_left(&outside).is_ok();
            let sweeps = sweeps || self.inner.spares_the_next();
            idle && (look.begin.is_some() || sweeps || is_left || news || shared.coordinator.wants_disk(outside.now))
        };
        if due {
            self.wake();
        }
    }

    /// Tells that a commit failed. One that found no room has let the reserve go, which the worker tells. Returns at once.
    pub fn commit_failed(&self) {
        self.wake();
    }

    fn wake(&self) {
        wake(&self.inbox);
    }

    /// What it does now and did last.
    pub fn status(&self) -> PrunerStatus {
        self.inner.status()
    }

    /// Meets the failures of its phases.
    pub fn recovery(&self) -> &ErrorRecoveryManager {
        &self.inner.recovery
    }

    /// The snapshots it works on.
    pub fn snapshots(&self) -> &AtomicSnapshotManager {
        &self.inner.snapshots
    }
}

/// A full inbox means that enough wake-ups wait already.
fn wake(inbox: &SyncSender<Message>) {
    match inbox.try_send(Message::Wake) {
        Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
    }
}

/// Wakes a worker, as long as there is one, for what became free without a commit.
fn less_kept(inner: &Arc<Inner>, inbox: &SyncSender<Message>) -> LessKept {
    let (inner, inbox) = (Arc::downgrade(inner), inbox.clone());
    Box::new(move || {
        if inner.upgrade().is_some_and(|inner| inner.less_is_kept()) {
            wake(&inbox);
        }
    })
}

/// Shows the progress of the running cycle in the status.
struct Watch(Arc<Inner>);

impl Observer for Watch {
    fn began(&self, cycle: u64) {
        self.0.shared.lock().cycle = Some(cycle);
    }

    fn captured(&self, head: u64) {
        self.0.shared.lock().captured = Some(head);
    }

    fn left(&self, left: &Left) {
        self.0.left(left);
    }

    fn met(&self, cycle: Option<u64>, error: &PruneError) -> FrozenBy {
        self.0.freeze_by(error, cycle);
        FrozenBy::Observer
    }

    fn settles(&self, settle: &mut dyn FnMut() -> Settled) {
        self.0.settle_doubt(settle);
    }

    fn walks_on(&self) {
        self.0.prepare_to_walk();
    }

    fn deleted(&self, nodes: u64) {
        metrics::deleted(nodes);
        self.0.shared.lock().deleted += nodes;
    }

    fn progress(&self, progress: Progress) {
        self.0.shared.lock().progress = Some(progress);
        self.0.look_around();
    }
}

impl Inner {
    /// Whether the worker takes something into the index that the next commit would have to.
    fn spares_the_next(&self) -> bool {
        self.config.incremental.is_some() && self.parts.store.is_behind()
    }

    fn due_after(&self) -> u64 {
        self.config.every_orders.get()
    }

    /// The newest order, by the store: committers tell theirs in any order, and a rollback may have come between.
    fn head_after(&self, committed: Order) -> u64 {
        self.parts.store.head().map_or(committed.get(), |head| head.order)
    }

    /// Orders since the last cycle, as if one had begun when the window filled.
    fn behind(&self, shared: &Shared) -> u64 {
        let next = shared.coordinator.next_at(self.parts.store.floor());
        shared.head.saturating_add(self.due_after()).saturating_sub(next)
    }

    /// A paused cycle whose barrier is full can only be abandoned: it is let go on, and ends at its next step (P22).
    fn end_a_paused_cycle_that_is_lost(&self, shared: &Shared) {
        if let Some(paused) = shared.running.as_ref().filter(|control| control.is_paused())
            && self.snapshots.is_barrier_full()
        {
            paused.resume();
        }
    }

    fn status(&self) -> PrunerStatus {
        let (snapshot, outside, recovery) = (self.snapshots.status(), self.outside(), self.recovery.status());
        let uncounted = self.uncounted();
        let shared = self.shared.lock();
        let phase = snapshot.lock.as_ref().map_or(PrunePhase::Idle, |lock| lock.locked_by_phase);
        PrunerStatus {
            running: shared.running.is_some(),
            pause: shared.running.as_ref().map_or(Pause::No, |control| control.pause_state()),
            phase,
            cycle: shared.cycle.or_else(|| shared.last.as_ref().and_then(|last| last.cycle)),
            progress: shared.progress.and_then(|progress| StageStatus::within(phase, progress)),
            last: shared.last.clone(),
            cycles_finished: shared.finished,
            cycles_failed: shared.failed,
            cycles_cancelled: shared.cancelled,
            deleted_total: shared.deleted,
            keep_last: self.config.keep_last.get(),
            next_at_order: shared.coordinator.next_at(outside.floor),
            triggers: shared.coordinator.status(&shared.facts(&outside)),
            incremental: shared.steady.status(outside.now).map(|status| status.while_uncounted(uncounted)),
            quarantine: shared.steady.quarantine.clone(),
            reclaim: self.config.incremental.map(|_| shared.reclaim.status()),
            frozen: shared.freeze.as_ref().map(|freeze| freeze.why.clone()),
            poisoned: shared.poisoned.clone(),
            off: shared.off,
            lock: snapshot.lock,
            lock_left: snapshot.left,
            snapshot_failures: snapshot.failures,
            snapshot_path: self.config.snapshots.path(),
            recovery,
            reserve: self.reserve.status(),
        }
    }
}
