//! I11, P3, P14, O11, O14: the background pruner when a phase panics or live data is damaged: the node serves, and says why.

use std::{
    fs,
    num::NonZeroU64,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Certificate, Command, Ended, Freeze, Pause, Pruner, PrunerConfig, PrunerParts, Reply, StoreRecords, SweepChoice,
    Verdict, Verification, mark::MarkChoice,
};
use state_store::{Disposition, FaultyDisk, FileCall, Lasting};
use state_tests::{
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig},
    workload::{Profile, paths},
};
use state_tree::{NodeError, NodeHash, NodeLayout, RoochLayout, get};

/// A pruner of a rig, and a channel that tells each time a cycle has an outcome.
fn start(rig: &Rig, layout: Arc<dyn NodeLayout>) -> (Pruner, mpsc::Receiver<()>) {
    start_with(rig, layout, |_| ())
}

/// As above, with something that happens at moments of its cycles.
fn start_with(
    rig: &Rig,
    layout: Arc<dyn NodeLayout>,
    mut act: impl FnMut(Moment) + Send + 'static,
) -> (Pruner, mpsc::Receiver<()>) {
    let (told, outcomes) = mpsc::channel();
    let hooks = Hooks::new(move |moment| {
        act(moment);
        if moment == Moment::OutcomeSaved {
            told.send(()).unwrap();
        }
    });
    let parts = PrunerParts { layout, ..rig.pruner_parts(&hooks) };
    let config = PrunerConfig { every_orders: NonZeroU64::new(10).unwrap(), ..rig.plan(5).pruner_of_cycles() };
    (Pruner::start(parts, config).unwrap(), outcomes)
}

/// More orders than are retained, and fewer than make a cycle due.
fn grown() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 110, 9);
    rig
}

/// Asks for a cycle; the first look of a new worker at what an earlier process left counts as one that runs.
fn run(pruner: &Pruner) {
    loop {
        match pruner.command(Command::Run) {
            Reply::Accepted | Reply::FollowUp => return,
            Reply::AlreadyRunning => thread::yield_now(),
            other => panic!("{other:?}"),
        }
    }
}

/// Waits for a state that the worker reaches by itself.
fn until(pruner: &Pruner, reached: impl Fn(&Pruner) -> bool) {
    while !reached(pruner) {
        thread::yield_now();
    }
}

#[derive(Debug)]
struct Panics;

impl NodeLayout for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn children(&self, _bytes: &[u8], _out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
        panic!("a bug of ours")
    }

    fn hash(&self, _bytes: &[u8]) -> Result<NodeHash, NodeError> {
        panic!("a bug of ours")
    }
}

#[test]
fn a_panicking_phase_turns_health_failed() {
    let rig = grown();
    let before = check::nodes(&rig.chain.store);
    let (pruner, _outcomes) = start(&rig, Arc::new(Panics));
    assert_eq!(pruner.health().verdict, Verdict::Healthy);
    run(&pruner);
    until(&pruner, |pruner| pruner.health().verdict == Verdict::Critical);
    let health = pruner.health();
    assert_eq!(health.reasons[0].code, "worker_gone", "{health:?}");
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }), "and it stays that way");
    assert_eq!(check::nodes(&rig.chain.store), before, "nothing was deleted");
    rig.chain.grow(Profile::Uniform, 111, 5);
    pruner.committed(rig.chain.head());
    drop(pruner);
    check::complete(&rig.chain, "the node goes on");
}

#[test]
fn a_halted_pruner_keeps_serving_and_explains_itself() {
    let rig = grown();
    let (pruner, outcomes) = start(&rig, Arc::new(RoochLayout));
    run(&pruner);
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!((pruner.health().verdict, pruner.status().cycles_finished), (Verdict::Healthy, 1));

    // Damage: one leaf that every retained state has.
    let head = rig.chain.archive.root(rig.chain.head());
    let lost = *rig.chain.archive.live([rig.chain.head()]).iter().find(|hash| Some(**hash) != head.node()).unwrap();
    let bytes = rig.chain.archive.bytes(&lost);
    rig.memory().uproot(lost.as_bytes());
    let damaged = check::nodes(&rig.chain.store);

    run(&pruner);
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    let (health, status) = (pruner.health(), pruner.status());
    assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Critical, "frozen"));
    let message = &health.reasons[0].message;
    assert!(message.contains(&lost.to_string()) && message.contains("path from its root"), "{message}");
    assert!(status.frozen.is_some());
    assert!(matches!(status.last.unwrap().ended, Ended::Failed { .. }));
    assert_eq!(check::nodes(&rig.chain.store), damaged, "nothing was deleted");
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }));

    // It serves: what does not need the lost node is read, and other objects are committed.
    let reader = state_tests::chain::ViewReader(rig.chain.store.view().unwrap());
    let served = paths(Profile::Uniform).iter().filter(|path| get(head, path, &reader).is_ok()).count();
    assert!(served > 0);
    pruner.committed(rig.chain.head());

    rig.memory().plant(lost.as_bytes(), &bytes);
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    rig.chain.grow(Profile::Uniform, 112, 10);
    run(&pruner);
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.health().verdict, Verdict::Healthy, "it recovers with its cause");
    check::exact(&rig.chain, "repaired");
}

