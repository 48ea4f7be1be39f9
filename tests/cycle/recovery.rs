//! P13, P14, P15, P21, O10, O15: what is done about a phase that failed. By type, later each time, never for ever, and a stop
//! ends it at once.

use std::{
    cell::Cell,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Certificate, Clock, Command, Control, Ended, Facts, HealthConfig, HeldBy, PruneError, Pruner, PrunerConfig,
    PrunerParts, Reply, StoreRecords, SweepChoice, TriggerState, Verdict,
    events::{Breaker, Event, EventSink},
    mark::MarkChoice,
    phase::{PhaseRecord, PrunePhase},
    recovery::{
        BreakerState, Came, ErrorRecoveryManager, RecoveryConfig, RecoveryMetrics, RecoveryState, Remedy, remedy,
    },
    snapshot::{AtomicSnapshotManager, SnapshotManagerConfig, SnapshotParts, SnapshotPath},
};
use state_store::{Armed, Disposition, Fault, FaultyBackend, StoreError};
use state_tests::{
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Plan, Rig},
    told::Told,
    warnings::warnings,
    workload::Profile,
};
use tokio::runtime::{Builder, Runtime};

const WINDOW: u64 = 5;

fn grown() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 700, 9);
    rig
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn snapshots(rig: &Rig) -> Arc<AtomicSnapshotManager> {
    let parts = rig.parts(NonZeroU64::new(WINDOW).unwrap(), &Hooks::none());
    let snapshots = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
    snapshots.initialize().unwrap();
    Arc::new(snapshots)
}

fn manager(rig: &Rig, config: Option<RecoveryConfig>) -> ErrorRecoveryManager {
    let manager =
        ErrorRecoveryManager::new(snapshots(rig), Arc::clone(&rig.chain.store), RecoveryMetrics::new(), config);
    manager.initialize().unwrap();
    manager
}

fn io() -> PruneError {
    StoreError::Io { what: "reading".to_owned(), source: std::io::Error::other("injected") }.into()
}

/// Runs a phase that fails as often as there are errors, then ends well. Says how often it was tried.
fn attempts(manager: &ErrorRecoveryManager, errors: Vec<PruneError>) -> (usize, Result<(), PruneError>) {
    let (tried, errors) = (Cell::new(0), std::cell::RefCell::new(errors.into_iter()));
    let ended = runtime().block_on(manager.execute_phase_with_recovery(PrunePhase::BuildReach, || {
        tried.set(tried.get() + 1);
        let next = errors.borrow_mut().next();
        async move { next.map_or(Ok(()), Err) }
    }));
    (tried.get(), ended)
}

#[test]
fn transient_faults_back_off_and_permanent_faults_do_not_retry() {
    let rig = grown();
    let subject = manager(&rig, None);
    let (tried, ended) = attempts(&subject, vec![io(), io(), io()]);
    assert_eq!((tried, ended.is_ok()), (4, true));
    let waits: Vec<u128> = rig.clock.slept().iter().map(Duration::as_millis).collect();
    assert_eq!(waits.len(), 3, "{waits:?}");
    for (wait, sum) in waits.iter().zip([1000, 2000, 4000]) {
        assert!((sum / 2..=sum * 3 / 2).contains(wait), "{waits:?}");
    }
    let (tried, ended) = attempts(&subject, vec![io(), io(), io(), io(), io()]);
    assert_eq!((tried, ended.is_err()), (4, true), "three retries, not four");

    let node = *rig.chain.archive.live([rig.chain.head()]).first().unwrap();
    let permanent = [
        PruneError::Invariant("a bug of ours".to_owned()),
        PruneError::NoHead,
        PruneError::MissingLiveNode { hash: node, path: Vec::new() },
        StoreError::Corrupt("a checksum".to_owned()).into(),
        StoreError::Poisoned { why: "x".to_owned() }.into(),
        PruneError::Cancelled,
    ];
    for error in permanent {
        let subject = manager(&grown(), None);
        let (code, slept) = (error.code(), rig.clock.slept().len());
        let (tried, ended) = attempts(&subject, vec![error]);
        assert_eq!((tried, ended.unwrap_err().code()), (1, code));
        assert_eq!(rig.clock.slept().len(), slept, "{code}");
    }
}

#[test]
fn retries_and_the_breaker_are_events() {
    let (rig, told) = (grown(), Arc::new(Told::default()));
    let events: Arc<dyn EventSink> = Arc::clone(&told) as _;
    let parts = SnapshotParts { events, ..rig.parts(NonZeroU64::new(WINDOW).unwrap(), &Hooks::none()) };
    let snapshots = Arc::new(AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default()));
    let store = Arc::clone(&rig.chain.store);
    let subject = ErrorRecoveryManager::new(snapshots, store, RecoveryMetrics::new(), None);
    let codes = || -> Vec<&'static str> { told.0.lock().drain(..).map(|event| event.code()).collect() };
    attempts(&subject, vec![io(), io()]).1.unwrap();
    assert_eq!(codes(), ["retry_attempted", "retry_attempted"]);
    let given_up = ["retry_attempted", "retry_attempted", "retry_attempted", "retry_given_up"];
    for _ in 0..2 {
        attempts(&subject, vec![io(), io(), io(), io()]).1.unwrap_err();
        assert_eq!(codes(), given_up);
    }
    attempts(&subject, vec![io(), io(), io(), io()]).1.unwrap_err();
    assert_eq!(codes(), [given_up.as_slice(), &["breaker_changed"]].concat());
    subject.allow_probe();
    attempts(&subject, vec![PruneError::Invariant("a bug of ours".to_owned())]).1.unwrap_err();
    assert_eq!(codes(), ["breaker_changed", "phase_given_up", "breaker_changed"], "no attempt more could help");
    subject.allow_probe();
    attempts(&subject, Vec::new()).1.unwrap();
    let changed: Vec<Event> = told.0.lock().drain(..).collect();
    let state = |state| Event::BreakerChanged { state };
    assert_eq!(changed, [state(Breaker::HalfOpen), state(Breaker::Closed)]);
}

