//! C20: a pruner that is dropped at any moment of a cycle leaves no thread, no lock, nothing open and no half of a file, and
//! the next one goes on.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Certificate, CertificateText, Clock as _, Command, Pruner, PrunerParts, Reply, StoreRecords, SweepChoice,
    SystemClock, Trigger,
    events::Event,
    mark::{MarkChoice, MarkIdentity, SealedMark},
    phase::{PhaseRecord, PrunePhase},
    snapshot::{AtomicSnapshotManager, SnapshotManagerConfig},
};
use state_tests::{
    check, folder,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig, WAYS},
    told::Told,
    workload::Profile,
};
use state_tree::{NodeError, NodeHash, NodeLayout, RoochLayout};

use crate::{events::is_alone, locks::until_asleep};

const WINDOW: u64 = 5;
const LIVES: usize = 40;
const PATIENCE: Duration = Duration::from_secs(60);
/// Nodes that marking reads from one step to the next.
const NODES_A_STEP: usize = 80;

/// One step of what a pruner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    LedgerSaved,
    Captured,
    PhaseSaved,
    Marking,
    Deleting,
    OutcomeSaved,
}

impl Step {
    fn of(moment: Moment) -> Self {
        match moment {
            Moment::Captured => Self::Captured,
            Moment::PhaseSaved => Self::PhaseSaved,
            Moment::Deleting => Self::Deleting,
            Moment::RunSaved => Self::LedgerSaved,
            Moment::OutcomeSaved => Self::OutcomeSaved,
            Moment::Progress(_) => Self::Marking,
        }
    }
}

/// Holds a pruner at one of its steps until somebody is dropping it.
#[derive(Debug)]
struct Held {
    at: usize,
    passed: AtomicUsize,
    /// Whether the cycle was asked for: whoever asks may wait for a save that the pruner is at.
    is_asked: AtomicBool,
    told: mpsc::Sender<Step>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Held {
    fn pass(&self, step: Step) {
        if !self.is_asked.load(Ordering::Acquire) {
            return;
        }
        if self.passed.fetch_add(1, Ordering::AcqRel) == self.at {
            self.told.send(step).unwrap();
            assert!(self.go_on.lock().recv().is_err(), "held until the other end is dropped");
        }
    }
}

/// Reads nodes as Rooch does, and counts them.
#[derive(Debug)]
struct Counting {
    nodes: AtomicUsize,
    held: Arc<Held>,
}

impl NodeLayout for Counting {
    fn name(&self) -> &'static str {
        RoochLayout.name()
    }

    fn children(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
        if self.nodes.fetch_add(1, Ordering::AcqRel) % NODES_A_STEP == NODES_A_STEP - 1 {
            self.held.pass(Step::Marking);
        }
        RoochLayout.children(bytes, out)
    }

    fn hash(&self, bytes: &[u8]) -> Result<NodeHash, NodeError> {
        RoochLayout.hash(bytes)
    }
}

/// Starts a pruner, asks it for a cycle and drops it at one of its steps. Says at which, if it had so many.
fn live(rig: &Rig, at: usize, (mark, sweep): (MarkChoice, SweepChoice), told: &Arc<Told>) -> Option<Step> {
    let (tell, reached) = mpsc::channel();
    let (release, go_on) = mpsc::channel();
    let (passed, is_asked, go_on) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(go_on));
    let held = Arc::new(Held { at, passed, is_asked, told: tell, go_on });
    let (steps, given) = (Arc::clone(&held), Arc::downgrade(&held));
    let hooks = Hooks::new(move |moment| steps.pass(Step::of(moment)));
    let layout = Arc::new(Counting { nodes: AtomicUsize::new(0), held });
    let parts = PrunerParts { layout, events: Arc::clone(told) as _, ..rig.pruner_parts(&hooks) };
    drop(hooks);
    let config = rig.plan(WINDOW).batches(5).by(mark, sweep).pruner_of_cycles();
    let pruner = Pruner::start(parts, config).unwrap();
    let reply = pruner.command(Command::Run);
    given.upgrade().unwrap().is_asked.store(true, Ordering::Release);
    let step = until_held(&pruner, &reached, told);
    let failed = pruner.status().cycles_failed;
    match step {
        Some(_) => drop_while_held(pruner, release),
        None => drop(pruner),
    }
    assert!(given.upgrade().is_none(), "somebody still has what the pruner was given");
    let asked = matches!(reply, Reply::Accepted | Reply::FollowUp | Reply::AlreadyRunning); // an earlier request may wait still
    assert!(asked, "{reply:?}");
    assert_eq!(failed, 0, "{:?}", told.0.lock());
    step
}