/// Runs a cycle in which a live node is lost after the mark is sealed: the read-back after the sweep is what finds it.
fn loses_a_live_node(rig: &Rig) -> (Pruner, mpsc::Receiver<()>, NodeHash) {
    let head = rig.chain.archive.root(rig.chain.head());
    let lost = *rig.chain.archive.live([rig.chain.head()]).iter().find(|hash| Some(**hash) != head.node()).unwrap();
    let (memory, mut saves) = (rig.memory().clone(), 0);
    let (pruner, outcomes) = start_with(rig, Arc::new(RoochLayout), move |moment| {
        saves += usize::from(moment == Moment::PhaseSaved);
        if moment == Moment::PhaseSaved && saves == 2 {
            memory.uproot(lost.as_bytes()); // marked as live, and gone before the first delete
        }
    });
    run(&pruner);
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    (pruner, outcomes, lost)
}

/// I11: what was found outweighs what could not be written about it.
#[test]
fn a_miss_in_the_read_back_freezes_deletes_where_its_certificate_cannot_be_written() {
    let rig = grown();
    let disk = FaultyDisk::under(&rig.state_dir());
    disk.inject("cycle-*.json.tmp", FileCall::Sync, 0, Lasting::UntilHealed);
    let (pruner, _, lost) = loses_a_live_node(&rig);
    assert!(disk.met() > 0);
    let freeze = Freeze::load(&StoreRecords(Arc::clone(&rig.chain.store))).unwrap();
    assert!(freeze.is_some_and(|freeze| freeze.why.contains(&lost.to_string()[..16])));
    assert_eq!(pruner.health().reasons[0].code.as_str(), "frozen");
}

/// The certificate of a cycle tells of it, whatever becomes of those that are older than are kept.
#[test]
fn a_cycle_finishes_where_an_old_certificate_cannot_be_removed() {
    let rig = grown();
    let certificates = rig.state_dir().join("certificates");
    fs::create_dir_all(&certificates).unwrap();
    (100..1_100).for_each(|cycle| fs::write(certificates.join(format!("cycle-{cycle:08}.json")), []).unwrap());
    let disk = FaultyDisk::under(&certificates);
    disk.inject("cycle-*.json", FileCall::Remove, 0, Lasting::UntilHealed);
    let (pruner, outcomes) = start_with(&rig, Arc::new(RoochLayout), |_| ());
    run(&pruner);
    outcomes.recv().unwrap();
    assert!(disk.met() > 0);
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.status().cycles_finished, 1);
}

#[test]
fn a_miss_in_the_read_back_freezes_deletes_and_turns_health_critical() {
    let rig = grown();
    let (pruner, outcomes, lost) = loses_a_live_node(&rig);
    let bytes = rig.chain.archive.bytes(&lost);
    let certificate = rig.state_dir().join("certificates/cycle-00000001.json");
    let certificate: Certificate = serde_json::from_slice(&fs::read(certificate).unwrap()).unwrap();
    let Verification::Failed { why } = &certificate.verification else { panic!("{:?}", certificate.verification) };
    assert!(why.contains(&lost.to_string()[..16]), "{why} does not name {lost}");
    let freeze = Freeze::load(&StoreRecords(Arc::clone(&rig.chain.store))).unwrap();
    assert_eq!(freeze.map(|freeze| (freeze.cycle, freeze.why)), Some((1, why.clone())), "for the next process too");
    let (health, status) = (pruner.health(), pruner.status());
    assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Critical, "frozen"), "{health:?}");
    assert!(matches!(status.last.unwrap().ended, Ended::Failed { .. }));
    assert_eq!((status.cycles_finished, status.cycles_failed), (0, 1));
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }));
    let left = check::nodes(&rig.chain.store);
    (0..20).for_each(|_| pruner.committed(rig.chain.head()));
    assert_eq!(check::nodes(&rig.chain.store), left, "nothing more is deleted");

    rig.memory().plant(lost.as_bytes(), &bytes);
    check::exact(&rig.chain, "what the sweep deleted was dead all the same");
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    run(&pruner);
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.health().verdict, Verdict::Healthy);
}

