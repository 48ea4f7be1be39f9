//! P14: a panic in any thread of a mark, and an error that says that a promise of ours does not hold, end pruning and nothing
//! else: health is critical, it is told, nothing is tried again before the next start, and commits go on.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use state_pruner::{
    Command, Ended, IncrementalConfig, PruneError, Pruner, PrunerConfig, PrunerParts, RecordKey, Reply, Verdict,
    cycle::CycleEnv,
    events::{Event, EventSink},
    mark::MarkChoice,
    recovery::Came,
};
use state_store::StoreConfig;
use state_tests::{
    chain::STORE,
    check,
    hooks::Hooks,
    records::{Acting, Use},
    rig::{Engine, Plan, Rig},
    told::Told,
    workload::Profile,
};
use state_tree::{NodeError, NodeHash, NodeLayout, RoochLayout};

use crate::worker::run;

const WINDOW: u64 = 5;

fn grown() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 995, 20);
    rig
}

/// When a layout panics.
#[derive(Debug, Clone, Copy)]
enum Panics {
    /// Once, behind so many questions: whoever tries by another way finds nothing wrong.
    Once(u64),
    /// When it is asked again for a node that it could not read: while the scanned graph is followed.
    Again(NodeHash),
}

/// Reads nodes as Rooch does, until it panics.
#[derive(Debug)]
struct Panicking {
    panics: Panics,
    asked: AtomicU64,
}

impl Panicking {
    fn new(panics: Panics) -> Arc<Self> {
        Arc::new(Self { panics, asked: AtomicU64::new(0) })
    }
}

impl NodeLayout for Panicking {
    fn name(&self) -> &'static str {
        RoochLayout.name()
    }

    fn children(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
        match self.panics {
            Panics::Once(questions) => {
                assert_ne!(self.asked.fetch_add(1, Ordering::AcqRel), questions, "a bug of ours");
            }
            Panics::Again(node) if RoochLayout.hash(bytes)? == node => {
                assert_eq!(self.asked.fetch_add(1, Ordering::AcqRel), 0, "a bug of ours");
                return Err(NodeError::Empty);
            }
            Panics::Again(_) => {}
        }
        RoochLayout.children(bytes, out)
    }

    fn hash(&self, bytes: &[u8]) -> Result<NodeHash, NodeError> {
        RoochLayout.hash(bytes)
    }
}

fn plan(rig: &Rig, choice: MarkChoice, threads: usize) -> Plan {
    let mut plan = rig.plan(WINDOW).batches(20);
    (plan.config.mark, plan.config.threads) = (choice, threads.try_into().unwrap());
    plan
}

fn start(config: PrunerConfig, parts: PrunerParts) -> (Pruner, Arc<Told>) {
    let told = Arc::new(Told::default());
    let parts = PrunerParts { events: Arc::clone(&told) as Arc<dyn EventSink>, ..parts };
    let pruner = Pruner::start(parts, config).unwrap();
    while pruner.status().running {
        thread::yield_now(); // the look at what an earlier process left
    }
    (pruner, told)
}

fn panics(told: &Told) -> usize {
    told.0.lock().iter().filter(|event| matches!(event, Event::WorkerPanicked { .. })).count()
}

/// Pruning has ended, and the node goes on.
fn has_ended(rig: &Rig, pruner: &Pruner, context: &str) {
    let health = pruner.health();
    let codes: Vec<&str> = health.reasons.iter().map(|reason| reason.code.as_str()).collect();
    let (first, others) = codes.split_first().unwrap();
    assert_eq!((health.verdict, *first), (Verdict::Critical, "worker_gone"), "{context}: {health:?}");
    let promises = ["incremental_failed", "recovery_exhausted", "breaker_open"];
    assert!(others.iter().all(|code| !promises.contains(code)), "{context}: nothing is tried again: {health:?}");
    let last = pruner.status().recovery.attempts.last().unwrap().came.clone();
    assert!(matches!(last, Came::Stopped | Came::Panicked), "{context}: {last:?}");
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }), "{context}");
    rig.chain.grow(Profile::Tables, 996, 2);
    pruner.committed(rig.chain.head());
    check::complete(&rig.chain, context);
}

