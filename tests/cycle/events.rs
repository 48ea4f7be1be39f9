//! What the journal tells of a pruner, and that nothing of either is left when they are dropped.

use std::{
    fs,
    num::NonZeroU64,
    path::Path,
    process::Command as Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Clock, Command, Control, Ended, IncrementalConfig, KeepPolicy, LiveRetention, NewPin, OldReaders, PruneError,
    Pruner, PrunerConfig, PrunerParts, ReaderLimit, RecordKey, Records, Reply, ReserveStatus, RetentionParts,
    StoreRecords, SystemClock,
    events::{Entry, Event, EventJournal, EventSink, EventsConfig, EventsSync, Filter, Stopping, read_journal},
    phase::{PhaseRecord, PrunePhase},
    snapshot::{AtomicSnapshotManager, SnapshotManagerConfig, SnapshotParts},
};
use state_store::{Fault, Lasting, Operation, Reserve, Room, StoreError};
use state_tests::{
    hooks::{Hooks, Moment},
    records::{Acting, Use},
    rig::{self, AtRest, Engine, Rig},
    told::Told,
    waits::until_beside_commits,
    workload::Profile,
};
use state_tree::Order;

const LONG: Duration = Duration::from_secs(60);

fn journal(rig: &Rig, dir: &Path) -> Arc<EventJournal> {
    let config = EventsConfig { sync: EventsSync::Never, ..EventsConfig::default() };
    Arc::new(EventJournal::open(dir, config, Arc::clone(&rig.clock) as Arc<dyn Clock>).unwrap())
}

/// A pruner that tells a journal, and a channel that tells each time a cycle has an outcome.
fn start(
    rig: &Rig,
    events: &Arc<EventJournal>,
    incremental: Option<IncrementalConfig>,
) -> (Pruner, mpsc::Receiver<()>) {
    let (told, outcomes) = mpsc::channel();
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::OutcomeSaved {
            told.send(()).unwrap();
        }
    });
    let parts = PrunerParts { events: Arc::clone(events) as _, ..rig.pruner_parts(&hooks) };
    (Pruner::start(parts, config(rig, incremental)).unwrap(), outcomes)
}

fn config(rig: &Rig, incremental: Option<IncrementalConfig>) -> PrunerConfig {
    PrunerConfig { every_orders: NonZeroU64::new(1_000).unwrap(), incremental, ..rig.plan(5).pruner() }
}

fn run(pruner: &Pruner) {
    while pruner.command(Command::Run) != Reply::Accepted {
        std::thread::yield_now();
    }
}

fn all(dir: &Path) -> Vec<Entry> {
    read_journal(dir, &Filter::default()).unwrap().events
}

fn codes(events: &[Entry]) -> Vec<&str> {
    events.iter().map(|entry| entry.code.as_str()).collect()
}

fn one<'a>(events: &'a [Entry], code: &str) -> &'a Entry {
    let found: Vec<&Entry> = events.iter().filter(|entry| entry.code == code).collect();
    assert_eq!(found.len(), 1, "{code} in {:?}", codes(events));
    found[0]
}

#[test]
fn the_journal_tells_a_cycle_from_its_trigger_to_its_totals() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 300, 30);
    let dir = tempfile::tempdir().unwrap();
    let events = journal(&rig, dir.path());
    let (pruner, outcomes) = start(&rig, &events, None);
    run(&pruner);
    outcomes.recv().unwrap();
    while pruner.status().cycles_finished == 0 {
        std::thread::yield_now();
    }
    let Some(Ended::Finished { deleted, live_nodes, .. }) = pruner.status().last.map(|last| last.ended) else {
        panic!("no cycle finished")
    };
    drop(pruner);
    assert_eq!(events.stop(LONG), Stopping::Whole);
    let events = all(dir.path());
    let expected = [
        "started",
        "trigger_fired",
        "cycle_begun",
        "phase_entered",
        "snapshot_created",
        "lock_taken",
        "lock_released",
        "phase_left",
        "phase_entered",
        "lock_taken",
        "lock_released",
        "phase_left",
        "cycle_ended",
        "run_ended",
        "stopped",
    ];
    assert_eq!(codes(&events), expected);
    let end = &one(&events, "cycle_ended").data;
    assert_eq!((end["outcome"].as_str(), end["deleted"].as_u64()), (Some("finished"), Some(deleted)));
    assert!(deleted > 0 && end["live"] == live_nodes);
    assert_eq!(one(&events, "trigger_fired").data["trigger"], "operator");
    let run = &one(&events, "run_ended").data;
    assert_eq!(
        (run["run"].as_u64(), run["trigger"].as_str(), run["outcome"].as_str()),
        (Some(1), Some("operator"), Some("finished"))
    );
    assert!(run["duration_ms"].is_u64() && run["cycle"].is_u64() && run["message"].is_null(), "{run:?}");
}