/// What helps follows from the type alone.
#[test]
fn the_remedy_follows_from_the_type_of_the_error() {
    let file = |kind: std::io::ErrorKind| PruneError::File { path: "x".into(), source: kind.into() };
    let record = StoreError::Record { name: "snapshot".to_owned(), why: "torn".to_owned() };
    let pinned = PruneError::PinnedAbove { name: "audit".to_owned(), owner: "somebody".to_owned(), order: 1 };
    let rows = [
        (io(), Disposition::Transient, Remedy::Retry),
        (file(std::io::ErrorKind::Interrupted), Disposition::Transient, Remedy::Retry),
        (file(std::io::ErrorKind::StorageFull), Disposition::Resource, Remedy::AwaitRoom { need: None }),
        (file(std::io::ErrorKind::PermissionDenied), Disposition::Input, Remedy::Stop),
        (PruneError::NoRoom { free: 1, need: 2 }, Disposition::Resource, Remedy::AwaitRoom { need: Some(2) }),
        (StoreError::DiskFull { what: "x".to_owned() }.into(), Disposition::Resource, Remedy::AwaitRoom { need: None }),
        (record.into(), Disposition::Corrupt, Remedy::NewSnapshot),
        (PruneError::BadSnapshot { id: 1, why: "x".to_owned() }, Disposition::Corrupt, Remedy::NewSnapshot),
        (StoreError::Corrupt("x".to_owned()).into(), Disposition::Corrupt, Remedy::Stop),
        (PruneError::Invariant("x".to_owned()), Disposition::Bug, Remedy::Stop),
        (StoreError::BarrierFull { limit: 1 }.into(), Disposition::Resource, Remedy::Stop),
        (PruneError::TooManyNames { limit: 1 }, Disposition::Resource, Remedy::Stop),
        (
            PruneError::NoThread { name: "mark", source: std::io::ErrorKind::WouldBlock.into() },
            Disposition::Resource,
            Remedy::Retry,
        ),
        (pinned, Disposition::Resource, Remedy::Stop),
        (
            StoreError::HeldAbove { order: state_tree::Order::new(1), owner: "a reader".to_owned() }.into(),
            Disposition::Resource,
            Remedy::Retry,
        ),
        (PruneError::Stopped, Disposition::Resource, Remedy::Ended),
    ];
    for (error, disposition, expected) in rows {
        assert_eq!((error.disposition(), remedy(&error)), (disposition, expected), "{error:?}");
    }
}

/// The chain went back below the head of the snapshot: a new one takes its place, and the phase is tried on that.
#[test]
fn a_damaged_snapshot_is_made_anew_and_the_phase_goes_on_with_it() {
    let rig = grown();
    let snapshots = snapshots(&rig);
    let first = snapshots.create_snapshot(PrunePhase::BuildReach).unwrap();
    snapshots.end_cycle();
    rig.chain.store.rollback(state_tree::Order::new(7), state_store::Batch::new()).unwrap();
    let (store, metrics) = (Arc::clone(&rig.chain.store), RecoveryMetrics::new());
    let try_it = |config: RecoveryConfig| {
        let subject =
            ErrorRecoveryManager::new(Arc::clone(&snapshots), Arc::clone(&store), metrics.clone(), Some(config));
        let locked = runtime().block_on(subject.execute_phase_with_recovery(PrunePhase::IncrementalSweep, || async {
            snapshots.lock_snapshot(PrunePhase::IncrementalSweep).map(|guard| guard.snapshot_id)
        }));
        (locked, subject.status().attempts)
    };
    let (refused, _) = try_it(RecoveryConfig { enable_snapshot_recovery: false, ..RecoveryConfig::default() });
    assert!(matches!(&refused, Err(PruneError::BadSnapshot { why, .. }) if why.contains("history")), "{refused:?}");
    let (locked, attempts) = try_it(RecoveryConfig::default());
    assert!(locked.unwrap() > first.snapshot_id);
    let came: Vec<&Came> = attempts.iter().map(|attempt| &attempt.came).collect();
    assert!(matches!(came.as_slice(), [Came::NewSnapshot { .. }, Came::Success]), "{came:?}");
}

/// Each attempt takes ten seconds and finds its snapshot damaged; the time counts from the first failure.
#[test]
fn a_damaged_snapshot_is_made_anew_no_longer_than_the_configuration_allows() {
    let rows = [(9, 1, Came::Stopped), (19, 2, Came::Stopped), (29, 3, Came::Stopped), (300, 3, Came::Exhausted)];
    for (secs, anew, end) in rows {
        let rig = grown();
        let config = RecoveryConfig {
            base_retry_delay_ms: 1,
            max_retry_delay_ms: 1,
            snapshot_recovery_timeout_secs: secs,
            ..RecoveryConfig::default()
        };
        let subject = manager(&rig, Some(config));
        let fails = subject.execute_phase_with_recovery(PrunePhase::BuildReach, || async {
            rig.clock.advance(Duration::from_secs(10));
            Err::<(), _>(PruneError::BadSnapshot { id: 1, why: "x".to_owned() })
        });
        let ended = runtime().block_on(fails);
        assert!(matches!(ended, Err(PruneError::BadSnapshot { .. })), "{secs}: {ended:?}");
        let mut came: Vec<Came> = subject.status().attempts.into_iter().map(|attempt| attempt.came).collect();
        assert_eq!(came.pop(), Some(end), "{secs}: after {came:?}");
        let all_anew = came.iter().all(|came| matches!(came, Came::NewSnapshot { .. }));
        assert_eq!((came.len(), all_anew), (anew, true), "{secs}: {came:?}");
    }
}