fn panics_and_ends(base: &Rig, (choice, threads): (MarkChoice, usize), when: Panics) {
    let context = format!("{choice:?} by {threads}, {when:?}");
    let rig = base.twin();
    let before = check::present(&rig.chain.store);
    let layout = Panicking::new(when);
    let parts = PrunerParts { layout, ..rig.pruner_parts(&Hooks::none()) };
    let (pruner, told) = start(plan(&rig, choice, threads).pruner_of_cycles(), parts);
    let ended = run(&pruner);
    assert!(matches!(ended, Some(Ended::Failed { .. })), "{context}: {ended:?}");
    assert_eq!(panics(&told), 1, "{context}: {:?}", told.0.lock());
    assert_eq!(check::present(&rig.chain.store), before, "{context}: nothing was deleted");
    has_ended(&rig, &pruner, &context);
    drop(pruner);
    assert_eq!(panics(&told), 1, "{context}: it is not tried again");
    rig.cycle(&plan(&rig, choice, threads));
    check::exact(&rig.chain, &format!("{context}: the next process"));
}

#[test]
fn a_panic_at_any_node_of_a_mark_ends_pruning_and_nothing_else() {
    let base = grown();
    for choice in [MarkChoice::Scan, MarkChoice::Walk] {
        let layout = Panicking::new(Panics::Once(u64::MAX));
        let rig = base.twin();
        let env = CycleEnv {
            layout: Arc::clone(&layout) as Arc<dyn NodeLayout>,
            ..rig.env(&plan(&rig, choice, 1), &Hooks::none())
        };
        let mut whole = plan(&rig, choice, 1);
        whole.config.verify_sample = 0;
        whole.run(&env).unwrap();
        let nodes = layout.asked.load(Ordering::Acquire);
        assert!(nodes > 30, "{nodes} nodes tell nothing");
        for threads in [1, 2] {
            for after in [0, 1, nodes / 2, nodes - 1] {
                panics_and_ends(&base, (choice, threads), Panics::Once(after));
            }
        }
    }
    let head = base.chain.archive.root(base.chain.head()).node().unwrap();
    for threads in [1, 2] {
        panics_and_ends(&base, (MarkChoice::Scan, threads), Panics::Again(head)); // while the graph is followed
    }
}

/// S28, S57: the first cycle makes counts exact, and commits beside it count each node as shared. Where it panics no other comes.
#[test]
fn a_panic_in_a_first_cycle_leaves_no_blind_counting() {
    let old = Rig::with(Engine::Memory, StoreConfig { journal: false, ..STORE });
    old.chain.grow(Profile::Tables, 998, 20);
    let rig = old.twin();
    let parts = PrunerParts { layout: Panicking::new(Panics::Once(0)), ..rig.pruner_parts(&Hooks::none()) };
    let (pruner, told) = start(plan(&rig, MarkChoice::Scan, 1).pruner_of_cycles(), parts);
    run(&pruner);
    assert_eq!(panics(&told), 1);
    let marks = rig.chain.store.marks();
    rig.chain.grow(Profile::Tables, 999, 8);
    assert_eq!(rig.chain.store.marks(), marks, "commits mark nothing for a cycle that does not come");
}

/// The same for an error of that disposition, in a cycle and in a round between cycles.
#[test]
fn a_promise_of_ours_that_does_not_hold_ends_pruning_and_nothing_else() {
    for incremental in [None, Some(IncrementalConfig { stride: NonZeroU64::MIN })] {
        let rig = grown();
        let plan = plan(&rig, MarkChoice::Scan, 1);
        rig.cycle(&plan); // counts are exact
        rig.chain.grow(Profile::Tables, 997, 10);
        let context = format!("{incremental:?}");
        let parts = rig.pruner_parts(&Hooks::none());
        let records = Acting::over(Arc::clone(&parts.records), |used, key| match (used, key) {
            (Use::Save, RecordKey::Snapshot) => Err(PruneError::Invariant("a bug of ours".to_owned())),
            _ => Ok(()),
        });
        let parts = PrunerParts { records, ..parts };
        let config = PrunerConfig { incremental, ..plan.clone().pruner_of_cycles() };
        let (pruner, told) = start(config, parts);
        if incremental.is_some() {
            pruner.committed(rig.chain.head());
        } else {
            pruner.command(Command::Run);
        }
        while pruner.status().poisoned.is_none() {
            thread::yield_now();
        }
        let why = pruner.status().poisoned.unwrap();
        assert!(why.contains("a bug of ours"), "{context}: {why}");
        has_ended(&rig, &pruner, &context);
        drop(pruner);
        assert_eq!(panics(&told), 0, "{context}: nothing has panicked");
        rig.cycle(&plan);
        check::exact(&rig.chain, &format!("{context}: the next process"));
    }
}
