//! I1, I10, S15, S17, S39, S40, P12, C16: snapshots, their identity, and who may work on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    num::NonZeroU64,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Clock, Control, PruneError, Retention, Stage, StoreRecords, SweepChoice,
    phase::{PhaseRecord, PrunePhase},
    snapshot::{AtomicSnapshotManager, Blocked, RetentionPolicy, SnapshotManagerConfig, SnapshotParts},
};
use state_store::{Batch, Condemned, Point, StoreError, Watching, watch};
use state_tests::{
    chain::{Chain, block_hash},
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig, WAYS, env},
    workload::{Profile, Workload},
};
use state_tree::Order;

const PHASES: [PrunePhase; 3] = [PrunePhase::BuildReach, PrunePhase::SweepExpired, PrunePhase::IncrementalSweep];

fn keep(orders: u64) -> NonZeroU64 {
    NonZeroU64::new(orders).unwrap()
}

fn grown() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Toggle, 100, 20);
    rig
}

fn manager(rig: &Rig, hooks: &Hooks) -> AtomicSnapshotManager {
    let manager = AtomicSnapshotManager::new(rig.parts(keep(5), hooks), SnapshotManagerConfig::default());
    manager.initialize().unwrap();
    manager
}

#[test]
fn two_phases_never_hold_the_lock_together() {
    let rig = grown();
    let manager = manager(&rig, &Hooks::none());
    manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    let (inside, entered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let enter = |phase| match manager.lock_snapshot(phase) {
        Ok(guard) => {
            assert_eq!(inside.fetch_add(1, Ordering::AcqRel), 0, "{phase} is not alone");
            assert!(guard.permit().is_current());
            entered.fetch_add(1, Ordering::AcqRel);
            inside.fetch_sub(1, Ordering::AcqRel);
        }
        Err(PruneError::Blocked(_)) => thread::yield_now(),
        Err(error) => panic!("{error}"),
    };
    thread::scope(|scope| {
        for phase in PHASES {
            let (enter, entered) = (&enter, &entered);
            scope.spawn(move || {
                while entered.load(Ordering::Acquire) < 3_000 {
                    enter(phase);
                }
            });
        }
    });
}

/// Does something between the two phases of a cycle of this thread.
fn between_phases(act: impl Fn() + 'static) -> Watching {
    watch(move |point| {
        if point == Point::SweepBegins {
            act();
        }
    })
}

/// An embedder takes a snapshot of its own in the moment between the phases. Its barrier began after the mark's view, so
/// what was created in between is in neither.
#[test]
fn a_sweep_is_refused_once_another_snapshot_took_the_place_of_its_own() {
    for (mark, sweep) in WAYS {
        let rig = grown();
        let plan = rig.plan(3).by(mark, sweep);
        let env = rig.env(&plan, &Hooks::none());
        let (chain, snapshots) = (rig.chain.clone(), Arc::clone(&env.snapshots));
        let before = Arc::new(Mutex::new(BTreeMap::new()));
        let seen = Arc::clone(&before);
        let act = move || {
            chain.grow(Profile::Toggle, 101, 5); // created after the view of the mark
            snapshots.create_snapshot(PrunePhase::IncrementalSweep).unwrap();
            snapshots.end_cycle();
            *seen.lock() = check::nodes(&chain.store);
        };
        let watching = between_phases(act);
        let ended = plan.run(&env);
        drop(watching);
        let is_refused =
            matches!(&ended, Err(PruneError::NotResumable { why, .. }) if why.contains("another snapshot"));
        assert!(is_refused, "{mark:?} {sweep:?}: {ended:?}");
        assert!(check::nodes(&rig.chain.store) == *before.lock(), "{mark:?} {sweep:?}: it deleted something");
        check::complete(&rig.chain, &format!("{mark:?} {sweep:?}"));
        assert!(rig.cycle(&plan).certificate.deleted > 0, "{mark:?} {sweep:?}");
        check::exact(&rig.chain, &format!("{mark:?} {sweep:?}"));
    }
}

/// Between the phases so much time passes without progress. One millisecond more than may pass is too much.
#[test]
fn a_sweep_by_a_snapshot_that_is_too_old_stops_before_its_first_delete() {
    let allowed = Duration::from_millis(SnapshotManagerConfig::default().max_snapshot_age_ms);
    for (mark, sweep) in WAYS {
        for (age, is_refused) in [(allowed, false), (allowed + Duration::from_millis(1), true)] {
            let (rig, context) = (grown(), format!("{mark:?} {sweep:?} {age:?}"));
            let plan = rig.plan(3).by(mark, sweep);
            let env = rig.env(&plan, &Hooks::none());
            let clock = Arc::clone(&rig.clock);
            let before = check::nodes(&rig.chain.store);
            let watching = between_phases(move || {
                clock.advance(age);
            });
            let ended = plan.run(&env);
            drop(watching);
            if is_refused {
                let is_told = matches!(&ended, Err(PruneError::BadSnapshot { why, .. }) if why.contains("ms old") && why.contains("is paused"));
                assert!(is_told, "{context}: {ended:?}");
                assert!(check::nodes(&rig.chain.store) == before, "{context}: it deleted something");
                rig.cycle(&plan);
            } else {
                assert!(ended.unwrap().certificate.deleted > 0, "{context}");
            }
            check::exact(&rig.chain, &context);
        }
    }
}

/// A snapshot that was begun without a lock does not replace the one that a phase has locked meanwhile.
#[test]
fn a_snapshot_never_replaces_one_that_was_locked_meanwhile() {
    let rig = grown();
    let manager: Arc<Mutex<Option<Arc<AtomicSnapshotManager>>>> = Arc::default();
    let (other, armed) = (Arc::clone(&manager), Arc::new(AtomicBool::new(false)));
    let arm = Arc::clone(&armed);
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::Captured && arm.swap(false, Ordering::AcqRel) {
            let manager = other.lock().clone().unwrap();
            std::mem::forget(manager.lock_snapshot(PrunePhase::SweepExpired).unwrap());
        }
    });
    let made = Arc::new(self::manager(&rig, &hooks));
    *manager.lock() = Some(Arc::clone(&made));
    let first = made.create_snapshot(PrunePhase::BuildReach).unwrap();
    armed.store(true, Ordering::Release);
    let second = made.create_snapshot(PrunePhase::BuildReach);
    assert!(matches!(second, Err(PruneError::Blocked(_))), "{second:?}");
    let current = |manager: &AtomicSnapshotManager| manager.status().snapshot.map(|it| it.snapshot_id);
    assert_eq!(current(&made), Some(first.snapshot_id));
    let next = self::manager(&rig, &Hooks::none()); // as the next process finds it
    assert_eq!(current(&next), Some(first.snapshot_id), "on record, too");
    rig.clock.advance(Duration::from_secs(30 * 60) + Duration::from_millis(1));
    drop(made.lock_snapshot(PrunePhase::BuildReach).unwrap()); // that one has expired
    let third = made.create_snapshot(PrunePhase::BuildReach).unwrap();
    assert!(third.snapshot_id > first.snapshot_id + 1, "the id of the one that was dropped is not used again");
}