/// Marking begins with a snapshot of its own: where it is tried again on a new one, one is taken, and not two.
#[test]
fn a_phase_that_takes_its_own_snapshot_gets_no_second_one() {
    let rig = grown();
    let (clock, taken) = (Arc::clone(&rig.clock), Arc::new(AtomicU64::new(0)));
    let seen = Arc::clone(&taken);
    let pruner = start(&rig, move |moment| {
        if moment == Moment::Captured && seen.fetch_add(1, Ordering::AcqRel) == 0 {
            clock.advance(Duration::from_secs(3 * 3600)); // too old to be locked
        }
    });
    run(&pruner);
    let status = pruner.status();
    let came: Vec<&Came> = status.recovery.attempts.iter().map(|attempt| &attempt.came).collect();
    assert!(matches!(came.as_slice(), [Came::NewSnapshot { .. }, Came::Success]), "{came:?}");
    assert_eq!((taken.load(Ordering::Acquire), status.cycles_finished), (2, 1));
    assert_eq!(pruner.snapshots().status().snapshot.unwrap().snapshot_id, 2);
    check::exact(&rig.chain, "on the second snapshot");
}

#[test]
fn what_was_given_up_and_an_open_breaker_survive_a_restart() {
    let rig = grown();
    let subject = manager(&rig, None);
    for _ in 0..3 {
        assert!(attempts(&subject, (0..4).map(|_| io()).collect()).1.is_err());
    }
    let (tried, ended) = attempts(&subject, Vec::new());
    assert!(tried == 0 && matches!(ended, Err(PruneError::BreakerOpen { failures: 3, .. })), "{ended:?}");
    let again = manager(&rig, None);
    let status = again.status();
    assert_eq!((status.breaker.state, status.breaker.failures), (BreakerState::Open, 3));
    assert_eq!((status.state, status.exhausted_by.as_deref()), (RecoveryState::Exhausted, Some("io")));
    rig.clock.advance(Duration::from_secs(30));
    assert_eq!(again.status().breaker.state, BreakerState::HalfOpen);
    assert!(attempts(&again, Vec::new()).1.is_ok());
    assert_eq!(again.status().state, RecoveryState::Recovering);
    again.cycle_finished();
    let third = manager(&rig, None);
    assert_eq!(third.status().healthy_cycles, 1, "it counts on where it was");
    third.cycle_finished();
    third.cycle_finished();
    assert_eq!(manager(&rig, None).status().state, RecoveryState::Healthy);
}

/// C12: a phase that waits for room is told as such while it waits, with how much it needs.
#[test]
fn a_phase_that_waits_for_room_degrades_health_until_it_goes_on() {
    let (rig, _) = grown().faulty();
    let subject = manager(&rig, None);
    let judged = || {
        let facts = Facts { recovery: Some(subject.status()), ..Facts::default() };
        let reasons = state_pruner::assess(&facts, &HealthConfig::default()).reasons;
        reasons.into_iter().map(|reason| (reason.code, reason.message)).collect::<Vec<_>>()
    };
    rig.clock.hold_sleepers();
    let full = Cell::new(true);
    runtime().block_on(async {
        let fails = subject.execute_phase_with_recovery(PrunePhase::SweepExpired, || async {
            if full.get() { Err(PruneError::NoRoom { free: 1 << 20, need: 64 << 20 }) } else { Ok(()) }
        });
        tokio::select! {
            biased;
            ended = fails => panic!("it waits: {ended:?}"),
            told = async { judged() } => {
                let [(code, message)] = told.try_into().unwrap();
                assert_eq!(code, "awaiting_room");
                assert!(message.contains("sweep_expired") && message.contains("64.0 MiB"), "{message}");
            }
        }
    });
    assert_eq!(judged().len(), 1, "recovering: {:?}", judged());
    assert_eq!(judged()[0].0, "recovering", "nobody waits any more");
}

/// What failed was the sweep between cycles, and the node was started again without one.
#[test]
fn a_phase_that_is_switched_off_keeps_the_breaker_open_no_longer() {
    let rig = grown();
    let subject = manager(&rig, None);
    for _ in 0..3 {
        let fails = subject.execute_phase_with_recovery(PrunePhase::IncrementalSweep, || async { Err::<(), _>(io()) });
        assert!(runtime().block_on(fails).is_err());
    }
    drop(subject);
    let pruner = start(&rig, |_| ());
    until(&pruner, |pruner| !pruner.status().running);
    let breaker = pruner.status().recovery.breaker;
    assert_eq!((breaker.failures, breaker.closes_after), (3, Some(PrunePhase::Idle)), "a cycle has to finish");
    assert!(codes(&pruner).contains(&"breaker_open".to_owned()), "{:?}", codes(&pruner));
    run(&pruner);
    let recovery = pruner.status().recovery;
    assert_eq!((recovery.breaker.state, recovery.breaker.closes_after), (BreakerState::Closed, None));
    assert_eq!((recovery.state, recovery.exhausted_by), (RecoveryState::Recovering, None));
}

