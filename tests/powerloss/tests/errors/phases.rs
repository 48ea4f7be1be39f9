//! Each kind of call on each kind of file, in each phase.

use std::{
    cell::RefCell,
    mem::take,
    num::NonZeroUsize,
    ops::ControlFlow,
    rc::Rc,
    sync::{Arc, Mutex},
    thread,
};

use state_powerloss::{Call, Device, Fault, Files, Lasting};
use state_pruner::{
    Freeze, PruneError, SweepChoice,
    cycle::CycleEnv,
    incremental::{IncrementalSweep, RoundEnd},
    mark::MarkChoice,
};
use state_store::{Disposition, Durability, Point, StoreConfig, StoreError, watch};
use state_tests::{
    chain::STORE,
    check,
    hooks::{Hooks, Moment},
    rig::{Plan, Rig},
    workload::Workload,
};

use crate::support::{
    Disk, History, assert_full, assert_refused, between, calls, changes, commit, commits_again, faults, fillings, plan,
    recovers,
};

const SYNCED: StoreConfig = StoreConfig { durability: Durability::Synced, ..STORE };

/// Where the fault is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Commit,
    Snapshot,
    MarkScan,
    MarkWalk,
    SweepByFilter,
    SweepByBatches,
    Slices,
}

/// What a phase is part of.
enum Work {
    Commit,
    /// From one point to the next one, or from the beginning.
    Cycle(Option<Point>, Point),
    Rounds,
}

impl Phase {
    fn work(self) -> Work {
        match self {
            Self::Commit => Work::Commit,
            Self::Snapshot => Work::Cycle(None, Point::MarkBegins),
            Self::MarkScan | Self::MarkWalk => Work::Cycle(Some(Point::MarkBegins), Point::MarkWalked),
            Self::SweepByFilter | Self::SweepByBatches => Work::Cycle(Some(Point::SweepBegins), Point::SweepEnds),
            Self::Slices => Work::Rounds,
        }
    }

    fn plan(self, rig: &Rig) -> Plan {
        let mark = if self == Self::MarkWalk { MarkChoice::Walk } else { MarkChoice::Scan };
        let sweep = if self == Self::SweepByFilter { SweepChoice::Filter } else { SweepChoice::Delete };
        plan(rig).by(mark, sweep)
    }

    /// What it asks of the device whatever else it does.
    fn calls(self) -> &'static [(Files, Call)] {
        use Call::{Read, Sync, Write};
        use Files::{Blob, Folder, List, Log, Table};
        match self {
            Self::Commit => &[(Log, Write)],
            Self::Snapshot => &[(Log, Write), (Log, Sync)],
            Self::MarkScan | Self::MarkWalk => &[(Table, Read), (Blob, Read)],
            Self::SweepByFilter | Self::SweepByBatches => &[
                (Log, Write),
                (Log, Sync),
                (Table, Write),
                (Table, Sync),
                (Table, Read),
                (Blob, Write),
                (Blob, Sync),
                (Blob, Read),
                (List, Write),
                (List, Sync),
                (Folder, Sync),
            ],
            Self::Slices => &[(Log, Write), (Log, Sync), (Table, Read)],
        }
    }

    /// Whether the engine itself reads tables meanwhile, by threads of its own.
    fn has_compactions(self) -> bool {
        matches!(self, Self::SweepByFilter | Self::SweepByBatches)
    }
}

/// What works on a store, with commits beside it.
struct Process<'a> {
    phase: Phase,
    device: Arc<Device>,
    rig: &'a Rig,
    plan: Plan,
    env: CycleEnv,
    sweep: IncrementalSweep,
    workload: Workload,
    /// What commits beside a cycle met.
    refused_beside: Arc<Mutex<Vec<StoreError>>>,
}

