//! S28, S31, S32, S34, L6: what the journal says of real states, and what is left of it in the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    ops::ControlFlow,
};

use state_pruner::{
    Poison, SetAside, Unusable,
    cycle::CycleEnv,
    incremental::{IncrementalSweep, Round, RoundEnd},
};
use state_store::{Batch, CrashTail, Durability, Flow, Indexed, JournalRecord, KeyRange, Store, Table, record};
use state_tests::{
    archive::orders,
    check,
    hooks::Hooks,
    rig::{Engine, Plan, Rig},
    workload::{Profile, Workload, adopt, content, key, leaf},
};
use state_tree::{Change, Changes, FieldsBase, Key, NodeHash, Order, Put};

use crate::{books, quarantine::written};

/// One round to the end, in slices of so many nodes.
fn round(rig: &Rig, plan: &Plan, env: &CycleEnv, sweep: &mut IncrementalSweep, nodes: usize) -> Round {
    let nodes = NonZeroUsize::new(nodes).unwrap();
    let round = sweep.round(env, &plan.config.state_dir, nodes, &mut |_| ControlFlow::Continue(nodes)).unwrap();
    check::complete(&rig.chain, "after a round");
    round
}

/// A round of a process that has just begun.
fn one_round(rig: &Rig, plan: &Plan) -> Round {
    round(rig, plan, &rig.env(plan, &Hooks::none()), &mut IncrementalSweep::default(), 16)
}

fn rows(store: &Store, table: &Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    store
        .view()
        .unwrap()
        .scan(table, &KeyRange::ALL, &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            Flow::Continue(())
        })
        .unwrap();
    rows
}

fn entries(store: &Store) -> Vec<(Order, JournalRecord)> {
    let order = |key: &[u8]| Order::new(u64::from_be_bytes(key[..8].try_into().unwrap()));
    let entry = |(key, row): (Vec<u8>, Vec<u8>)| (order(&key), record::decode("journal", &row).unwrap());
    rows(store, &Table::JOURNAL).into_iter().map(entry).collect()
}

/// A commit of one object.
fn put(rig: &Rig, at: Key, change: Change) {
    rig.chain.put(&Changes([(at, change)].into()));
}

/// An object with one field.
fn with_field(object: u64, field: Key, value: u64) -> Change {
    let fields = Changes([(field, leaf(value))].into());
    Change::Put(Put { object: Some(content(object)), base: FieldsBase::Keep, fields })
}

/// Removes an object with so many fields after a cycle.
fn drop_after_a_cycle(rig: &Rig, plan: &Plan, object: Key, fields: u64) {
    (0..fields).for_each(|field| put(rig, object, with_field(7, key(100 + field), field)));
    put(rig, key(2), leaf(1));
    rig.cycle(plan);
    put(rig, object, Change::Remove);
}

/// S31: what the entry of an order names is in the state before that order, and not in the state after it.
#[test]
fn a_stale_entry_names_the_first_order_without_the_node() {
    for profile in Profile::ALL {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(profile, 301, 60);
        let archive = &rig.chain.archive;
        let mut named = 0;
        for (order, row) in entries(&rig.chain.store) {
            let hashes: Vec<NodeHash> = row.stale.iter().chain(&row.dropped).copied().map(NodeHash::new).collect();
            let after = archive.live([order]);
            let before = order.get().checked_sub(1).map(Order::new).map(|before| archive.live([before]));
            for hash in &hashes {
                assert!(!after.contains(hash), "{profile:?}: {hash} of order {order} is still in its state");
                assert!(before.as_ref().is_some_and(|before| before.contains(hash)), "{profile:?}: {hash} of {order}");
            }
            named += hashes.len();
        }
        assert!(named > 20, "{profile:?}: only {named} nodes are named");
    }
}

