//! O5, O14: health from outside costs the same few reads on every store, writes nothing, and tells what hangs.

use std::{
    fs,
    num::NonZeroU64,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use state_pruner::{
    Command, Freeze, Health, KeepPolicy, LiveRetention, LiveWindow, NewPin, PruneError, Pruner, PrunerConfig,
    PrunerParts, Reason, RecordKey, Records as _, Reply, Retention, RetentionParts, StoreRecords, Verdict,
    events::Event,
    offline::{CycleDue, HealthRequest, health_of_opened, health_of_store},
    phase::PrunePhase,
    recovery::{ErrorRecoveryManager, RecoveryConfig, RecoveryMetrics},
    snapshot::{AtomicSnapshotManager, LockOwner, LockRecord, RetentionPolicy, SnapshotManagerConfig, SnapshotPath},
};
use state_store::{
    Fault, KeyRange, Lasting, Operation, Reserve, RocksBackend, Room, StoreError, Table,
    record::{self, Record},
};
use state_tests::{
    damage, folder,
    hooks::{Hooks, Moment},
    records::Acting,
    rig::{Engine, Rig, SMALL},
    told::Told,
    warnings::warnings,
    workload::Profile,
};

/// A pruner whose cycles begin when somebody asks.
pub(crate) fn pruner(rig: &Rig, hooks: &Hooks) -> Pruner {
    let config = rig.plan(5).pruner_of_cycles();
    Pruner::start(rig.pruner_parts(hooks), config).unwrap()
}

/// Runs a cycle to its recorded outcome.
fn cycle(rig: &Rig) {
    let (told, outcomes) = mpsc::channel();
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::OutcomeSaved {
            told.send(()).unwrap();
        }
    });
    let pruner = pruner(rig, &hooks);
    pruner.command(Command::Run);
    outcomes.recv().unwrap();
}

/// A pruner whose cycle holds the lock of its first phase, until `release` is dropped.
struct Held {
    pruner: Pruner,
    release: mpsc::Sender<()>,
    /// Told when its outcome is saved.
    outcomes: mpsc::Receiver<()>,
    events: Arc<Told>,
}

impl Held {
    fn in_a_cycle(rig: &Rig) -> Self {
        let (release, released) = mpsc::channel::<()>();
        let (told, at_lock) = mpsc::channel();
        let (ended, outcomes) = mpsc::channel();
        let mut held = false;
        let hooks = Hooks::new(move |moment| {
            if moment == Moment::PhaseSaved && !std::mem::replace(&mut held, true) {
                told.send(()).unwrap();
                assert!(released.recv().is_err(), "held until the other end is dropped");
            }
            if moment == Moment::OutcomeSaved {
                ended.send(()).unwrap();
            }
        });
        let events = Arc::new(Told::default());
        let parts = PrunerParts { events: Arc::clone(&events) as _, ..rig.pruner_parts(&hooks) };
        let pruner = Pruner::start(parts, rig.plan(5).pruner_of_cycles()).unwrap();
        pruner.command(Command::Run);
        at_lock.recv().unwrap();
        Self { pruner, release, outcomes, events }
    }
}

fn due_after_orders(orders: u64) -> CycleDue {
    CycleDue::After { orders, keep: KeepPolicy::last(NonZeroU64::new(5).unwrap()) }
}

fn codes(reasons: &[Reason]) -> Vec<&str> {
    reasons.iter().map(|reason| reason.code.as_str()).collect()
}

#[test]
fn the_health_of_a_store_costs_the_same_few_reads_whatever_its_size() {
    let cost = |orders: u64| {
        let (rig, faulty) = Rig::new_faulty();
        rig.chain.grow(Profile::Uniform, 117, orders);
        cycle(&rig);
        let request = HealthRequest { now_ms: Some(0), ..HealthRequest::new(Path::new("nowhere"), None) };
        let before = (faulty.reads(), faulty.writes());
        let health = health_of_opened(Arc::clone(&rig.chain.store), &request).unwrap();
        assert_eq!((health.verdict, codes(&health.reasons)), (Verdict::Healthy, vec![]));
        assert_eq!(faulty.writes(), before.1, "nothing is written");
        faulty.reads() - before.0
    };
    let (small, large) = (cost(7), cost(150));
    assert_eq!(small, large);
    assert!(small <= 16, "{small} reads");
}