impl<'a> Process<'a> {
    fn new(phase: Phase, disk: &Disk, rig: &'a Rig) -> Self {
        let (plan, chain, mut beside) = (phase.plan(rig), rig.chain.clone(), changes(0));
        let refused_beside = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&refused_beside);
        let hooks = Hooks::new(move |moment| {
            if moment == Moment::PhaseSaved
                && let Err(error) = commit(&chain, &mut beside)
            {
                told.lock().unwrap().push(error);
            }
        });
        let env = rig.env(&plan, &hooks);
        let (sweep, workload) = (IncrementalSweep::default(), changes(1));
        Self { phase, device: Arc::clone(&disk.device), rig, plan, env, sweep, workload, refused_beside }
    }

    /// Does the work of the phase; `enter` and `leave` are called at its ends.
    fn work(&mut self, enter: impl Fn(&Device) + 'static, leave: impl Fn(&Device) + 'static) -> Result<(), PruneError> {
        let device = Arc::clone(&self.device);
        let (begin, end) = match self.phase.work() {
            Work::Cycle(begin, end) => (begin, Some(end)),
            Work::Commit | Work::Rounds => (None, None),
        };
        if begin.is_none() {
            enter(&device);
        }
        let _watching = watch(move |point| {
            if Some(point) == begin {
                enter(&device);
            }
            if Some(point) == end {
                leave(&device);
            }
        });
        match self.phase.work() {
            Work::Commit => Ok(commit(&self.rig.chain, &mut self.workload).map(|_| ())?),
            Work::Cycle(..) => self.plan.run(&self.env).map(|_| ()),
            Work::Rounds => self.rounds(),
        }
    }

    /// Rounds until nothing is left that they may delete.
    fn rounds(&mut self) -> Result<(), PruneError> {
        let most = NonZeroUsize::new(10).unwrap();
        let mut between = |_: &_| ControlFlow::Continue(most);
        loop {
            let round = self.sweep.round(&self.env, &self.plan.config.state_dir, most, &mut between)?;
            match round.end {
                RoundEnd::Done => return Ok(()),
                RoundEnd::Paused => {}
                end @ (RoundEnd::Uncounted | RoundEnd::CycleOpen | RoundEnd::Waits { .. }) => panic!("{end:?}"),
            }
        }
    }
}

/// Calls of each kind in the phase when nothing fails.
fn calls_of(history: &History, phase: Phase, config: StoreConfig) -> Vec<(Files, Call, u64)> {
    let disk = Disk::of(history, Device::keeping(), config);
    let rig = disk.open("nothing fails");
    let mut process = Process::new(phase, &disk, &rig);
    let seen = Rc::new(RefCell::new((Vec::new(), Vec::new())));
    let (entered, left) = (Rc::clone(&seen), Rc::clone(&seen));
    process
        .work(move |device| entered.borrow_mut().0 = calls(device), move |device| left.borrow_mut().1 = calls(device))
        .unwrap();
    let (before, after) = seen.take();
    let after = if after.is_empty() { calls(&disk.device) } else { after };
    between(&before, &after)
}

/// Whether the engine goes on writing once the device is mended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Engine {
    GoesOn,
    Stopped,
}

fn fails_in(history: &History, phase: Phase, fault: Fault) {
    let context = format!("{phase:?}, {fault:?}");
    let disk = Disk::of(history, Device::keeping(), STORE);
    let rig = disk.open(&context);
    let mut process = Process::new(phase, &disk, &rig);
    match met(&mut process, fault, &context) {
        None => {}
        Some(Engine::GoesOn) => ends_well(process, &context),
        Some(Engine::Stopped) => {
            let acknowledged = rig.chain.head();
            drop(process);
            drop(rig);
            let rig = disk.open(&context);
            assert!(rig.chain.head() >= acknowledged, "{context}: a commit is lost");
            ends_well(Process::new(phase, &disk, &rig), &context);
        }
    }
}

/// Works until the fault is met. Says how that ended; nothing if the fault was not met.
fn work_into(process: &mut Process<'_>, fault: Fault, context: &str) -> Option<Result<(), PruneError>> {
    let ended = process.work(
        move |device| device.fail(fault),
        |device| {
            if device.met() == 0 {
                device.mend();
            }
        },
    );
    if process.device.met() == 0 && fault.passing > 0 {
        return None; // the engine has cut its work in other pieces this time
    }
    assert!(process.device.met() > 0, "{context}: the fault was not met, {ended:?}");
    Some(ended)
}