/// S32: commits that a crash took are made again: rows and later deletes are those of a history without the crash, as long as
/// what it left had been judged.
#[test]
fn replaying_a_commit_after_a_crash_changes_no_bookkeeping() {
    let base = Rig::new(Engine::Memory);
    base.chain.grow(Profile::Tables, 311, 20);
    let plan = base.plan(4);
    base.cycle(&plan);
    let mut workload = Workload::new(Profile::Tables, 312);
    let straight = base.twin();
    straight.chain.store.index_journal(&|| true).unwrap();
    let mut history: Vec<Changes> = Vec::new();
    for _ in 0..8 {
        straight.chain.commit(|root, reader| {
            let changes = workload.changes(root, reader);
            history.push(changes.clone());
            changes
        });
    }
    let first = base.chain.head().get() + 1;
    let books = |rig: &Rig| {
        rig.chain.store.catch_up().unwrap();
        [Table::JOURNAL, Table::MANY, Table::META].map(|table| rows(&rig.chain.store, &table))
    };
    let expected = books(&straight);
    for tail in [CrashTail::Kept, CrashTail::Lost] {
        for write in 0..=8 {
            let (rig, faulty) = base.faulty();
            rig.chain.store.index_journal(&|| true).unwrap();
            for changes in &history[..write] {
                rig.chain.put(changes);
                rig.chain.store.catch_up().unwrap();
            }
            faulty.freeze_after(0);
            assert!(rig.chain.try_commit(|_, _| history[0].clone()).is_err());
            let image = faulty.crash_image(tail).unwrap();
            let rig = rig.crashed(image);
            rig.chain.archive.forget_after(rig.chain.head());
            rig.chain.store.index_journal(&|| true).unwrap();
            let done = (rig.chain.head().get() + 1 - first) as usize;
            for changes in &history[done..] {
                rig.chain.put(changes);
            }
            assert_eq!(books(&rig), expected, "{tail:?} after {write} commits, {done} of them found");
            one_round(&rig, &plan);
        }
    }
}

/// I8, I9: a commit that nobody has judged before a crash has marked, in its own batch, all that it created and that may be at
/// another place. So no mark that it needs is missing, nothing is lost, and a cycle leaves none that is not needed.
#[test]
fn a_commit_that_is_not_judged_before_a_crash_has_every_mark_that_it_needs_and_others_until_a_cycle() {
    let (mut needed, mut presumed) = (0, 0);
    for (seed, profile) in (320..328).zip([Profile::Tables, Profile::Toggle].into_iter().cycle()) {
        let base = Rig::new(Engine::Memory);
        base.chain.grow(profile, seed, 20);
        let plan = base.plan(4);
        base.cycle(&plan);
        let mut workload = Workload::new(profile, seed + 100);
        for _ in 0..6 {
            let context = format!("{profile:?} {seed}, order {}", base.chain.head());
            base.chain.run(&mut workload, 1);
            let found = base.memory().copy();
            let marked = books::marked(&base.chain.store); // judged by now, in memory alone
            let rig = base.twin().crashed(found);
            let more = &books::marked(&rig.chain.store) - &marked;
            let created = rig.chain.archive.created(rig.chain.head());
            let created: BTreeSet<u64> = created.iter().map(NodeHash::fingerprint).collect();
            assert!(more.is_subset(&created), "{context}: only nodes of the newest commit");
            (needed, presumed) = (needed + marked.intersection(&created).count(), presumed + more.len());

            rig.chain.store.index_journal(&|| true).unwrap();
            rig.chain.run(&mut workload, 6);
            one_round(&rig, &plan);
            check::complete(&rig.chain, &context);
            rig.cycle(&plan);
            check::exact(&rig.chain, &context);
        }
    }
    assert!(needed > 10 && presumed > 100, "{needed} and {presumed}");
}

/// L6: rows of every family stay as many as the window asks for, however long the history is.
#[test]
fn every_family_with_deletes_is_reclaimed() {
    const WINDOW: u64 = 6;
    for profile in [Profile::Uniform, Profile::Tables] {
        let rig = Rig::new(Engine::Memory);
        let plan = rig.plan(WINDOW);
        rig.chain.grow(profile, 321, 12);
        rig.cycle(&plan);
        let (env, mut sweep) = (rig.env(&plan, &Hooks::none()), IncrementalSweep::default());
        let mut workload = Workload::new(profile, 322);
        let mut records = None;
        for step in 1..=150 {
            rig.chain.run(&mut workload, 1);
            assert_eq!(round(&rig, &plan, &env, &mut sweep, 16).end, RoundEnd::Done);
            let count = |table: &Table| rows(&rig.chain.store, table).len() as u64;
            assert_eq!(count(&Table::JOURNAL), WINDOW - 1, "{profile:?}: entries above the floor, step {step}");
            assert_eq!(count(&Table::ROOT), WINDOW, "{profile:?}: roots of the window, step {step}");
            assert_eq!(count(&Table::SNAPSHOT), 1, "{profile:?}: the newest snapshot, step {step}");
            if step % 50 == 0 {
                plan.run(&env).unwrap();
                check::exact(&rig.chain, &format!("{profile:?} step {step}"));
                let nodes = check::present(&rig.chain.store).len() as u64;
                assert!(count(&Table::MANY) <= nodes, "{profile:?}: marks of dead nodes are left at step {step}");
                let now = (count(&Table::META), count(&Table::CHAIN));
                assert_eq!(*records.get_or_insert(now), now, "{profile:?}: each record once, step {step}");
            }
        }
    }
}