#[test]
fn the_records_of_a_store_tell_an_old_pin_and_a_cycle_that_does_not_come() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 118, 9);
    cycle(&rig);
    rig.chain.grow(Profile::Uniform, 118, 6);
    let store = || Arc::clone(&rig.chain.store);
    let retention = state_pruner::LiveRetention::new(rig.retention_parts(None));
    let pin = NewPin { name: "audit".to_owned(), owner: "me".to_owned(), order: rig.chain.head(), ttl: None };
    retention.add_pin(pin).unwrap();
    let days = |days: u64| days * 24 * 3_600_000;
    let judged = |now_ms: u64, due_after: Option<u64>| {
        let due = due_after.map_or(CycleDue::Unknown, due_after_orders);
        let request = HealthRequest { now_ms: Some(now_ms), due, ..HealthRequest::new(Path::new("nowhere"), None) };
        let health = health_of_opened(store(), &request).unwrap();
        codes(&health.reasons).join(" ")
    };
    assert_eq!(judged(days(1), Some(6)), "");
    assert_eq!(judged(days(2), Some(6)), "cycle_overdue");
    assert_eq!(judged(days(2), Some(7)), "", "none is due");
    assert_eq!(judged(days(2), None), "cycle_age_unknown lag_unknown");
    assert_eq!(judged(days(1), Some(1)), "lagging", "six, and four are too many");
    let request = HealthRequest { due: CycleDue::Never, ..HealthRequest::new(Path::new("nowhere"), None) };
    let health = health_of_opened(store(), &HealthRequest { now_ms: Some(days(2)), ..request }).unwrap();
    assert_eq!(codes(&health.reasons), ["unpruned"], "its node does not prune");
    assert_eq!(judged(days(31), Some(6)), "cycle_overdue pin_old");
    retention.remove_pin("audit").unwrap();
    cycle(&rig);
    assert_eq!(judged(days(1), Some(6)), "", "both recover with their cause");
}

/// A node writes its tables when it likes: what it recorded last is in its log, with the nodes of its last commits.
#[test]
fn health_from_outside_knows_what_is_in_the_log_only_as_whoever_has_the_store_open_does() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Uniform, 119, 9);
    cycle(&rig);
    rig.backend.flush().unwrap();
    let request =
        HealthRequest { now_ms: Some(0), due: due_after_orders(1), ..HealthRequest::new(&rig.store_dir(), None) };
    let told = || {
        let (outside, inside) = (health_of_store(&request), health_of_opened(Arc::clone(&rig.chain.store), &request));
        assert_eq!(outside.as_ref().unwrap(), inside.as_ref().unwrap());
        outside.unwrap()
    };
    assert_eq!(codes(&told().reasons), [""; 0]);
    rig.chain.grow(Profile::Uniform, 119, 6);
    assert_eq!(codes(&told().reasons), ["lagging"]);
    let freeze = Freeze { cycle: 1, at: 0, why: "a node is missing".to_owned() };
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    records.save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
    assert_eq!(codes(&told().reasons)[0], "frozen");
}

/// Damage looks like haste while somebody has the store open. Only whoever asks for the health looks again, so no look is made
/// for each look.
#[test]
fn a_store_that_is_damaged_and_held_is_looked_at_no_oftener_than_health_looks() {
    let dir = tempfile::tempdir().unwrap();
    drop(RocksBackend::open(dir.path(), &SMALL).unwrap());
    let db = damage::open(dir.path());
    let put = |family: &str, n: u8| db.put_cf(db.cf_handle(family).unwrap(), [n; 32], [7; 100]).unwrap();
    for n in 0..200 {
        put(Table::META.name(), n);
        put("state_node", n);
    }
    db.flush_cf(db.cf_handle(Table::META.name()).unwrap()).unwrap(); // the log goes on in another file
    put(Table::META.name(), 200);
    let logs = folder::with_ending(dir.path(), "log");
    let longest = logs.iter().max_by_key(|log| fs::metadata(log).unwrap().len()).unwrap();
    let mut bytes = fs::read(longest).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written / 2] ^= 1;
    fs::write(longest, bytes).unwrap();
    let mut told = None;
    let lines = warnings(|| told = Some(health_of_store(&HealthRequest::new(dir.path(), None))));
    let Some(Err(PruneError::Store(StoreError::Corrupt(why)))) = told else { panic!("{told:?}") };
    assert!(why.contains("beyond the point of corruption"), "{why}");
    let refusals = lines.iter().filter(|line| line.contains("beyond the point of corruption")).count();
    assert_eq!(refusals, 20, "{lines:?}");
    drop(db);
}

