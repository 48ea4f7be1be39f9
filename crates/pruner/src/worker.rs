//! The background pruner of a node: one thread, one inbox, one cycle at a time.
//!
//! Promises: a commit only adds to a counter and never waits for the pruner (I12); a second request while a cycle runs
//! is answered, not queued; a panic in a cycle is caught here, poisons the status and leaves the node serving (P14);
//! dropping the value stops the thread and joins it.

mod ending;
mod shared;
mod status;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::{Builder, JoinHandle},
};

use parking_lot::Mutex;
use state_store::Store;
use state_tree::{NodeLayout, Order};

use crate::{
    certificate::Trigger,
    clock::Clock,
    config::PrunerConfig,
    control::{Control, Observer, Pause, Progress},
    cycle::{self, CycleEnv, CycleOrder},
    error::PruneError,
    health::{self, Facts, Health},
    metrics,
    outcome::Freeze,
    phase::PrunePhase,
    policy::{FloorRows, LiveWindow},
    records::Records,
    snapshot::{AtomicSnapshotManager, NodeFacts, RetentionPolicy, SnapshotParts},
};
use shared::{Asked, Life, Shared, recall};
pub use status::{Command, PrunerStatus, Reply, StageStatus};

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
}

struct Inner {
    parts: PrunerParts,
    config: PrunerConfig,
    snapshots: Arc<AtomicSnapshotManager>,
    snapshot_parts: SnapshotParts,
    shared: Mutex<Shared>,
}

/// Niceness of the worker and of the threads it starts, which inherit it.
const NICENESS: i32 = 10;

/// Where processors are scarce, commits get them first (I12).
fn yield_to_commits() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::warn!(%error, "the pruner could not lower its priority; it competes with commits");
    }
}

enum Message {
    Wake(Trigger),
    Stop,
}

/// The background pruner. Dropping it stops it.
pub struct Pruner {
    inner: Arc<Inner>,
    inbox: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
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
    /// Errors: a thread that cannot be started.
    pub fn start(parts: PrunerParts, config: PrunerConfig) -> Result<Self, PruneError> {
        let policy = LiveWindow {
            store: Arc::clone(&parts.store),
            keep_last: config.keep_last,
            floor_rows: parts.floor_rows.clone(),
        };
        Self::start_under(parts, config, Arc::new(policy))
    }

    /// The same under a policy that somebody else asks and changes too; it keeps `keep_last` orders at least.
    ///
    /// Errors: a thread that cannot be started.
    pub fn start_under(
        parts: PrunerParts,
        config: PrunerConfig,
        policy: Arc<dyn RetentionPolicy>,
    ) -> Result<Self, PruneError> {
        metrics::describe();
        let snapshot_parts = SnapshotParts {
            store: Arc::clone(&parts.store),
            chain: Arc::clone(&parts.chain),
            records: Arc::clone(&parts.records),
            policy,
            facts: parts.facts.clone(),
            clock: Arc::clone(&parts.clock),
        };
        let snapshots = Arc::new(AtomicSnapshotManager::new(snapshot_parts.clone(), config.snapshots.clone()));
        let (last, freeze, poisoned) = recall(&parts, &snapshots);
        let head = parts.store.head().map_or(0, |head| head.order);
        let base = last.as_ref().and_then(|last| last.head_order).map_or(0, |base| base);
        let shared = Mutex::new(Shared { last, freeze, poisoned, base, head, ..Shared::default() });
        let inner = Arc::new(Inner { parts, config, snapshots, snapshot_parts, shared });
        let (inbox, messages) = mpsc::sync_channel(16);
        let worker = Arc::clone(&inner);
        let spawned = Builder::new().name("pruner".to_owned()).spawn(move || {
            yield_to_commits();
            worker.serve(&messages);
        });
        let thread =
            spawned.map_err(|error| PruneError::Invariant(format!("the pruner thread cannot start: {error}")))?;
        let pruner = Self { inner, inbox, thread: Some(thread) };
        pruner.wake(Trigger::Resumed);
        Ok(pruner)
    }

    /// Tells that an order was committed. Returns at once.
    pub fn committed(&self, order: Order) {
        let due = {
            let mut shared = self.inner.shared.lock();
            shared.head = shared.head.max(order.get()); // several committers may tell in any order
            self.inner.end_a_paused_cycle_that_is_lost(&shared);
            self.inner.is_due(&shared)
        };
        if due {
            self.wake(Trigger::Orders);
        }
    }

