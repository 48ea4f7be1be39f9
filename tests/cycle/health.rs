//! O5, O14: health from outside costs the same few reads on every store, writes nothing, and tells what hangs.

use std::{
    num::NonZeroU64,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use state_pruner::{
    Command, NewPin, Pruner, PrunerConfig, Reason, RetentionParts, StoreRecords, TriggerConfig, Verdict,
    offline::{HealthRequest, health_of_opened},
    recovery::RecoveryConfig,
    snapshot::SnapshotManagerConfig,
};
use state_store::{Backend, FaultyBackend, MemoryBackend};
use state_tests::{
    chain::Chain,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig},
    workload::Profile,
};

/// A pruner whose cycles begin when somebody asks.
pub(crate) fn pruner(rig: &Rig, hooks: &Hooks) -> Pruner {
    let plan = rig.plan(5);
    let config = PrunerConfig {
        keep_last: plan.keep_last,
        every_orders: NonZeroU64::new(1_000_000).unwrap(),
        incremental: None,
        triggers: TriggerConfig::default(),
        cycle: plan.config,
        snapshots: SnapshotManagerConfig::default(),
        recovery: RecoveryConfig::default(),
    };
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

fn codes(reasons: &[Reason]) -> Vec<&str> {
    reasons.iter().map(|reason| reason.code.as_str()).collect()
}

#[test]
fn the_health_of_a_store_costs_the_same_few_reads_whatever_its_size() {
    let cost = |orders: u64| {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
        let rig = Rig::on(Chain::open(Arc::clone(&backend)), backend);
        rig.chain.grow(Profile::Uniform, 117, orders);
        cycle(&rig);
        let request = HealthRequest { now_ms: 0, ..HealthRequest::new(Path::new("nowhere"), None) };
        let before = (faulty.reads(), faulty.writes());
        let health = health_of_opened(Arc::clone(&rig.chain.store), &request).unwrap();
        assert_eq!((health.verdict, codes(&health.reasons)), (Verdict::Healthy, vec![]));
        assert_eq!(faulty.writes(), before.1, "nothing is written");
        faulty.reads() - before.0
    };
    let (small, large) = (cost(7), cost(150));
    assert_eq!(small, large);
    assert!(small <= 12, "{small} reads");
}

#[test]
fn the_records_of_a_store_tell_an_old_pin_and_a_cycle_that_does_not_come() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 118, 9);
    cycle(&rig);
    rig.chain.grow(Profile::Uniform, 118, 6);
    let store = || Arc::clone(&rig.chain.store);
    let retention = state_pruner::LiveRetention::new(RetentionParts {
        store: store(),
        records: Arc::new(StoreRecords(store())),
        clock: Arc::clone(&rig.clock) as _,
        keep: None,
        floor_rows: None,
        events: Arc::new(state_pruner::events::NoEvents),
    });
    let pin = NewPin { name: "audit".to_owned(), owner: "me".to_owned(), order: rig.chain.head(), ttl: None };
    retention.add_pin(pin).unwrap();
    let days = |days: u64| days * 24 * 3_600_000;
    let judged = |now_ms: u64, due_after: Option<u64>| {
        let request = HealthRequest { now_ms, due_after, ..HealthRequest::new(Path::new("nowhere"), None) };
        let health = health_of_opened(store(), &request).unwrap();
        codes(&health.reasons).join(" ")
    };
    assert_eq!(judged(days(1), Some(6)), "");
    assert_eq!(judged(days(2), Some(6)), "cycle_overdue");
    assert_eq!(judged(days(2), Some(7)), "", "none is due");
    assert_eq!(judged(days(2), None), "cycle_age_unknown");
    assert_eq!(judged(days(31), Some(6)), "cycle_overdue pin_old");
    retention.remove_pin("audit").unwrap();
    cycle(&rig);
    assert_eq!(judged(days(1), Some(6)), "", "both recover with their cause");
}

#[test]
fn a_phase_that_makes_no_progress_is_told_and_forgotten_when_it_goes_on() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 119, 9);
    let (release, released) = mpsc::channel::<()>();
    let (told, at_lock) = mpsc::channel();
    let (ended, outcomes) = mpsc::channel();
    let mut held = false;
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::PhaseSaved && !held {
            held = true;
            told.send(()).unwrap();
            assert!(released.recv().is_err(), "held until the other end is dropped");
        }
        if moment == Moment::OutcomeSaved {
            ended.send(()).unwrap();
        }
    });
    let pruner = pruner(&rig, &hooks);
    pruner.command(Command::Run);
    at_lock.recv().unwrap();
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