/// A window of the last five orders that may read a row to say whether it is full.
struct Asked<F> {
    window: LiveWindow,
    is_filling: F,
}

impl<F: Fn() -> Result<bool, PruneError> + Send + Sync> Asked<F> {
    fn of(rig: &Rig, is_filling: F) -> Arc<Self> {
        let (store, keep_last) = (Arc::clone(&rig.chain.store), NonZeroU64::new(5).unwrap());
        Arc::new(Self { window: LiveWindow { store, keep_last, floor_rows: None }, is_filling })
    }
}

impl<F: Fn() -> Result<bool, PruneError> + Send + Sync> RetentionPolicy for Asked<F> {
    fn advance(&self) -> Result<(), PruneError> {
        self.window.advance()
    }

    fn is_filling(&self) -> Result<bool, PruneError> {
        (self.is_filling)()
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        self.window.retention()
    }
}

/// C20, O14: as many as ask, one waits for a row that the disk does not give.
#[test]
fn health_waits_for_no_row_that_somebody_else_waits_for() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 125, 9);
    let ((asked, asks), (answer, answers)) = (mpsc::channel(), mpsc::channel::<()>());
    let (asks_row, answers) = (asked.clone(), Mutex::new(answers));
    let policy = Asked::of(&rig, move || {
        if std::thread::current().name() == Some("asker") {
            asks_row.send(()).unwrap();
            assert!(answers.lock().recv().is_err(), "it hangs until the other end is dropped");
        }
        Ok(false)
    });
    let config = rig.plan(5).pruner_of_cycles();
    let pruner = Pruner::start_under(rig.pruner_parts(&Hooks::none()), config, policy).unwrap();

    let (give, given) = mpsc::channel::<()>();
    let given = Mutex::new(given);
    let parts = rig.retention_parts(None);
    let records = Acting::over(Arc::clone(&parts.records), move |_, key| {
        if key == RecordKey::Holds && std::thread::current().name() == Some("asker") {
            asked.send(()).unwrap();
            assert!(given.lock().recv().is_err(), "it hangs until the other end is dropped");
        }
        Ok(())
    });
    let retention = state_pruner::LiveRetention::new(RetentionParts { records, ..parts });

    std::thread::scope(|scope| {
        let asker = || std::thread::Builder::new().name("asker".to_owned());
        let (of_pruner, of_pins) = (&pruner, &retention);
        asker().spawn_scoped(scope, move || assert_eq!(codes(&of_pruner.health().reasons), [""; 0])).unwrap();
        asks.recv().unwrap();
        asker().spawn_scoped(scope, move || assert_eq!(of_pins.silent().unwrap(), [""; 0])).unwrap();
        asks.recv().unwrap();
        rig.clock.advance(Duration::from_secs(2)); // longer than anybody waits
        let health = pruner.health();
        assert_eq!((health.verdict, codes(&health.reasons)), (Verdict::Degraded, vec!["unmeasured"]), "{health:?}");
        assert!(health.reasons[0].message.contains("has answered for 2s"), "{health:?}");
        for told in [retention.silent().unwrap_err(), retention.oldest_pin().unwrap_err()] {
            assert!(told.to_string().contains("the disk has not answered for 2s"), "{told}");
        }
        drop((answer, give));
    });
    assert_eq!((codes(&pruner.health().reasons), retention.silent().unwrap()), (vec![], vec![]), "it answers again");
}

/// I13: without the time of the first block nobody knows whether pruning is behind.
#[test]
fn a_window_of_time_that_may_be_full_or_not_is_unmeasured_and_never_behind() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 125, 9);
    let fails = Arc::new(AtomicBool::new(true));
    let is_unread = Arc::clone(&fails);
    let policy =
        Asked::of(&rig, move || if is_unread.load(Ordering::Acquire) { Err(PruneError::NoHead) } else { Ok(false) });
    let config = rig.plan(5).pruner_of_cycles();
    let pruner = Pruner::start_under(rig.pruner_parts(&Hooks::none()), config, policy).unwrap();
    let facts = pruner.facts();
    assert_eq!((facts.lag, codes(&pruner.health().reasons)), (None, vec!["unmeasured"]), "{facts:?}");
    assert!(facts.unmeasured.concat().contains("the window of time is full is not known"), "{:?}", facts.unmeasured);
    fails.store(false, Ordering::Release);
    assert!(pruner.facts().lag.is_some());
    assert_eq!(codes(&pruner.health().reasons), [""; 0]);
}