/// A cycle held at its capture until the returned end is dropped.
fn held(rig: &Rig) -> (Pruner, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel::<()>();
    let (told, at_capture) = mpsc::channel();
    let (pruner, outcomes) = start_with(rig, Arc::new(RoochLayout), move |moment| {
        if moment == Moment::Captured {
            match told.send(()) {
                Ok(()) | Err(_) => {} // nobody listens for the cycles that follow
            }
            assert!(released.recv().is_err(), "nothing is ever sent: only the end of the test's hold counts");
        }
    });
    run(&pruner);
    at_capture.recv().unwrap();
    (pruner, outcomes, release)
}

/// P3: the chain goes on while a cycle takes its time.
#[test]
fn falling_behind_turns_health_degraded() {
    let rig = grown();
    let (pruner, outcomes, hold) = held(&rig);
    let commit = |count: u64| {
        rig.chain.grow(Profile::Uniform, 114, count);
        pruner.committed(rig.chain.head());
        pruner.health()
    };
    assert_eq!(commit(10).verdict, Verdict::Healthy, "one cycle late is no trouble");
    let health = commit(60);
    assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Degraded, "lagging"), "{health:?}");
    assert!(health.reasons[0].message.contains("one is due every 10"), "{health:?}");
    drop(hold);
    outcomes.recv().unwrap(); // the one that was held
    outcomes.recv().unwrap(); // and the one that was due since
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.health().verdict, Verdict::Healthy);
    drop(pruner);
    check::complete(&rig.chain, "seed 114");
}

#[test]
fn health_scans_nothing_and_waits_for_no_phase() {
    let (rig, faulty) = Rig::new_faulty();
    rig.chain.grow(Profile::Uniform, 115, 9);
    let (pruner, outcomes, hold) = held(&rig);
    let before = (faulty.reads(), faulty.writes());
    for _ in 0..100 {
        assert_eq!(pruner.health().verdict, Verdict::Healthy);
        assert!(pruner.status().running);
    }
    assert_eq!((faulty.reads(), faulty.writes()), before, "health is what is known, nothing is looked up");
    drop(hold);
    outcomes.recv().unwrap();
}

#[test]
fn fresh_database_prunes_only_after_its_first_window() {
    let rig = Rig::new(Engine::Memory);
    let (pruner, outcomes) = start(&rig, Arc::new(RoochLayout));
    let status = pruner.status();
    assert_eq!((status.cycles_finished, status.cycles_failed, status.deleted_total), (0, 0, 0));
    assert!(status.last.is_none() && status.frozen.is_none() && status.poisoned.is_none());
    assert_eq!(pruner.health().verdict, Verdict::Healthy);
    let mut workload = state_tests::workload::Workload::new(Profile::Uniform, 116);
    // A cycle comes after ten orders, and the window is five: until then nothing that was ever created may go.
    for _ in 0..10 {
        rig.chain.run(&mut workload, 1);
        pruner.committed(rig.chain.head());
        assert_eq!(check::present(&rig.chain.store), rig.chain.archive.all(), "order {}", rig.chain.head());
        assert!(outcomes.try_recv().is_err(), "order {}", rig.chain.head());
    }
    rig.chain.run(&mut workload, 1);
    pruner.committed(rig.chain.head());
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.status().cycles_finished, 1);
    assert!(pruner.status().deleted_total > 0);
    check::exact(&rig.chain, "the first window");
}

#[test]
fn a_freeze_outlives_a_restart() {
    let rig = grown();
    let root = rig.chain.archive.root(rig.chain.head()).node().unwrap();
    let bytes = rig.chain.archive.bytes(&root);
    rig.memory().plant(root.as_bytes(), b"not a node");
    {
        let (pruner, outcomes) = start(&rig, Arc::new(RoochLayout));
        run(&pruner);
        outcomes.recv().unwrap();
    }
    rig.memory().plant(root.as_bytes(), &bytes);
    let rig = rig.restart();
    let before = check::nodes(&rig.chain.store);
    let (pruner, _outcomes) = start(&rig, Arc::new(RoochLayout));
    assert_eq!(pruner.health().verdict, Verdict::Critical);
    until(&pruner, |pruner| !pruner.status().running);
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }), "only an operator lifts it");
    drop(pruner);
    assert_eq!(check::nodes(&rig.chain.store), before);
}