/// It begins anew, and its end says so.
#[test]
fn a_mark_that_was_stopped_is_not_told_to_go_on() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 302, 30);
    let (plan, told) = (rig.plan(5), Arc::new(Told::default()));
    let control: Arc<Mutex<Option<Arc<Control>>>> = Arc::default();
    let stops = Arc::clone(&control);
    let hooks = Hooks::new(move |moment| {
        let control = stops.lock().clone().filter(|_| moment == Moment::Captured);
        control.inspect(|control| control.stop());
    });
    let mut env = rig.env(&plan, &hooks);
    env.parts.events = Arc::clone(&told) as _;
    *control.lock() = Some(Arc::clone(&env.control));
    let ended = plan.run(&env);
    assert!(matches!(ended, Err(PruneError::Stopped)), "{ended:?}");
    let ends = told.0.lock().iter().find_map(|event| {
        let Event::CycleEnded(end) = event else { return None };
        Some((end.outcome.clone(), end.message.clone().unwrap()))
    });
    let (outcome, message) = ends.unwrap();
    assert!(outcome == "stopped" && message.ends_with("that was written down, or marks anew"), "{outcome}: {message}");
    drop(env);
    assert!(plan.resume(&rig.env(&plan, &Hooks::none())).unwrap().is_none(), "it was a mark");
}

#[test]
fn a_freeze_its_end_and_requests_that_join_are_told() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 301, 20);
    let dir = tempfile::tempdir().unwrap();
    let events = journal(&rig, dir.path());
    let head = rig.chain.archive.root(rig.chain.head());
    let lost = *rig.chain.archive.live([rig.chain.head()]).iter().find(|hash| Some(**hash) != head.node()).unwrap();
    rig.memory().uproot(lost.as_bytes());
    let (pruner, outcomes) = start(&rig, &events, None);
    run(&pruner);
    outcomes.recv().unwrap();
    while pruner.status().frozen.is_none() {
        std::thread::yield_now();
    }
    while pruner.command(Command::Unfreeze) != Reply::Accepted {
        std::thread::yield_now();
    }
    drop(pruner);
    assert_eq!(events.stop(LONG), Stopping::Whole);
    let events = all(dir.path());
    assert_eq!(one(&events, "cycle_ended").data["outcome"], "missing_live_node");
    assert!(one(&events, "deletes_frozen").data["why"].as_str().unwrap().contains("is missing"));
    let place = |code: &str| events.iter().position(|entry| entry.code == code).unwrap();
    assert!(place("deletes_frozen") < place("deletes_unfrozen"));
}

/// Records on which the end of a cycle meets damage, for as long as it is said.
fn unending(records: &Arc<dyn Records>) -> (Arc<dyn Records>, Arc<AtomicBool>) {
    let damaged = Arc::new(AtomicBool::new(true));
    let is_damaged = Arc::clone(&damaged);
    let records = Acting::over(Arc::clone(records), move |what, key| {
        let fails = (what, key) == (Use::Remove, RecordKey::Phase) && is_damaged.load(Ordering::Acquire);
        if fails { Err(StoreError::Corrupt("injected at the end of a cycle".to_owned()).into()) } else { Ok(()) }
    });
    (records, damaged)
}