/// C21: the engine takes no write any more, and where nothing is committed nobody would know.
#[test]
fn damage_that_the_engine_meets_by_itself_makes_health_critical_and_no_cycle_finishes() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Uniform, 122, 40);
    rig.backend.flush().unwrap();
    let pruner = pruner(&rig, &Hooks::none());
    assert_eq!(codes(&pruner.health().reasons), [""; 0]);
    let table = damage::largest_table(&rig.store_dir());
    let file = fs::File::options().read(true).write(true).open(&table).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 3, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    rig.backend.rewrite_files(&KeyRange::ALL).unwrap_err();
    let health = pruner.health();
    assert_eq!((health.verdict, codes(&health.reasons)), (Verdict::Critical, vec!["engine_damaged"]));
    assert!(health.reasons[0].message.contains(table.file_name().unwrap().to_str().unwrap()), "{health:?}");
    let reply = pruner.command(Command::Run);
    assert!(matches!(reply, Reply::Unsaved { .. }), "nothing can be written down: {reply:?}");
    assert_eq!((pruner.status().cycles_finished, pruner.health().verdict), (0, Verdict::Critical));
}

/// What runs is told, and what an operator says twice is answered as such.
#[test]
fn a_paused_cycle_is_told_by_health_and_is_not_paused_or_resumed_twice() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 123, 9);
    let Held { pruner, release, outcomes, events } = Held::in_a_cycle(&rig);
    assert_eq!(pruner.command(Command::Resume), Reply::Unchanged, "it is not paused");
    assert_eq!(pruner.command(Command::Pause), Reply::Accepted);
    assert_eq!(pruner.command(Command::Pause), Reply::Unchanged);
    let health = pruner.health();
    assert_eq!((health.verdict, codes(&health.reasons)), (Verdict::Healthy, vec!["paused"]));
    assert_eq!(pruner.command(Command::Resume), Reply::Accepted);
    assert_eq!(codes(&pruner.health().reasons), [""; 0]);
    let told = |event: &Event| Some(event.code()).filter(|code| ["cycle_paused", "cycle_resumed"].contains(code));
    let told: Vec<&str> = events.0.lock().iter().filter_map(told).collect();
    assert_eq!(told, ["cycle_paused", "cycle_resumed"], "once each");
    drop(release);
    outcomes.recv().unwrap();
}

/// No record tells how a node treats snapshots; its configuration does.
#[test]
fn a_store_tells_basic_snapshots_by_the_configuration_of_its_node() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 121, 9);
    cycle(&rig);
    for (snapshot_path, told) in [(SnapshotPath::Full, "unpruned"), (SnapshotPath::Basic, "basic_snapshots unpruned")] {
        let request = HealthRequest { now_ms: Some(0), ..HealthRequest::new(Path::new("nowhere"), None) };
        let request = HealthRequest { snapshot_path, due: CycleDue::Never, ..request };
        let health = health_of_opened(Arc::clone(&rig.chain.store), &request).unwrap();
        assert_eq!((health.verdict, codes(&health.reasons).join(" ")), (Verdict::Healthy, told.to_owned()));
    }
}

#[test]
fn a_phase_that_makes_no_progress_is_told_and_forgotten_when_it_goes_on() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 119, 9);
    let Held { pruner, release, outcomes, .. } = Held::in_a_cycle(&rig);
    rig.clock.advance(Duration::from_secs(900));
    assert_eq!(codes(&pruner.health().reasons), Vec::<&str>::new());
    rig.clock.advance(Duration::from_millis(1));
    let health = pruner.health();
    assert_eq!((health.verdict, codes(&health.reasons)), (Verdict::Degraded, vec!["lock_held_long"]), "{health:?}");
    assert!(health.reasons[0].message.contains("build_reach"), "{health:?}");
    drop(release);
    outcomes.recv().unwrap();
    assert_eq!(codes(&pruner.health().reasons), Vec::<&str>::new());
}