#[test]
fn an_expired_lock_is_dead_before_another_phase_holds_it() {
    let rig = grown();
    let manager = manager(&rig, &Hooks::none());
    manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    let slow = manager.lock_snapshot(PrunePhase::BuildReach).unwrap();
    let barrier = slow.barrier().unwrap();
    rig.clock.advance(Duration::from_secs(30 * 60));
    assert!(matches!(manager.lock_snapshot(PrunePhase::SweepExpired), Err(PruneError::Blocked(_))));
    rig.clock.advance(Duration::from_millis(1));
    let taken = manager.lock_snapshot(PrunePhase::SweepExpired).unwrap();
    assert!(taken.permit().is_current() && !slow.permit().is_current());
    assert!(slow.renew().is_err(), "a lost lock does not come back");
    let before = check::present(&rig.chain.store);
    let hashes: Vec<_> = before.iter().copied().collect();
    let condemned = Condemned { hashes: &hashes, cursor: state_store::Batch::new() };
    let refused = rig.chain.store.delete(slow.permit(), &barrier, condemned);
    assert!(matches!(refused, Err(StoreError::PermitRevoked)), "{refused:?}");
    assert_eq!(check::present(&rig.chain.store), before);
    drop(slow);
    assert!(taken.permit().is_current(), "the end of the old holder takes nothing from the new one");
}