/// The cycle of each freeze that was told, and why it came.
pub(crate) fn freezes(told: &Told) -> Vec<(Option<u64>, String)> {
    let freeze = |event: &Event| {
        let Event::DeletesFrozen { cycle, why } = event else { return None };
        Some((*cycle, why.clone()))
    };
    told.0.lock().iter().filter_map(freeze).collect()
}

/// Nobody watches a cycle at rest, and what it met itself is why deletes are frozen, whatever its end meets.
#[test]
fn a_freeze_by_the_end_of_a_cycle_is_told_by_the_cycle_unless_it_has_told_one() {
    for is_lost in [false, true] {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Uniform, 320, 20);
        if is_lost {
            let head = rig.chain.archive.root(rig.chain.head());
            let live = rig.chain.archive.live([rig.chain.head()]);
            let lost = live.iter().find(|hash| Some(**hash) != head.node()).unwrap();
            rig.memory().uproot(lost.as_bytes());
        }
        let (told, plan) = (Arc::new(Told::default()), rig.plan(5));
        let parts = rig.parts(plan.keep_last, &Hooks::none());
        let (records, _) = unending(&parts.records);
        let parts = SnapshotParts { records, events: Arc::clone(&told) as _, ..parts };
        let ended = plan.run(&rig::env(parts, &Hooks::none()));
        assert_eq!(matches!(ended, Err(PruneError::MissingLiveNode { .. })), is_lost, "{ended:?}");
        let freezes = freezes(&told);
        let [(cycle, why)] = freezes.as_slice() else { panic!("{freezes:?}") };
        assert_eq!((cycle.is_some(), why.contains("injected")), (is_lost, !is_lost), "{why}");
    }
}

/// The worker tries the end of its cycle again and again: deletes stay frozen, which is told once, and once more when an
/// operator has lifted the freeze and the damage is still there.
#[test]
fn a_freeze_by_what_a_cycle_left_is_told_once_each_time_it_comes() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 321, 20);
    let (told, parts) = (Arc::new(Told::default()), rig.pruner_parts(&Hooks::none()));
    let (records, damaged) = unending(&parts.records);
    let parts = PrunerParts { records, events: Arc::clone(&told) as _, ..parts };
    let pruner = Pruner::start(parts, config(&rig, None)).unwrap();
    run(&pruner);
    until_beside_commits(&rig, &pruner, |pruner| pruner.status().recovery.attempts.len() >= 4);
    assert_eq!(freezes(&told).len(), 1, "{:?}", freezes(&told));
    while pruner.command(Command::Unfreeze) != Reply::Accepted {
        std::thread::yield_now();
    }
    until_beside_commits(&rig, &pruner, |pruner| pruner.status().frozen.is_some());
    damaged.store(false, Ordering::Release);
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    until_beside_commits(&rig, &pruner, |_| PhaseRecord::load(&records).unwrap().is_none());
    assert_eq!(pruner.status().cycles_finished, 1, "what it came to stands");
    drop(pruner);
    let is_injected = |(cycle, why): &(Option<u64>, String)| cycle.is_none() && why.contains("injected at the end");
    let freezes = freezes(&told);
    assert!(freezes.len() == 2 && freezes.iter().all(is_injected), "{freezes:?}");
}

/// A pruner on a chain that is idle, and has nothing to sweep.
fn idle(seed: u64) -> (Rig, Pruner, Arc<Told>) {
    let rig = Rig::new(Engine::Memory).behind_faults();
    rig.chain.grow(Profile::Uniform, seed, 20);
    rig.cycle(&rig.plan(5));
    let told = Arc::new(Told::default());
    let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&Hooks::none()) };
    let pruner = Pruner::start(parts, config(&rig, Some(IncrementalConfig { stride: NonZeroU64::MIN }))).unwrap();
    while pruner.status().running {
        std::thread::yield_now(); // it looks whether something was left
    }
    (rig, pruner, told)
}

/// Time passes on an idle chain, until it is as it should be.
fn idle_until(rig: &Rig, pruner: &Pruner, reached: impl Fn() -> bool) {
    rig.until(|| {
        assert_eq!(pruner.command(Command::Enable), Reply::Unchanged); // it was on, and wakes the worker
        reached()
    });
}

