//! S26, S29: every class of roots keeps its tree, and so does a root that comes back inside a value.

use std::{num::NonZeroU64, sync::Arc};

use state_pruner::{
    KeepPolicy, KeptBy, LiveRetention, PruneError, RetainedRoot, Retention, Window, snapshot::RetentionPolicy,
};
use state_store::{Batch, ChainView, Head, Hole, NativeChain, RootAt, StoreError, View};
use state_tests::{
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig, WAYS, env},
    workload::{Profile, adopt, content, key, leaf},
};
use state_tree::{Change, Changes, FieldsBase, Key, Order, Put, StateRoot};

const AMBIGUOUS: Order = Order::new(28);
const PINNED: Order = Order::new(7);
const EVERY: Order = Order::new(10);
const LEAVING: Order = Order::new(12);

/// A chain that cannot say which root one of its orders has.
#[derive(Debug)]
struct Unsure {
    candidate: StateRoot,
}

impl ChainView for Unsure {
    fn head(&self, view: &dyn View) -> Result<Option<Head>, StoreError> {
        NativeChain.head(view)
    }

    fn root(&self, view: &dyn View, order: Order) -> Result<RootAt, StoreError> {
        if order == AMBIGUOUS {
            let why = "the test says so".to_owned();
            return Ok(RootAt::Hole(Hole::Ambiguous { candidate: self.candidate, why }));
        }
        NativeChain.root(view, order)
    }

    fn sequenced(&self, view: &dyn View) -> Result<Option<Order>, StoreError> {
        NativeChain.sequenced(view)
    }

    fn floor(&self, view: &dyn View) -> Result<Order, StoreError> {
        NativeChain.floor(view)
    }
}

/// A window with a hole in it, and roots of every other class below it.
struct Policy {
    below: Vec<RetainedRoot>,
}

impl RetentionPolicy for Policy {
    fn advance(&self) -> Result<(), PruneError> {
        Ok(())
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        Ok(Retention {
            window: Window::Last(NonZeroU64::new(3).unwrap()),
            pins: self.below.clone(),
            allowed_holes: [AMBIGUOUS].into(),
        })
    }
}

/// S41: a policy that somebody else wrote need not know of what the store keeps below its floor.
#[test]
fn what_the_store_keeps_below_its_floor_is_retained_whatever_the_policy_tells() {
    for (mark, sweep) in WAYS {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Tables, 97, 30);
        let plan = rig.plan(3).by(mark, sweep);
        let reader = rig.chain.store.pin(PINNED, "a reader").unwrap();
        let every = KeepPolicy { every: NonZeroU64::new(EVERY.get()), ..KeepPolicy::last(plan.keep_last) };
        LiveRetention::new(rig.retention_parts(Some(every))).advance().unwrap();
        let mut parts = rig.parts(plan.keep_last, &Hooks::none());
        parts.policy = Arc::new(Policy { below: Vec::new() });
        plan.run(&env(parts, &Hooks::none())).unwrap();
        let present = check::present(&rig.chain.store);
        for order in [PINNED, EVERY, Order::new(2 * EVERY.get())] {
            assert!(rig.chain.archive.live([order]).is_subset(&present), "{mark:?} {sweep:?}: order {order}");
        }
        assert!(!rig.chain.archive.live([LEAVING]).is_subset(&present), "{mark:?} {sweep:?}");
        drop(reader);
    }
}

/// The name of a class. A new one does not compile until a root of it is among those of the test.
fn class(kept_by: &KeptBy) -> &'static str {
    match kept_by {
        KeptBy::Head => "head",
        KeptBy::Window => "window",
        KeptBy::Pin(_) => "pin",
        KeptBy::Candidate => "candidate",
        KeptBy::Every => "every",
        KeptBy::Leaving => "leaving",
    }
}

