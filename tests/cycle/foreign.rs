//! P2, I8: rows in the family of the commit journal that no commit wrote. One alone made each round fail, and nobody was told which
//! it was. They are kept and told, the sweep goes on past them, and the next major cycle takes them.

use std::sync::Arc;

use state_pruner::{Command, Poison, Pruner, PrunerParts, Reply, SetAside, Unusable, incremental::RoundEnd};
use state_store::{Batch, Durability, JournalRecord, Store, Table, check_all_rows, record};
use state_tests::{
    check,
    hooks::Hooks,
    rig::{Engine, Rig},
    told::Told,
    waits::until,
    workload::Profile,
};
use state_tree::Order;

use crate::quarantine::{items_told, told, told_from_outside, written};

const WINDOW: u64 = 4;

/// Where a row lies, and whether rounds leave it there.
struct Foreign {
    what: &'static str,
    key: Vec<u8>,
    stays: bool,
}

fn foreign(floor: Order, head: Order) -> Vec<Foreign> {
    let at = |order: Order, more: &[u8]| [&order.to_key()[..], more].concat();
    let [below, above] = [floor, head].map(|order| order.minus(1).unwrap());
    let to_come = Order::new(head.get() + 2);
    let row = |what, key, stays| Foreign { what, key, stays };
    vec![
        row("an empty key", Vec::new(), true),
        row("a short key before every order", vec![0; 7], true),
        row("a short key below the floor", at(below, &[]), true),
        row("a long key below the floor", at(below, &[0; 9]), true),
        row("a short key above the floor", at(above, &[]), true),
        row("a long key above the floor", at(above, &[0xff; 9]), true),
        row("a second row of an order, behind its own", at(above, &[0xff; 8]), false),
        row("a second row of an order, before its own", at(above, &[0; 8]), false),
        row("a row of an order to come", at(to_come, &[0; 8]), false),
        row("a short key of an order to come", at(to_come, &[1]), true),
        row("a key beyond every order", vec![0xff; 20], true),
    ]
}

/// What a row says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// The worst: that everything there is may go.
    AllMayGo,
    /// Nothing that can be read.
    Nothing,
}

impl Says {
    fn value(self, rig: &Rig) -> Vec<u8> {
        if self == Self::Nothing {
            return b"torn".to_vec();
        }
        let root = rig.chain.archive.root(rig.chain.head());
        let stale = check::present(&rig.chain.store).into_iter().map(|hash| *hash.as_bytes()).collect();
        let dropped = root.node().into_iter().map(|hash| *hash.as_bytes()).collect();
        record::encode(&JournalRecord { timestamp_ms: 1, created: Vec::new(), stale, dropped }).unwrap()
    }
}

fn write(store: &Store, key: &[u8], value: Vec<u8>) {
    let mut batch = Batch::new();
    batch.put(Table::JOURNAL, key, value);
    store.write_rows(&batch, Durability::Logged).unwrap();
}

fn is_there(store: &Store, key: &[u8]) -> bool {
    store.view().unwrap().row(&Table::JOURNAL, key).unwrap().is_some()
}

fn faults(store: &Store) -> usize {
    check_all_rows(store, &|| true).unwrap().faults.len()
}

fn begun(rig: &Rig) -> (Pruner, Arc<Told>) {
    let told = Arc::new(Told::default());
    let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&Hooks::none()) };
    (Pruner::start(parts, rig.plan(WINDOW).pruner()).unwrap(), told)
}

/// Commits come, and each time everything goes that may.
fn grow_beside(rig: &Rig, pruner: &Pruner, seed: u64) {
    for commit in 0..6 {
        rig.chain.grow(Profile::Uniform, seed + commit, 1);
        let due = rig.chain.head().minus(WINDOW - 1).unwrap();
        until(rig, pruner, |pruner| {
            pruner.committed(rig.chain.head());
            let status = pruner.status().incremental.unwrap();
            assert_eq!((status.failure, status.uncounted), (None, None), "the sweep goes on");
            rig.chain.floor() == due && status.last == Some(RoundEnd::Done) && status.lag_nodes == Some(0)
        });
        check::complete(&rig.chain, "beside the sweep");
    }
}

fn goes_on_past(engine: Engine, case: usize, says: Says) {
    let rig = Rig::new(engine);
    rig.chain.grow(Profile::Uniform, 61, 10);
    rig.cycle(&rig.plan(WINDOW));
    rig.chain.grow(Profile::Uniform, 62, 6);
    let Foreign { what, key, stays } = foreign(rig.chain.floor(), rig.chain.head()).swap_remove(case);
    assert_eq!(faults(&rig.chain.store), 0, "{what}");
    write(&rig.chain.store, &key, says.value(&rig));
    assert_eq!(faults(&rig.chain.store), 1, "{what}: a validation finds it, too");

    let rig = rig.restart();
    let (pruner, events) = begun(&rig);
    grow_beside(&rig, &pruner, 63);
    let status = pruner.status();
    let known = status.quarantine.unwrap();
    let place = key.iter().take(8).chain(&[0; 8]).take(8).fold(0, |place, byte| place << 8 | u64::from(*byte));
    let [SetAside { what: Poison::JournalRow, order, node: None, why, .. }] = known.items[..] else {
        panic!("{what}: {known:?}")
    };
    assert_eq!((known.total, order, items_told(&events)), (1, Some(place), 1), "{what}");
    let is_torn = says == Says::Nothing && what.starts_with("a second row"); // which one it is of cannot be told
    assert_eq!(why, if is_torn { Unusable::Record } else { Unusable::Foreign }, "{what}");
    assert!(status.incremental.unwrap().deleted_total > 0, "{what}: the others go");
    assert!(
        told(&pruner.health().reasons).is_some_and(|told| told.contains("first the journal row of order")),
        "{what}"
    );
    assert_eq!(is_there(&rig.chain.store, &key), stays, "{what}");
    drop(pruner);

    let rig = rig.restart();
    let (pruner, events) = begun(&rig);
    grow_beside(&rig, &pruner, 73);
    assert_eq!((written(&rig.chain.store), items_told(&events)), (Some(known), 0), "{what}: it is listed once");
    assert!(told_from_outside(&rig).is_some(), "{what}");
    assert_eq!(pruner.command(Command::Run), Reply::Accepted, "{what}");
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert_eq!((pruner.status().quarantine, told(&pruner.health().reasons)), (None, None), "{what}");
    assert_eq!((is_there(&rig.chain.store, &key), faults(&rig.chain.store)), (false, 0), "{what}: it is gone");
    check::exact(&rig.chain, what);
}

fn cases() -> usize {
    foreign(Order::new(7), Order::new(15)).len()
}

#[test]
fn the_sweep_goes_on_past_rows_that_no_commit_wrote_and_tells_of_them_until_a_cycle_has_taken_them() {
    for (case, says) in (0..cases()).flat_map(|case| [Says::AllMayGo, Says::Nothing].map(|says| (case, says))) {
        goes_on_past(Engine::Memory, case, says);
    }
}

#[test]
fn so_it_does_on_the_real_engine_whatever_such_a_row_says() {
    (0..cases()).for_each(|case| goes_on_past(Engine::Rocks, case, Says::AllMayGo));
}