/// How recovery stands is written down, so a store at rest tells what its node would tell when it starts on it.
#[test]
fn a_store_at_rest_gives_the_reasons_of_its_node_for_what_failed() {
    let (rig, faulty) = Rig::new_faulty();
    rig.chain.grow(Profile::Uniform, 120, 3);
    let config = RecoveryConfig { max_phase_retries: 0, ..RecoveryConfig::default() };
    let manager = || {
        let parts = rig.parts(NonZeroU64::new(5).unwrap(), &Hooks::none());
        let snapshots = Arc::new(AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default()));
        let store = Arc::clone(&rig.chain.store);
        let manager = ErrorRecoveryManager::new(snapshots, store, RecoveryMetrics::new(), Some(config));
        manager.initialize().unwrap();
        manager
    };
    let io = || StoreError::Io { what: "reading".to_owned(), source: std::io::Error::other("injected") };
    let execute = |failing: bool| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let phase = || async { if failing { Err(PruneError::from(io())) } else { Ok(()) } };
        let manager = manager();
        manager.allow_probe();
        runtime.block_on(manager.execute_phase_with_recovery(PrunePhase::BuildReach, phase)).is_ok()
    };
    let judged = || {
        let due = due_after_orders(rig.plan(5).pruner_of_cycles().every_orders.get());
        let at_rest = HealthRequest { now_ms: Some(0), due, ..HealthRequest::new(Path::new("nowhere"), None) };
        let before = faulty.writes();
        let health = health_of_opened(Arc::clone(&rig.chain.store), &at_rest).unwrap();
        assert_eq!(faulty.writes(), before, "nothing is written");
        let node = pruner(&rig, &Hooks::none()).health();
        assert_eq!((health.verdict, codes(&health.reasons)), (node.verdict, codes(&node.reasons)));
        codes(&health.reasons).join(" ")
    };
    assert_eq!(judged(), "");
    assert!(!execute(true));
    assert_eq!(judged(), "recovery_exhausted");
    assert!(!execute(true) && !execute(true));
    assert_eq!(judged(), "breaker_open recovery_exhausted");
    assert!(execute(false));
    assert_eq!(judged(), "recovering");
    (0..config.min_healthy_cycles).for_each(|_| manager().cycle_finished());
    assert_eq!(judged(), "");
}

/// Pruning is switched off, so that a lag stays as it is while it is looked at.
#[test]
fn a_store_at_rest_gives_the_reasons_of_its_node_for_lag_and_for_snapshots_that_fail() {
    let rig = Rig::new(Engine::Memory);
    let config = || PrunerConfig { every_orders: NonZeroU64::new(2).unwrap(), ..rig.plan(5).pruner_of_cycles() };
    let node = || Pruner::start(rig.pruner_parts(&Hooks::none()), config()).unwrap();
    assert!(matches!(node().command(Command::Disable), Reply::Accepted));
    let judged = || {
        let due = due_after_orders(2);
        let at_rest = HealthRequest { now_ms: Some(0), due, ..HealthRequest::new(Path::new("nowhere"), None) };
        let health = health_of_opened(Arc::clone(&rig.chain.store), &at_rest).unwrap();
        let node = node().health();
        assert_eq!((health.verdict, codes(&health.reasons)), (node.verdict, codes(&node.reasons)));
        codes(&health.reasons).join(" ")
    };
    let snapshots = || {
        let parts = rig.parts(NonZeroU64::new(5).unwrap(), &Hooks::none());
        let snapshots = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
        snapshots.initialize().unwrap();
        snapshots
    };
    let fail = |times: u32| {
        (0..times).for_each(|_| assert!(snapshots().create_snapshot(PrunePhase::BuildReach).is_err())); // of no state
    };
    fail(3);
    assert_eq!(judged(), "switched_off");
    fail(1);
    assert_eq!(judged(), "switched_off snapshots_failing", "of four processes, each with one");
    rig.chain.grow(Profile::Uniform, 122, 5);
    snapshots().create_snapshot(PrunePhase::BuildReach).unwrap();
    assert_eq!(judged(), "switched_off");
    let mut told = Vec::new();
    for order in 6..=14 {
        rig.chain.grow(Profile::Uniform, 122, 1);
        told.push((order, judged()));
    }
    let lagging = told.iter().find(|(_, codes)| codes == "lagging switched_off").map(|(order, _)| *order);
    assert!(matches!(lagging, Some(7..=14)), "{told:?}");
}

