//! Life cycle row 3, C20: a real process is killed at each named point of the product; the next one loses nothing, goes on
//! with what can go on, and leaves nothing behind.
//!
//! `KILL_PASSES=n` kills at the first n times that each point is reached; once in a plain run.

use std::{
    fs,
    num::NonZeroU64,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command as Process, Stdio},
    sync::Arc,
};

use parking_lot::Mutex;
use state_pruner::{
    Command, IncrementalConfig, Pruner, PrunerConfig, Reply, StoreRecords, SweepChoice,
    incremental::RoundEnd,
    phase::{PhaseRecord, PrunePhase},
};
use state_store::{KILL_AT, Lag, Point};
use state_tests::{
    archive::Archive,
    check, folder,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig},
    waits::until,
    workload::{Profile, Workload},
};

pub(crate) const WINDOW: u64 = 5;
/// Orders before the process that is killed begins.
const BEFORE: u64 = 15;
/// Orders that it commits, at most.
const MOST: usize = 60;
const SEED: u64 = 901;

const CHILD_HOME: &str = "STATE_FAULTS_CHILD";

/// What a process that is killed there leaves to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// A sweep that goes on.
    Sweep,
    /// A walk that goes on, if it is the first mark: later ones may be of a scan, of which nothing goes on.
    Walk,
    /// No cycle, or one that is given up.
    Nothing,
    /// Either: the point is reached inside and outside of what goes on.
    Either,
}

fn left_at(point: Point) -> Left {
    match point {
        Point::SweepBegins
        | Point::BatchJudged
        | Point::BatchWritten
        | Point::RangeRewritten
        | Point::RangePassed
        | Point::RangeReclaimed
        | Point::SweepEnds
        | Point::CountsConfirmed
        | Point::BarrierLetGo
        | Point::Certified => Left::Sweep,
        Point::WalkNoted
        | Point::MarkWalked
        | Point::MarkWritten
        | Point::MarkNamed
        | Point::MarkSealed
        | Point::JournalSettled
        | Point::SweepPlanned => Left::Walk,
        Point::FloorMoved
        | Point::RunBegins
        | Point::SnapshotSaved
        | Point::MarkBegins
        | Point::CycleEnded
        | Point::OutcomeSaved
        | Point::SliceJudged
        | Point::SliceWritten
        | Point::SetAside => Left::Nothing,
        Point::CommitRecorded | Point::CommitWritten | Point::MarksWritten => Left::Either,
    }
}

/// A pruner of a rig that sweeps this way, its cycles when somebody asks.
pub(crate) fn start(
    rig: &Rig,
    sweep: SweepChoice,
    stride: Option<u64>,
    act: impl FnMut(Moment) + Send + 'static,
) -> Pruner {
    let plan = rig.plan(WINDOW).batches(20).sweeping(sweep);
    let config = PrunerConfig {
        incremental: stride.map(|stride| IncrementalConfig { stride: NonZeroU64::new(stride).unwrap() }),
        ..plan.pruner()
    };
    Pruner::start(rig.pruner_parts(&Hooks::new(act)), config).unwrap()
}

/// One cycle that somebody asks for.
pub(crate) fn cycle(rig: &Rig, pruner: &Pruner) {
    until(rig, pruner, |pruner| !pruner.status().running);
    let before = pruner.status().cycles_finished;
    until(rig, pruner, |pruner| matches!(pruner.command(Command::Run), Reply::Accepted | Reply::FollowUp));
    until(rig, pruner, |pruner| !pruner.status().running && pruner.status().cycles_finished > before);
}

/// The life of the process that is killed: cycles by both ways, commits inside them, and slices between them.
fn live(home: &Path) {
    let rig = Rig::at(home, Arc::default());
    // One source of changes, so that the n-th commit is the same in each life.
    let source = Arc::new(Mutex::new((Workload::new(Profile::Tables, SEED + 1), 0)));
    let commit = {
        let chain = rig.chain.clone();
        move || {
            let mut source = source.lock();
            if source.1 < MOST {
                source.1 += 1;
                chain.run(&mut source.0, 1);
            }
        }
    };
    for sweep in [SweepChoice::Delete, SweepChoice::Filter] {
        let inside = commit.clone();
        let pruner = start(&rig, sweep, Some(1), move |moment| {
            if matches!(moment, Moment::Captured | Moment::PhaseSaved) {
                inside();
            }
        });
        cycle(&rig, &pruner);
        for _ in 0..6 {
            commit();
            pruner.committed(rig.chain.head());
        }
        until(&rig, &pruner, |pruner| {
            let incremental = pruner.status().incremental.unwrap();
            incremental.slices_total > 0 && incremental.last == Some(RoundEnd::Done)
        });
    }
}

#[test]
#[ignore = "a child of another test"]
fn child_lives_until_it_is_killed() {
    if let Some(home) = std::env::var_os(CHILD_HOME) {
        live(home.as_ref());
    }
}