/// I10: a phase that slept through its time has neither the snapshot that it saw nor the one that took its place.
#[test]
fn a_new_snapshot_ends_an_expired_lock_for_good() {
    let rig = grown();
    let manager = manager(&rig, &Hooks::none());
    manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    let slow = manager.lock_snapshot(PrunePhase::BuildReach).unwrap();
    rig.clock.advance(Duration::from_secs(30 * 60) + Duration::from_millis(1));
    let next = manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    assert!(!slow.permit().is_current() && slow.renew().is_err(), "{next:?}");
    let lock = |manager: &AtomicSnapshotManager| manager.status().lock.map(|lock| lock.snapshot_id);
    assert_ne!(lock(&manager), Some(next.snapshot_id), "nor is it shown to hold it");
    drop(manager.lock_snapshot(PrunePhase::BuildReach).unwrap());
}

/// What a policy does beside answering: it runs in `refresh` before the new capture.
struct Meanwhile {
    inner: Arc<dyn RetentionPolicy>,
    act: Mutex<Box<dyn FnMut() + Send>>,
}

impl RetentionPolicy for Meanwhile {
    fn advance(&self) -> Result<(), PruneError> {
        self.inner.advance()
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        (self.act.lock())();
        self.inner.retention()
    }
}

/// A commit that is being written and does not end holds the gate.
struct HeldGate {
    rig: Rig,
    go_on: mpsc::Sender<()>,
    holds: mpsc::Receiver<()>,
}

const COMMITTER: &str = "committer";

fn with_a_gate_to_hold() -> HeldGate {
    let (rig, faulty) = grown().faulty();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let (told, holds) = mpsc::channel();
    let goes_on = Mutex::new(goes_on);
    faulty.before_write(move || {
        if thread::current().name() == Some(COMMITTER) {
            told.send(()).unwrap();
            goes_on.lock().recv().unwrap();
        }
    });
    HeldGate { rig, go_on, holds }
}

impl HeldGate {
    /// Lets a thread of its own commit up to where it holds the gate, does something meanwhile, and lets go.
    fn while_held<T>(&self, act: impl FnOnce() -> T) -> T {
        let chain = self.rig.chain.clone();
        let commit = move || chain.grow(Profile::Toggle, 102, 1);
        let committer = thread::Builder::new().name(COMMITTER.to_owned()).spawn(commit).unwrap();
        self.holds.recv().unwrap();
        let done = act();
        self.go_on.send(()).unwrap();
        committer.join().unwrap();
        done
    }
}

/// Waits until the thread of this link of /proc sleeps.
pub(crate) fn until_asleep(task: &Path) {
    let state = || fs::read_to_string(Path::new("/proc").join(task).join("stat")).unwrap();
    let is_asleep = || state().rsplit(')').next().unwrap().trim_start().starts_with('S');
    while !(0..20).all(|_| is_asleep()) {
        thread::yield_now();
    }
}

/// Asks for the status from a thread of its own. One that waits for the gate would never answer.
fn answers(manager: &Arc<AtomicSnapshotManager>) -> bool {
    let (answer, answered) = mpsc::channel();
    let manager = Arc::clone(manager);
    let ask = move || {
        drop(manager.status());
        answer.send(()).unwrap();
    };
    drop(thread::Builder::new().spawn(ask).unwrap()); // one that waits goes with the gate
    answered.recv_timeout(Duration::from_secs(30)).is_ok()
}

