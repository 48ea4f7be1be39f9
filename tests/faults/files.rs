//! S6, S14, C4, O10: each call on a file of ours beside the engine fails with the system's error of input and output, once and
//! for good. The work ends with an error that passes, every retained root is whole, and once it is over the next cycle leaves
//! nothing behind.

use std::{collections::BTreeSet, fs, num::NonZeroU64, sync::Arc};

use state_pruner::{
    Ended, PruneError, SweepChoice, Verdict,
    cycle::{CycleEnv, Finished},
    mark::MarkChoice,
    phase::PhaseRecord,
};
use state_store::{Disposition, FaultyDisk, FileCall, Lasting, Point, Reserve, Room, watch};
use state_tests::{
    check, folder,
    hooks::Hooks,
    rig::{Engine, Plan, Rig},
    workload::Profile,
};
use state_tree::RoochLayout;

use crate::worker::{run, start};

const WINDOW: u64 = 5;

/// What is asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Cycle,
    /// The sweep of a process that has ended, from its mark on.
    Resume,
}

impl Work {
    const ALL: [Self; 2] = [Self::Cycle, Self::Resume];

    /// A history with garbage, as the work finds it.
    fn base(self) -> Rig {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Tables, 981, 10);
        rig.cycle(&rig.plan(WINDOW)); // an earlier certificate is there
        rig.chain.grow(Profile::Tables, 982, 10);
        if self == Self::Resume {
            let (plan, hooks) = (plan(&rig), Hooks::none());
            let env = rig.env(&plan, &hooks);
            let control = Arc::clone(&env.control);
            let _watching = watch(move |point| {
                if point == Point::BatchWritten {
                    control.stop();
                }
            });
            let ended = plan.run(&env);
            assert!(matches!(ended, Err(PruneError::Stopped)), "{ended:?}");
        }
        rig
    }

    fn run(self, plan: &Plan, env: &CycleEnv) -> Result<Option<Finished>, PruneError> {
        match self {
            Self::Cycle => plan.run(env).map(Some),
            Self::Resume => plan.resume(env),
        }
    }
}

fn plan(rig: &Rig) -> Plan {
    rig.plan(WINDOW).in_order().batches(20).by(MarkChoice::Walk, SweepChoice::Delete)
}

/// A copy of the history, with what lies beside it.
fn copy(base: &Rig) -> (Rig, Plan, CycleEnv) {
    let rig = base.twin();
    folder::copy(&base.state_dir(), &rig.state_dir());
    let plan = plan(&rig);
    let env = rig.env(&plan, &Hooks::none());
    (rig, plan, env)
}

fn fails_in(base: &Rig, work: Work, (kind, call): (&str, FileCall), (passing, lasting): (u64, Lasting)) {
    let context = format!("{work:?}: {call:?} of {kind} after {passing}, {lasting:?}");
    let (rig, plan, env) = copy(base);
    let disk = FaultyDisk::under(&rig.state_dir());
    disk.inject(kind, call, passing, lasting);
    let ended = work.run(&plan, &env);
    disk.heal();
    assert!(disk.met() > 0, "{context}: not met, {ended:?}");
    match &ended {
        Err(error) => {
            assert_eq!(error.disposition(), Disposition::Transient, "{context}: {error}");
            let opens = matches!(call, FileCall::Open | FileCall::Read) && passing == 0; // later reads are look-ups
            let looks = work == Work::Resume && kind == "mark-*.sealed" && opens;
            let record = PhaseRecord::load(&*env.parts.records).unwrap();
            assert!(!looks || record.is_some(), "{context}: what could not be looked at is given up");
        }
        Ok(None) => panic!("{context}: a cycle is given up for a failure that may pass"),
        Ok(Some(_)) => {
            let tidies = matches!(call, FileCall::Remove | FileCall::List);
            assert!(tidies, "{context}: only what is left behind for the next cycle may go unnoticed");
        }
    }
    check::complete(&rig.chain, &context);
    rig.chain.grow(Profile::Toggle, 983, 2);
    plan.run(&env).unwrap_or_else(|error| panic!("{context}: next cycle: {error}"));
    check::exact(&rig.chain, &format!("{context}: next cycle"));
    let left = fs::read_dir(rig.state_dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.starts_with("mark-")).collect();
    assert_eq!(left, [] as [&str; 0], "{context}: next cycle");
}

