//! I11, P14, O11: the background pruner when a phase panics or live data is damaged: the node serves, and says why.

use std::{
    num::NonZeroU64,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use state_pruner::{
    Clock, Command, Ended, Pruner, PrunerConfig, PrunerParts, Records, Reply, StoreRecords, Verdict,
    snapshot::SnapshotManagerConfig,
};
use state_store::NativeChain;
use state_tests::{
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig},
    workload::{Profile, paths},
};
use state_tree::{NodeError, NodeHash, NodeLayout, RoochLayout, get};

/// A pruner of a rig, and a channel that tells each time a cycle has an outcome.
fn start(rig: &Rig, layout: Arc<dyn NodeLayout>) -> (Pruner, mpsc::Receiver<()>) {
    let (told, outcomes) = mpsc::channel();
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::OutcomeSaved {
            told.send(()).unwrap();
        }
    });
    let records: Arc<dyn Records> = Arc::new(StoreRecords(Arc::clone(&rig.chain.store)));
    let parts = PrunerParts {
        store: Arc::clone(&rig.chain.store),
        chain: Arc::new(NativeChain),
        layout,
        records: hooks.over(records),
        clock: Arc::clone(&rig.clock) as Arc<dyn Clock>,
        facts: None,
        floor_rows: None,
    };
    let plan = rig.plan(5);
    let config = PrunerConfig {
        keep_last: plan.keep_last,
        every_orders: NonZeroU64::new(10).unwrap(),
        cycle: plan.config,
        snapshots: SnapshotManagerConfig::default(),
    };
    (Pruner::start(parts, config).unwrap(), outcomes)
}

fn grown() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 110, 30);
    rig
}

/// Waits for a state that the worker reaches by itself.
fn until(pruner: &Pruner, reached: impl Fn(&Pruner) -> bool) {
    while !reached(pruner) {
        thread::yield_now();
    }
}

#[derive(Debug)]
struct Panics;

impl NodeLayout for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn children(&self, _bytes: &[u8], _out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
        panic!("a bug of ours")
    }

    fn hash(&self, _bytes: &[u8]) -> Result<NodeHash, NodeError> {
        panic!("a bug of ours")
    }
}

#[test]
fn a_panicking_phase_turns_health_failed() {
    let rig = grown();
    let before = check::nodes(&rig.chain.store);
    let (pruner, _outcomes) = start(&rig, Arc::new(Panics)); // a cycle is due, so it begins by itself
    until(&pruner, |pruner| pruner.health().verdict == Verdict::Critical);
    let health = pruner.health();
    assert_eq!(health.reasons[0].code, "worker_gone", "{health:?}");
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }), "and it stays that way");
    assert_eq!(check::nodes(&rig.chain.store), before, "nothing was deleted");
    rig.chain.grow(Profile::Uniform, 111, 5);
    pruner.committed(rig.chain.head());
    drop(pruner);
    check::complete(&rig.chain, "the node goes on");
}

#[test]
fn a_halted_pruner_keeps_serving_and_explains_itself() {
    let rig = grown();
    let (pruner, outcomes) = start(&rig, Arc::new(RoochLayout)); // a cycle is due, so it begins by itself
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!((pruner.health().verdict, pruner.status().cycles_finished), (Verdict::Healthy, 1));

    // Damage: one leaf that every retained state has.
    let head = rig.chain.archive.root(rig.chain.head());
    let lost = *rig.chain.archive.live([rig.chain.head()]).iter().find(|hash| Some(**hash) != head.node()).unwrap();
    let bytes = rig.chain.archive.bytes(&lost);
    rig.memory().uproot(lost.as_bytes());
    let damaged = check::nodes(&rig.chain.store);

    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    let (health, status) = (pruner.health(), pruner.status());
    assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Critical, "frozen"));
    let message = &health.reasons[0].message;
    assert!(message.contains(&lost.to_string()) && message.contains("path from its root"), "{message}");
    assert!(status.frozen.is_some());
    assert!(matches!(status.last.unwrap().ended, Ended::Failed { .. }));
    assert_eq!(check::nodes(&rig.chain.store), damaged, "nothing was deleted");
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }));

    // It serves: what does not need the lost node is read, and other objects are committed.
    let reader = state_tests::chain::ViewReader(rig.chain.store.view().unwrap());
    let served = paths(Profile::Uniform).iter().filter(|path| get(head, path, &reader).is_ok()).count();
    assert!(served > 0);
    pruner.committed(rig.chain.head());

    rig.memory().plant(lost.as_bytes(), &bytes);
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    rig.chain.grow(Profile::Uniform, 112, 10);
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.health().verdict, Verdict::Healthy, "it recovers with its cause");
    check::exact(&rig.chain, "repaired");
}

#[test]
fn a_freeze_outlives_a_restart() {
    let rig = grown();
    let root = rig.chain.archive.root(rig.chain.head()).node().unwrap();
    let bytes = rig.chain.archive.bytes(&root);
    rig.memory().plant(root.as_bytes(), b"not a node");
    {
        let (_pruner, outcomes) = start(&rig, Arc::new(RoochLayout)); // a cycle is due, so it begins by itself
        outcomes.recv().unwrap();
    }
    rig.memory().plant(root.as_bytes(), &bytes);
    let rig = rig.restart();
    let before = check::nodes(&rig.chain.store);
    let (pruner, _outcomes) = start(&rig, Arc::new(RoochLayout));
    assert_eq!(pruner.health().verdict, Verdict::Critical);
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }), "only an operator lifts it");
    drop(pruner);
    assert_eq!(check::nodes(&rig.chain.store), before);
}

#[test]
fn pruning_starts_despite_restarts_before_the_first_window() {
    let mut rig = Rig::new(Engine::Memory);
    for round in 0..6 {
        let (pruner, outcomes) = start(&rig, Arc::new(RoochLayout));
        for _ in 0..4 {
            rig.chain.grow(Profile::Uniform, 120 + round, 1);
            pruner.committed(rig.chain.head());
        }
        // Ten orders make a cycle due; four come per process.
        let due = (rig.chain.head().get() + 1) / 10;
        if round == 2 || round == 5 {
            outcomes.recv().unwrap();
            until(&pruner, |pruner| !pruner.status().running);
            assert_eq!(pruner.status().cycles_finished, 1, "round {round}, due {due}");
        }
        drop(pruner);
        rig = rig.restart();
    }
    check::complete(&rig.chain, "after six processes");
    assert!(rig.chain.floor().get() > 0);
}

/// An operator is faster than the worker's first look at what an earlier process left: the request must not be lost.
#[test]
fn a_request_that_comes_right_after_the_start_is_served() {
    for attempt in 0..40 {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Toggle, 113, 8);
        let (pruner, outcomes) = start(&rig, Arc::new(RoochLayout));
        loop {
            match pruner.command(Command::Run) {
                Reply::Accepted => break,
                Reply::AlreadyRunning => thread::yield_now(), // the look itself
                other => panic!("{other:?}"),
            }
        }
        let told = outcomes.recv_timeout(Duration::from_secs(30));
        assert!(told.is_ok(), "attempt {attempt}: accepted, and never done");
    }
}