/// Whatever failed and was got over before, or was told already: a failure outside of the phases is told, once.
#[test]
fn what_fails_outside_of_phases_is_told_whatever_failed_before() {
    let told = |subject: &ErrorRecoveryManager| {
        let attempts = subject.status().attempts;
        attempts.iter().filter(|attempt| attempt.phase == PrunePhase::Idle && attempt.came == Came::Stopped).count()
    };
    let rig = grown();
    let subject = manager(&rig, None);
    subject.cycle_begins();
    attempts(&subject, vec![io()]).1.unwrap();
    subject.cycle_failed(&io());
    assert_eq!((told(&subject), subject.status().exhausted_by.as_deref()), (1, Some("io")), "after a retry");

    let subject = manager(&grown(), None);
    subject.cycle_begins();
    let given_up = attempts(&subject, vec![PruneError::Invariant("a bug of ours".to_owned())]).1.unwrap_err();
    subject.cycle_failed(&given_up);
    assert_eq!(told(&subject), 0, "a phase told it");
    subject.cycle_failed(&io());
    assert_eq!(told(&subject), 1, "and the next run has nothing to do with it");

    // The worker says where a run begins.
    let (rig, faulty) = grown().faulty();
    let pruner = start(&rig, |_| ());
    until(&pruner, |pruner| !pruner.status().running);
    attempts(pruner.recovery(), vec![PruneError::Invariant("a bug of ours".to_owned())]).1.unwrap_err();
    faulty.fail_write(1, Fault::Transient); // its ledger, behind that of the request
    run(&pruner);
    assert_eq!((pruner.status().cycles_failed, told(pruner.recovery())), (1, 1));
}

/// An embedder drops what it executes, in the middle of a wait: nothing is left of it.
#[test]
fn an_execution_that_is_dropped_leaves_neither_a_probe_nor_a_wait() {
    let rig = grown();
    let subject = manager(&rig, None);
    for _ in 0..3 {
        assert!(attempts(&subject, (0..4).map(|_| io()).collect()).1.is_err());
    }
    rig.clock.advance(Duration::from_secs(30));
    rig.clock.hold_sleepers();
    runtime().block_on(async {
        let fails = subject.execute_phase_with_recovery(PrunePhase::BuildReach, || async { Err::<(), _>(io()) });
        tokio::select! {
            biased;
            ended = fails => panic!("{ended:?}"),
            () = std::future::ready(()) => {}
        }
    });
    assert_eq!(subject.status().state, RecoveryState::Exhausted, "nobody waits");
    assert!(attempts(&subject, Vec::new()).1.is_ok(), "the next one is the probe");
}

/// A day of it, tried whenever the breaker allows.
#[test]
fn a_persistent_fault_logs_a_bounded_number_of_lines() {
    let rig = grown();
    let subject = manager(&rig, None);
    let mut tried = 0;
    let lines = warnings(|| {
        while rig.clock.monotonic() < Duration::from_secs(24 * 3600) {
            tried += attempts(&subject, (0..4).map(|_| io()).collect()).0;
            rig.clock.advance(Duration::from_secs(10));
        }
    });
    assert!(tried > 100, "{tried}");
    assert!((1..=20).contains(&lines.len()), "for {tried} attempts: {lines:#?}");
    assert!(subject.status().attempts.len() <= 64, "and the history is bounded");
}

/// A pruner whose cycles begin when somebody asks, or every ten orders.
fn start(rig: &Rig, act: impl FnMut(Moment) + Send + 'static) -> Pruner {
    start_with(rig.pruner_parts(&Hooks::new(act)), rig.plan(WINDOW).in_order(), 10)
}

fn start_with(parts: PrunerParts, plan: Plan, every_orders: u64) -> Pruner {
    let config = PrunerConfig { every_orders: NonZeroU64::new(every_orders).unwrap(), ..plan.pruner_of_cycles() };
    Pruner::start(parts, config).unwrap()
}

fn until(pruner: &Pruner, reached: impl Fn(&Pruner) -> bool) {
    while !reached(pruner) {
        thread::yield_now();
    }
}

fn ended(pruner: &Pruner) -> u64 {
    let status = pruner.status();
    status.cycles_finished + status.cycles_failed + status.cycles_cancelled
}

/// Asks for a cycle and waits for its end.
fn run(pruner: &Pruner) {
    until(pruner, |pruner| !pruner.status().running);
    let before = ended(pruner);
    let mut reply = pruner.command(Command::Run);
    while matches!(reply, Reply::Unsaved { .. }) {
        reply = pruner.command(Command::Run); // the fault of the test may have met the request, which is told and asked again
    }
    assert!(matches!(reply, Reply::Accepted | Reply::FollowUp), "{reply:?}");
    until(pruner, |pruner| !pruner.status().running && ended(pruner) > before);
}

/// A pruner on a store that fails a read in each attempt at marking, while it is armed.
fn failing(rig: &Rig, faulty: &FaultyBackend, armed: &Arc<AtomicBool>) -> Pruner {
    let (faulty, armed) = (faulty.clone(), Arc::clone(armed));
    start(rig, move |moment| {
        if moment == Moment::Captured && armed.load(Ordering::Acquire) {
            faulty.fail_read(0, Fault::Transient);
        }
    })
}

fn codes(pruner: &Pruner) -> Vec<String> {
    pruner.health().reasons.into_iter().map(|reason| reason.code).collect()
}

#[test]
fn stop_interrupts_a_backoff_at_once() {
    let (rig, faulty) = grown().faulty();
    rig.clock.hold_sleepers();
    let pruner = failing(&rig, &faulty, &Arc::new(AtomicBool::new(true)));
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    rig.clock.await_sleepers(1);
    assert_eq!(pruner.status().recovery.state, RecoveryState::Retrying);
    drop(pruner); // a wait that it does not interrupt would never end
    assert_eq!(rig.clock.slept().len(), 1);

    // A cancel does, too, and a stop of the manager.
    let pruner = failing(&rig, &faulty, &Arc::new(AtomicBool::new(true)));
    rig.clock.await_sleepers(2); // what was asked for and not done is done by the next process
    assert_eq!(pruner.command(Command::Cancel), Reply::Accepted);
    until(&pruner, |pruner| pruner.status().cycles_cancelled == 1);
    let subject = manager(&rig, None);
    thread::scope(|scope| {
        let waits = scope.spawn(|| attempts(&subject, vec![io()]).1);
        rig.clock.await_sleepers(3);
        subject.stop();
        assert!(matches!(waits.join().unwrap(), Err(PruneError::Stopped)));
    });
}