/// As a node judges a store when it has started on it, and has seen to what was left.
fn of_node(rig: &Rig) -> Health {
    let plan = rig.plan(5);
    let kept = LiveRetention::new(rig.retention_parts(Some(KeepPolicy::last(plan.keep_last))));
    let node = Pruner::start_under(rig.pruner_parts(&Hooks::none()), plan.pruner_of_cycles(), Arc::new(kept)).unwrap();
    while node.status().running {
        std::thread::yield_now();
    }
    node.health()
}

/// I8: what a torn record told is not known, and takes nothing away from what the others tell.
#[test]
fn a_record_that_is_unusable_is_a_reason_and_hides_none() {
    for key in RecordKey::ALL {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Uniform, 124, 9);
        cycle(&rig);
        let records = StoreRecords(Arc::clone(&rig.chain.store));
        let judged = || {
            let due = due_after_orders(1_000);
            let request = HealthRequest { now_ms: Some(0), due, ..HealthRequest::new(Path::new("nowhere"), None) };
            health_of_opened(Arc::clone(&rig.chain.store), &request).unwrap()
        };
        records.save(key, b"torn").unwrap();
        let alone = judged();
        let ends_pruning = [RecordKey::LastOutcome, RecordKey::LastCycle, RecordKey::Triggers, RecordKey::Switch];
        let is_critical = key == RecordKey::Freeze || ends_pruning.contains(&key);
        let expected = match key {
            RecordKey::Reports | RecordKey::Snapshot | RecordKey::RetentionLog => "",
            RecordKey::Validation => "validation_failed",
            RecordKey::Quarantine => "poison_items",
            _ => "record_unreadable", // health is judged by it
        };
        assert_eq!(codes(&alone.reasons).join(" "), expected, "{key:?}");
        let named = |reason: &Reason| reason.message.contains("is unusable: ");
        assert!(alone.reasons.iter().all(named), "{key:?}: {alone:?}");
        assert_eq!(alone.verdict == Verdict::Critical, is_critical, "{key:?}: {alone:?}");
        let node = of_node(&rig);
        assert!(alone.verdict >= node.verdict, "{key:?}: {alone:?} {node:?}");
        if [RecordKey::Lock, RecordKey::SnapshotFailures, RecordKey::Recovery, RecordKey::Phase].contains(&key) {
            assert_eq!(codes(&judged().reasons), codes(&node.reasons), "{key:?}: the node has begun it anew");
        }

        let freeze = Freeze { cycle: 1, at: 0, why: "a node is missing".to_owned() };
        records.save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
        records.save(key, b"torn").unwrap();
        let (frozen, node) = (judged(), of_node(&rig));
        assert_eq!(
            (frozen.verdict, node.verdict),
            (Verdict::Critical, Verdict::Critical),
            "{key:?}: {frozen:?} {node:?}"
        );
        let first = if key == RecordKey::Freeze { "record_unreadable" } else { "frozen" };
        assert_eq!(frozen.reasons[0].code, first, "{key:?}: {frozen:?}");
    }
}

/// Where a read fails the store is not healthy for want of an answer.
#[test]
fn a_store_of_which_something_cannot_be_read_or_measured_is_not_told_to_be_well() {
    let (rig, faulty) = Rig::new_faulty();
    rig.chain.grow(Profile::Uniform, 125, 9);
    cycle(&rig);
    let judged = || {
        let due = due_after_orders(1_000);
        let request = HealthRequest { now_ms: Some(0), due, ..HealthRequest::new(Path::new("nowhere"), None) };
        health_of_opened(Arc::clone(&rig.chain.store), &request)
    };
    assert_eq!(judged().unwrap().reasons, []);
    faulty.inject(Operation::FreeBytes, 0, Fault::Transient, Lasting::UntilHealed);
    let health = judged().unwrap();
    assert_eq!((health.verdict, codes(&health.reasons)), (Verdict::Degraded, vec!["unmeasured"]));
    faulty.heal();
    let reads = |failing: u64| {
        faulty.inject(Operation::ReadRow, failing, Fault::Transient, Lasting::Once);
        let judged = judged();
        faulty.heal();
        judged
    };
    assert_eq!(reads(3).unwrap_err().code(), "io", "nobody knows");
    let freeze = Freeze { cycle: 1, at: 0, why: "a node is missing".to_owned() };
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    records.save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
    assert_eq!(reads(0).unwrap_err().code(), "io", "the freeze itself");
    let health = reads(3).unwrap();
    assert_eq!((health.verdict, codes(&health.reasons)), (Verdict::Critical, vec!["frozen", "unmeasured"]));
}