#[test]
fn a_freeze_by_what_an_idle_chain_gives_back_is_told_once() {
    let (rig, pruner, told) = idle(322);
    rig.faults().inject(Operation::ListFiles, 0, Fault::Corrupt, Lasting::UntilHealed);
    idle_until(&rig, &pruner, || !freezes(&told).is_empty());
    let frozen = pruner.status().frozen.unwrap();
    assert!(frozen.contains("listing files"), "{frozen}");
    for _ in 0..20 {
        rig.clock.advance(LONG);
        assert_eq!(pruner.command(Command::Enable), Reply::Unchanged);
    }
    drop(pruner);
    assert_eq!((freezes(&told), rig.faults().met()), (vec![(None, frozen)], 1), "nothing is tried while it holds");
}

#[test]
fn a_panic_while_an_idle_chain_gives_space_back_is_told() {
    let (rig, pruner, told) = idle(323);
    let (faults, is_armed, test) = (rig.faults().clone(), AtomicBool::new(true), std::thread::current().id());
    let before = faults.calls(Operation::ListFiles);
    rig.faults().before_each(move || {
        // The test reads records beside it.
        let is_listing = std::thread::current().id() != test && faults.calls(Operation::ListFiles) > before;
        assert!(!(is_listing && is_armed.swap(false, Ordering::AcqRel)), "a bug of ours");
    });
    let panics = || {
        let why = |event: &Event| {
            let Event::WorkerPanicked { why } = event else { return None };
            Some(why.clone())
        };
        told.0.lock().iter().filter_map(why).collect::<Vec<_>>()
    };
    idle_until(&rig, &pruner, || !panics().is_empty());
    let poisoned = pruner.status().poisoned;
    drop(pruner);
    assert_eq!(panics(), ["giving space back panicked; see the log"]);
    assert_eq!(poisoned.as_ref(), panics().first());
    assert!(freezes(&told).is_empty(), "a bug of ours is no damage");
}

/// An event for each round would drown everything else.
#[test]
fn rounds_are_told_together_with_what_they_deleted() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 302, 20);
    rig.cycle(&rig.plan(5));
    let dir = tempfile::tempdir().unwrap();
    let events = journal(&rig, dir.path());
    let (pruner, _outcomes) = start(&rig, &events, Some(IncrementalConfig { stride: NonZeroU64::MIN }));
    // Every node of this history is put once.
    let deleted_before = rig.chain.store.head().unwrap().nodes_put - rig.chain.store.nodes_stored();
    for round in 0..30 {
        rig.chain.grow(Profile::Uniform, 310 + round, 1);
        pruner.committed(rig.chain.head());
        rig.until(|| {
            rig.chain.floor().get() + 4 >= rig.chain.head().get()
                && rig.chain.store.lag().is_some_and(|lag| lag.nodes == 0)
        });
    }
    let deleted = rig.chain.store.head().unwrap().nodes_put - rig.chain.store.nodes_stored() - deleted_before;
    while pruner.status().incremental.is_none_or(|it| it.deleted_total != deleted) {
        std::thread::yield_now(); // what the last round did is not in the status yet
    }
    let done = pruner.status().incremental.unwrap();
    drop(pruner);
    assert_eq!(events.stop(LONG), Stopping::Whole);
    let events = all(dir.path());
    let rounds: Vec<&Entry> = events.iter().filter(|entry| entry.code == "rounds_swept").collect();
    let sum = |field: &str| rounds.iter().map(|entry| entry.data[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("deleted"), sum("slices")), (done.deleted_total, done.slices_total));
    assert!(done.deleted_total > 0 && sum("rounds") >= 20, "{rounds:?}");
    let tens = rig.clock.monotonic().as_secs() / 10;
    assert!(rounds.len() as u64 <= tens + 1, "{} events in {tens} times ten seconds", rounds.len());
    assert!(!codes(&events).contains(&"lock_taken"), "a round's lock goes with the rounds");
}