#[test]
fn the_breaker_opens_holds_cycles_back_lets_one_probe_through_and_closes() {
    let (rig, faulty) = grown().faulty();
    let armed = Arc::new(AtomicBool::new(true));
    let pruner = failing(&rig, &faulty, &armed);
    for failures in 1..=3 {
        run(&pruner);
        let status = pruner.status();
        assert_eq!((status.cycles_failed, status.recovery.breaker.failures), (failures, failures as u32));
        assert_eq!(status.recovery.retries_total, failures * 3);
        assert!(codes(&pruner).contains(&"recovery_exhausted".to_owned()), "{:?}", codes(&pruner));
    }
    assert_eq!(pruner.status().recovery.breaker.state, BreakerState::Open);
    assert!(codes(&pruner).contains(&"breaker_open".to_owned()));

    // Enough orders for a cycle: the breaker holds it back.
    rig.chain.grow(Profile::Uniform, 701, 20);
    pruner.committed(rig.chain.head());
    let triggers = pruner.status().triggers;
    let held = TriggerState::Held { by: HeldBy::Breaker };
    assert!(triggers.triggers.iter().any(|trigger| trigger.standing == held), "{triggers:?}");

    // Its time is over: one attempt, which fails, and it rests for twice as long.
    rig.clock.advance(Duration::from_secs(30));
    pruner.committed(rig.chain.head());
    until(&pruner, |pruner| pruner.status().cycles_failed == 4 && !pruner.status().running);
    let status = pruner.status().recovery;
    assert_eq!(status.breaker.state, BreakerState::Open);
    assert!(status.breaker.probe_in_ms > Some(30_000), "{status:?}");

    // An operator's request is a probe at once. The fault has passed: it closes.
    armed.store(false, Ordering::Release);
    run(&pruner);
    let status = pruner.status();
    assert_eq!((status.recovery.breaker.state, status.cycles_finished), (BreakerState::Closed, 1));
    assert_eq!(status.recovery.state, RecoveryState::Recovering);
    check::exact(&rig.chain, "after the breaker closed");
}

#[test]
fn recovery_is_healthy_again_after_three_cycles() {
    let (rig, faulty) = grown().faulty();
    let armed = Arc::new(AtomicBool::new(true));
    let pruner = failing(&rig, &faulty, &armed);
    run(&pruner);
    armed.store(false, Ordering::Release);
    for cycles in 1..=3 {
        assert_ne!(pruner.status().recovery.state, RecoveryState::Healthy, "before cycle {cycles}");
        run(&pruner);
        assert_eq!(pruner.health().verdict, Verdict::Healthy, "{:?}", pruner.health());
    }
    assert_eq!((pruner.status().recovery.state, codes(&pruner).len()), (RecoveryState::Healthy, 0));
}

/// P13: the worker that met failures does as much as before, and what it does is exact.
#[test]
fn a_fault_that_passes_costs_a_wait_and_no_cycle() {
    let (rig, faulty) = grown().faulty();
    let pruner = start(&rig, |_| ());
    until(&pruner, |pruner| !pruner.status().running);
    faulty.fail_write(3, Fault::Transient);
    run(&pruner);
    let status = pruner.status();
    assert_eq!((status.cycles_finished, status.cycles_failed), (1, 0), "{:?}", status.recovery);
    check::exact(&rig.chain, "after the retry");
}

/// Life cycle 13: each write takes ten minutes of the clock, and one read or write of the cycle fails and passes. Whatever phase
/// that hits, a cycle ends, exact.
#[test]
fn a_slow_or_flaky_disk_costs_waits_and_no_cycle_in_each_phase() {
    let base = grown();
    let (mut at_once, mut hit) = (0, 0);
    for arm in [FaultyBackend::fail_read, FaultyBackend::fail_write] {
        for distance in 0..60 {
            let (rig, faulty) = base.faulty();
            let clock = Arc::clone(&rig.clock);
            faulty.before_write(move || clock.advance(Duration::from_secs(600)));
            let pruner = start(&rig, |_| ());
            until(&pruner, |pruner| !pruner.status().running);
            arm(&faulty, distance, Fault::Transient);
            run(&pruner);
            if faulty.armed() == Armed::Yes {
                break; // the cycle has fewer
            }
            hit += 1;
            at_once += pruner.status().cycles_finished;
            if pruner.status().cycles_finished == 0 {
                run(&pruner); // it failed before its phases
            }
            assert_eq!(pruner.status().cycles_finished, 1, "{distance}: {:?}", pruner.status().last);
            drop(pruner);
            check::exact(&rig.chain, &format!("after a fault at {distance}"));
        }
    }
    assert!(hit > 30 && at_once * 2 > hit, "{at_once} of {hit} cycles got over it by themselves");
}

/// Runs a cycle in which, once, so much time passes between the phases that the snapshot is too old to sweep by. Says which
/// phases were saved. So many cycles failed before.
fn with_an_aged_sweep(rig: &Rig, recovery: RecoveryConfig, failed: u32) -> (Pruner, Vec<PrunePhase>) {
    let (clock, store, phases) =
        (Arc::clone(&rig.clock), Arc::clone(&rig.chain.store), Arc::new(Mutex::new(Vec::new())));
    let (seen, aged) = (Arc::clone(&phases), AtomicBool::new(false));
    let hooks = Hooks::new(move |moment| {
        if moment != Moment::PhaseSaved {
            return;
        }
        let records = StoreRecords(Arc::clone(&store));
        let phase = PhaseRecord::load(&records).unwrap().unwrap().phase;
        seen.lock().push(phase);
        if phase == PrunePhase::SweepExpired && !aged.swap(true, Ordering::AcqRel) {
            clock.advance(Duration::from_secs(3 * 3600));
        }
    });
    let config = PrunerConfig { recovery, ..rig.plan(WINDOW).in_order().pruner_of_cycles() };
    let pruner = Pruner::start(rig.pruner_parts(&hooks), config).unwrap();
    (0..failed).for_each(|_| pruner.recovery().cycle_failed(&io()));
    run(&pruner);
    let phases = phases.lock().clone();
    (pruner, phases)
}