/// Waits until it is held at its step, or the cycle that was asked for has ended.
fn until_held(pruner: &Pruner, reached: &mpsc::Receiver<Step>, told: &Told) -> Option<Step> {
    loop {
        if let Ok(step) = reached.try_recv() {
            return Some(step);
        }
        let status = pruner.status();
        if has_ended(told) && !status.running && !status.triggers.requested {
            return None;
        }
        thread::yield_now();
    }
}

/// Whether a cycle has ended that is none of an earlier pruner.
fn has_ended(told: &Told) -> bool {
    let events = told.0.lock();
    let is_end = |event: &Event, of| matches!(event, Event::CycleEnded(end) if end.cycle == of);
    let asked = events.iter().find_map(|event| {
        let Event::CycleBegun { cycle, trigger } = event else { return None };
        (*trigger != Trigger::Resumed).then_some(*cycle)
    });
    asked.is_some_and(|cycle| events.iter().any(|event| is_end(event, cycle)))
}

/// Drops it from a thread of its own and lets it go on once that one waits for its end.
fn drop_while_held(pruner: Pruner, release: mpsc::Sender<()>) {
    let (told, task) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            told.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            drop(pruner);
        });
        until_asleep(&task.recv().unwrap());
        drop(release);
    });
}

fn phase(rig: &Rig) -> Option<PhaseRecord> {
    PhaseRecord::load(&StoreRecords(Arc::clone(&rig.chain.store))).unwrap()
}

/// The names of the threads of this process.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("comm"));
    tasks.flat_map(fs::read_to_string).collect() // one may end meanwhile
}

/// What this process has open: files, sockets, pipes. Those of the engine come and go.
fn open_files(rig: &Rig) -> Vec<PathBuf> {
    let open = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    open.flat_map(fs::read_link).filter(|path| !path.starts_with(rig.store_dir())).collect()
}

/// Threads that were joined may be listed for a moment longer.
fn settles(what: &str, is_so: impl Fn() -> bool) {
    let clock = SystemClock::new();
    while !is_so() {
        assert!(clock.monotonic() < PATIENCE, "{what}: {:?}", threads());
        thread::yield_now();
    }
}

/// Nothing of a pruner is left in this process, and nobody has a right that it had.
fn nothing_is_held(rig: &Rig) {
    settles("threads of the pruner", || !threads().iter().any(|name| name.starts_with("pruner")));
    let state_dir = rig.state_dir();
    let is_open = || open_files(rig).iter().any(|path| path.starts_with(&state_dir));
    settles("an open file", || !is_open()); // the engine may have a filter for a moment longer
    assert!(rig.chain.store.pins().is_empty());
    let permit = rig.chain.store.try_issue_permit().unwrap();
    rig.chain.store.revoke(&permit);
    let parts = rig.parts(NonZeroU64::new(WINDOW).unwrap(), &Hooks::none());
    let manager = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
    manager.initialize().unwrap();
    assert_eq!(manager.status().left, None);
}