#[test]
fn what_is_kept_and_why_it_is_not_any_more_is_told() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 303, 20);
    let dir = tempfile::tempdir().unwrap();
    let events = journal(&rig, dir.path());
    let keep = |last| Some(KeepPolicy::last(NonZeroU64::new(last).unwrap()));
    let retention =
        |keep| LiveRetention::new(RetentionParts { events: Arc::clone(&events) as _, ..rig.retention_parts(keep) });
    let policy = retention(keep(10));
    let pin = |name: &str, order, ttl| NewPin {
        name: name.to_owned(),
        owner: "who".to_owned(),
        order: Order::new(order),
        ttl,
    };
    let advance = |policy: &LiveRetention| state_pruner::snapshot::RetentionPolicy::advance(policy).unwrap();
    policy.add_pin(pin("audit", 3, None)).unwrap();
    policy.add_pin(pin("short", 4, Some(Duration::from_secs(5)))).unwrap();
    advance(&policy);
    policy.set_consumer("indexer", Order::new(12), Some(Duration::from_secs(5))).unwrap();
    policy.set_consumer("indexer", Order::new(13), Some(Duration::from_secs(5))).unwrap();
    rig.clock.set_unix_ms(60_000);
    rig.clock.advance(Duration::from_secs(60));
    advance(&policy);
    policy.remove_pin("audit").unwrap();
    policy.remove_consumer("indexer").unwrap();
    advance(&policy);
    let policy = retention(keep(7));
    advance(&policy);
    assert_eq!(events.stop(LONG), Stopping::Whole);
    let events = all(dir.path());
    let expected = [
        "started",
        "pin_added",
        "pin_added",
        "config_changed",
        "consumer_added",
        "pin_expired",
        "consumer_went_silent",
        "pin_removed",
        "consumer_removed",
        "config_changed",
        "stopped",
    ];
    assert_eq!(codes(&events), expected);
    assert_eq!(events[9].data["what"], "retention: the last 7 orders");
}

#[test]
fn a_reader_that_is_too_old_and_what_becomes_of_it_is_told() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 307, 20);
    let dir = tempfile::tempdir().unwrap();
    let events = journal(&rig, dir.path());
    for then in [OldReaders::Report, OldReaders::LetGo] {
        let parts = RetentionParts {
            store: Arc::clone(&rig.chain.store),
            records: Arc::new(StoreRecords(Arc::clone(&rig.chain.store))),
            clock: Arc::clone(&rig.clock) as Arc<dyn Clock>,
            keep: Some(KeepPolicy::last(NonZeroU64::new(5).unwrap())),
            floor_rows: None,
            events: Arc::clone(&events) as _,
        };
        let limit = ReaderLimit { max_age: Some(Duration::from_secs(60)), then };
        let policy = LiveRetention::new(parts).limiting_readers(limit);
        let reader = rig.chain.store.pin(rig.chain.head(), "an export").unwrap();
        rig.chain.grow(Profile::Uniform, 308, 5);
        let advance = || state_pruner::snapshot::RetentionPolicy::advance(&policy).unwrap();
        (0..3).for_each(|_| {
            advance();
            rig.clock.advance(Duration::from_secs(61));
        });
        advance();
        assert_eq!(reader.check().is_ok(), then == OldReaders::Report);
    }
    assert_eq!(events.stop(LONG), Stopping::Whole);
    let events = all(dir.path());
    let readers = events.iter().filter(|entry| entry.code.starts_with("reader"));
    let readers: Vec<_> = readers.map(|entry| (entry.code.as_str(), entry.data["order"].as_u64().unwrap())).collect();
    let expected = [("reader_too_old", 19), ("reader_too_old", 24), ("reader_let_go", 24)];
    assert_eq!(readers, expected, "each is told once: {:?}", codes(&events));
    let told = events.iter().find(|entry| entry.code == "reader_too_old").unwrap();
    assert_eq!((told.data["owner"].as_str(), told.data["alone_ms"].as_u64()), (Some("an export"), Some(61_000)));
}

