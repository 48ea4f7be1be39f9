//! I4, I5, S21, S22, S28: nodes that come back, move, or stand at two places while a cycle is on its way.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use state_pruner::cycle::CycleEnv;
use state_tests::{
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Plan, Rig, WAYS},
    workload::{Profile, adopt, content, key, leaf, paths},
};
use state_tree::{Change, Changes, FieldsBase, Key, NodeHash, Order, Put};

/// Calls `act` with the number of each moment, from 0 on.
fn at_every_moment(mut act: impl FnMut(usize) + Send + 'static) -> Hooks {
    let mut number = 0;
    Hooks::new(move |moment| {
        if !matches!(moment, Moment::OutcomeSaved) {
            act(number);
            number += 1;
        }
    })
}

/// Runs the cycle with `act` at moment `at`, and says whether the cycle has that many moments.
fn with_act_at(rig: &Rig, plan: &Plan, at: usize, act: impl Fn() + Send + 'static) -> bool {
    let happened = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&happened);
    let hooks = at_every_moment(move |number| {
        if number == at {
            act();
            seen.store(true, Ordering::Release);
        }
    });
    let env: CycleEnv = rig.env(plan, &hooks);
    plan.run(&env).unwrap();
    happened.load(Ordering::Acquire)
}

/// A base history: objects with fields, most of it garbage by now.
fn base() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 11, 25);
    rig
}

fn one(key: Key, change: Change) -> Changes {
    Changes([(key, change)].into())
}

/// Two keys below one internal node, found among hashes.
fn neighbours() -> [Key; 2] {
    let first = key(1_000);
    let mut n = 1_001;
    while key(n).common_bits(&first) < 12 {
        n += 1;
    }
    [first, key(n)]
}

#[test]
fn a_leaf_pulled_up_during_a_cycle_survives() {
    let [stays, goes] = neighbours();
    let base = base();
    base.chain.put(&one(stays, leaf(900)));
    let alone = base.chain.put(&one(goes, leaf(901)));
    base.chain.grow(Profile::Uniform, 12, 6);
    for (mark, sweep) in WAYS {
        for at in 0.. {
            let rig = base.twin();
            let chain = rig.chain.clone();
            let pull_up = move || {
                chain.put(&one(goes, Change::Remove));
            };
            let plan = rig.plan(4).in_order().batches(60).by(mark, sweep);
            if !with_act_at(&rig, &plan, at, pull_up) {
                assert!(at > 2, "the cycle has no moment inside");
                break;
            }
            let context = format!("{mark:?} {sweep:?} moment {at}, sibling came at {}", alone.order);
            check::complete(&rig.chain, &context);
            check::alike(&rig.chain, &[vec![stays], vec![goes]], &context);
            rig.cycle(&rig.plan(1).by(mark, sweep));
            check::exact(&rig.chain, &context);
        }
    }
}

/// The whole content of an old state is committed again while the cycle that finds it dead runs.
#[test]
fn a_state_that_comes_back_during_a_cycle_survives_it() {
    let flip = |value: u64| {
        let fields = Changes((0..20).map(|field| (key(field), leaf(16 * value))).collect());
        let put = Put { object: Some(content(value)), base: FieldsBase::Empty, fields };
        one(key(1), Change::Put(put))
    };
    let base = Rig::new(Engine::Memory);
    let old = base.chain.put(&flip(1));
    base.chain.put(&flip(2));
    base.chain.grow(Profile::Uniform, 13, 6);
    let dead: Vec<NodeHash> = base.chain.archive.live([old.order]).into_iter().collect();
    for (mark, sweep) in WAYS {
        for at in 0.. {
            let rig = base.twin();
            let chain = rig.chain.clone();
            let back = flip(1);
            let come_back = move || {
                chain.put(&back);
            };
            let plan = rig.plan(3).in_order().batches(12).by(mark, sweep);
            if !with_act_at(&rig, &plan, at, come_back) {
                assert!(at > 2);
                break;
            }
            let context = format!("{mark:?} {sweep:?} moment {at}");
            check::complete(&rig.chain, &context);
            let head = rig.chain.archive.live([rig.chain.head()]);
            assert!(dead.iter().any(|node| head.contains(node)), "the test brings nodes back");
        }
    }
}

#[test]
fn a_subtree_shared_by_two_objects_survives_the_death_of_one() {
    for (mark, sweep) in WAYS {
        let rig = Rig::new(Engine::Memory);
        let rows = |from: u64| Changes((from..from + 30).map(|row| (key(row), leaf(row))).collect());
        let table = Put { object: Some(content(1)), base: FieldsBase::Keep, fields: rows(0) };
        rig.chain.put(&one(key(1), Change::Put(table)));
        rig.chain.put(&one(key(2), adopt(vec![key(1)])));
        let nested = Put { object: Some(content(2)), base: FieldsBase::Keep, fields: one(key(5), adopt(vec![key(1)])) };
        rig.chain.put(&one(key(3), Change::Put(nested)));
        rig.chain.put(&one(key(1), Change::Remove));
        rig.chain.put(&one(key(2), Change::Put(Put { object: None, base: FieldsBase::Keep, fields: rows(25) })));
        rig.chain.grow(Profile::Uniform, 14, 5);
        let context = format!("{mark:?} {sweep:?}");
        rig.cycle(&rig.plan(1).by(mark, sweep));
        check::exact(&rig.chain, &context);
        let below = |prefix: &[Key]| (0..60).map(|row| [prefix, &[key(row)]].concat()).collect::<Vec<_>>();
        check::alike(&rig.chain, &below(&[key(2)]), &context);
        check::alike(&rig.chain, &below(&[key(3), key(5)]), &context);

        rig.chain.put(&one(key(2), Change::Remove));
        rig.chain.put(&one(key(3), Change::Remove));
        let with_the_table = check::present(&rig.chain.store).len();
        rig.cycle(&rig.plan(1).by(mark, sweep));
        check::exact(&rig.chain, "the last place is gone, and so is the table");
        assert!(check::present(&rig.chain.store).len() + 30 < with_the_table);
    }
}

#[test]
fn pruned_and_archive_nodes_answer_alike_inside_the_window() {
    for (profile, seed) in Profile::ALL.into_iter().zip(20..) {
        let rig = Rig::new(Engine::Rocks);
        for round in 0..4u64 {
            rig.chain.grow(profile, seed * 10 + round, 15);
            let (mark, sweep) = WAYS[round as usize];
            rig.cycle(&rig.plan(10).by(mark, sweep));
            check::alike(&rig.chain, &paths(profile), &format!("{profile:?} seed {seed} round {round}"));
        }
        assert_eq!(rig.chain.floor(), Order::new(50));
    }
}