#[test]
fn every_registered_root_class_keeps_its_tree() {
    for (mark, sweep) in WAYS {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Tables, 95, 30);
        let archive = &rig.chain.archive;
        let candidate = Order::new(3);
        let plan = rig.plan(3).by(mark, sweep);
        let below = [(PINNED, KeptBy::Pin("a".to_owned())), (EVERY, KeptBy::Every), (LEAVING, KeptBy::Leaving)];
        let root = |(order, kept_by)| RetainedRoot { order, root: archive.root(order), kept_by };
        let mut parts = rig.parts(plan.keep_last, &Hooks::none());
        parts.policy = Arc::new(Policy { below: below.map(root).to_vec() });
        parts.chain = Arc::new(Unsure { candidate: archive.root(candidate) });
        let refused = plan.run(&env(parts.clone(), &Hooks::none())).unwrap_err();
        assert!(matches!(refused, PruneError::Invariant(_)), "orders that are readable are not retained: {refused}");
        rig.chain.store.raise_floor(Order::new(27), Batch::new()).unwrap();
        let retained = plan.run(&env(parts, &Hooks::none())).unwrap().certificate.retained;
        let mut classes: Vec<&str> = retained.listed.iter().map(|root| class(&root.kept_by)).collect();
        classes.sort_unstable();
        classes.dedup();
        assert_eq!(classes, ["candidate", "every", "head", "leaving", "pin", "window"], "{mark:?} {sweep:?}");

        let present = check::present(&rig.chain.store);
        let single = [(PINNED, "pin"), (EVERY, "every"), (LEAVING, "leaving"), (candidate, "candidate")];
        let single = single.map(|(order, what)| (order.get(), what));
        for (order, what) in [(29, "head"), (27, "window")].into_iter().chain(single) {
            let tree = archive.live([Order::new(order)]);
            assert!(tree.is_subset(&present), "{mark:?} {sweep:?}: the tree of the {what}");
        }
        for order in [1, 15, 20] {
            let tree = archive.live([Order::new(order)]);
            assert!(!tree.is_subset(&present), "{mark:?} {sweep:?}: order {order} is in no class");
        }
    }
}

fn one(key: Key, change: Change) -> Changes {
    Changes([(key, change)].into())
}

/// S29: a dead table is built again and put below another object in the next commit, at each moment of the cycle that
/// finds it dead. The second commit puts only the path to it.
#[test]
fn reattaching_an_embedded_root_protects_its_whole_subtree() {
    let table = || {
        let rows = Changes((0..30).map(|row| (key(row), leaf(row))).collect());
        one(key(1), Change::Put(Put { object: Some(content(1)), base: FieldsBase::Empty, fields: rows }))
    };
    let base = Rig::new(Engine::Memory);
    let built = base.chain.put(&table());
    base.chain.put(&one(key(1), Change::Remove));
    base.chain.grow(Profile::Uniform, 96, 6);
    let dead = base.chain.archive.live([built.order]);
    for (mark, sweep) in WAYS {
        for at in 0.. {
            let rig = base.twin();
            let (chain, rows) = (rig.chain.clone(), table());
            let (seen, mut moments) = (Arc::new(parking_lot::Mutex::new(0)), 0);
            let counted = Arc::clone(&seen);
            let hooks = Hooks::new(move |_: Moment| {
                if moments == at {
                    chain.put(&rows);
                    let moved = Changes([(key(2), adopt(vec![key(1)])), (key(1), Change::Remove)].into());
                    chain.put(&moved);
                }
                moments += 1;
                *counted.lock() = moments;
            });
            let plan = rig.plan(3).in_order().batches(20).by(mark, sweep);
            plan.run(&rig.env(&plan, &hooks)).unwrap();
            if *seen.lock() <= at {
                assert!(at > 3, "the cycle has no moment inside");
                break;
            }
            let context = format!("{mark:?} {sweep:?} moment {at}");
            check::complete(&rig.chain, &context);
            let head = rig.chain.archive.live([rig.chain.head()]);
            assert!(dead.intersection(&head).count() > 30, "{context}: the table is back");
            let below: Vec<Vec<Key>> = (0..30).map(|row| vec![key(2), key(row)]).collect();
            check::alike(&rig.chain, &below, &context);
        }
    }
}