/// Commits let the reserve go and tell nobody on their way; the worker does, and takes it again after a run.
#[test]
fn what_becomes_of_the_reserve_and_a_validation_is_told() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Uniform, 309, 20);
    let dir = tempfile::tempdir().unwrap();
    let reserve = Reserve::new(dir.path().join("reserve"), NonZeroU64::new(4096).unwrap());
    assert_eq!(rig.chain.store.keep_room(reserve).unwrap(), Room::Kept);
    let events = journal(&rig, dir.path());
    let (pruner, outcomes) = start(&rig, &events, None);
    let reserve = |kept| Some(ReserveStatus { kept, bytes: 4096 });
    assert_eq!(pruner.status().reserve, reserve(true));
    rig.chain.store.reserve().unwrap().let_go().unwrap();
    assert_eq!(pruner.status().reserve, reserve(false));
    pruner.commit_failed();
    run(&pruner);
    outcomes.recv().unwrap();
    while pruner.status().cycles_finished == 0 {
        std::thread::yield_now();
    }
    assert_eq!(pruner.status().reserve, reserve(true));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let report = runtime.block_on(pruner.validator().run_comprehensive_validation());
    pruner.keep_validation(&report).unwrap();
    drop(pruner);
    assert_eq!(events.stop(LONG), Stopping::Whole);
    let events = all(dir.path());
    assert_eq!(one(&events, "reserve_let_go").data["bytes"], 4096);
    assert_eq!(one(&events, "reserve_taken").data["bytes"], 4096);
    let validated = &one(&events, "validated").data;
    assert_eq!(validated["passed"].as_u64(), Some(report.validated(None).passed));
    assert!(report.is_sound() && validated["failed"].as_array().unwrap().is_empty());
}

#[test]
fn locks_that_are_refused_expire_and_are_taken_over_are_told() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 304, 10);
    let dir = tempfile::tempdir().unwrap();
    let events = journal(&rig, dir.path());
    let parts =
        SnapshotParts { events: Arc::clone(&events) as _, ..rig.parts(NonZeroU64::new(5).unwrap(), &Hooks::none()) };
    let manager = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
    manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    let old = manager.lock_snapshot(PrunePhase::BuildReach).unwrap();
    rig.clock.advance(Duration::from_millis(7));
    manager.lock_snapshot(PrunePhase::SweepExpired).unwrap_err();
    rig.clock.advance(Duration::from_millis(SnapshotManagerConfig::default().lock_timeout_ms));
    let new = manager.lock_snapshot(PrunePhase::SweepExpired).unwrap();
    drop(old);
    drop(new);
    rig.clock.advance(LONG * 60 * 24);
    assert_eq!(events.stop(LONG), Stopping::Whole);
    let events = all(dir.path());
    let expected = [
        "started",
        "snapshot_created",
        "lock_taken",
        "lock_refused",
        "lock_taken_over",
        "lock_taken",
        "lock_released",
        "stopped",
    ];
    assert_eq!(codes(&events), expected, "the one that was lost is not released");
    assert_eq!(one(&events, "lock_refused").data["held_ms"], 7);
    assert_eq!(one(&events, "lock_taken_over").data["from"], "build_reach");
}

#[test]
fn a_rollback_is_told_by_the_worker() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 305, 8);
    let dir = tempfile::tempdir().unwrap();
    let events = journal(&rig, dir.path());
    let (pruner, _outcomes) = start(&rig, &events, None);
    let back = |to| pruner.rollback(Order::new(to), state_store::Batch::new());
    back(6).unwrap();
    back(6).unwrap(); // nothing is left to do
    back(7).unwrap_err();
    drop(pruner);
    assert_eq!(events.stop(LONG), Stopping::Whole);
    let events = all(dir.path());
    let told = &one(&events, "rolled_back").data;
    assert_eq!((&told["to"], &told["from"], told["duration_ms"].is_u64()), (&6.into(), &7.into(), true), "{told:?}");
    let told = &one(&events, "rollback_failed").data;
    assert_eq!((&told["to"], &told["error"], told["duration_ms"].is_u64()), (&7.into(), &"never_existed".into(), true));
    assert!(told["message"].as_str().unwrap().contains('7'), "{told:?}");
}

const ALONE: &str = "STATE_TESTS_ALONE";