/// Works until the fault is met, and mends the device. Says what the engine does then; nothing if the fault was not met.
fn met(process: &mut Process<'_>, fault: Fault, context: &str) -> Option<Engine> {
    let ended = work_into(process, fault, context)?;
    let beside = take(&mut *process.refused_beside.lock().unwrap());
    beside.iter().for_each(|error| assert_refused(error, &format!("{context}: a commit beside")));
    match &ended {
        Err(PruneError::Store(error @ StoreError::Io { .. })) => {
            assert_eq!(error.disposition(), Disposition::Transient, "{context}");
        }
        Ok(()) | Err(PruneError::Store(StoreError::Poisoned { .. })) if !beside.is_empty() => {} // met by a commit
        Ok(()) if process.phase.has_compactions() && is_one_read(fault) => {} // the engine read again what it read ahead
        ended => panic!("{context}: {ended:?}"),
    }
    let chain = &process.rig.chain;
    if fault.call != Call::Read {
        check::complete(chain, &format!("{context}: while it lasts"));
    }
    if let Err(error) = commit(chain, &mut process.workload) {
        assert_refused(&error, context);
    }
    process.device.mend();
    check::complete(chain, &format!("{context}: mended"));
    assert!(Freeze::load(&*process.env.parts.records).unwrap().is_none(), "{context}");
    match commit(chain, &mut process.workload) {
        Ok(_) => {
            assert_eq!(fault.call, Call::Read, "{context}: the engine writes after a write that failed");
            Some(Engine::GoesOn)
        }
        Err(error) => {
            assert!(fault.call != Call::Read || process.phase.has_compactions(), "{context}: {error}");
            assert_refused(&error, context);
            Some(Engine::Stopped)
        }
    }
}

fn is_one_read(fault: Fault) -> bool {
    fault.call == Call::Read && fault.lasting != Lasting::UntilMended
}

fn ends_well(mut process: Process<'_>, context: &str) {
    if process.phase == Phase::Slices {
        process.rounds().unwrap();
        check::complete(&process.rig.chain, &format!("{context}: rounds"));
    }
    recovers(process.rig, (&process.plan, &process.env), context);
}

/// The device fills up, and is so until the work has ended. Then there is room, and everything goes on by itself.
fn fills_up_in(history: &History, phase: Phase, fault: Fault) {
    let context = format!("{phase:?}, {fault:?}");
    let disk = Disk::of(history, Device::keeping(), SYNCED);
    let rig = disk.open(&context);
    let mut process = Process::new(phase, &disk, &rig);
    let Some(ended) = work_into(&mut process, fault, &context) else { return };
    let beside = take(&mut *process.refused_beside.lock().unwrap());
    beside.iter().for_each(|error| assert_full(error, &format!("{context}: a commit beside")));
    match &ended {
        Err(PruneError::Store(error)) => assert_full(error, &context),
        Ok(()) if !beside.is_empty() || fault.lasting != Lasting::UntilMended => {} // the engine did it again
        ended => panic!("{context}: {ended:?}"),
    }
    check::complete(&rig.chain, &format!("{context}: while it lasts"));
    if let Err(error) = commit(&rig.chain, &mut process.workload) {
        assert_full(&error, &context);
    }
    disk.device.mend();
    commits_again(&rig.chain, &mut process.workload, &context);
    assert!(Freeze::load(&*process.env.parts.records).unwrap().is_none(), "{context}");
    ends_well(process, &context);
    let head = rig.chain.head();
    drop(rig);
    disk.comes_back(head, &format!("{context}: opened again"));
}

/// Each fault of these phases, those of one kind of call after each other.
fn table(phases: &[Phase]) {
    let history = History::new();
    for phase in phases {
        let kinds = calls_of(&history, *phase, STORE);
        for needed in phase.calls() {
            assert!(kinds.iter().any(|(files, call, _)| (*files, *call) == *needed), "{phase:?} has no {needed:?}");
        }
        thread::scope(|scope| {
            for kind in kinds {
                let history = &history;
                scope.spawn(move || faults(kind).into_iter().for_each(|fault| fails_in(history, *phase, fault)));
            }
        });
    }
}

#[test]
fn a_device_that_fills_up_in_the_engine_holds_work_up_and_loses_nothing() {
    let history = History::new();
    thread::scope(|scope| {
        for phase in [Phase::Commit, Phase::SweepByFilter, Phase::Slices] {
            // Without room to make a log the engine stops: `full` has that.
            let kinds = calls_of(&history, phase, SYNCED).into_iter();
            for kind in kinds.filter(|(files, call, _)| (*files, *call) != (Files::Log, Call::Make)) {
                let history = &history;
                scope.spawn(move || {
                    fillings(kind).into_iter().for_each(|fault| fills_up_in(history, phase, fault));
                });
            }
        }
    });
}

#[test]
fn a_device_that_fails_under_commits_or_a_mark_loses_nothing() {
    table(&[Phase::Commit, Phase::Snapshot, Phase::MarkScan, Phase::MarkWalk]);
}

#[test]
fn a_device_that_fails_under_a_rewrite_of_ranges_loses_nothing() {
    table(&[Phase::SweepByFilter]);
}

#[test]
fn a_device_that_fails_under_delete_batches_or_slices_loses_nothing() {
    table(&[Phase::SweepByBatches, Phase::Slices]);
}
