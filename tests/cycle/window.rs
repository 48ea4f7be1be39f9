//! I2, S9 to S14: the window is exactly what was asked for, and whatever is not known keeps or refuses.

use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use state_pruner::{
    Freeze, KeptBy, PruneError, RestWindow, RetainedRoots, Retention, StoreRecords, Window, phase::PrunePhase,
};
use state_store::{Batch, ChainView, Durability, Head, Hole, NativeChain, RootAt, StoreError, Table, View};
use state_tests::{
    archive::orders,
    check,
    hooks::Hooks,
    rig::{Engine, Rig, WAYS, env},
    workload::{Profile, paths},
};
use state_tree::Order;

#[test]
fn every_root_in_the_window_is_fully_readable_after_a_cycle() {
    for engine in Engine::ALL {
        for (profile, seed) in Profile::ALL.into_iter().zip(1..) {
            let rig = Rig::new(engine);
            rig.chain.grow(profile, seed, 30);
            for (mark, sweep) in WAYS {
                let context = format!("{engine:?} {profile:?} seed {seed} {mark:?} {sweep:?}");
                rig.chain.grow(profile, seed + 100, 25);
                let finished = rig.cycle(&rig.plan(12).by(mark, sweep));
                assert_eq!(finished.certificate.retained.roots, 12, "{context}");
                check::exact(&rig.chain, &context);
            }
            check::alike(&rig.chain, &paths(profile), &format!("{engine:?} {profile:?} seed {seed}"));
        }
    }
}

#[test]
fn a_clean_cycle_leaves_no_unreachable_node() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Tables, 5, 80);
    let before = check::present(&rig.chain.store).len();
    let certificate = rig.cycle(&rig.plan(3)).certificate;
    check::exact(&rig.chain, "seed 5");
    let after = check::present(&rig.chain.store).len();
    assert_eq!(certificate.deleted, (before - after) as u64, "and the certificate counts what went");
    assert_eq!(certificate.live_nodes, after as u64);
}

#[test]
fn a_chain_shorter_than_the_window_deletes_nothing() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 2, 20);
    let before = check::present(&rig.chain.store);
    for keep_last in [20, 21, 1000] {
        let certificate = rig.cycle(&rig.plan(keep_last)).certificate;
        assert_eq!((certificate.deleted, certificate.retained.roots), (0, 20), "keep {keep_last}");
        assert_eq!(check::present(&rig.chain.store), before, "keep {keep_last}");
    }
    assert!(rig.cycle(&rig.plan(12)).certificate.deleted > 0, "a shorter window, and the same cycle finds garbage");
}

#[test]
fn a_window_of_n_retains_exactly_n_roots() {
    let rig = Rig::new(Engine::Memory);
    for length in 1..=9u64 {
        rig.chain.grow(Profile::Uniform, length, 1);
        let view = rig.chain.store.view().unwrap();
        for keep in 1..=11 {
            let retention = Retention {
                window: Window::Last(NonZeroU64::new(keep).unwrap()),
                pins: Vec::new(),
                allowed_holes: BTreeSet::new(),
            };
            let retained = RetainedRoots::resolve(&NativeChain, &*view, &retention).unwrap();
            let expected: Vec<Order> = (length.saturating_sub(keep)..length).map(Order::new).collect();
            let found: Vec<Order> = retained.roots.iter().map(|kept| kept.order).collect();
            assert_eq!(found, expected, "{keep} of {length}");
            assert_eq!(retained.shorter_than_asked, keep > length, "{keep} of {length}");
            assert_eq!(retained.roots.last().unwrap().kept_by, KeptBy::Head);
        }
    }
    for keep in (1..=9).rev() {
        let certificate = rig.cycle(&rig.plan(keep)).certificate;
        assert_eq!((certificate.retained.roots, rig.chain.floor()), (keep, Order::new(9 - keep)));
    }
}