    /// A full inbox means that enough wake-ups wait already.
    fn wake(&self, trigger: Trigger) {
        match self.inbox.try_send(Message::Wake(trigger)) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Does what an operator asks, and answers at once.
    pub fn command(&self, command: Command) -> Reply {
        let (running, looking) = {
            let shared = self.inner.shared.lock();
            (shared.running.clone(), shared.trigger == Some(Trigger::Resumed) && shared.cycle.is_none())
        };
        match (command, running) {
            (Command::Run, Some(_)) if looking => self.run(), // for an interrupted cycle: that is no cycle to join
            (Command::Run, Some(_)) => Reply::AlreadyRunning,
            (Command::Run, None) => self.run(),
            (Command::Unfreeze, Some(_)) if looking => self.unfreeze(),
            (Command::Unfreeze, Some(_)) => Reply::Refused { why: "a cycle is running".to_owned() },
            (Command::Unfreeze, None) => self.unfreeze(),
            (Command::Pause | Command::Resume | Command::Cancel, None) => Reply::NotRunning,
            (Command::Pause, Some(control)) => {
                control.pause();
                Reply::Accepted
            }
            (Command::Resume, Some(control)) => {
                control.resume();
                Reply::Accepted
            }
            (Command::Cancel, Some(control)) => {
                control.cancel();
                Reply::Accepted
            }
        }
    }

    fn run(&self) -> Reply {
        let mut shared = self.inner.shared.lock();
        if let Some(why) = shared.poisoned.clone().or_else(|| shared.freeze.as_ref().map(|freeze| freeze.why.clone())) {
            return Reply::Refused { why };
        }
        if std::mem::replace(&mut shared.asked, Asked::Yes) == Asked::Yes {
            return Reply::AlreadyRunning; // it joins the request that waits
        }
        drop(shared);
        self.wake(Trigger::Operator);
        Reply::Accepted
    }

    fn unfreeze(&self) -> Reply {
        match Freeze::lift(&*self.inner.parts.records) {
            Ok(()) => {
                self.inner.shared.lock().freeze = None;
                tracing::warn!("deletes were unfrozen by an operator");
                Reply::Accepted
            }
            Err(error) => Reply::Refused { why: error.to_string() },
        }
    }

    /// What it does now and did last.
    pub fn status(&self) -> PrunerStatus {
        self.inner.status()
    }

    /// The verdict on it.
    pub fn health(&self) -> Health {
        let background_errors = self.inner.background_errors();
        let shared = self.inner.shared.lock();
        health::assess(&Facts {
            freeze: shared.freeze.clone(),
            last: shared.last.clone(),
            unfinished: None, // the status shows it
            poisoned: shared.poisoned.clone(),
            lag: Some((self.inner.behind(&shared), self.inner.due_after())),
            background_errors: background_errors.map(|errors| errors.saturating_sub(shared.settled_errors)),
        })
    }

    /// The snapshots it works on.
    pub fn snapshots(&self) -> &AtomicSnapshotManager {
        &self.inner.snapshots
    }
}

impl Drop for Pruner {
    fn drop(&mut self) {
        let running = {
            let mut shared = self.inner.shared.lock();
            shared.life = Life::Stopping; // a cycle begins under the same lock, so none can begin unseen
            shared.running.clone()
        };
        if let Some(control) = running {
            control.stop();
        }
        // A disconnected inbox means that the worker has ended already.
        match self.inbox.send(Message::Stop) {
            Ok(()) | Err(_) => {}
        }
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the pruner thread panicked outside a cycle");
        }
    }
}

/// Shows the progress of the running cycle in the status.
struct Watch(Arc<Inner>);

impl Observer for Watch {
    fn began(&self, cycle: u64) {
        self.0.shared.lock().cycle = Some(cycle);
    }

    fn progress(&self, progress: Progress) {
        self.0.shared.lock().progress = Some(progress);
    }
}

impl Inner {
    fn due_after(&self) -> u64 {
        self.config.every_orders.get()
    }