/// O14: whoever shows how things are waits for no commit, also while a phase does that takes its lock from somebody.
#[test]
fn the_status_answers_while_a_phase_waits_for_the_gate_to_take_its_lock() {
    let gate = with_a_gate_to_hold();
    let manager = Arc::new(manager(&gate.rig, &Hooks::none()));
    manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    let beside = gate.rig.chain.store.issue_permit();
    let (told, task) = mpsc::channel();
    let (locking, answered) = gate.while_held(|| {
        let manager_too = Arc::clone(&manager);
        let lock = move || {
            told.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            manager_too.lock_snapshot(PrunePhase::BuildReach).map(|guard| guard.permit().is_current())
        };
        let locking = thread::Builder::new().spawn(lock).unwrap();
        until_asleep(&task.recv().unwrap());
        (locking, answers(&manager))
    });
    assert!(answered);
    assert!(locking.join().unwrap().unwrap());
    assert!(!beside.is_current(), "whoever had a permit beside the manager has none any more");
}

/// The same while a snapshot is exchanged under its lock, which is held all the while.
#[test]
fn the_status_answers_while_a_refresh_waits_for_the_gate_and_the_lock_is_held() {
    let gate = with_a_gate_to_hold();
    let (told, captured) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let mut first = true;
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::Captured && !std::mem::take(&mut first) {
            told.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            goes_on.recv().unwrap();
        }
    });
    let manager = Arc::new(manager(&gate.rig, &hooks));
    manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    thread::scope(|scope| {
        let guard = manager.lock_snapshot(PrunePhase::BuildReach).unwrap();
        let refreshing = scope.spawn(|| manager.refresh(guard).map(|guard| guard.permit().is_current()));
        let task = captured.recv().unwrap();
        let (answered, lock) = gate.while_held(|| {
            go_on.send(()).unwrap();
            until_asleep(&task);
            let answered = answers(&manager);
            (answered, answered.then(|| manager.status().lock.unwrap()))
        });
        assert!(answered);
        assert!(lock.unwrap().is_valid, "nobody can take it over meanwhile");
        assert!(refreshing.join().unwrap().unwrap());
    });
    assert!(manager.status().lock.is_none());
}

#[test]
fn refreshing_a_pin_never_leaves_a_gap() {
    let rig = grown();
    let created: Arc<Mutex<Vec<Order>>> = Arc::default();
    let commit = {
        let (chain, created) = (rig.chain.clone(), Arc::clone(&created));
        let mut workload = Workload::new(Profile::Toggle, 101);
        move || {
            chain.run(&mut workload, 1);
            created.lock().push(chain.head());
        }
    };
    let commit = Arc::new(Mutex::new(commit));
    let (before, after) = (Arc::clone(&commit), commit);
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::Captured {
            (after.lock())();
        }
    });
    let parts = rig.parts(keep(5), &hooks);
    let policy = Meanwhile { inner: Arc::clone(&parts.policy), act: Mutex::new(Box::new(move || (before.lock())())) };
    let parts = SnapshotParts { policy: Arc::new(policy), ..parts };
    let manager = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
    manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    let mut guard = manager.lock_snapshot(PrunePhase::BuildReach).unwrap();
    for _ in 0..20 {
        let (old, old_generation) = (guard.snapshot_id, guard.permit().generation());
        guard = manager.refresh(guard).unwrap();
        assert!(guard.snapshot_id > old && guard.permit().generation() > old_generation);
        assert!(manager.status().holds_view && guard.permit().is_current());
        // Whatever was committed meanwhile is in the new view, or the barrier remembers it.
        let (barrier, view) = (guard.barrier().unwrap(), guard.view().unwrap());
        for order in created.lock().drain(..) {
            for hash in rig.chain.archive.live([order]) {
                assert!(view.node(&hash).unwrap().is_some() || barrier.protects(&hash), "a node of order {order}");
            }
        }
    }
}