#[test]
fn pruning_starts_despite_restarts_before_the_first_window() {
    let mut rig = Rig::new(Engine::Memory);
    for round in 0..6 {
        let (pruner, outcomes) = start(&rig, Arc::new(RoochLayout));
        for _ in 0..4 {
            rig.chain.grow(Profile::Uniform, 120 + round, 1);
            pruner.committed(rig.chain.head());
        }
        // Ten orders make a cycle due; four come per process.
        let due = (rig.chain.head().get() + 1) / 10;
        if round == 2 || round == 5 {
            outcomes.recv().unwrap();
            until(&pruner, |pruner| !pruner.status().running);
            assert_eq!(pruner.status().cycles_finished, 1, "round {round}, due {due}");
        }
        drop(pruner);
        rig = rig.restart();
    }
    check::complete(&rig.chain, "after six processes");
    assert!(rig.chain.floor().get() > 0);
}

/// An operator is faster than the worker's first look at what an earlier process left: the request must not be lost.
#[test]
fn a_request_that_comes_right_after_the_start_is_served() {
    for attempt in 0..40 {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Toggle, 113, 8);
        let (pruner, outcomes) = start(&rig, Arc::new(RoochLayout));
        run(&pruner);
        let told = outcomes.recv_timeout(Duration::from_secs(30));
        assert!(told.is_ok(), "attempt {attempt}: accepted, and never done");
    }
}

/// What an operator ends has not failed.
#[test]
fn a_cancelled_cycle_is_no_failed_one() {
    let rig = grown();
    let (pruner, outcomes, hold) = held(&rig);
    assert_eq!(pruner.command(Command::Cancel), Reply::Accepted);
    drop(hold);
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    let status = pruner.status();
    assert_eq!((status.cycles_finished, status.cycles_failed, status.cycles_cancelled), (0, 0, 1));
    assert_eq!(status.last.unwrap().ended, Ended::Cancelled);
    assert_eq!(pruner.health().verdict, Verdict::Healthy);
    for idle in [Command::Pause, Command::Resume, Command::Cancel] {
        assert_eq!(pruner.command(idle), Reply::NotRunning, "{idle:?}");
    }
    drop(pruner);
    let rig = rig.restart();
    let (pruner, _outcomes) = start(&rig, Arc::new(RoochLayout));
    assert_eq!(pruner.status().last.unwrap().ended, Ended::Cancelled, "and the next process knows");
}

/// What is answered is so: a pause that is taken holds the cycle, and one that could hold nothing is refused.
#[test]
fn a_pause_at_the_last_range_holds_the_cycle_before_its_end_and_a_later_one_is_refused() {
    let rig = grown();
    let (operator, mut saves) = (Arc::new(Mutex::new(None::<Arc<Pruner>>)), 0);
    let (asks, (told, replies)) = (Arc::clone(&operator), mpsc::channel());
    let (ended, outcomes) = mpsc::channel();
    let hooks = Hooks::new(move |moment| {
        saves += usize::from(moment == Moment::PhaseSaved);
        let is_at_last_range = moment == Moment::PhaseSaved && saves == 3; // the only one; two saves came before it
        let asked: &[Command] = if is_at_last_range {
            &[Command::Pause]
        } else if moment == Moment::OutcomeSaved {
            &[Command::Pause, Command::Cancel, Command::Resume]
        } else {
            &[]
        };
        let pruner = asks.lock().clone();
        let replies = asked.iter().filter_map(|command| pruner.as_ref().map(|pruner| pruner.command(*command)));
        replies.for_each(|reply| told.send(reply).unwrap());
        if moment == Moment::OutcomeSaved {
            ended.send(()).unwrap();
        }
    });
    let mut plan = rig.plan(5).by(MarkChoice::Walk, SweepChoice::Filter);
    plan.config.range_bytes = NonZeroU64::MAX;
    let pruner = Arc::new(Pruner::start(rig.pruner_parts(&hooks), plan.pruner_of_cycles()).unwrap());
    *operator.lock() = Some(Arc::clone(&pruner));
    run(&pruner);
    assert_eq!(replies.recv().unwrap(), Reply::Accepted);
    until(&pruner, |pruner| pruner.status().pause == Pause::Holding || !pruner.status().running);
    let status = pruner.status();
    assert_eq!((status.pause, status.cycles_finished), (Pause::Holding, 0), "{status:?}");
    assert_eq!(pruner.command(Command::Resume), Reply::Accepted);
    outcomes.recv().unwrap();
    until(&pruner, |pruner| !pruner.status().running);
    let late: Vec<Reply> = replies.try_iter().collect();
    assert_eq!(late, [Reply::Ending, Reply::Ending, Reply::Unchanged], "there is nothing left to hold or to spare");
    assert_eq!((pruner.status().cycles_finished, pruner.status().cycles_cancelled), (1, 0));
    operator.lock().take();
    drop(pruner);
    let certificate = fs::read(rig.state_dir().join("certificates/cycle-00000001.json")).unwrap();
    let certificate: Certificate = serde_json::from_slice(&certificate).unwrap();
    assert_eq!(certificate.sweep.ranges, 1, "it was the last range");
    check::exact(&rig.chain, "held before its end");
}