#[test]
fn a_sweep_that_is_given_up_goes_back_to_marking_and_says_so_durably() {
    use PrunePhase::{BuildReach, SweepExpired};
    let rig = grown();
    let (pruner, phases) = with_an_aged_sweep(&rig, RecoveryConfig::default(), 0);
    assert_eq!(pruner.status().cycles_finished, 1, "{:?}", pruner.status().last);
    assert!(phases.starts_with(&[BuildReach, SweepExpired, BuildReach, BuildReach, SweepExpired]), "{phases:?}");
    check::exact(&rig.chain, "after it marked anew");
}

/// What leads back to marking is the third failure in a row, which opens the breaker; the run goes on all the same, and closes it.
#[test]
fn a_sweep_goes_back_to_marking_also_where_that_opens_the_breaker() {
    let rig = grown();
    let (pruner, phases) = with_an_aged_sweep(&rig, RecoveryConfig::default(), 2);
    let status = pruner.status();
    assert_eq!((status.cycles_finished, status.cycles_failed), (1, 0), "{:?} {phases:?}", status.last);
    assert_eq!(status.recovery.breaker.state, BreakerState::Closed);
    check::exact(&rig.chain, "after it marked anew");
}

/// The cycle ends instead, before its first delete, and the next one begins anew.
#[test]
fn a_sweep_that_is_given_up_ends_its_cycle_where_no_phase_is_to_go_back() {
    let rig = grown();
    let before = check::nodes(&rig.chain.store);
    let recovery = RecoveryConfig { enable_phase_rollback: false, ..RecoveryConfig::default() };
    let (pruner, phases) = with_an_aged_sweep(&rig, recovery, 0);
    assert_eq!(phases, [PrunePhase::BuildReach, PrunePhase::SweepExpired], "nothing went back");
    let status = pruner.status();
    assert_eq!((status.cycles_finished, status.cycles_failed), (0, 1), "{:?}", status.last);
    assert!(check::nodes(&rig.chain.store) == before, "nothing was deleted");
    run(&pruner);
    assert_eq!(pruner.status().cycles_finished, 1);
    check::exact(&rig.chain, "after the next cycle");
}

/// The record of a sweep that was given up says what it said, or that marking is next.
#[test]
fn a_phase_that_is_given_up_goes_back_only_where_the_configuration_lets_it() {
    for enable_phase_rollback in [true, false] {
        let rig = grown();
        let records = StoreRecords(Arc::clone(&rig.chain.store));
        let sweeping = PhaseRecord {
            cycle: 1,
            phase: PrunePhase::SweepExpired,
            snapshot_id: 1,
            head_order: rig.chain.head().get(),
            first_order: rig.chain.floor().get(),
            roots_digest: [2; 32],
            integrity_hash: [3; 32],
            mark_digest: Some([4; 32]),
            config: [5; 32],
            cursor: Some(vec![6]),
            swept_by: None,
            deleted: 7,
        };
        sweeping.save(&records).unwrap();
        let config = RecoveryConfig { enable_phase_rollback, ..RecoveryConfig::default() };
        let subject = manager(&rig, Some(config));
        let fails = subject.execute_phase_with_recovery(PrunePhase::SweepExpired, || async { Err::<(), _>(io()) });
        runtime().block_on(fails).unwrap_err();
        assert_eq!(rig.clock.slept().len(), 3, "it was tried as often as it may be");
        let expected = match enable_phase_rollback {
            true => {
                let nothing = PhaseRecord { mark_digest: None, cursor: None, integrity_hash: [0; 32], ..sweeping };
                PhaseRecord { phase: PrunePhase::BuildReach, ..nothing }
            }
            false => sweeping,
        };
        assert_eq!(PhaseRecord::load(&records).unwrap(), Some(expected));
    }
}

/// P14: the cycle has failed, nothing of it is held, and who reads the history sees which phase it was.
#[test]
fn a_phase_that_panics_is_told_as_such_and_not_tried_again() {
    let rig = grown();
    let pruner = start(&rig, |moment| assert!(moment != Moment::PhaseSaved, "a bug of ours"));
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    until(&pruner, |pruner| pruner.status().poisoned.is_some());
    let (status, snapshots) = (pruner.status(), pruner.snapshots().status());
    assert_eq!((status.cycles_failed, status.running), (1, false), "{status:?}");
    assert!(matches!(status.last.as_ref().map(|last| &last.ended), Some(Ended::Failed { .. })), "{status:?}");
    let told: Vec<_> = status.recovery.attempts.into_iter().map(|attempt| (attempt.phase, attempt.came)).collect();
    assert_eq!(told, [(PrunePhase::BuildReach, Came::Panicked)]);
    assert!(snapshots.lock.is_none() && !snapshots.holds_view, "{snapshots:?}");
}