#[test]
fn a_reloaded_snapshot_keeps_its_identity_and_age() {
    let rig = grown();
    rig.clock.set_unix_ms(1_700_000_000_000);
    let first = manager(&rig, &Hooks::none());
    first.create_snapshot(PrunePhase::BuildReach).unwrap();
    let made = first.status().snapshot.unwrap();
    drop(first);
    let hour = 60 * 60 * 1000;
    for later in [0, hour, 48 * hour] {
        rig.chain.grow(Profile::Toggle, later, 1);
        rig.clock.set_unix_ms(1_700_000_000_000 + later);
        let reloaded = manager(&rig, &Hooks::none());
        let status = reloaded.status();
        assert_eq!(status.snapshot.as_ref(), Some(&made), "the same id, time, head and hash after {later} ms");
        assert!(!status.holds_view, "but never a view that it does not have");
        // The wall clock decides nothing: whether its cycle may go on follows from its digests (C16, P12).
        let locked = reloaded.lock_snapshot(PrunePhase::SweepExpired);
        assert!(locked.is_ok(), "after {later} ms: {locked:?}");
        drop(locked);
        rig.clock.advance(Duration::from_millis(2 * hour + 1));
        let stale = reloaded.lock_snapshot(PrunePhase::SweepExpired);
        assert!(
            matches!(stale, Err(PruneError::BadSnapshot { .. })),
            "two hours of a process without progress: {stale:?}"
        );
    }
    rig.clock.set_unix_ms(0);
    let next = manager(&rig, &Hooks::none()).create_snapshot(PrunePhase::BuildReach).unwrap();
    assert_eq!(next.snapshot_id, made.snapshot_id + 1, "ids go on, whatever the wall clock says");
}

#[test]
fn capture_never_pairs_a_root_with_another_order() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Toggle, 102, 5);
    // A commit between the view and whatever is looked up afterwards, each time.
    let (mut parts, chain) = (rig.parts(keep(5), &Hooks::none()), rig.chain.clone());
    let mut workload = Workload::new(Profile::Uniform, 105);
    let act: Mutex<Box<dyn FnMut() + Send>> = Mutex::new(Box::new(move || chain.run(&mut workload, 1)));
    parts.policy = Arc::new(Meanwhile { inner: Arc::clone(&parts.policy), act });
    let manager = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
    let stop = AtomicBool::new(false);
    let mut snapshots = Vec::new();
    thread::scope(|scope| {
        for committer in 0..2 {
            let (chain, stop): (Chain, _) = (rig.chain.clone(), &stop);
            scope.spawn(move || {
                let mut workload = Workload::new(Profile::Uniform, 103 + committer);
                while !stop.load(Ordering::Acquire) {
                    chain.run(&mut workload, 1);
                }
            });
        }
        let mut heads = BTreeSet::new();
        while heads.len() < 30 || snapshots.len() < 200 {
            let snapshot = manager.create_snapshot(PrunePhase::BuildReach).unwrap();
            if heads.insert(snapshot.snapshot.latest_order) || snapshots.len() < 200 {
                snapshots.push(snapshot);
            }
        }
        stop.store(true, Ordering::Release);
    });
    for it in snapshots {
        let order = it.snapshot.latest_order;
        assert_eq!(&it.snapshot.state_root.0, rig.chain.archive.root(Order::new(order)).hash().as_bytes());
        assert_eq!(it.chain_metadata.block_height, order);
        assert_eq!(it.chain_metadata.latest_block_hash.0, block_hash(order));
        assert_eq!(it.chain_metadata.chain_timestamp, Some(1000 * order));
        it.verify_integrity().unwrap();
    }
}

