//! O3: what is said of garbage before a cycle, against what the cycle finds: a dry run, and the turnover that the trigger
//! `garbage` looks at: that counts as garbage by how much the live state has grown, so it says what goes where that keeps its
//! size. Nothing else of the product predicts what a cycle gives back.

use std::{path::Path, thread};

use state_pruner::{
    Command, Pruner, Reply,
    offline::{PruneMode, PruneOutcome, PruneRequest, StoreLayout},
};
use state_tests::{
    check,
    hooks::Hooks,
    offline,
    rig::{Engine, Rig},
    workload::{Profile, key, leaf},
};
use state_tree::Changes;

const WINDOW: u64 = 8;

/// Nodes and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Amount {
    nodes: u64,
    bytes: u64,
}

fn stored(rig: &Rig) -> Amount {
    let nodes = check::nodes(&rig.chain.store);
    Amount { nodes: nodes.len() as u64, bytes: nodes.values().map(|bytes| bytes.len() as u64).sum() }
}

fn start(rig: &Rig) -> Pruner {
    let pruner = Pruner::start(rig.pruner_parts(&Hooks::none()), rig.plan(WINDOW).pruner_of_cycles()).unwrap();
    rest(&pruner);
    pruner
}

fn rest(pruner: &Pruner) {
    while pruner.status().running {
        thread::yield_now();
    }
}

fn cycle(pruner: &Pruner) {
    let before = pruner.status().cycles_finished;
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    while pruner.status().cycles_finished == before {
        thread::yield_now();
    }
    rest(pruner);
}

fn dry_run(db: &Path) -> PruneOutcome {
    let request = offline::request(db, WINDOW);
    let plan = PruneRequest { layout: StoreLayout::Native, mode: PruneMode::Plan, ..request };
    offline::prune(&plan).unwrap()
}

/// What the orders of a history change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    /// As many objects as ever, with new values.
    SameSize,
    Of(Profile),
}

const OBJECTS: u64 = 240;
/// Objects that each order changes.
const CHANGED: u64 = 5;

fn grow(rig: &Rig, history: History, seed: u64, orders: u64) {
    let History::Of(profile) = history else {
        let fresh = |at: u64, n: u64| (key(n % OBJECTS), leaf(seed * 1_000_000 + at));
        rig.chain.put(&Changes((0..OBJECTS).map(|n| fresh(n, n)).collect()));
        for order in 1..orders {
            let changed = (0..CHANGED).map(|n| fresh(OBJECTS + order * CHANGED + n, order * 7 + n * 53));
            rig.chain.put(&Changes(changed.collect()));
        }
        return;
    };
    rig.chain.grow(profile, seed, orders);
}

#[test]
fn predicted_reclaim_is_within_five_per_cent() {
    for history in [History::SameSize, History::Of(Profile::Toggle), History::Of(Profile::Tables)] {
        let rig = Rig::new(Engine::Rocks);
        grow(&rig, history, 881, 150);
        let pruner = start(&rig);
        cycle(&pruner);
        grow(&rig, history, 882, 100);
        rig.chain.store.catch_up().unwrap();
        pruner.committed(rig.chain.head());
        let turnover = pruner.status().triggers.turnover.unwrap();
        let before = stored(&rig);
        drop(pruner);
        assert_eq!(turnover.live + turnover.added, before.nodes, "{history:?}: {turnover:?}");

        let rest = rig.rest();
        let plan = dry_run(&rest.store_dir());
        let rig = rest.wake();
        let pruner = start(&rig);
        cycle(&pruner);
        drop(pruner);
        let after = stored(&rig);
        let gone = Amount { nodes: before.nodes - after.nodes, bytes: before.bytes - after.bytes };
        assert!(gone.nodes > before.nodes / 10, "{history:?}: {gone:?} of {before:?}");
        assert_eq!((plan.deleted, plan.sweep.deleted_bytes), (gone.nodes, Some(gone.bytes)), "{history:?}");

        let predicted = turnover.added - turnover.waiting;
        let told = format!("{history:?}: {predicted} of {} were said to be garbage, {gone:?} were", before.nodes);
        assert!(history != History::SameSize || predicted.abs_diff(gone.nodes) * 20 <= gone.nodes, "{told}");
        check::exact(&rig.chain, &format!("{history:?}"));
    }
}