/// A node shares its pruner with requests, and one of them may outlive its end.
#[test]
fn a_pruner_that_somebody_shares_ends_when_it_is_stopped_and_leaves_its_sweep_to_the_next_start() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 118, 30);
    let ((deleting, begun), (go_on, held)) = (mpsc::channel(), mpsc::channel::<()>());
    let act = move |moment| {
        if moment == Moment::Deleting && deleting.send(()).is_ok() {
            let _: Result<(), mpsc::RecvError> = held.recv(); // until the test lets go of its end
        }
    };
    let (pruner, _outcomes) = start_with(&rig, Arc::new(RoochLayout), act);
    let pruner = Arc::new(pruner);
    let shared = Arc::clone(&pruner);
    begun.recv().unwrap(); // it is due, and sweeps
    thread::scope(|scope| {
        let stopping = scope.spawn(move || pruner.stop());
        until(&shared, |shared| {
            assert!(matches!(shared.command(Command::Pause), Reply::Accepted | Reply::Unchanged | Reply::Ending));
            shared.status().pause == Pause::No // a stop is final, so it has come
        });
        drop((go_on, begun));
        stopping.join().unwrap();
    });
    shared.stop(); // there is nothing left to do
    let status = shared.status();
    assert_eq!((status.running, status.cycles_finished, status.lock.is_none()), (false, 0, true), "{status:?}");
    rig.chain.grow(Profile::Tables, 119, 20);
    shared.committed(rig.chain.head());
    assert!(!shared.status().running, "nothing begins any more");
    let rig = rig.restart();
    let (pruner, outcomes) = start(&rig, Arc::new(RoochLayout));
    outcomes.recv().unwrap();
    drop(pruner);
    check::complete(&rig.chain, "after the next start");
}

/// How a pruner is let go of whose worker has hung.
#[derive(Debug, Clone, Copy)]
enum LetGo {
    /// Its disk answers again, and it is stopped once more.
    Stopped,
    /// It is dropped, and its disk does not answer.
    Dropped,
}

/// A disk that hangs is waited for as long as whoever stops the pruner wants to, and no end is told that was none.
#[test]
fn a_stop_with_a_limit_tells_what_a_worker_that_hangs_is_at() {
    for end in [LetGo::Stopped, LetGo::Dropped] {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Tables, 118, 30);
        let ((deleting, begun), (answers, hung)) = (mpsc::channel(), mpsc::channel::<()>());
        let act = move |moment| {
            if moment == Moment::Deleting && deleting.send(()).is_ok() {
                let _: Result<(), mpsc::RecvError> = hung.recv(); // until the test lets go of its end
            }
        };
        let (pruner, _outcomes) = start_with(&rig, Arc::new(RoochLayout), act);
        begun.recv().unwrap();
        drop(begun);
        for _ in 0..2 {
            let late = pruner.stop_within(Duration::from_millis(1)).unwrap_err();
            assert_eq!((late.code(), late.disposition()), ("still_working", Disposition::Transient));
            assert!(late.to_string().contains("a cycle"), "{end:?}: {late}");
        }
        assert!(pruner.status().running, "{end:?}: it is not told to have ended");
        match end {
            LetGo::Stopped => {
                drop(answers);
                pruner.stop_within(Duration::from_secs(120)).unwrap();
                pruner.stop_within(Duration::ZERO).unwrap(); // there is nothing left to do
                let status = pruner.status();
                assert_eq!((status.running, status.lock.is_none()), (false, true), "{status:?}");
            }
            LetGo::Dropped => {
                drop(pruner); // returns, though the worker does not
                drop(answers);
            }
        }
    }
}