    /// An engine that cannot even tell says so wherever else it is used.
    fn background_errors(&self) -> Option<u64> {
        let Ok(errors) = self.parts.store.backend().background_errors() else { return None };
        Some(errors)
    }

    /// The order at which the next cycle begins: a chain shorter than its window has nothing to delete (S13).
    fn next_at(&self, shared: &Shared) -> u64 {
        shared.base.saturating_add(self.due_after()).max(self.config.keep_last.get())
    }

    /// Orders since the last cycle, as if one had begun when the window filled.
    fn behind(&self, shared: &Shared) -> u64 {
        shared.head.saturating_add(self.due_after()).saturating_sub(self.next_at(shared))
    }

    fn is_due(&self, shared: &Shared) -> bool {
        let idle = shared.running.is_none() && shared.freeze.is_none() && shared.poisoned.is_none();
        idle && shared.head >= self.next_at(shared)
    }

    /// A paused cycle whose barrier is full can only be abandoned: it is let go on, and ends at its next step (P22).
    fn end_a_paused_cycle_that_is_lost(&self, shared: &Shared) {
        if let Some(paused) = shared.running.as_ref().filter(|control| control.is_paused())
            && self.snapshots.is_barrier_full()
        {
            paused.resume();
        }
    }

    fn serve(self: &Arc<Self>, messages: &Receiver<Message>) {
        while let Ok(Message::Wake(mut trigger)) = messages.recv() {
            while let Some((trigger_of_cycle, control)) = self.begin(trigger) {
                self.work(trigger_of_cycle, control);
                trigger = Trigger::Orders; // the next one may have become due meanwhile, on a chain that is idle now
            }
        }
    }

    /// Decides and begins in one scope; nothing if the cycle is not wanted any more.
    fn begin(&self, wake: Trigger) -> Option<(Trigger, Arc<Control>)> {
        let mut shared = self.shared.lock();
        let able = shared.poisoned.is_none() && shared.life == Life::Serving;
        // A request that came before the interrupted sweep was looked at is not answered by looking: it stays.
        let looks = wake == Trigger::Resumed;
        let asked = !looks && std::mem::take(&mut shared.asked) == Asked::Yes;
        let trigger = match (looks, asked) {
            (true, _) => Trigger::Resumed,
            (false, true) => Trigger::Operator,
            (false, false) => Trigger::Orders,
        };
        if !able || !(looks || asked || self.is_due(&shared)) {
            return None;
        }
        shared.trigger = Some(trigger);
        Some((trigger, Arc::clone(shared.running.insert(Arc::new(Control::default())))))
    }

    fn work(self: &Arc<Self>, trigger: Trigger, control: Arc<Control>) {
        let env = CycleEnv {
            parts: self.snapshot_parts.clone(),
            snapshots: Arc::clone(&self.snapshots),
            layout: Arc::clone(&self.parts.layout),
            control,
            observer: Arc::new(Watch(Arc::clone(self))),
        };
        let order = CycleOrder { keep_last: self.config.keep_last, config: &self.config.cycle, trigger };
        let result = catch_unwind(AssertUnwindSafe(|| match trigger {
            Trigger::Resumed => cycle::resume(&env, &order),
            Trigger::Orders | Trigger::Operator => cycle::run(&env, &order).map(Some),
        }));
        // What touches the disk comes BEFORE the lock: `committed` takes it too (I12).
        let ended = match result {
            Ok(Ok(None)) => None,
            Ok(Ok(Some(finished))) => Some(self.finished(&finished)),
            Ok(Err(PruneError::Stopped)) => None, // the next start goes on
            Ok(Err(PruneError::Cancelled)) => Some(self.cancelled()),
            Ok(Err(error)) => Some(self.failed(&error)),
            Err(_) => Some(self.panicked()),
        };
        let mut shared = self.shared.lock();
        (shared.running, shared.trigger, shared.cycle, shared.progress) = (None, None, None, None);
        if let Some(change) = ended {
            change.apply(&mut shared);
        }
    }

    fn status(&self) -> PrunerStatus {
        let snapshot = self.snapshots.status();
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
            next_at_order: self.next_at(&shared),
            frozen: shared.freeze.as_ref().map(|freeze| freeze.why.clone()),
            poisoned: shared.poisoned.clone(),
            lock: snapshot.lock,
        }
    }
}
