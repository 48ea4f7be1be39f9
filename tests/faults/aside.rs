//! P2, C20: a real process is killed when it has written down what it is about to pass over. The next one knows of it once, meets
//! it again, and goes on; nothing live is gone.

use std::{path::Path, sync::Arc};

use state_pruner::{Poison, Quarantine, StoreRecords, SweepChoice};
use state_store::{Flow, JournalRecord, KeyRange, Point, Store, Table, record};
use state_tests::{
    archive::{Archive, orders},
    check, damage, folder,
    rig::{Engine, Rig},
    waits::until,
    workload::{Profile, Workload},
};
use state_tree::{NodeHash, Order};

use crate::kill::{WINDOW, cycle, dies_at, slices_go_on, start};

const SEED: u64 = 951;
const CHILD_HOME: &str = "STATE_FAULTS_ASIDE";

/// What is spoilt before the process that is killed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoilt {
    Row,
    Foreign,
    Cursor,
    Node,
}

/// The history before that process.
fn grown(rig: &Rig) {
    rig.chain.grow(Profile::Tables, SEED, 15);
    rig.cycle(&rig.plan(WINDOW));
    rig.chain.grow(Profile::Tables, SEED + 1, 30);
}

/// The life of the process: it comes past what waits to go.
fn live(home: &Path) {
    let rig = Rig::at(home, Arc::default());
    let pruner = start(&rig, SweepChoice::Delete, Some(1), |_| ());
    let mut workload = Workload::new(Profile::Tables, SEED + 2);
    for _ in 0..WINDOW + 3 {
        rig.chain.run(&mut workload, 1);
        pruner.committed(rig.chain.head());
    }
    until(&rig, &pruner, |_| {
        let has_moved = Some(rig.chain.floor()) == rig.chain.head().minus(WINDOW - 1);
        has_moved && rig.chain.store.lag().is_some_and(|lag| lag.nodes == 0) // the status has what the round before found
    });
}

#[test]
#[ignore = "a child of another test"]
fn child_passes_over_until_it_is_killed() {
    if let Some(home) = std::env::var_os(CHILD_HOME) {
        live(home.as_ref());
    }
}

fn rows(store: &Store) -> Vec<(Vec<u8>, JournalRecord)> {
    let mut rows = Vec::new();
    let mut take = |key: &[u8], row: &[u8]| {
        rows.push((key.to_vec(), record::decode("journal", row).unwrap()));
        Flow::Continue(())
    };
    store.view().unwrap().scan(&Table::JOURNAL, &KeyRange::ALL, &mut take).unwrap();
    rows
}

/// The root of a tree that was dropped, which no state has that is readable once the floor has moved.
fn dead_tree(rig: &Rig, rows: &[(Vec<u8>, JournalRecord)]) -> NodeHash {
    let (head, present) = (rig.chain.head(), check::present(&rig.chain.store));
    let oldest = head.minus(WINDOW - 1).unwrap();
    let live = rig.chain.archive.live(orders(oldest, head));
    let expired = rows.iter().filter(|(key, _)| key[..8] <= oldest.to_key()[..]);
    let mut dropped = expired.flat_map(|(_, row)| &row.dropped).map(|hash| NodeHash::new(*hash));
    dropped.rfind(|hash| present.contains(hash) && !live.contains(hash)).expect("a tree is dropped")
}

/// A store with that history, in which something is spoilt.
fn spoil(home: &Path, spoilt: Spoilt) {
    let rig = Rig::at(home, Arc::default());
    grown(&rig);
    let rows = rows(&rig.chain.store);
    let (key, _) = &rows[rows.len() - 3];
    let (family, key) = match spoilt {
        Spoilt::Row => (Table::JOURNAL.name().to_owned(), key.clone()),
        Spoilt::Foreign => (Table::JOURNAL.name().to_owned(), [key.as_slice(), b"more"].concat()),
        Spoilt::Cursor => (Table::META.name().to_owned(), b"expiry".to_vec()),
        Spoilt::Node => ("state_node".to_owned(), dead_tree(&rig, &rows).as_bytes().to_vec()),
    };
    drop(rig);
    damage::put(&home.join("store"), &family, &key, b"torn");
}

/// What the next process finds and does.
fn goes_on(home: &Path, archive: &Archive, (spoilt, context): (Spoilt, &str)) {
    let rig = Rig::at(home, Arc::new(archive.copy()));
    rig.chain.archive.forget_after(rig.chain.head());
    let written = || Quarantine::load(&StoreRecords(Arc::clone(&rig.chain.store))).unwrap();
    let known = written().unwrap_or_else(|| panic!("{context}: nothing is in quarantine"));
    let what = match spoilt {
        Spoilt::Row | Spoilt::Foreign => Poison::JournalRow,
        Spoilt::Cursor => Poison::Cursor,
        Spoilt::Node => Poison::Node,
    };
    assert_eq!((known.total, known.items.len(), known.items[0].what), (1, 1, what), "{context}");
    assert_eq!(rig.chain.store.counts_lost(), None, "{context}: it was not passed over");
    let due = rig.chain.head().minus(WINDOW - 1).unwrap();
    let is_readable = |order: Order| spoilt != Spoilt::Node || order >= due; // older states have the node
    if is_readable(rig.chain.floor()) {
        check::complete(&rig.chain, &format!("{context}: as found"));
    }
    let pruner = start(&rig, SweepChoice::Delete, Some(1), |_| ());
    let owed = u64::from(spoilt == Spoilt::Cursor); // a cycle begins by itself, as no slice can be taken before
    until(&rig, &pruner, |pruner| !pruner.status().running && pruner.status().cycles_finished >= owed);
    slices_go_on(&rig, &pruner, context);
    let still = if spoilt == Spoilt::Cursor { None } else { Some(known) };
    assert_eq!((written(), pruner.status().cycles_finished), (still, owed), "{context}: it is listed once");
    cycle(&rig, &pruner);
    drop(pruner);
    assert_eq!(written(), None, "{context}");
    check::exact(&rig.chain, &format!("{context}: next cycle"));
}

#[test]
fn killed_between_quarantine_and_passing_over() {
    let twin = Rig::new(Engine::Memory);
    grown(&twin);
    twin.chain.grow(Profile::Tables, SEED + 2, WINDOW + 3);
    let passes = [(Spoilt::Row, 2), (Spoilt::Foreign, 1), (Spoilt::Cursor, 1), (Spoilt::Node, 1)];
    for (spoilt, passes) in passes {
        let base = tempfile::tempdir().unwrap();
        spoil(base.path(), spoilt);
        for pass in 0..passes {
            let context = format!("{spoilt:?}, pass {pass}");
            let home = tempfile::tempdir().unwrap();
            folder::copy(&base.path().join("store"), &home.path().join("store"));
            let child = ("aside::child_passes_over_until_it_is_killed", CHILD_HOME);
            assert!(dies_at(child, home.path(), (Point::SetAside, pass)), "{context}: the point was never reached");
            goes_on(home.path(), &twin.chain.archive, (spoilt, &context));
        }
    }
}