fn entries(dir: &str) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// Threads that were joined may be listed for a moment longer.
fn settles(what: &str, before: usize, now: impl Fn() -> usize) {
    let clock = SystemClock::new();
    while now() > before {
        assert!(clock.monotonic() < LONG, "{what}: {before} before, {} after", now());
        std::thread::yield_now();
    }
}

/// Whether a test is in a process of its own, where nothing else comes and goes; if not, it is run in one.
pub(crate) fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut child = Child::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--test-threads=1"]);
    let output = child.env(ALONE, "1").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
    false
}

fn quiet() -> EventsConfig {
    EventsConfig { sync: EventsSync::Never, max_bytes: NonZeroU64::new(4_096).unwrap(), ..EventsConfig::default() }
}

/// One life of a journal, a pruner and a manager on a store.
fn live(rig: &Rig, dir: &Path) {
    let events = Arc::new(EventJournal::open(dir, quiet(), Arc::clone(&rig.clock) as _).unwrap());
    events.emit(Event::PinRemoved { name: "x".to_owned(), order: 1 });
    let told = PrunerParts { events: Arc::clone(&events) as _, ..rig.pruner_parts(&Hooks::none()) };
    let pruner = Pruner::start(told, config(rig, Some(IncrementalConfig { stride: NonZeroU64::MIN }))).unwrap();
    let told = SnapshotParts { events: events as _, ..rig.parts(NonZeroU64::new(5).unwrap(), &Hooks::none()) };
    let manager = AtomicSnapshotManager::new(told, SnapshotManagerConfig::default());
    manager.create_snapshot(PrunePhase::BuildReach).unwrap();
    let guard = manager.lock_snapshot(PrunePhase::BuildReach).unwrap();
    let permit = guard.permit().clone();
    drop(guard);
    assert!(!permit.is_current() && manager.status().lock.is_none());
    drop((pruner, manager)); // the journal goes with the last one that tells it anything
}

/// What lives have left: threads, open files, files of the journal.
fn leave_nothing(dir: &Path, before: [usize; 2]) {
    settles("threads", before[0], || entries("/proc/self/task"));
    settles("open files", before[1], || entries("/proc/self/fd"));
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["journal.events", "writer.lock"]);
    let read = read_journal(dir, &Filter::default()).unwrap();
    assert_eq!((read.damaged, read.torn_bytes, read.missing), (0, 0, 0));
    assert_eq!(read.events.last().unwrap().code, "stopped");
}

fn open_now() -> [usize; 2] {
    [entries("/proc/self/task"), entries("/proc/self/fd")]
}

#[test]
fn a_thousand_lives_leave_no_thread_no_file_and_no_lock() {
    if !is_alone("events::a_thousand_lives_leave_no_thread_no_file_and_no_lock") {
        return;
    }
    let (rig, dir) = (Rig::new(Engine::Memory), tempfile::tempdir().unwrap());
    rig.chain.grow(Profile::Uniform, 306, 10);
    live(&rig, dir.path());
    let before = open_now();
    (0..1_000).for_each(|_| live(&rig, dir.path()));
    leave_nothing(dir.path(), before);
    drop(EventJournal::open(dir.path(), quiet(), Arc::clone(&rig.clock) as _).unwrap());
}

/// The database is opened and closed with each of them. `LIVES=1000` for more than a test run needs.
#[test]
fn lives_on_real_files_leave_no_thread_no_file_and_no_lock() {
    if !is_alone("events::lives_on_real_files_leave_no_thread_no_file_and_no_lock") {
        return;
    }
    let lives: usize = std::env::var("LIVES").map_or(40, |text| text.parse().unwrap());
    let (rig, dir) = (Rig::new(Engine::Rocks), tempfile::tempdir().unwrap());
    rig.chain.grow(Profile::Uniform, 310, 10);
    let lived = |at_rest: AtRest, _| {
        let rig = at_rest.wake();
        live(&rig, dir.path());
        rig.rest()
    };
    let at_rest = (0..3).fold(rig.rest(), lived); // the engine keeps its threads from then on
    let before = open_now();
    let at_rest = (0..lives).fold(at_rest, lived);
    leave_nothing(dir.path(), before);
    drop(at_rest.wake());
}
