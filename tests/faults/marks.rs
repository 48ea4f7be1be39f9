//! I8, S14, C5: the sealed mark is cut while a sweep goes by it, before one read of it after the other, mid-rewrite included.
//! The sweep ends with an error that says so, nothing counts as swept that could not be judged, every retained root is whole,
//! and the next cycle goes on.

use std::{
    fs::{self, File},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use state_pruner::{Ended, PruneError, SweepChoice, mark::MarkChoice};
use state_store::{Disposition, FaultyDisk, FileCall, Point, watch};
use state_tests::{
    check, folder,
    hooks::Hooks,
    rig::{Engine, Plan, Rig, WAYS},
    workload::Profile,
};
use state_tree::RoochLayout;

use crate::worker::{run, start};

const WINDOW: u64 = 5;

fn grown(engine: Engine) -> Rig {
    let rig = Rig::new(engine);
    rig.chain.grow(Profile::Tables, 991, 20);
    rig
}

fn plan(rig: &Rig, mark: MarkChoice, sweep: SweepChoice) -> Plan {
    rig.plan(WINDOW).in_order().batches(40).by(mark, sweep)
}

/// Its header stays, and half a fingerprint.
fn cut(mark: &Path) {
    File::options().write(true).open(mark).and_then(|file| file.set_len(108)).unwrap();
}

/// Cuts a sealed mark once, before a read of it, and tells whether it came to that.
fn cut_before_read(dir: &Path, nth: u64) -> (FaultyDisk, Arc<AtomicBool>) {
    let is_cut = Arc::new(AtomicBool::new(false));
    let (seen, reads) = (Arc::clone(&is_cut), AtomicU64::new(0));
    let disk = FaultyDisk::heard(dir, move |call, path| {
        let is_sealed = path.extension().is_some_and(|ending| ending == "sealed");
        if call == FileCall::Read && is_sealed && reads.fetch_add(1, Ordering::AcqRel) == nth {
            cut(path);
            seen.store(true, Ordering::Release);
        }
        Ok(())
    });
    (disk, is_cut)
}

fn marks(rig: &Rig) -> usize {
    folder::with_ending(&rig.state_dir(), "sealed").len()
}

#[test]
fn a_mark_that_is_cut_before_any_of_its_reads_ends_the_cycle_and_loses_nothing() {
    let base = grown(Engine::Memory);
    let of_rocks = [(MarkChoice::Scan, SweepChoice::Filter), (MarkChoice::Walk, SweepChoice::Delete)];
    let ways = WAYS.map(|way| (Engine::Memory, way)).into_iter().chain(of_rocks.map(|way| (Engine::Rocks, way)));
    for (engine, (mark, sweep)) in ways {
        for nth in 0.. {
            let context = format!("{engine:?} {mark:?} {sweep:?} before read {nth}");
            let rig = if engine == Engine::Memory { base.twin() } else { grown(engine) };
            let plan = plan(&rig, mark, sweep);
            let env = rig.env(&plan, &Hooks::none());
            fs::create_dir_all(rig.state_dir()).unwrap();
            let (disk, is_cut) = cut_before_read(&rig.state_dir(), nth);
            let ended = plan.run(&env);
            drop(disk);
            check::complete(&rig.chain, &context);
            if !is_cut.load(Ordering::Acquire) {
                ended.unwrap();
                assert!(nth > 4, "{context}: the sweep looks nothing up");
                break;
            }
            let error = ended.unwrap_err();
            assert!(matches!(error, PruneError::BadMark { .. }), "{context}: {error}");
            assert_eq!(error.disposition(), Disposition::Corrupt, "{context}");
            rig.chain.grow(Profile::Toggle, 992, 2);
            plan.run(&env).unwrap_or_else(|error| panic!("{context}: next cycle: {error}"));
            check::exact(&rig.chain, &format!("{context}: next cycle"));
            assert_eq!(marks(&rig), 0, "{context}");
        }
    }
}

/// The mark is cut before anything is judged by it: no range and no batch counts as done.
#[test]
fn nothing_counts_as_swept_that_was_kept_because_its_mark_could_not_be_read() {
    for (engine, sweep) in Engine::ALL
        .into_iter()
        .flat_map(|engine| [SweepChoice::Filter, SweepChoice::Delete].map(|sweep| (engine, sweep)))
    {
        let context = format!("{engine:?} {sweep:?}");
        let rig = grown(engine);
        let before = check::present(&rig.chain.store);
        let plan = plan(&rig, MarkChoice::Scan, sweep);
        let env = rig.env(&plan, &Hooks::none());
        let (dir, passed) = (rig.state_dir(), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&passed);
        let watching = watch(move |point| {
            if point == Point::SweepBegins {
                folder::with_ending(&dir, "sealed").iter().for_each(|mark| cut(mark));
            }
            seen.lock().push(point);
        });
        let ended = plan.run(&env);
        drop(watching);
        assert!(matches!(ended, Err(PruneError::BadMark { .. })), "{context}: {ended:?}");
        let passed = passed.lock().clone();
        assert!(passed.contains(&Point::SweepBegins), "{context}: {passed:?}");
        let done = [Point::RangeRewritten, Point::RangePassed, Point::BatchWritten, Point::SweepEnds];
        assert!(!passed.iter().any(|point| done.contains(point)), "{context}: {passed:?}");
        assert_eq!(check::present(&rig.chain.store), before, "{context}: unknown means keep");
        rig.cycle(&plan);
        check::exact(&rig.chain, &context);
    }
}

/// What the worker of a node makes of it: a damaged mark is made anew, in the same cycle.
#[test]
fn a_node_whose_mark_is_cut_in_its_sweep_marks_anew_and_finishes() {
    for sweep in [SweepChoice::Filter, SweepChoice::Delete] {
        let rig = grown(Engine::Memory);
        fs::create_dir_all(rig.state_dir()).unwrap();
        let (disk, is_cut) = cut_before_read(&rig.state_dir(), 5);
        let pruner = start(&rig, plan(&rig, MarkChoice::Scan, sweep), &Hooks::none(), Arc::new(RoochLayout));
        let ended = run(&pruner);
        assert!(is_cut.load(Ordering::Acquire), "{sweep:?}");
        assert!(matches!(ended, Some(Ended::Finished { .. })), "{sweep:?}: {ended:?}");
        assert_eq!(pruner.status().frozen, None, "no live node is damaged");
        drop((pruner, disk));
        check::exact(&rig.chain, &format!("{sweep:?}"));
    }
}