#[test]
fn a_hole_in_history_is_reported_and_never_shrinks_the_window() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Toggle, 3, 30);
    let hole = Order::new(24);
    let mut batch = Batch::new();
    batch.delete(Table::ROOT, hole.to_key());
    rig.chain.store.write_rows(&batch, Durability::Logged).unwrap();
    let before = check::present(&rig.chain.store);

    let plan = rig.plan(10);
    let refused = plan.run(&rig.env(&plan, &Hooks::none())).unwrap_err();
    assert!(matches!(&refused, PruneError::Holes { holes } if holes == &[(hole, Hole::NoRecord)]), "{refused}");
    assert!(refused.to_string().contains("24"), "{refused}");
    assert_eq!(check::present(&rig.chain.store), before);

    let mut parts = rig.parts(plan.keep_last, &Hooks::none());
    parts.policy = Arc::new(RestWindow { keep_last: plan.keep_last, allowed_holes: [hole].into(), below: Vec::new() });
    let retained = plan.run(&env(parts, &Hooks::none())).unwrap().certificate.retained;
    assert_eq!((retained.first_order, retained.last_order, retained.roots), (20, 29, 9), "the floor has moved already");
    assert!(retained.shorter_than_asked, "and it says so");
    assert_eq!(retained.holes, [24]);
    let needed = rig.chain.archive.live(orders(Order::new(20), Order::new(29)).filter(|order| *order != hole));
    assert!(check::present(&rig.chain.store).is_superset(&needed));
}

/// A chain whose reads go wrong in one way.
#[derive(Debug)]
enum Wrong {
    HeadFails,
    NoHead,
    RootFails(Order),
    Forgets(Order),
    /// Says another floor whenever it is asked again.
    Wavers(AtomicU64),
}

impl ChainView for Wrong {
    fn head(&self, view: &dyn View) -> Result<Option<Head>, StoreError> {
        match self {
            Self::HeadFails => Err(StoreError::Corrupt("the head".to_owned())),
            Self::NoHead => Ok(None),
            Self::RootFails(_) | Self::Forgets(_) | Self::Wavers(_) => NativeChain.head(view),
        }
    }

    fn root(&self, view: &dyn View, order: Order) -> Result<RootAt, StoreError> {
        match self {
            Self::RootFails(at) if *at == order => Err(StoreError::Corrupt("a root".to_owned())),
            _ => NativeChain.root(view, order),
        }
    }

    fn roots(&self, view: &dyn View, first: Order, last: Order) -> Result<Vec<(Order, RootAt)>, StoreError> {
        let asked = orders(first, last).map(|order| Ok((order, self.root(view, order)?)));
        let mut found = asked.collect::<Result<Vec<_>, StoreError>>()?;
        if let Self::Forgets(at) = self {
            found.retain(|(order, _)| order != at);
        }
        Ok(found)
    }

    fn window_digest(&self, view: &dyn View, first: Order, last: Order) -> Result<Option<[u8; 32]>, StoreError> {
        NativeChain.window_digest(view, first, last)
    }

    fn sequenced(&self, view: &dyn View) -> Result<Option<Order>, StoreError> {
        NativeChain.sequenced(view)
    }

    fn floor(&self, view: &dyn View) -> Result<Order, StoreError> {
        let floor = NativeChain.floor(view)?;
        Ok(match self {
            Self::Wavers(asked) => Order::new(floor.get() + asked.fetch_add(1, Ordering::AcqRel)),
            _ => floor,
        })
    }
}

fn refused(rig: &Rig, chain: Wrong) -> PruneError {
    let before = check::present(&rig.chain.store);
    let (plan, context) = (rig.plan(5), format!("{chain:?}"));
    let mut parts = rig.parts(plan.keep_last, &Hooks::none());
    parts.chain = Arc::new(chain);
    let error = plan.run(&env(parts, &Hooks::none())).unwrap_err();
    assert_eq!(check::present(&rig.chain.store), before, "{context}");
    error
}

#[test]
fn a_failed_head_read_deletes_nothing() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 4, 30);
    for wrong in [Wrong::HeadFails, Wrong::RootFails(Order::new(27))] {
        assert!(matches!(refused(&rig, wrong), PruneError::Store(StoreError::Corrupt(_))));
        // Damage freezes deletes until somebody has looked (I11).
        let plan = rig.plan(5);
        let frozen = plan.run(&rig.env(&plan, &Hooks::none()));
        assert!(matches!(frozen, Err(PruneError::Frozen { .. })));
        let records = StoreRecords(Arc::clone(&rig.chain.store));
        Freeze::load(&records).unwrap().unwrap().lift(&records).unwrap();
    }
    rig.cycle(&rig.plan(5));
    check::exact(&rig.chain, "the same cycle with reads that work");
}