/// The slot of the lock as it is written down.
#[derive(Serialize, Deserialize)]
struct Slot {
    held: Option<LockRecord>,
    last_snapshot: u64,
}

impl Record for Slot {
    const KIND: [u8; 4] = *b"LOCK";
    const VERSION: u16 = 1;
}

/// S39: whoever has the store open is not the owner of a lock that another process took.
#[test]
fn a_lock_that_a_dead_process_left_is_not_that_of_the_node_which_has_taken_the_store_over() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Uniform, 126, 9);
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    let left_by = |pid| {
        let owner = LockOwner { pid, role: "pruner".to_owned() };
        let held = LockRecord { owner, phase: PrunePhase::BuildReach, snapshot_id: 1, generation: 1, since: 0 };
        records.save(RecordKey::Lock, &record::encode(&Slot { held: Some(held), last_snapshot: 1 }).unwrap()).unwrap();
    };
    let judged = || {
        let request = HealthRequest { now_ms: Some(2 * 24 * 3_600_000), ..HealthRequest::new(&rig.store_dir(), None) };
        let health = health_of_opened(Arc::clone(&rig.chain.store), &request).unwrap();
        let of_lock = health.reasons.into_iter().filter(|reason| reason.code.starts_with("lock"));
        of_lock.map(|reason| (reason.verdict, reason.code)).collect::<Vec<_>>()
    };
    left_by(std::process::id());
    assert_eq!(judged(), [(Verdict::Degraded, "lock_held_long".to_owned())], "it is ours");
    for (pid, persistence) in [(u32::MAX, true), (u32::MAX, false), (std::process::id(), false)] {
        left_by(pid);
        if pid == u32::MAX {
            assert_eq!(judged(), [(Verdict::Healthy, "lock_left".to_owned())], "{pid}");
        }
        let mut config = rig.plan(5).pruner_of_cycles();
        config.snapshots.enable_persistence = persistence;
        let node = Pruner::start(rig.pruner_parts(&Hooks::none()), config).unwrap();
        assert_eq!(judged(), [], "{pid}, {persistence}: nobody holds it");
        assert_eq!(node.status().lock_left.map(|left| left.owner.pid), persistence.then_some(pid), "{pid}");
    }
}

/// The reserve is a file: whoever looks from outside sees whether it is there.
#[test]
fn a_store_at_rest_tells_that_the_reserve_of_its_node_was_let_go() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Uniform, 121, 3);
    let bytes = NonZeroU64::new(1 << 20).unwrap();
    let judged = |reserve| {
        let due = due_after_orders(1_000);
        let request = HealthRequest { now_ms: Some(0), reserve, due, ..HealthRequest::new(&rig.store_dir(), None) };
        let health = health_of_opened(Arc::clone(&rig.chain.store), &request).unwrap();
        codes(&health.reasons).join(" ")
    };
    assert_eq!(judged(Some(bytes)), "reserve_released", "whoever has the store open would have taken it");
    assert_eq!(judged(None), "", "nobody says that there should be one");
    let path = rig.store_dir().with_file_name("reserve");
    assert_eq!(Reserve::new(path.clone(), bytes).take().unwrap().now, Room::Kept);
    assert_eq!(judged(Some(bytes)), "");
    let file = fs::File::options().write(true).open(path).unwrap();
    for (length, why) in [(bytes.get() - 1, "of another size it is none"), (0, "nor without a byte")] {
        file.set_len(length).unwrap();
        assert_eq!(judged(Some(bytes)), "reserve_released", "{why}");
    }
    file.set_len(bytes.get()).unwrap();
    assert_eq!(judged(Some(bytes)), "reserve_released", "a file without blocks keeps nothing");
}