/// What lies beside the store is whole: certificates, and the mark of the cycle that goes on if it was sealed.
fn nothing_is_half_written(rig: &Rig) {
    let record = phase(rig);
    let mark = record.as_ref().map(|record| PathBuf::from(format!("mark-{:016x}.sealed", record.cycle)));
    let mut marks = 0;
    for name in folder::digests(&rig.state_dir()).into_keys() {
        if Some(&name) == mark.as_ref() {
            marks += 1;
            continue;
        }
        assert_eq!(name.parent(), Some(Path::new("certificates")), "{name:?} beside {record:?}");
        let text = fs::read(rig.state_dir().join(&name)).unwrap();
        let (certificate, covered) = Certificate::decode(&text).unwrap();
        assert_eq!(covered, CertificateText::Covered);
        assert_eq!(name.file_name(), Some(OsString::from(format!("cycle-{:08}.json", certificate.cycle)).as_os_str()));
    }
    let Some(record) = record.filter(|record| record.phase == PrunePhase::SweepExpired) else { return };
    assert_eq!(marks, 1, "{record:?}");
    let identity = MarkIdentity { cycle: record.cycle, roots: record.roots_digest };
    let mark = SealedMark::open(&rig.state_dir(), identity).unwrap();
    assert_eq!(Some(mark.live_digest()), record.mark_digest);
}

/// A sweep that was left went on first, as the same cycle, and was given up for no reason.
fn it_went_on(left: &PhaseRecord, told: &Told) {
    let events = told.0.lock();
    let begun = events.iter().find(|event| matches!(event, Event::CycleBegun { .. }));
    let cycle = left.cycle;
    assert_eq!(begun, Some(&Event::CycleBegun { cycle, trigger: Trigger::Resumed }), "{events:?}");
    for event in events.iter() {
        if let Event::CycleEnded(end) = event
            && end.cycle == cycle
        {
            assert!(["finished", "stopped"].contains(&end.outcome.as_str()), "{end:?}");
        }
    }
}

#[test]
fn a_pruner_that_is_dropped_at_any_step_of_a_cycle_leaves_nothing_behind_and_the_next_goes_on() {
    let name = "a_pruner_that_is_dropped_at_any_step_of_a_cycle_leaves_nothing_behind_and_the_next_goes_on";
    if !is_alone(&format!("dropped::{name}")) {
        return;
    }
    let rig = Rig::new(Engine::Rocks);
    fs::create_dir_all(rig.state_dir()).unwrap();
    rig.chain.grow(Profile::Uniform, 990, 40);
    let (mut dropped_at, mut held, mut went_on) = (BTreeMap::<Step, usize>::new(), 0, 0);
    let mut before = None;
    for life in 0..LIVES {
        rig.chain.grow(Profile::Uniform, 991 + life as u64, 10);
        let left = phase(&rig).filter(|left| left.phase == PrunePhase::SweepExpired);
        let told = Arc::new(Told::default());
        let step = live(&rig, life, WAYS[life % WAYS.len()], &told);
        (held, went_on) = (held + usize::from(step.is_some()), went_on + usize::from(left.is_some()));
        step.into_iter().for_each(|step| *dropped_at.entry(step).or_insert(0) += 1);
        if let Some(left) = left {
            it_went_on(&left, &told);
        }
        nothing_is_held(&rig);
        nothing_is_half_written(&rig);
        check::complete(&rig.chain, &format!("after life {life}, which ended at {step:?}"));
        before.get_or_insert_with(|| (threads().len(), open_files(&rig).len()));
    }
    println!("{held} were held, {went_on} went on with a sweep; dropped at {dropped_at:?}");
    assert!(held * 4 >= LIVES * 3 && went_on >= LIVES / 8, "{held} were held, {went_on} went on with a sweep");
    for step in [Step::Captured, Step::PhaseSaved, Step::Marking, Step::Deleting] {
        assert!(dropped_at.get(&step).is_some_and(|lives| *lives > 1), "{step:?}: {dropped_at:?}");
    }
    let (threads_before, files_before) = before.unwrap();
    settles("threads", || threads().len() <= threads_before);
    assert!(open_files(&rig).len() <= files_before, "{:?}", open_files(&rig));

    let told = Arc::new(Told::default());
    assert_eq!(live(&rig, usize::MAX, (MarkChoice::Auto, SweepChoice::Delete), &told), None, "nobody holds it");
    check::exact(&rig.chain, "after a cycle that nobody ended");
    nothing_is_held(&rig);
    nothing_is_half_written(&rig);
    assert_eq!(phase(&rig), None);
}
