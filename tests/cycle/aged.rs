//! L3, L7, life cycle 18: a store after many cycles, one that was never pruned before, and one that two processes want.

use std::sync::Arc;

use parking_lot::Mutex;
use state_pruner::Pruner;
use state_store::{Durability, RocksBackend, StoreConfig, StoreError};
use state_tests::{
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig, SMALL, WAYS},
    waits::until,
    workload::{Profile, Workload},
};

const WINDOW: u64 = 5;

/// A pruner that runs a cycle by itself only where counts need one.
fn start(rig: &Rig) -> Pruner {
    let config = rig.plan(WINDOW).pruner();
    Pruner::start(rig.pruner_parts(&Hooks::none()), config).unwrap()
}

/// What the years without a pruner left is gone after one cycle that nobody asks for, and the sweep between cycles, which
/// deletes nothing before it, goes on from there.
#[test]
fn enabling_on_an_old_database_clears_the_backlog() {
    for engine in Engine::ALL {
        let unpruned = StoreConfig { journal: false, ..StoreConfig::new(Durability::Logged) };
        let rig = Rig::with(engine, unpruned);
        rig.chain.grow(Profile::Tables, 900, 200);
        let rig = rig.rest().with(StoreConfig::new(Durability::Logged)).wake(); // the process that has the pruner
        let (stored, live) = (check::present(&rig.chain.store).len(), rig.chain.archive.live([rig.chain.head()]).len());
        assert!(stored > 4 * live, "there is a backlog: {stored} of which {live} live");
        let pruner = start(&rig);
        pruner.committed(rig.chain.head());
        let swept = |pruner: &Pruner| pruner.status().cycles_finished == 1 && !pruner.status().running;
        until(&rig, &pruner, swept);
        check::exact(&rig.chain, "one cycle");
        assert_eq!(pruner.status().incremental.unwrap().deleted_total, 0, "nothing goes before it");
        let mut workload = Workload::new(Profile::Uniform, 901);
        for _ in 0..30 {
            rig.chain.run(&mut workload, 1);
            pruner.committed(rig.chain.head());
        }
        until(&rig, &pruner, |_| rig.chain.floor().get() + WINDOW == rig.chain.head().get() + 1);
        until(&rig, &pruner, |_| rig.chain.store.lag().is_some_and(|lag| lag.nodes == 0));
        assert_eq!(pruner.status().cycles_finished, 1, "{engine:?}");
        drop(pruner);
        check::complete(&rig.chain, "between cycles");
    }
}

/// Rows that a scan of the node family passes, tombstones included, do not grow with the number of cycles behind it.
#[test]
fn scan_cost_stays_flat_over_many_cycles() {
    for (mark, sweep) in WAYS {
        let rig = Rig::new(Engine::Rocks);
        let plan = rig.plan(WINDOW).by(mark, sweep);
        let mut workload = Workload::new(Profile::Uniform, 910);
        rig.chain.run(&mut workload, 100);
        let mut passed = Vec::new();
        for _ in 0..20 {
            rig.chain.run(&mut workload, 20);
            rig.cycle(&plan);
            rig.backend.flush().unwrap();
            let live = check::present(&rig.chain.store).len() as u64;
            let rows: u64 = rig.backend.node_files().unwrap().iter().map(|file| file.entries).sum();
            passed.push((rows, live));
        }
        let worst = passed.iter().map(|(rows, live)| rows / live).max().unwrap();
        assert!(worst <= 2, "{mark:?} {sweep:?}: rows in files, live nodes: {passed:?}");
    }
}

/// Life cycle 18: whoever opens the store a second time is refused by name at every moment of a cycle, and the cycle ends
/// as if nobody had tried.
#[test]
fn second_process_in_each_phase() {
    for (mark, sweep) in WAYS {
        let rig = Rig::new(Engine::Rocks);
        rig.chain.grow(Profile::Uniform, 920, 60);
        let (dir, refused) = (rig.store_dir(), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&refused);
        let hooks = Hooks::new(move |moment: Moment| {
            let opened = RocksBackend::open(&dir, &SMALL).map(drop);
            seen.lock().push((moment, opened));
        });
        let plan = rig.plan(WINDOW).by(mark, sweep);
        plan.run(&rig.env(&plan, &hooks)).unwrap();
        let refused = refused.lock();
        for moment in [Moment::Captured, Moment::PhaseSaved] {
            assert!(refused.iter().any(|(seen, _)| *seen == moment), "{moment:?} was tried");
        }
        for (moment, opened) in refused.iter() {
            let named =
                matches!(opened, Err(StoreError::Locked { holder, .. }) if holder.pid == Some(std::process::id()));
            assert!(named, "{moment:?}: {opened:?}");
        }
        check::exact(&rig.chain, "a second process was refused all along");
    }
}