/// I3: an embedder moves the floor in the moment between the view of a cycle and the question what to retain, behind a commit on
/// an order that it leaves: what that commit took from there is live. Where it goes beyond what the view has, the cycle is given
/// up, as where it does so later.
#[test]
fn a_floor_that_moves_beside_a_capture_takes_no_live_node_away() {
    type Act = fn(&Chain, &mut Workload);
    let acts: [(&str, Act); 2] = [
        ("finished", |chain, workload| {
            let base = chain.floor();
            chain.fork_at(base, |root, reader| workload.changes(root, reader));
            chain.store.raise_floor(base.next().unwrap(), Batch::new()).unwrap();
        }),
        ("bad_snapshot", |chain, workload| {
            chain.run(workload, 2);
            chain.store.raise_floor(chain.head(), Batch::new()).unwrap();
        }),
    ];
    for ((ends, act), (mark, sweep)) in acts.into_iter().flat_map(|act| WAYS.map(|way| (act, way))) {
        let (rig, context) = (Rig::new(Engine::Memory), format!("{ends}, {mark:?} {sweep:?}"));
        let mut workload = Workload::new(Profile::Uniform, 106);
        rig.chain.run(&mut workload, 20);
        let plan = rig.plan(3).by(mark, sweep);
        let (mut parts, chain) = (rig.parts(plan.keep_last, &Hooks::none()), rig.chain.clone());
        let act: Mutex<Box<dyn FnMut() + Send>> = Mutex::new(Box::new(move || act(&chain, &mut workload)));
        parts.policy = Arc::new(Meanwhile { inner: Arc::clone(&parts.policy), act });
        let ended = plan.run(&env(parts, &Hooks::none())).map(|_| "finished");
        assert_eq!(ended.unwrap_or_else(|error| error.code()), ends, "{context}");
        check::complete(&rig.chain, &context);
        rig.cycle(&plan);
        check::exact(&rig.chain, &context);
    }
}

/// P12: hours pass in a cycle, half an hour from step to step; each step renews the lock that another phase waits for.
#[test]
fn a_cycle_longer_than_every_timeout_completes() {
    for (mark, sweep) in WAYS {
        let rig = grown();
        rig.chain.grow(Profile::Uniform, 104, 40);
        let waiting: Arc<Mutex<Option<Arc<AtomicSnapshotManager>>>> = Arc::default();
        let (clock, other) = (Arc::clone(&rig.clock), Arc::clone(&waiting));
        let hooks = Hooks::new(move |moment| {
            let Moment::Progress(progress) = moment else { return };
            clock.advance(Duration::from_secs(29 * 60));
            let taken = other.lock().as_ref().unwrap().lock_snapshot(PrunePhase::IncrementalSweep).is_ok();
            assert!(!taken || progress.stage == Stage::Verify, "the lock was lost in {:?}", progress.stage);
        });
        let plan = rig.plan(5).in_order().batches(5).by(mark, sweep);
        let env = rig.env(&plan, &hooks);
        *waiting.lock() = Some(Arc::clone(&env.snapshots));
        plan.run(&env).unwrap_or_else(|error| panic!("{mark:?} {sweep:?}: {error}"));
        check::exact(&rig.chain, &format!("{mark:?} {sweep:?}"));
        let took = rig.clock.monotonic();
        assert!(sweep == SweepChoice::Filter || took > Duration::from_secs(4 * 60 * 60), "{took:?}");
    }
}

#[test]
fn clock_jumps_change_no_decision() {
    for jump in [0, 1, 4_000_000_000_000] {
        let rig = grown();
        rig.clock.set_unix_ms(1_700_000_000_000);
        let clock = Arc::clone(&rig.clock);
        let hooks = Hooks::new(move |_| clock.set_unix_ms(jump));
        let plan = rig.plan(5).batches(10);
        plan.run(&rig.env(&plan, &hooks)).unwrap();
        check::exact(&rig.chain, &format!("the wall clock jumps to {jump}"));
    }
}