/// S16: the first batch of a sweep fails, and the sweep is tried again by what its record says.
#[test]
fn a_sweep_is_not_tried_again_by_a_snapshot_of_another_content() {
    for is_spoilt in [false, true] {
        let (rig, faulty) = with_much_garbage().faulty();
        let (disk, records) = (faulty.clone(), StoreRecords(Arc::clone(&rig.chain.store)));
        let mut first = true;
        let hooks = Hooks::new(move |moment| {
            if moment == Moment::Deleting && std::mem::take(&mut first) {
                let mut record = PhaseRecord::load(&records).unwrap().unwrap();
                record.integrity_hash[0] ^= u8::from(is_spoilt);
                record.save(&records).unwrap();
                disk.fail_write(0, Fault::Transient);
            }
        });
        let pruner = start_with(rig.pruner_parts(&hooks), rig.plan(WINDOW).in_order().batches(10), 1000);
        until(&pruner, |pruner| !pruner.status().running);
        let before = check::nodes(&rig.chain.store);
        run(&pruner);
        let status = pruner.status();
        let ended = status.last.unwrap().ended;
        assert_eq!(matches!(ended, Ended::Finished { .. }), !is_spoilt, "{ended:?}");
        assert_eq!(faulty.armed(), Armed::No, "the batch failed");
        if is_spoilt {
            assert!(matches!(&ended, Ended::Failed { message, .. } if message.contains("marked from")), "{ended:?}");
            assert!(check::nodes(&rig.chain.store) == before, "it stopped before its first delete");
            run(&pruner);
        }
        check::exact(&rig.chain, "after a whole cycle");
    }
}

/// Runs a cycle on a store that fails as it is told, and holds every total of it against what has really gone.
fn hold_totals(rig: &Rig, pruner: &Pruner, told: &Told, context: &str) {
    let before = check::present(&rig.chain.store).len();
    run(pruner);
    let gone = (before - check::present(&rig.chain.store).len()) as u64;
    let status = pruner.status();
    assert_eq!((status.cycles_finished, status.deleted_total), (1, gone), "{context}: {:?}", status.last);
    let outcome = status.last.unwrap();
    let Ended::Finished { deleted, certificate, .. } = &outcome.ended else { panic!("{context}: {outcome:?}") };
    assert_eq!(*deleted, gone, "{context}: the outcome");
    let run = status.triggers.runs.last().unwrap();
    assert_eq!(run.outcome.as_ref(), Some(&outcome), "{context}: the history");
    let certificate: Certificate = serde_json::from_slice(&std::fs::read(certificate).unwrap()).unwrap();
    assert_eq!((certificate.deleted, certificate.sweep.deleted), (gone, gone), "{context}: the certificate");
    let events = told.0.lock();
    let ends: Vec<Option<u64>> = events
        .iter()
        .filter_map(|event| match event {
            Event::CycleEnded(end) => Some(end.deleted),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [Some(gone)], "{context}: the event");
    drop(events);
    check::exact(&rig.chain, context);
}

fn with_much_garbage() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 705, 30);
    rig
}

/// C7, I13: a sweep fails at one of its steps and is tried again, in both ways to sweep.
#[test]
fn the_totals_of_a_sweep_that_is_tried_again_are_of_all_its_attempts() {
    let base = with_much_garbage();
    for sweep in [SweepChoice::Delete, SweepChoice::Filter] {
        let mut failed = 0;
        for at in 2..6 {
            let (rig, faulty) = base.faulty();
            let told = Arc::new(Told::default());
            let plan = rig.plan(WINDOW).in_order().batches(10).by(MarkChoice::Auto, sweep);
            let mut steps = 0;
            let hooks = Hooks::new(move |moment| {
                steps += usize::from(matches!(moment, Moment::Deleting | Moment::PhaseSaved));
                if steps == at + 2 {
                    steps += 1;
                    match moment {
                        Moment::Deleting => faulty.fail_write(0, Fault::Transient),
                        _ => faulty.fail_rewrite(0, Fault::Transient),
                    }
                }
            });
            let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&hooks) };
            let pruner = start_with(parts, plan, 1000);
            until(&pruner, |pruner| !pruner.status().running);
            hold_totals(&rig, &pruner, &told, &format!("{sweep:?}, failing at {at}"));
            failed += pruner.status().recovery.retries_total;
        }
        assert!(failed > 2, "{sweep:?}: {failed} sweeps failed");
    }
}

/// The same where the snapshot grows too old meanwhile: another mark takes the place of the one that the sweep began by.
#[test]
fn the_totals_of_a_cycle_that_marks_anew_are_of_both_sweeps() {
    let (rig, faulty) = with_much_garbage().faulty();
    let (told, clock, mut batches) = (Arc::new(Told::default()), Arc::clone(&rig.clock), 0);
    let hooks = Hooks::new(move |moment| {
        batches += usize::from(moment == Moment::Deleting);
        if batches == 3 && moment == Moment::Deleting {
            faulty.fail_write(0, Fault::Transient);
            clock.advance(Duration::from_secs(3 * 3600));
        }
    });
    let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&hooks) };
    let pruner = start_with(parts, rig.plan(WINDOW).in_order().batches(10), 1000);
    until(&pruner, |pruner| !pruner.status().running);
    hold_totals(&rig, &pruner, &told, "marked anew");
    let events = told.0.lock();
    assert_eq!(events.iter().filter(|event| event.code() == "phase_rolled_back").count(), 1, "{events:?}");
}