#[test]
fn an_empty_or_short_root_set_is_refused() {
    let rig = Rig::new(Engine::Memory);
    let plan = rig.plan(5);
    let empty = plan.run(&rig.env(&plan, &Hooks::none()));
    assert!(matches!(empty, Err(PruneError::NoHead)), "a chain without any commit");
    rig.chain.grow(Profile::Uniform, 4, 30);
    assert!(matches!(refused(&rig, Wrong::NoHead), PruneError::NoHead));
    for forgotten in 25..30 {
        let error = refused(&rig, Wrong::Forgets(Order::new(forgotten)));
        assert!(matches!(error, PruneError::Invariant(_)), "order {forgotten}: {error}");
    }
}

#[test]
fn a_pin_older_than_the_window_keeps_its_whole_tree() {
    for (mark, sweep) in WAYS {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Tables, 6, 20);
        let pin = rig.chain.store.pin(Order::new(7), "an indexer").unwrap();
        rig.chain.grow(Profile::Tables, 7, 40);
        let plan = rig.plan(4).by(mark, sweep);
        let retained = rig.cycle(&plan).certificate.retained;
        assert_eq!((retained.roots, retained.first_order), (5, 56));
        let kept = rig.chain.archive.live([pin.order()]);
        let present = check::present(&rig.chain.store);
        assert!(present.is_superset(&kept) && present.is_superset(&check::needed(&rig.chain)), "{mark:?} {sweep:?}");
        drop(pin);
        rig.cycle(&plan);
        check::exact(&rig.chain, &format!("{mark:?} {sweep:?}: nobody holds order 7 any more"));
    }
}

#[test]
fn a_store_without_the_sweep_filter_is_swept_by_batches_and_says_why() {
    let memory = state_store::MemoryBackend::without_filter();
    let backend: Arc<dyn state_store::Backend> = Arc::new(memory);
    let rig = Rig::on(state_tests::chain::Chain::open(Arc::clone(&backend)), backend);
    rig.chain.grow(Profile::Uniform, 8, 40);
    let plan = rig.plan(4).by(state_pruner::mark::MarkChoice::Auto, state_pruner::SweepChoice::Auto);
    let outcome = plan.run(&rig.env(&plan, &Hooks::none()));
    let sweep = outcome.unwrap().certificate.sweep;
    assert!(sweep.why.contains("without the sweep filter"), "{}", sweep.why);
    check::exact(&rig.chain, "by delete batches");
}

/// A snapshot of a long window is taken as fast as one of a short window, and nothing is marked before every root of it
/// was read and held against what the snapshot was sealed over.
#[test]
fn a_snapshot_reads_the_ends_of_its_window_and_the_mark_reads_the_rest() {
    let base = Rig::new(Engine::Memory);
    base.chain.grow(Profile::Uniform, 6, 300);
    let reads = |keep_last: u64| {
        let (rig, faulty) = base.faulty();
        let plan = rig.plan(keep_last);
        let env = rig.env(&plan, &Hooks::none());
        env.parts.policy.advance().unwrap();
        let before = faulty.reads();
        let snapshot = env.snapshots.create_snapshot(PrunePhase::BuildReach).unwrap();
        let taken = faulty.reads() - before;
        let roots = env.snapshots.lock_snapshot(PrunePhase::BuildReach).unwrap().roots().unwrap();
        assert_eq!((snapshot.snapshot.roots, roots.roots.len() as u64), (keep_last, keep_last));
        assert_eq!(snapshot.snapshot.roots_digest.0, roots.digest, "keep {keep_last}");
        taken
    };
    let few = reads(2);
    assert!(few > 0 && few < 10, "{few} reads");
    assert_eq!(reads(200), few);
}

#[test]
fn roots_that_are_not_those_a_snapshot_was_sealed_over_are_not_marked_from() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 4, 30);
    let error = refused(&rig, Wrong::Wavers(AtomicU64::new(0)));
    assert!(matches!(&error, PruneError::BadSnapshot { why, .. } if why.contains("sealed")), "{error}");
}