/// Who holds it, since when, for what: in the value, and in the words.
#[test]
fn a_phase_that_is_refused_is_told_who_holds_the_lock_since_when_and_for_what() {
    let rig = grown();
    rig.clock.set_unix_ms(1_700_000_000_000);
    let manager = manager(&rig, &Hooks::none());
    let snapshot = manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    let holder = thread::scope(|scope| {
        let named = thread::Builder::new().name("marker".to_owned());
        named.spawn_scoped(scope, || manager.lock_snapshot(PrunePhase::BuildReach).unwrap()).unwrap().join().unwrap()
    });
    rig.clock.advance(Duration::from_millis(1500));
    holder.renew().unwrap();
    rig.clock.advance(Duration::from_millis(20));
    let Err(PruneError::Blocked(Blocked::Held(lock))) = manager.lock_snapshot(PrunePhase::SweepExpired) else {
        panic!("it is held");
    };
    assert_eq!((lock.owner.pid, lock.owner.role.as_str()), (std::process::id(), "marker"));
    assert_eq!((lock.snapshot_id, lock.locked_by_phase), (snapshot.snapshot_id, PrunePhase::BuildReach));
    assert_eq!((lock.locked_at, lock.held_for_ms, lock.unrenewed_ms), (1_700_000_000_000, 1520, 20));
    assert_eq!(lock.generation, holder.permit().generation());
    let said = Blocked::Held(lock).to_string();
    let pid = std::process::id();
    let expected = format!(
        "process {pid} (marker) holds the snapshot for build_reach, for 1s 520ms, since 2023-11-14T22:13:20.000Z"
    );
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn whoever_waits_for_a_lock_gets_it_when_it_is_let_go_or_is_told_who_holds_it() {
    let rig = grown();
    let manager = manager(&rig, &Hooks::none());
    manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    let control = Control::default();
    let held = manager.lock_snapshot(PrunePhase::BuildReach).unwrap();
    let refused = manager.lock_snapshot_within(PrunePhase::SweepExpired, Duration::from_millis(1), &control);
    let Err(PruneError::LockTimeout { blocked: Blocked::Held(lock), .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(lock.locked_by_phase, PrunePhase::BuildReach);
    let long = Duration::from_secs(600); // the test would not end
    thread::scope(|scope| {
        let waits = scope.spawn(|| manager.lock_snapshot_within(PrunePhase::SweepExpired, long, &control).map(drop));
        drop(held);
        waits.join().unwrap().unwrap();
    });
    let held = manager.lock_snapshot(PrunePhase::BuildReach).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| manager.lock_snapshot_within(PrunePhase::SweepExpired, long, &control).map(drop));
        control.stop();
        assert!(matches!(waits.join().unwrap(), Err(PruneError::Stopped)));
    });
    assert!(held.permit().is_current(), "who gave up waiting took nothing");
}

/// The store is open in one process at a time: who left a lock is gone.
#[test]
fn a_lock_that_a_dead_process_left_is_told_and_not_obeyed() {
    let rig = grown();
    let first = manager(&rig, &Hooks::none());
    let snapshot = first.create_snapshot(PrunePhase::BuildReach).unwrap();
    std::mem::forget(first.lock_snapshot(PrunePhase::BuildReach).unwrap());
    drop(first);
    let rig = rig.restart();
    let second = manager(&rig, &Hooks::none());
    let left = second.status().left.unwrap();
    assert_eq!((left.phase, left.snapshot_id), (PrunePhase::BuildReach, snapshot.snapshot_id));
    assert_eq!(second.status().lock, None);
    drop(second.lock_snapshot(PrunePhase::SweepExpired).unwrap());
    assert_eq!(manager(&rig, &Hooks::none()).status().left, None, "one that was let go is not left");
}