/// S28: sharing is judged along the whole path, so what is replaced below a clone stays for the other one.
#[test]
fn a_node_replaced_below_a_shared_ancestor_is_kept() {
    let rig = Rig::new(Engine::Memory);
    let plan = rig.plan(2);
    let (first, second) = (key(1), key(2));
    for field in 0..6 {
        put(&rig, first, with_field(7, key(100 + field), field));
    }
    rig.cycle(&plan);
    put(&rig, second, adopt(vec![first]));
    let shared = rig.chain.archive.live([rig.chain.head()]);
    put(&rig, first, with_field(7, key(100), 50));
    let head = rig.chain.head();
    for field in 0..4 {
        put(&rig, key(3), with_field(8, key(200), field)); // both orders leave the window
        one_round(&rig, &plan);
    }
    assert!(rig.chain.floor() > head);
    let kept = shared.intersection(&check::present(&rig.chain.store)).count();
    assert!(kept > 6, "the tree of the clone: {kept} nodes");
    put(&rig, second, Change::Remove);
    put(&rig, key(3), leaf(9));
    put(&rig, key(3), leaf(10));
    one_round(&rig, &plan);
    rig.cycle(&plan);
    check::exact(&rig.chain, "a cycle takes what was shared until then");
}

/// S34: no count is ever taken down, so none can drift below zero. Bookkeeping that does not fit makes nothing deletable.
#[test]
fn bookkeeping_that_does_not_fit_deletes_nothing() {
    let rig = Rig::new(Engine::Memory);
    let plan = rig.plan(3);
    rig.chain.grow(Profile::Uniform, 331, 8);
    rig.cycle(&plan);
    rig.chain.grow(Profile::Uniform, 332, 12);
    let env = rig.env(&plan, &Hooks::none());
    let one = NonZeroUsize::MIN;
    // A cursor in the middle of its entries, which come to their end before it is put back.
    IncrementalSweep::default().round(&env, &plan.config.state_dir, one, &mut |_| ControlFlow::Break(())).unwrap();
    let cursor = rig.chain.store.view().unwrap().row(&Table::META, b"expiry").unwrap().unwrap();
    assert_eq!(one_round(&rig, &plan).end, RoundEnd::Done);
    let mut batch = Batch::new();
    batch.put(Table::META, *b"expiry", cursor);
    rig.chain.store.write_rows(&batch, Durability::Logged).unwrap();
    let rig = rig.restart();
    assert!(matches!(rig.chain.store.index_journal(&|| true).unwrap(), Indexed::Gap(_)), "the rows behind it are gone");
    rig.chain.grow(Profile::Uniform, 333, 6);
    let before = check::present(&rig.chain.store);
    assert_eq!(one_round(&rig, &plan).end, RoundEnd::Uncounted);
    assert_eq!(check::present(&rig.chain.store), before);
    rig.cycle(&plan); // makes counts exact again
    rig.chain.grow(Profile::Uniform, 334, 6);
    assert_eq!(one_round(&rig, &plan).end, RoundEnd::Done);
    rig.cycle(&plan);
    check::exact(&rig.chain, "what nobody counted waited for a further cycle");
}