/// Whether a child, which is a test that takes its folder from the environment, was killed at the point; else it lived to its
/// end.
pub(crate) fn dies_at((test, variable): (&str, &str), home: &Path, (point, pass): (Point, u64)) -> bool {
    let child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", test])
        .env(variable, home)
        .env(KILL_AT, format!("{} {pass}", point.name()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let signal = child.status.signal();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(signal == Some(9) || child.status.success(), "{point:?}: {:?}\n{text}", child.status);
    signal == Some(9)
}

fn is_noted(rig: &Rig) -> bool {
    let mut entries = fs::read_dir(rig.state_dir()).unwrap().map(|entry| entry.unwrap().path());
    entries.any(|path| path.extension().is_some_and(|end| end == "walk"))
}

/// What the next process finds and does.
fn recovers(home: &Path, archive: &Archive, (point, pass): (Point, u64), context: &str) {
    let rig = Rig::at(home, Arc::new(archive.copy()));
    rig.chain.archive.forget_after(rig.chain.head());
    check::complete(&rig.chain, &format!("{context}: as found"));
    let record = PhaseRecord::load(&StoreRecords(Arc::clone(&rig.chain.store))).unwrap();
    let phase = record.map_or(PrunePhase::Idle, |record| record.phase);
    let walks = phase == PrunePhase::BuildReach && is_noted(&rig);
    let goes_on = phase == PrunePhase::SweepExpired || walks;
    match left_at(point) {
        Left::Sweep => assert_eq!(phase, PrunePhase::SweepExpired, "{context}"),
        Left::Walk => assert!(walks || pass > 0, "{context}: no walk is left"),
        Left::Nothing => assert!(!goes_on, "{context}: {phase} is left"),
        Left::Either => {}
    }
    let owed = !goes_on && !rig.chain.store.counts_are_settled(); // a cycle begins by itself, as no slice can be taken before
    let pruner = start(&rig, SweepChoice::Delete, Some(1), |_| ());
    let cycles = u64::from(goes_on || owed);
    until(&rig, &pruner, |pruner| {
        let status = pruner.status();
        !status.running && !status.triggers.requested && status.cycles_finished >= cycles
    });
    // Another one does what somebody asked the killed process for.
    let finished = pruner.status().cycles_finished;
    assert!((cycles..=cycles + 1).contains(&finished), "{context}: {finished}, {:?}", pruner.status().last);
    check::complete(&rig.chain, &format!("{context}: resumed"));
    slices_go_on(&rig, &pruner, context);
    cycle(&rig, &pruner);
    let health = pruner.health();
    // Time jumps here while a slice is at work, so what is measured of its speed says nothing.
    let is_well = health.reasons.iter().all(|reason| reason.code == "incremental_behind");
    assert!(is_well, "{context}: {health:?}");
    drop(pruner);
    check::exact(&rig.chain, &format!("{context}: next cycle"));
}

/// The sweep between cycles goes on: with what the killed process left, and with what comes.
pub(crate) fn slices_go_on(rig: &Rig, pruner: &Pruner, context: &str) {
    let mut workload = Workload::new(Profile::Tables, SEED + 2);
    let deleted = || pruner.status().incremental.unwrap().deleted_total;
    for _ in 0..3 {
        for _ in 0..WINDOW + 3 {
            rig.chain.run(&mut workload, 1);
            pruner.committed(rig.chain.head());
        }
        until(rig, pruner, |pruner| {
            let nothing_waits = rig.chain.store.lag() == Some(Lag::default()) && !pruner.status().running;
            let has_moved = Some(rig.chain.floor()) == rig.chain.head().minus(WINDOW - 1);
            has_moved && nothing_waits
        });
        if deleted() > 0 {
            break; // else a cycle, which somebody had asked for, has swept it
        }
    }
    assert!(deleted() > 0, "{context}: slices delete nothing");
    check::complete(&rig.chain, &format!("{context}: slices went on"));
}

#[test]
fn kill_nine_at_every_named_point() {
    let passes = std::env::var("KILL_PASSES").map_or(1, |text| text.parse().unwrap());
    let base = tempfile::tempdir().unwrap();
    let rig = Rig::at(base.path(), Arc::default());
    rig.chain.grow(Profile::Tables, SEED, BEFORE);
    let twin = Rig::new(Engine::Memory);
    twin.chain.grow(Profile::Tables, SEED, BEFORE);
    twin.chain.grow(Profile::Tables, SEED + 1, MOST as u64);
    assert_eq!(twin.chain.archive.root(rig.chain.head()), rig.chain.archive.root(rig.chain.head()));
    drop(rig);
    let points = Point::ALL.iter().filter(|point| **point != Point::SetAside); // see `aside`
    for (point, pass) in points.flat_map(|point| (0..passes).map(move |pass| (*point, pass))) {
        let context = format!("killed at {} after {pass} passes", point.name());
        let home = tempfile::tempdir().unwrap();
        folder::copy(&base.path().join("store"), &home.path().join("store"));
        let child = ("kill::child_lives_until_it_is_killed", CHILD_HOME);
        let died = dies_at(child, home.path(), (point, pass));
        assert!(died || pass > 0, "{context}: the point was never reached");
        if died {
            recovers(home.path(), &twin.chain.archive, (point, pass), &context);
        }
    }
}