/// O10: one fault of each kind at each read and write of a cycle is told somewhere an operator looks.
#[test]
fn what_fails_under_recovery_is_seen_in_health_or_history() {
    let base = grown();
    let seen = AtomicUsize::new(0);
    for fault in [Fault::Transient, Fault::DiskFull, Fault::Corrupt] {
        for distance in (0..60).step_by(3) {
            for arm in [FaultyBackend::fail_read, FaultyBackend::fail_write] {
                let (rig, faulty) = base.faulty();
                let pruner = start(&rig, |_| ());
                until(&pruner, |pruner| !pruner.status().running);
                arm(&faulty, distance, fault);
                run(&pruner);
                if faulty.armed() == Armed::Yes {
                    continue; // the cycle has fewer
                }
                seen.fetch_add(1, Ordering::AcqRel);
                let status = pruner.status();
                let failed = matches!(status.last.as_ref().map(|last| &last.ended), Some(Ended::Failed { .. }));
                let told = failed
                    || status.frozen.is_some()
                    || !status.recovery.attempts.is_empty()
                    || pruner.snapshots().status().unnoted > 0;
                assert!(told, "{fault:?} after {distance}: {status:?}");
                drop(pruner);
                check::complete(&rig.chain, &format!("{fault:?} after {distance}"));
            }
        }
    }
    assert!(seen.load(Ordering::Acquire) > 30);
}

#[test]
fn pruning_that_is_switched_off_stays_off_over_a_restart_until_it_is_switched_on() {
    let rig = grown();
    let pruner = start(&rig, |_| ());
    assert_eq!(pruner.command(Command::Disable), Reply::Accepted);
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }));
    drop(pruner);
    let before = check::present(&rig.chain.store);
    let pruner = start(&rig, |_| ());
    rig.chain.grow(Profile::Uniform, 702, 20);
    pruner.committed(rig.chain.head());
    until(&pruner, |pruner| !pruner.status().running);
    let status = pruner.status();
    assert!(status.off.is_some() && status.cycles_finished == 0);
    let held = TriggerState::Held { by: HeldBy::SwitchedOff };
    assert!(status.triggers.triggers.iter().any(|trigger| trigger.standing == held));
    assert_eq!(codes(&pruner), ["switched_off"]);
    assert!(before.is_subset(&check::present(&rig.chain.store)), "nothing was deleted");
    assert_eq!(pruner.command(Command::Enable), Reply::Accepted);
    until(&pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert!(pruner.status().off.is_none());
    check::exact(&rig.chain, "after it was switched on");
}

#[test]
fn a_cycle_is_abandoned_when_pruning_is_switched_off_under_it() {
    let rig = grown();
    let pruner: Arc<Mutex<Option<Pruner>>> = Arc::default();
    let (slot, done) = (Arc::clone(&pruner), AtomicBool::new(false));
    let started = start(&rig, move |moment| {
        if moment == Moment::Captured && !done.swap(true, Ordering::AcqRel) {
            let off = slot.lock().as_ref().map(|pruner| pruner.command(Command::Disable));
            assert_eq!(off, Some(Reply::Accepted));
        }
    });
    *pruner.lock() = Some(started);
    let ask = |command| pruner.lock().as_ref().map(|pruner| pruner.command(command)).unwrap();
    let status = || pruner.lock().as_ref().map(Pruner::status).unwrap();
    while status().running {
        thread::yield_now();
    }
    assert_eq!(ask(Command::Run), Reply::Accepted);
    while status().cycles_cancelled == 0 || status().running {
        thread::yield_now();
    }
    assert_eq!(status().cycles_finished, 0);
    let last = pruner.lock().take();
    drop(last);
    check::complete(&rig.chain, "abandoned");
}

/// The record is torn while nobody runs: it alone is given up, and no id is given out twice.
#[test]
fn a_torn_snapshot_record_is_given_up_at_the_start_and_ids_go_on() {
    let rig = grown();
    let pruner = start(&rig, |_| ());
    run(&pruner);
    let before = pruner.snapshots().status().snapshot.unwrap().snapshot_id;
    drop(pruner);
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    state_pruner::Records::save(&records, state_pruner::RecordKey::Snapshot, b"torn").unwrap();
    state_pruner::Records::save(&records, state_pruner::RecordKey::Recovery, b"torn").unwrap();
    let pruner = start(&rig, |_| ());
    let status = pruner.status();
    assert_eq!(status.poisoned, None);
    let came: Vec<&Came> = status.recovery.attempts.iter().map(|attempt| &attempt.came).collect();
    assert_eq!(came, [&Came::Unsaved, &Came::NewSnapshot { wait_ms: 0 }]);
    rig.chain.grow(Profile::Uniform, 703, 5);
    run(&pruner);
    assert_eq!(pruner.status().cycles_finished, 1);
    assert!(pruner.snapshots().status().snapshot.unwrap().snapshot_id > before);
    check::exact(&rig.chain, "after the record was given up");
}

/// The basic path prunes as exactly, keeps nothing over a restart, and is told.
#[test]
fn basic_snapshots_prune_exactly_and_are_marked_as_such() {
    let rig = grown();
    let config = PrunerConfig {
        every_orders: NonZeroU64::new(10).unwrap(),
        snapshots: SnapshotManagerConfig::basic(),
        ..rig.plan(WINDOW).pruner_of_cycles()
    };
    let pruner = Pruner::start(rig.pruner_parts(&Hooks::none()), config).unwrap();
    run(&pruner);
    assert_eq!(pruner.status().snapshot_path, SnapshotPath::Basic);
    assert_eq!((pruner.health().verdict, codes(&pruner)), (Verdict::Healthy, vec!["basic_snapshots".to_owned()]));
    check::exact(&rig.chain, "basic");
    drop(pruner);
    assert_eq!(snapshots(&rig).status().snapshot, None, "nothing was kept");
}

#[test]
fn a_control_that_has_ended_lets_nobody_wait() {
    let rig = grown();
    rig.clock.hold_sleepers();
    let (subject, control) = (manager(&rig, None), Control::default());
    control.cancel();
    let ended = runtime().block_on(subject.execute(PrunePhase::BuildReach, &control, || async { Err::<(), _>(io()) }));
    assert!(matches!(ended, Err(PruneError::Cancelled)), "{ended:?}");
}