/// S34: a tree whose node does not decode is not guessed at: it stays, and is counted.
#[test]
fn a_dead_tree_that_cannot_be_read_is_set_aside() {
    let rig = Rig::new(Engine::Memory);
    let plan = rig.plan(2);
    let object = key(1);
    drop_after_a_cycle(&rig, &plan, object, 6);
    let dropped = entries(&rig.chain.store).into_iter().flat_map(|(_, row)| row.dropped).collect::<Vec<_>>();
    let [root] = dropped[..] else { panic!("{dropped:?}") };
    rig.memory().plant(&root, b"torn");
    put(&rig, key(2), leaf(2));
    put(&rig, key(2), leaf(3));
    let ended = rig.env(&plan, &Hooks::none());
    ended.control.cancel();
    let read_only = round(&rig, &plan, &ended, &mut IncrementalSweep::default(), 16);
    assert_eq!((read_only.set_aside, read_only.end), (0, RoundEnd::Paused), "it is told once: when it is passed over");
    let round = one_round(&rig, &plan);
    assert_eq!((round.set_aside, round.end), (1, RoundEnd::Done));
    let known = written(&rig.chain.store).unwrap();
    let [SetAside { what: Poison::Node, node: Some(node), why: Unusable::Malformed, .. }] = &known.items[..] else {
        panic!("{known:?}")
    };
    assert_eq!((node, known.total), (&hex::encode(root), 1));
    assert!(check::present(&rig.chain.store).contains(&NodeHash::new(root)), "it stays");
    let leaks = check::present(&rig.chain.store).difference(&check::needed(&rig.chain)).count();
    assert!(leaks > 6, "and what lies below it: {leaks}");
    rig.cycle(&plan);
    check::exact(&rig.chain, "a cycle knows that no live state has it");
    assert_eq!(written(&rig.chain.store), None);
    assert!(orders(rig.chain.floor(), rig.chain.head()).count() == 2);
}

/// I9: a cursor in the middle of a tree goes on after a restart; one that a branch makes void leaves no row behind.
#[test]
fn a_cursor_in_the_middle_of_a_tree_is_continued_or_leaves_nothing_behind() {
    for branch in [false, true] {
        let rig = Rig::new(Engine::Memory);
        let plan = rig.plan(3);
        let object = key(1);
        drop_after_a_cycle(&rig, &plan, object, 60);
        (2..6).for_each(|n| put(&rig, key(2), leaf(n)));
        let layers = |rig: &Rig| {
            rows(&rig.chain.store, &Table::META).into_keys().filter(|row| row.starts_with(b"expiry/")).count()
        };
        let few = NonZeroUsize::new(4).unwrap();
        let mut slices = 3;
        let mut go_on = |_: &_| {
            slices -= 1;
            if slices == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(few) }
        };
        let env = rig.env(&plan, &Hooks::none());
        IncrementalSweep::default().round(&env, &plan.config.state_dir, few, &mut go_on).unwrap();
        assert!(layers(&rig) > 1, "the test tells nothing");
        drop(env);
        let rig = rig.restart();
        assert_eq!(rig.chain.store.index_journal(&|| true).unwrap(), Indexed::Whole { bad_rows: Vec::new() });
        if branch {
            let base = rig.chain.head().minus(1).unwrap();
            rig.chain.fork_at(base, |_, _| Changes([(key(3), leaf(1))].into()));
            (6..12).for_each(|n| put(&rig, key(2), leaf(n)));
        }
        let round = one_round(&rig, &plan);
        assert_eq!((round.end, layers(&rig)), (RoundEnd::Done, 0), "branch {branch}");
        if branch {
            check::complete(&rig.chain, "the tree is left to a cycle");
            rig.cycle(&plan);
        }
        check::exact(&rig.chain, "after all of it");
    }
}

/// I8, I11: a mark that is unusable is a mark whose order nobody knows, so the node is shared and the chain goes on.
#[test]
fn a_torn_mark_counts_as_shared_and_holds_up_no_commit() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 341, 8);
    rig.cycle(&rig.plan(3));
    let root = rig.chain.archive.root(rig.chain.head()).node().unwrap();
    let mut batch = Batch::new();
    batch.put(Table::MANY, root.fingerprint().to_be_bytes(), *b"torn");
    rig.chain.store.write_rows(&batch, Durability::Logged).unwrap();
    let committed = rig.chain.try_commit(|_, _| Changes([(key(1), leaf(1))].into()));
    assert!(committed.is_ok(), "{committed:?}");
}