/// The chain goes back below the head of a snapshot, and forward again on another branch: nobody works on it any more.
#[test]
fn a_snapshot_whose_head_left_the_history_of_the_chain_is_not_locked() {
    let rig = grown();
    let manager = manager(&rig, &Hooks::none());
    let snapshot = manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    rig.chain.grow(Profile::Toggle, 105, 3);
    drop(manager.lock_snapshot(PrunePhase::BuildReach).unwrap());
    let below = Order::new(snapshot.snapshot.latest_order - 1);
    rig.chain.store.rollback(below, Batch::new()).unwrap();
    let refuse = || {
        let refused = manager.lock_snapshot(PrunePhase::SweepExpired);
        let named = matches!(&refused, Err(PruneError::BadSnapshot { why, .. }) if why.contains("not in the history"));
        assert!(named, "{refused:?}");
    };
    refuse();
    let fork = rig.chain.fork(Arc::clone(&rig.backend));
    fork.grow(Profile::Uniform, 106, 3); // the same orders, other roots
    refuse();
}

/// The retention is changed between the phases: the mark was made for another one (C9).
#[test]
fn a_sweep_is_refused_when_the_retention_was_changed_since_the_mark() {
    let rig = grown();
    let plan = rig.plan(3);
    let mut env = rig.env(&plan, &Hooks::none());
    let holes: Arc<Mutex<BTreeSet<Order>>> = Arc::default();
    let policy = Changing { inner: Arc::clone(&env.parts.policy), holes: Arc::clone(&holes) };
    env.parts.policy = Arc::new(policy);
    let _watching = between_phases(move || {
        holes.lock().insert(Order::new(1));
    });
    let before = check::present(&rig.chain.store);
    let ended = plan.run(&env);
    assert!(matches!(&ended, Err(PruneError::NotResumable { why, .. }) if why.contains("retention")), "{ended:?}");
    assert_eq!(check::present(&rig.chain.store), before, "it stopped before its first delete");
}

/// A retention whose known holes somebody changes.
struct Changing {
    inner: Arc<dyn RetentionPolicy>,
    holes: Arc<Mutex<BTreeSet<Order>>>,
}

impl RetentionPolicy for Changing {
    fn advance(&self) -> Result<(), PruneError> {
        self.inner.advance()
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        Ok(Retention { allowed_holes: self.holes.lock().clone(), ..self.inner.retention()? })
    }
}

/// The same id is not enough.
#[test]
fn an_interrupted_sweep_does_not_go_on_with_a_snapshot_of_another_content() {
    for is_spoilt in [false, true] {
        let rig = grown();
        let plan = rig.plan(3).batches(10);
        let control: Arc<Mutex<Option<Arc<Control>>>> = Arc::default();
        let slot = Arc::clone(&control);
        let hooks = Hooks::new(move |moment| {
            if moment == Moment::Deleting {
                slot.lock().as_ref().unwrap().stop();
            }
        });
        let env = rig.env(&plan, &hooks);
        *control.lock() = Some(Arc::clone(&env.control));
        assert!(matches!(plan.run(&env), Err(PruneError::Stopped)));
        drop(env);
        let records = StoreRecords(Arc::clone(&rig.chain.store));
        let mut record = PhaseRecord::load(&records).unwrap().unwrap();
        assert_eq!(record.phase, PrunePhase::SweepExpired);
        if is_spoilt {
            record.integrity_hash[0] ^= 1;
            record.save(&records).unwrap();
        }
        let before = check::nodes(&rig.chain.store);
        let resumed = plan.resume(&rig.env(&plan, &Hooks::none())).unwrap();
        assert_eq!(resumed.is_none(), is_spoilt);
        let after = check::nodes(&rig.chain.store);
        if is_spoilt {
            assert!(after == before, "it stopped before its first delete");
            rig.cycle(&plan);
        } else {
            assert!(after.len() < before.len(), "the rest of the sweep is done");
        }
        check::exact(&rig.chain, "after a whole sweep");
    }
}