#[test]
fn a_file_of_ours_that_fails_once_or_for_good_loses_nothing() {
    let mut met = BTreeSet::new();
    for work in Work::ALL {
        let base = work.base();
        let (rig, plan, env) = copy(&base);
        let disk = FaultyDisk::under(&rig.state_dir());
        assert!(work.run(&plan, &env).unwrap().is_some(), "{work:?} did nothing");
        let calls = disk.calls();
        println!("{work:?}: {calls:?}");
        for ((kind, call), calls) in &calls {
            met.insert((kind.clone(), *call));
            for passing in BTreeSet::from([0, calls / 2, calls - 1]) {
                for lasting in [Lasting::Once, Lasting::UntilHealed] {
                    fails_in(&base, work, (kind, *call), (passing, lasting));
                }
            }
        }
    }
    for (kind, call) in [
        ("mark-*.tmp", FileCall::Create),
        ("mark-*.tmp", FileCall::Write),
        ("mark-*.tmp", FileCall::Sync),
        ("mark-*.sealed", FileCall::Rename),
        ("mark-*.sealed", FileCall::Open),
        ("mark-*.sealed", FileCall::Read),
        ("mark-*.sealed", FileCall::Remove),
        ("cycle-*.json.tmp", FileCall::Create),
        ("cycle-*.json.tmp", FileCall::Write),
        ("cycle-*.json.tmp", FileCall::Sync),
        ("cycle-*.json", FileCall::Rename),
        ("certificates", FileCall::Sync),
        ("pruner", FileCall::List),
    ] {
        assert!(met.contains(&(kind.to_owned(), call)), "nothing asks for {call:?} of {kind}: {met:?}");
    }
}

/// What the worker makes of it: told in health while it lasts, and over when it is over.
#[test]
fn a_node_whose_own_files_fail_for_good_says_so_and_prunes_when_it_is_over() {
    for (kind, call) in [
        ("mark-*.tmp", FileCall::Write),
        ("mark-*.sealed", FileCall::Read),
        ("cycle-*.json.tmp", FileCall::Sync),
        ("pruner", FileCall::Create),
    ] {
        let context = format!("{call:?} of {kind}");
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Tables, 984, 20);
        let disk = FaultyDisk::under(&rig.state_dir());
        let pruner = start(&rig, rig.plan(WINDOW).batches(20), &Hooks::none(), Arc::new(RoochLayout));
        disk.inject(kind, call, 0, Lasting::UntilHealed);
        let ended = run(&pruner);
        assert!(matches!(ended, Some(Ended::Failed { .. })) && disk.met() > 0, "{context}: {ended:?}");
        let health = pruner.health();
        assert_ne!(health.verdict, Verdict::Healthy, "{context}");
        assert!(health.reasons.iter().any(|reason| reason.message.contains("(file)")), "{context}: {health:?}");
        check::complete(&rig.chain, &context);
        disk.heal();
        let ended = run(&pruner);
        assert!(matches!(ended, Some(Ended::Finished { .. })), "{context}: {ended:?}");
        drop(pruner);
        check::exact(&rig.chain, &context);
    }
}

/// The room for a full device: it is kept, or it is not, and an error says which call failed.
#[test]
fn a_reserve_that_cannot_be_taken_or_let_go_is_told_and_tried_again() {
    let bytes = NonZeroU64::new(1 << 16).unwrap();
    let taking = [
        ("reserve", FileCall::Open),
        ("reserve", FileCall::Remove),
        ("reserve.tmp", FileCall::Create),
        ("reserve.tmp", FileCall::Write),
        ("reserve.tmp", FileCall::Sync),
        ("reserve", FileCall::Rename),
    ];
    for (kind, call) in taking {
        let dir = tempfile::tempdir().unwrap();
        let (disk, reserve) = (FaultyDisk::under(dir.path()), Reserve::new(dir.path().join("reserve"), bytes));
        disk.inject(kind, call, 0, Lasting::Once);
        let error = reserve.take().unwrap_err();
        assert_eq!(
            (error.disposition(), reserve.room()),
            (Disposition::Transient, Room::NeverTaken),
            "{call:?}: {error}"
        );
        assert_eq!(reserve.take().unwrap().now, Room::Kept, "{call:?}");
        assert_eq!(Reserve::kept_at(&dir.path().join("reserve")).unwrap(), Some(bytes.get()));
        disk.inject("reserve", FileCall::Remove, 0, Lasting::Once);
        let error = reserve.let_go().unwrap_err();
        assert_eq!((error.disposition(), reserve.room()), (Disposition::Transient, Room::Kept), "{error}");
        assert_eq!(reserve.let_go().unwrap(), Some(bytes.get()));
    }
}
