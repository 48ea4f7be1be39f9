//! C14, F10, P6, P11, P16: when cycles begin, what each counts, and that nothing sets one off twice.

use std::{
    cell::Cell,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Command, Ended, Figure, Freeze, HeldBy, KeepPolicy, LiveRetention, NewPin, PruneError, Pruner, PrunerConfig,
    PrunerParts, PrunerStatus, RecordKey, Records, Reply, RetentionParts, Run, Share, StoreRecords, SweepChoice,
    Trigger, TriggerConfig, TriggerState,
    events::{Event, EventSink, Joined, NoEvents},
    mark::MarkChoice,
    recovery::RecoveryConfig,
    snapshot::NodeFacts,
};
use state_store::{Batch, CrashTail, Durability, Fault, Reserve, Room, StoreError, record};
use state_tests::{
    archive::orders,
    check,
    hooks::{Hooks, Moment},
    records::{Acting, Use},
    rig::{Engine, Rig},
    told::Told,
    waits::give_turns,
    workload::{Profile, Workload},
};
use state_tree::Order;

/// A pruner to be started on a rig.
struct Setup<'a> {
    rig: &'a Rig,
    every_orders: u64,
    triggers: TriggerConfig,
    facts: Option<Arc<dyn NodeFacts>>,
    events: Arc<dyn EventSink>,
    delete_batch: usize,
    keep_last: u64,
    /// Instead of a window of so many orders.
    policy: Option<Arc<LiveRetention>>,
}

impl<'a> Setup<'a> {
    fn new(rig: &'a Rig, every_orders: u64) -> Self {
        let (triggers, events) = (TriggerConfig::default(), Arc::new(NoEvents));
        Self { rig, every_orders, triggers, facts: None, events, delete_batch: 50, keep_last: 5, policy: None }
    }

    fn cooled(rig: &'a Rig, cooldown: Duration) -> Self {
        Self { triggers: TriggerConfig { cooldown, ..TriggerConfig::default() }, ..Self::new(rig, 10) }
    }

    fn start(self) -> Pruner {
        self.start_with(|_| ())
    }

    /// Starts it with something that happens at moments of its cycles.
    fn start_with(self, act: impl FnMut(Moment) + Send + 'static) -> Pruner {
        let parts = self.rig.pruner_parts(&Hooks::new(act));
        self.start_of(parts)
    }

    /// Starts it with something between it and its records.
    fn start_over(self, over: impl FnOnce(Arc<dyn Records>) -> Arc<dyn Records>) -> Pruner {
        let parts = self.rig.pruner_parts(&Hooks::none());
        self.start_of(PrunerParts { records: over(Arc::clone(&parts.records)), ..parts })
    }

    fn start_of(self, parts: PrunerParts) -> Pruner {
        let rig = self.rig;
        let parts = PrunerParts { facts: self.facts, events: self.events, ..parts };
        let plan = rig.plan(self.keep_last).batches(self.delete_batch);
        // One fault fails a run here; what is tried again is in recovery.rs.
        let config = PrunerConfig {
            every_orders: NonZeroU64::new(self.every_orders).unwrap(),
            triggers: self.triggers,
            recovery: RecoveryConfig { max_phase_retries: 0, ..RecoveryConfig::default() },
            ..plan.pruner_of_cycles()
        };
        match self.policy {
            Some(policy) => Pruner::start_under(parts, config, policy).unwrap(),
            None => Pruner::start(parts, config).unwrap(),
        }
    }
}

thread_local! {
    /// Whether the test asks for a run on this thread.
    static IS_ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Waits until no run is at work and none is due.
fn settle(pruner: &Pruner) {
    let settled = |status: PrunerStatus| {
        !status.running && status.triggers.triggers.iter().all(|of| of.standing != TriggerState::Due)
    };
    while !settled(pruner.status()) {
        thread::yield_now();
    }
}

pub(crate) fn standing(pruner: &Pruner, trigger: Trigger) -> TriggerState {
    standing_in(&pruner.status(), trigger)
}

pub(crate) fn standing_in(status: &PrunerStatus, trigger: Trigger) -> TriggerState {
    status.triggers.triggers.iter().find(|of| of.trigger == trigger).unwrap().standing
}

fn runs(pruner: &Pruner) -> Vec<Run> {
    pruner.status().triggers.runs
}

/// Commits until the head is `to`, or until the store refuses, and tells the pruner of each.
fn commit_to(rig: &Rig, pruner: &Pruner, workload: &mut Workload, to: u64) {
    while rig.chain.head().get() < to {
        if rig.chain.try_commit(|root, reader| workload.changes(root, reader)).is_err() {
            return;
        }
        pruner.committed(rig.chain.head());
    }
}

/// Every order after genesis was counted by one run, or is left for the next one.
fn adds_up(pruner: &Pruner, committed: u64, context: &str) {
    let status = pruner.status().triggers;
    let counted: u64 = status.runs.iter().map(|run| run.counted).sum();
    assert_eq!(counted + status.uncounted, committed, "{context}: {status:#?}");
    assert_eq!(counted, status.counted_to, "{context}: {status:#?}");
}

fn genesis() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 140, 1);
    rig
}

#[test]
fn six_hundred_commits_at_a_threshold_of_a_hundred_are_counted_once_by_one_to_six_runs() {
    let rig = genesis();
    let (at_work, overlapped) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&overlapped);
    let pruner = Setup::new(&rig, 100).start_with(move |moment| match moment {
        Moment::Captured => {
            seen.fetch_or(at_work.swap(true, Ordering::AcqRel), Ordering::AcqRel);
        }
        Moment::OutcomeSaved => at_work.store(false, Ordering::Release),
        Moment::PhaseSaved | Moment::Deleting | Moment::RunSaved | Moment::Progress(_) => {}
    });
    commit_to(&rig, &pruner, &mut Workload::new(Profile::Uniform, 141), 600);
    settle(&pruner);
    let runs = runs(&pruner);
    assert!((1..=6).contains(&runs.len()), "{runs:#?}");
    assert!(runs.iter().all(|run| run.counted >= 100 && run.trigger == Trigger::Orders), "{runs:#?}");
    assert!(!overlapped.load(Ordering::Acquire), "two runs were at work together");
    adds_up(&pruner, 600, "undisturbed");
    drop(pruner);
    check::complete(&rig.chain, "600 commits");
    let rig = rig.restart();
    adds_up(&Setup::new(&rig, 100).start(), 600, "after a restart");
}

/// The same where the process dies while a run deletes, and the next process goes on with it.
#[test]
fn six_hundred_commits_are_counted_once_also_where_a_run_is_killed_in_the_middle() {
    for run in 1..=3 {
        let (rig, faulty) = genesis().faulty();
        let (mut captures, is_dead, dying) = (0, Arc::new(AtomicBool::new(false)), faulty.clone());
        let killed = Arc::clone(&is_dead);
        let pruner = Setup::new(&rig, 100).start_with(move |moment| {
            captures += usize::from(moment == Moment::Captured);
            if moment == Moment::Deleting && captures == run && !killed.load(Ordering::Acquire) {
                dying.freeze_after(0);
                killed.store(true, Ordering::Release);
            }
        });
        let mut workload = Workload::new(Profile::Uniform, 147);
        for whole in 1..run as u64 {
            commit_to(&rig, &pruner, &mut workload, 100 * whole);
            settle(&pruner);
        }
        commit_to(&rig, &pruner, &mut workload, 600);
        while !is_dead.load(Ordering::Acquire) {
            thread::yield_now();
        }
        drop(pruner);
        let at = rig.chain.head().get();
        let rig = rig.crashed(faulty.crash_image(CrashTail::Kept).unwrap());
        rig.chain.archive.forget_after(rig.chain.head());
        let context = format!("killed in run {run}, at order {at}");
        let pruner = Setup::new(&rig, 100).start();
        commit_to(&rig, &pruner, &mut Workload::new(Profile::Uniform, 148), 600);
        settle(&pruner);
        let runs = runs(&pruner);
        assert!((1..=6).contains(&runs.len()), "{context}: {runs:#?}");
        adds_up(&pruner, 600, &context);
        drop(pruner);
        check::complete(&rig.chain, &context);
    }
}

/// The process dies at each moment of its first runs.
#[test]
fn each_commit_is_counted_once_however_a_run_is_killed() {
    let (mut interrupted, mut went_on) = (0, 0);
    for at in 0..24 {
        let (rig, faulty) = genesis().faulty();
        let (mut moments, dying) = (0, faulty.clone());
        let pruner = Setup::new(&rig, 20).start_with(move |moment| {
            if !matches!(moment, Moment::Progress(_)) {
                if moments == at {
                    dying.freeze_after(0);
                }
                moments += 1;
            }
        });
        let mut workload = Workload::new(Profile::Uniform, 142);
        commit_to(&rig, &pruner, &mut workload, 70);
        settle(&pruner);
        drop(pruner);
        let rig = rig.crashed(faulty.crash_image(CrashTail::Kept).unwrap());
        rig.chain.archive.forget_after(rig.chain.head());
        let pruner = Setup::new(&rig, 20).start();
        commit_to(&rig, &pruner, &mut Workload::new(Profile::Uniform, 143), 120);
        settle(&pruner);
        let context = format!("killed at moment {at}");
        adds_up(&pruner, 120, &context);
        let numbers: Vec<u64> = runs(&pruner).iter().map(|run| run.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{context}: a run is missing from {numbers:?}");
        interrupted += runs(&pruner).iter().filter(|run| run.outcome.is_none()).count();
        went_on += usize::from(pruner.status().last.is_some_and(|last| matches!(last.ended, Ended::Finished { .. })));
        drop(pruner);
        check::complete(&rig.chain, &context);
    }
    assert!(interrupted > 0 && went_on == 24, "{interrupted} interrupted, {went_on} ended well");
}

#[test]
fn a_failed_run_counts_up_to_its_snapshot_and_what_came_later_is_left() {
    let (rig, faulty) = genesis().faulty();
    let (chain, mut captures, failing) = (rig.chain.clone(), 0, faulty.clone());
    let pruner = Setup::new(&rig, 100).start_with(move |moment| {
        captures += usize::from(moment == Moment::Captured);
        if moment == Moment::Captured && captures == 2 {
            chain.grow(Profile::Uniform, 144, 7); // while the run works
            failing.fail_read(0, Fault::Transient);
        }
    });
    let mut workload = Workload::new(Profile::Uniform, 145);
    commit_to(&rig, &pruner, &mut workload, 100);
    settle(&pruner);
    commit_to(&rig, &pruner, &mut workload, 200);
    settle(&pruner);
    pruner.committed(rig.chain.head());
    let failed = runs(&pruner)[1].clone();
    let outcome = failed.outcome.unwrap();
    assert!(matches!(outcome.ended, Ended::Failed { .. }), "{outcome:?}");
    assert_eq!((failed.counted, outcome.head_order), (100, Some(200)), "up to its snapshot");
    assert_eq!(pruner.status().triggers.uncounted, 7, "what came later counts toward the next one");
    commit_to(&rig, &pruner, &mut workload, 600);
    settle(&pruner);
    adds_up(&pruner, 600, "one run failed");
    assert_eq!(pruner.status().cycles_failed, 1);
}

/// A run that holds at its first capture until the returned end is dropped.
fn held(setup: Setup<'_>, id: Option<&str>) -> (Pruner, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel::<()>();
    let (told, at_capture) = mpsc::channel();
    let pruner = setup.start_with(move |moment| {
        if moment == Moment::Captured {
            match told.send(()) {
                Ok(()) | Err(_) => {} // nobody listens for the runs that follow
            }
            assert!(released.recv().is_err(), "only the end of the test's hold counts");
        }
    });
    let reply = id.map_or_else(|| pruner.command(Command::Run), |id| pruner.run_once(id));
    assert_eq!(reply, Reply::Accepted);
    at_capture.recv().unwrap();
    (pruner, release)
}

#[test]
fn whatever_comes_during_a_run_makes_one_more_and_the_answers_say_so() {
    let rig = genesis();
    rig.chain.grow(Profile::Uniform, 146, 9);
    let (pruner, hold) = held(Setup::new(&rig, 1_000_000), None);
    assert_eq!(pruner.command(Command::Run), Reply::FollowUp);
    for _ in 0..5 {
        assert_eq!(pruner.command(Command::Run), Reply::AlreadyRunning, "it joins the follow-up");
        rig.chain.grow(Profile::Uniform, 160, 1);
        pruner.committed(rig.chain.head());
    }
    assert!(pruner.status().triggers.requested);
    drop(hold);
    settle(&pruner);
    let runs = runs(&pruner);
    assert_eq!(runs.iter().map(|run| run.trigger).collect::<Vec<_>>(), [Trigger::Operator; 2], "{runs:#?}");
    let counted: Vec<u64> = runs.iter().map(|run| run.counted).collect();
    assert_eq!(counted, [9, 5], "what comes while a run works counts toward the next one");
    assert!(!pruner.status().triggers.requested);
    adds_up(&pruner, rig.chain.head().get(), "two runs");
}

/// Nobody asked, so no answer says it. With a cooldown it waits, and is told no less.
#[test]
fn a_trigger_that_is_met_while_a_cycle_runs_is_told_to_make_one_more() {
    use Trigger::{Operator, Orders};
    for (cooldown, expected) in [(Duration::ZERO, &[Operator, Orders][..]), (Duration::from_secs(3600), &[Operator])] {
        let (rig, told) = (genesis(), Arc::new(Told::default()));
        rig.chain.grow(Profile::Uniform, 149, 9);
        let setup = Setup { events: Arc::clone(&told) as _, ..Setup::cooled(&rig, cooldown) };
        let (pruner, hold) = held(setup, None);
        commit_to(&rig, &pruner, &mut Workload::new(Profile::Uniform, 150), 34);
        drop(hold);
        settle(&pruner);
        let runs: Vec<Trigger> = runs(&pruner).iter().map(|run| run.trigger).collect();
        assert_eq!(runs, expected, "cooldown {cooldown:?}");
        drop(pruner);
        let joined = |event: &Event| match event {
            Event::TriggerCoalesced { joined: Joined::Cycle, trigger: Some(trigger) } => Some(*trigger),
            _ => None,
        };
        let joined: Vec<Trigger> = told.0.lock().iter().filter_map(joined).collect();
        assert_eq!(joined, [Orders], "cooldown {cooldown:?}");
    }
}

#[test]
fn a_forgotten_one_shot_order_does_not_run_twice() {
    let rig = genesis();
    rig.chain.grow(Profile::Uniform, 147, 9);
    let (pruner, hold) = held(Setup::new(&rig, 1_000_000), Some("nightly-1"));
    assert_eq!(pruner.run_once("nightly-1"), Reply::AlreadyServed { run: 1 }, "it is at work");
    assert_eq!(pruner.run_once("nightly-2"), Reply::FollowUp);
    assert_eq!(pruner.run_once("nightly-2"), Reply::AlreadyRunning, "it waits");
    assert_eq!(pruner.run_once("nightly-3"), Reply::AlreadyRunning, "it joins");
    drop(hold);
    settle(&pruner);
    for (id, run) in [("nightly-1", 1), ("nightly-2", 2), ("nightly-3", 2)] {
        assert_eq!(pruner.run_once(id), Reply::AlreadyServed { run }, "{id}");
    }
    drop(pruner);
    let rig = rig.restart();
    // A process that dies as soon as a run has begun, which did nothing: the next process runs for it, and once.
    let (doomed, faulty) = rig.faulty();
    let (dying, mut saves) = (faulty.clone(), 0);
    let pruner = Setup::new(&doomed, 1_000_000).start_with(move |moment| {
        saves += usize::from(moment == Moment::RunSaved);
        if moment == Moment::RunSaved && saves == 1 {
            dying.freeze_after(0);
        }
    });
    assert_eq!(pruner.run_once("nightly-4"), Reply::Accepted);
    settle(&pruner);
    drop(pruner);
    let rig = doomed.crashed(faulty.crash_image(CrashTail::Kept).unwrap());
    let pruner = Setup::new(&rig, 1_000_000).start();
    settle(&pruner);
    for (id, run) in [("nightly-1", 1), ("nightly-2", 2), ("nightly-4", 4)] {
        assert_eq!(pruner.run_once(id), Reply::AlreadyServed { run }, "{id} after restarts");
    }
    let last = runs(&pruner).split_off(2);
    assert_eq!((last[0].number, last[0].counted, &last[0].outcome), (3, 0, &None), "interrupted");
    assert!(matches!(last[1].outcome.as_ref().unwrap().ended, Ended::Finished { .. }), "{last:#?}");
    assert_eq!(pruner.run_once("nightly-5"), Reply::Accepted);
    settle(&pruner);
    assert_eq!(runs(&pruner).len(), 5);
}

/// They were answered, so they are kept over the death of the process, with the one whose run had done nothing yet.
#[test]
fn requests_that_wait_outlive_the_process_that_took_them() {
    let (rig, faulty) = genesis().faulty();
    rig.chain.grow(Profile::Uniform, 161, 9);
    let (pruner, hold) = held(Setup::new(&rig, 1_000_000), Some("nightly-1"));
    assert_eq!(pruner.run_once("nightly-2"), Reply::FollowUp);
    assert_eq!(pruner.run_once("nightly-3"), Reply::AlreadyRunning);
    faulty.freeze_after(0);
    drop(hold);
    drop(pruner);
    let rig = rig.crashed(faulty.crash_image(CrashTail::Lost).unwrap());
    rig.chain.archive.forget_after(rig.chain.head());
    let pruner = Setup::new(&rig, 1_000_000).start();
    settle(&pruner);
    for id in ["nightly-1", "nightly-2", "nightly-3"] {
        assert_eq!(pruner.run_once(id), Reply::AlreadyServed { run: 2 }, "{id}");
    }
    let ended: Vec<bool> = runs(&pruner).iter().map(|run| run.outcome.is_some()).collect();
    assert_eq!(ended, [false, true], "one run for all of them");
    drop(pruner);
    check::exact(&rig.chain, "after the run that they waited for");
}

/// C14: nobody is told that a run will come which no later process would know of.
#[test]
fn a_request_that_cannot_be_written_down_is_refused_and_not_served() {
    let (rig, faulty) = genesis().faulty();
    rig.chain.grow(Profile::Uniform, 166, 9);
    let (pruner, hold) = held(Setup::new(&rig, 1_000_000), Some("nightly-1"));
    let refused = |id| {
        faulty.fail_write(0, Fault::DiskFull);
        match id {
            Some(id) => pruner.run_once(id),
            None => pruner.command(Command::Run),
        }
    };
    for id in [Some("nightly-2"), None] {
        let reply = refused(id);
        assert!(matches!(&reply, Reply::Unsaved { code, .. } if code == "disk_full"), "{id:?}: {reply:?}");
        assert!(!pruner.status().triggers.requested, "{id:?}");
    }
    assert_eq!(pruner.run_once("nightly-3"), Reply::FollowUp);
    assert!(matches!(refused(Some("nightly-4")), Reply::Unsaved { .. }));
    assert!(pruner.status().triggers.requested, "the one before is not withdrawn with it");
    assert_eq!(pruner.run_once("nightly-3"), Reply::AlreadyRunning);
    drop(hold);
    settle(&pruner);
    assert_eq!(pruner.run_once("nightly-3"), Reply::AlreadyServed { run: 2 });
    assert_eq!(runs(&pruner).len(), 2, "none for those that were refused");
    assert_eq!(pruner.run_once("nightly-2"), Reply::Accepted, "and asked again they are served");
    settle(&pruner);
}

/// C12: what is written down beside commits has the room of the reserve, as commits and marks have.
#[test]
fn a_request_that_finds_no_room_is_written_down_in_that_of_the_reserve() {
    let (rig, faulty) = genesis().faulty();
    rig.chain.grow(Profile::Uniform, 166, 9);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reserve");
    let reserve = Reserve::new(path.clone(), NonZeroU64::new(4096).unwrap());
    assert_eq!(rig.chain.store.keep_room(reserve).unwrap(), Room::Kept);
    let (pruner, hold) = held(Setup::new(&rig, 1_000_000), Some("nightly-1"));
    faulty.fail_write(0, Fault::DiskFull);
    assert_eq!(pruner.run_once("nightly-2"), Reply::FollowUp);
    assert!(pruner.status().triggers.requested);
    drop(hold);
    settle(&pruner);
    assert_eq!(pruner.run_once("nightly-2"), Reply::AlreadyServed { run: 2 });
}

/// C14: of a process that died in it the next one would not know, and would serve the request again.
#[test]
fn a_run_whose_beginning_cannot_be_written_down_does_nothing() {
    let rig = genesis();
    rig.chain.grow(Profile::Uniform, 167, 30);
    let (full, asker) = (Arc::new(AtomicBool::new(false)), thread::current().id());
    let refuses = Arc::clone(&full);
    let pruner = Setup::new(&rig, 1_000_000).start_over(|records| {
        Acting::over(records, move |what, key| {
            let is_begun = (what, key) == (Use::Save, RecordKey::Triggers) && thread::current().id() != asker;
            if is_begun && refuses.load(Ordering::Acquire) {
                return Err(StoreError::DiskFull { what: "the ledger".to_owned() }.into());
            }
            Ok(())
        })
    });
    settle(&pruner);
    let before = check::present(&rig.chain.store);
    full.store(true, Ordering::Release);
    assert_eq!(pruner.run_once("nightly"), Reply::Accepted);
    while pruner.status().cycles_failed + pruner.status().cycles_finished == 0 || pruner.status().running {
        thread::yield_now();
    }
    assert_eq!((pruner.status().cycles_finished, runs(&pruner).len()), (0, 1), "{:?}", pruner.status().last);
    assert!(check::present(&rig.chain.store) == before, "nothing was done");
}

/// C14: a run that takes a request along which is not on disk yet makes a promise of it that nobody can keep.
#[test]
fn a_run_that_begins_while_a_request_is_written_down_is_not_for_that_one() {
    let rig = genesis();
    let ((told, writes), (answer, answers)) = (mpsc::channel(), mpsc::channel());
    let hanging = Mutex::new(Some((told, answers)));
    let pruner = Setup::new(&rig, 10).start_over(|records| {
        Acting::over(records, move |what, key| {
            let hangs = (what, key) == (Use::Save, RecordKey::Triggers) && IS_ASKING.get();
            let taken = hanging.lock().take_if(|_| hangs);
            match taken {
                Some((told, answers)) => {
                    told.send(()).unwrap();
                    Err(answers.recv().unwrap())
                }
                None => Ok(()),
            }
        })
    });
    settle(&pruner); // its first look runs, too
    let reply = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            IS_ASKING.set(true);
            pruner.run_once("nightly-1")
        });
        writes.recv().unwrap();
        commit_to(&rig, &pruner, &mut Workload::new(Profile::Uniform, 178), 12);
        while !pruner.status().running {
            thread::yield_now();
        }
        answer.send(PruneError::NoHead).unwrap();
        asking.join().unwrap()
    });
    assert!(matches!(&reply, Reply::Unsaved { code, .. } if code == PruneError::NoHead.code()), "{reply:?}");
    settle(&pruner);
    assert_eq!(runs(&pruner).len(), 1, "the one that was due without it");
    assert_eq!(pruner.run_once("nightly-1"), Reply::Accepted);
    settle(&pruner);
    assert_eq!(pruner.run_once("nightly-1"), Reply::AlreadyServed { run: 2 });
}

/// C14: the ledger of a pruner that begins has nothing in it but what was asked for meanwhile.
#[test]
fn a_request_that_comes_before_the_worker_has_saved_its_first_ledger_stays_on_disk() {
    let (rig, faulty) = genesis().faulty();
    let (is_answered, saved, asker) =
        (Arc::new(AtomicBool::new(false)), AtomicBool::new(false), thread::current().id());
    let answered = Arc::clone(&is_answered);
    let pruner = Setup::new(&rig, 1_000_000).start_over(|records| {
        Acting::over(records, move |what, key| {
            if (what, key) != (Use::Save, RecordKey::Triggers) || thread::current().id() == asker {
                return Ok(());
            }
            if saved.swap(true, Ordering::AcqRel) {
                return Err(PruneError::NoHead); // only the first one counts
            }
            // The answer comes first, unless it waits for this.
            give_turns(|| answered.load(Ordering::Acquire));
            Ok(())
        })
    });
    assert_eq!(pruner.run_once("nightly-1"), Reply::Accepted);
    is_answered.store(true, Ordering::Release);
    settle(&pruner);
    faulty.freeze_after(0);
    drop(pruner);
    let rig = rig.crashed(faulty.crash_image(CrashTail::Lost).unwrap());
    let pruner = Setup::new(&rig, 1_000_000).start();
    settle(&pruner);
    assert_eq!(pruner.run_once("nightly-1"), Reply::AlreadyServed { run: 1 });
}

/// Nothing that was answered vanishes without a word.
#[test]
fn a_request_that_switching_off_drops_is_told() {
    let (rig, told) = (genesis(), Arc::new(Told::default()));
    rig.chain.grow(Profile::Uniform, 162, 9);
    let events = Arc::clone(&told) as Arc<dyn EventSink>;
    let (pruner, hold) = held(Setup { events, ..Setup::new(&rig, 1_000_000) }, Some("nightly-1"));
    assert_eq!(pruner.run_once("nightly-2"), Reply::FollowUp);
    assert_eq!(pruner.command(Command::Disable), Reply::Accepted);
    assert!(!pruner.status().triggers.requested);
    drop(hold);
    settle(&pruner);
    drop(pruner);
    let dropped = |event: &&Event| matches!(event, Event::RequestDropped { ids } if *ids == ["nightly-2"]);
    assert_eq!(told.0.lock().iter().filter(dropped).count(), 1, "{told:?}");
    let rig = rig.restart();
    let pruner = Setup::new(&rig, 1_000_000).start();
    assert_eq!(pruner.command(Command::Enable), Reply::Accepted);
    settle(&pruner);
    assert_eq!(runs(&pruner).len(), 1, "what was dropped stays so");
}

/// What a node says of its place on the chain.
#[derive(Default)]
struct Place(Mutex<Option<bool>>);

impl NodeFacts for Place {
    fn mempool_size(&self) -> Option<u64> {
        None
    }

    fn sync_status(&self) -> Option<bool> {
        *self.0.lock()
    }
}

#[test]
fn nothing_is_pruned_while_the_node_catches_up_unless_somebody_asks() {
    let (rig, place) = (genesis(), Arc::new(Place(Mutex::new(Some(false)))));
    let facts: Arc<dyn NodeFacts> = place.clone();
    let pruner = Setup { facts: Some(facts), ..Setup::new(&rig, 10) }.start();
    commit_to(&rig, &pruner, &mut Workload::new(Profile::Uniform, 148), 50);
    settle(&pruner);
    assert_eq!(standing(&pruner, Trigger::Orders), TriggerState::Held { by: HeldBy::CatchingUp });
    assert!(runs(&pruner).is_empty());
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    settle(&pruner);
    assert_eq!((runs(&pruner).len(), runs(&pruner)[0].counted), (1, 50));
    commit_to(&rig, &pruner, &mut Workload::new(Profile::Uniform, 149), 100);
    settle(&pruner);
    assert_eq!(runs(&pruner).len(), 1);
    *place.0.lock() = Some(true);
    pruner.committed(rig.chain.head());
    settle(&pruner);
    assert_eq!((runs(&pruner).len(), runs(&pruner)[1].counted), (2, 50), "everything since counts");
}

/// The disk of the test is never as large as the bound, so it is low.
#[test]
fn a_low_disk_trigger_fires_even_while_out_of_sync() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Uniform, 150, 20);
    let triggers = TriggerConfig {
        low_disk: NonZeroU64::new(1 << 62),
        cooldown: Duration::from_secs(3600),
        ..TriggerConfig::default()
    };
    let facts: Arc<dyn NodeFacts> = Arc::new(Place(Mutex::new(Some(false))));
    let setup = |facts| Setup { facts: Some(facts), triggers: triggers.clone(), ..Setup::new(&rig, 10) };
    let pruner = setup(Arc::clone(&facts)).start();
    while runs(&pruner).is_empty() {
        thread::yield_now(); // nobody tells it to look: it does so by itself
    }
    settle(&pruner);
    let status = pruner.status();
    assert_eq!(status.triggers.runs[0].trigger, Trigger::LowDisk);
    assert!(status.deleted_total > 0 && status.triggers.disk.unwrap().low, "{status:#?}");
    let health = pruner.health();
    assert!(health.reasons.iter().any(|reason| reason.code == "low_disk"), "{health:?}");
    // Low still: it has fired, and does not fire again, whatever is committed and however often it looks.
    for _ in 0..3 {
        rig.clock.advance(Duration::from_secs(60));
        rig.chain.grow(Profile::Uniform, 151, 10);
        pruner.committed(rig.chain.head());
        settle(&pruner);
    }
    assert_eq!(runs(&pruner).len(), 1);
    assert_eq!(standing(&pruner, Trigger::Orders), TriggerState::Held { by: HeldBy::CatchingUp });
    drop(pruner);
    let pruner = setup(facts).start();
    while standing(&pruner, Trigger::LowDisk) == TriggerState::Unmeasured {
        thread::yield_now();
    }
    settle(&pruner);
    assert_eq!(runs(&pruner).len(), 1, "and a restart does not make it new");
}

/// What a process saw of the disk is saved when it sees it, not when the next run begins.
#[test]
fn a_disk_that_had_room_is_low_anew_in_the_next_process() {
    let rig = genesis().behind_faults();
    rig.chain.grow(Profile::Uniform, 163, 20);
    const BOUND: u64 = 1 << 40; // of which a cycle needs little
    let low = |rig: &Rig, runs_before: usize| {
        let triggers = TriggerConfig { low_disk: NonZeroU64::new(BOUND), ..TriggerConfig::default() };
        rig.faults().say_free(BOUND - 1);
        let told = Arc::new(Told::default());
        let events = Arc::clone(&told) as Arc<dyn EventSink>;
        let pruner = Setup { triggers, events, ..Setup::new(rig, 1_000_000) }.start();
        while standing(&pruner, Trigger::LowDisk) == TriggerState::Unmeasured {
            thread::yield_now();
        }
        settle(&pruner);
        assert_eq!(runs(&pruner).len(), runs_before + 1);
        assert_eq!(standing(&pruner, Trigger::LowDisk), TriggerState::Held { by: HeldBy::Fired });
        let figure = Some(Figure::Free { bytes: BOUND - 1 });
        assert_eq!(runs(&pruner)[runs_before].figure, figure);
        let fired = |event: &Event| if let Event::TriggerFired { figure, .. } = event { *figure } else { None };
        assert_eq!(told.0.lock().iter().find_map(fired), figure, "{told:?}");
        rig.faults().say_free(2 * BOUND);
        while pruner.status().triggers.disk.unwrap().low {
            rig.clock.advance(Duration::from_secs(5));
            pruner.committed(rig.chain.head());
            thread::yield_now();
        }
    };
    low(&rig, 0);
    let rig = rig.restart();
    low(&rig, 1);
}

/// The docs say what may go on while a node catches up: what a process that died had begun to delete.
#[test]
fn a_sweep_that_was_interrupted_goes_on_while_the_node_catches_up() {
    let rig = killed_in_its_sweep(164);
    let facts: Arc<dyn NodeFacts> = Arc::new(Place(Mutex::new(Some(false))));
    let pruner = Setup { facts: Some(facts), ..Setup::new(&rig, 1_000_000) }.start();
    settle(&pruner);
    assert_eq!(pruner.status().cycles_finished, 1);
}

/// A run that a process left open ends where the chain goes back, and whoever watches runs is told so.
#[test]
fn a_run_that_a_rollback_gives_up_is_told_as_interrupted() {
    for at_rest in [true, false] {
        let rig = killed_in_its_sweep(165);
        let to = rig.chain.head().minus(1).unwrap();
        let told = Arc::new(Told::default());
        let events = Arc::clone(&told) as Arc<dyn EventSink>;
        if at_rest {
            let keep = Some(KeepPolicy::last(NonZeroU64::new(5).unwrap()));
            let parts = RetentionParts { events, ..rig.retention_parts(keep) };
            LiveRetention::new(parts).rollback(to, Batch::new()).unwrap();
        } else {
            let freeze = Freeze { cycle: 1, at: 0, why: "a test".to_owned() };
            let records = StoreRecords(Arc::clone(&rig.chain.store));
            records.save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
            let pruner = Setup { events, ..Setup::new(&rig, 1_000_000) }.start();
            settle(&pruner);
            assert!(runs(&pruner).is_empty(), "it is left");
            pruner.rollback(to, Batch::new()).unwrap();
            let last = runs(&pruner).pop().unwrap();
            assert_eq!((last.number, last.outcome), (1, None));
            assert!(pruner.status().triggers.requested, "an operator had asked for it");
        }
        let ended = |event: &Event| {
            if let Event::RunEnded(end) = event { Some((end.run, end.trigger, end.outcome.clone())) } else { None }
        };
        let ended: Vec<_> = told.0.lock().iter().filter_map(ended).collect();
        assert_eq!(ended, [(1, Trigger::Operator, "interrupted".to_owned())], "at rest: {at_rest}: {told:?}");
    }
}

#[test]
fn the_cooldown_holds_automatic_runs_back_over_a_restart_and_an_operator_goes_ahead() {
    let rig = genesis();
    let cooldown = Duration::from_secs(60);
    let pruner = Setup::cooled(&rig, cooldown).start();
    let mut workload = Workload::new(Profile::Uniform, 152);
    commit_to(&rig, &pruner, &mut workload, 10);
    settle(&pruner);
    commit_to(&rig, &pruner, &mut workload, 40);
    assert_eq!(standing(&pruner, Trigger::Orders), TriggerState::Held { by: HeldBy::Cooldown });
    drop(pruner);
    let rig = rig.restart();
    rig.clock.advance(Duration::from_secs(30)); // of this process, while the wall clock stands still
    let pruner = Setup::cooled(&rig, cooldown).start();
    settle(&pruner);
    assert_eq!((runs(&pruner).len(), pruner.status().triggers.cooldown_ms), (1, Some(60_000)));
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    settle(&pruner);
    assert_eq!((runs(&pruner).len(), runs(&pruner)[1].trigger), (2, Trigger::Operator));
    commit_to(&rig, &pruner, &mut workload, 60);
    settle(&pruner);
    assert_eq!(runs(&pruner).len(), 2, "the operator's run began a cooldown of its own");
    rig.clock.advance(cooldown);
    pruner.committed(rig.chain.head());
    settle(&pruner);
    assert_eq!((runs(&pruner).len(), runs(&pruner)[2].trigger), (3, Trigger::Orders));
    adds_up(&pruner, 60, "three runs");
}

#[test]
fn a_schedule_and_new_nodes_set_cycles_off_and_the_certificate_says_which() {
    let rig = genesis();
    let every = Duration::from_secs(3600);
    let triggers = TriggerConfig { every: Some(every), garbage_ratio: Share::new(0.9), ..TriggerConfig::default() };
    let pruner = Setup { triggers, ..Setup::new(&rig, 1_000_000) }.start();
    let mut workload = Workload::new(Profile::Uniform, 153);
    commit_to(&rig, &pruner, &mut workload, 20);
    settle(&pruner);
    assert_eq!(standing(&pruner, Trigger::Garbage), TriggerState::Unmeasured, "no cycle has finished");
    rig.clock.advance(every);
    pruner.committed(rig.chain.head());
    settle(&pruner);
    assert_eq!(standing(&pruner, Trigger::Garbage), TriggerState::Armed);
    let new = |pruner: &Pruner| pruner.status().triggers.turnover.unwrap();
    assert_eq!(new(&pruner).added, 0, "everything was there when the run began");
    while runs(&pruner).len() < 2 {
        assert!(new(&pruner).share() < 0.9 || pruner.status().running, "it was reached, and nothing runs");
        let next = rig.chain.head().get() + 1;
        commit_to(&rig, &pruner, &mut workload, next);
        settle(&pruner);
    }
    let triggers: Vec<Trigger> = runs(&pruner).iter().map(|run| run.trigger).collect();
    assert_eq!(triggers, [Trigger::Schedule, Trigger::Garbage]);
    for (cycle, trigger) in [(1, "schedule"), (2, "garbage")] {
        let certificate = rig.state_dir().join(format!("certificates/cycle-{cycle:08}.json"));
        let certificate: serde_json::Value = serde_json::from_slice(&std::fs::read(certificate).unwrap()).unwrap();
        assert_eq!(certificate["trigger"], trigger);
    }
}

/// Stops a cycle in its sweep, after its first batch, as a kill does; what it leaves is returned.
fn killed_in_its_sweep(seed: u64) -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, seed, 40);
    let (rig, faulty) = rig.faulty();
    let (dying, mut batches) = (faulty.clone(), 0);
    let pruner = Setup::new(&rig, 1_000_000).start_with(move |moment| {
        batches += usize::from(moment == Moment::Deleting);
        if batches == 2 {
            dying.freeze_after(0);
        }
    });
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    settle(&pruner);
    drop(pruner);
    rig.crashed(faulty.crash_image(CrashTail::Kept).unwrap())
}

/// The process dies before the first delete of a cycle that somebody waits for: the next one still knows that.
#[test]
fn a_cycle_that_somebody_waits_for_gives_the_space_back_also_after_a_restart() {
    for waits in [true, false] {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Uniform, 160, 200);
        let (rig, faulty) = rig.faulty();
        let start = |rig: &Rig, every_orders: u64, act: Box<dyn FnMut(Moment) + Send>| {
            let mut plan = rig.plan(160).by(MarkChoice::Scan, SweepChoice::Auto);
            plan.config.small_store = 0;
            let config =
                PrunerConfig { every_orders: NonZeroU64::new(every_orders).unwrap(), ..plan.pruner_of_cycles() };
            Pruner::start(rig.pruner_parts(&Hooks::new(act)), config).unwrap()
        };
        let (dying, mut saves) = (faulty.clone(), 0);
        let dies = Box::new(move |moment| {
            saves += usize::from(moment == Moment::PhaseSaved);
            if saves == 2 {
                dying.freeze_after(0);
            }
        });
        let pruner = start(&rig, if waits { 1_000_000 } else { 50 }, dies);
        if waits {
            assert_eq!(pruner.command(Command::Run), Reply::Accepted);
        }
        pruner.committed(rig.chain.head());
        while pruner.status().last.is_none() {
            thread::yield_now();
        }
        drop(pruner);
        let rig = rig.crashed(faulty.crash_image(CrashTail::Kept).unwrap());
        let pruner = start(&rig, 1_000_000, Box::new(|_| ()));
        settle(&pruner);
        let run = runs(&pruner).pop().unwrap();
        assert_eq!(run.trigger, if waits { Trigger::Operator } else { Trigger::Orders });
        drop(pruner);
        let certificate = rig.state_dir().join("certificates/cycle-00000001.json");
        let certificate: serde_json::Value = serde_json::from_slice(&std::fs::read(certificate).unwrap()).unwrap();
        let (sweep, way) = (&certificate["sweep"], if waits { "filter" } else { "delete" });
        assert_eq!((&certificate["trigger"], &sweep["strategy"]), (&"resumed".into(), &way.into()), "{sweep}");
        assert_eq!(sweep["reclaimed"], waits, "{sweep}");
        check::exact(&rig.chain, "seed 160");
    }
}

#[test]
fn the_node_serves_before_any_pruning_work_starts() {
    let rig = killed_in_its_sweep(154);
    let (release, released) = mpsc::channel::<()>();
    let (told, at_work) = mpsc::channel();
    let pruner = Setup::new(&rig, 1_000_000).start_with(move |moment| {
        if moment == Moment::Deleting {
            match told.send(()) {
                Ok(()) | Err(_) => {} // only the first batch is waited for
            }
            assert!(released.recv().is_err(), "only the end of the test's hold counts");
        }
    });
    // The sweep that goes on is held before its first delete, and everything else is there.
    at_work.recv().unwrap();
    let before = check::present(&rig.chain.store);
    assert!(pruner.status().running && pruner.health().reasons.is_empty());
    rig.chain.grow(Profile::Uniform, 155, 5);
    pruner.committed(rig.chain.head());
    check::complete(&rig.chain, "while the sweep is held");
    assert!(check::present(&rig.chain.store).is_superset(&before), "nothing was deleted");
    drop(release);
    settle(&pruner);
    assert_eq!(pruner.status().cycles_finished, 1);

    // And opening reads as much of a long history as of a short one.
    let reads = |orders: u64| {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Uniform, 156, orders);
        let (rig, faulty) = rig.faulty();
        let before = faulty.reads();
        let pruner = Setup::new(&rig, 1_000_000).start();
        // What is asked first is answered after the look at what an earlier process left.
        while pruner.status().running {
            thread::yield_now();
        }
        drop(pruner);
        faulty.reads() - before
    };
    assert_eq!(reads(10), reads(300), "opening depends on the length of history");
}

#[test]
fn the_first_slice_after_restart_obeys_its_limits() {
    const LIMIT: usize = 7;
    let rig = killed_in_its_sweep(157);
    let (store, sizes) = (Arc::clone(&rig.chain.store), Arc::new(Mutex::new(Vec::new())));
    let (seen, first) = (Arc::clone(&sizes), check::present(&rig.chain.store).len());
    let pruner = Setup { delete_batch: LIMIT, ..Setup::new(&rig, 1_000_000) }.start_with(move |moment| {
        if moment == Moment::Deleting {
            seen.lock().push(check::present(&store).len()); // before each batch is written
        }
    });
    settle(&pruner);
    while pruner.status().cycles_finished == 0 {
        thread::yield_now();
    }
    let mut sizes = sizes.lock().clone();
    sizes.push(check::present(&rig.chain.store).len());
    assert_eq!(sizes[0], first, "nothing goes before the first batch");
    assert!(sizes.len() > 3, "a sweep of one slice has no first one: {sizes:?}");
    let most = sizes.windows(2).map(|pair| pair[0] - pair[1]).max().unwrap();
    assert!(most <= LIMIT, "{most} nodes in one batch, {LIMIT} are allowed: {sizes:?}");
    drop(pruner);
    check::complete(&rig.chain, "resumed with another limit");
}

/// Keeps the last five orders, order 3 by a pin and everything from order 20 on for a consumer, both for an hour.
fn held_for_an_hour(rig: &Rig) -> Arc<LiveRetention> {
    let policy = LiveRetention::new(rig.retention_parts(Some(KeepPolicy::last(NonZeroU64::new(5).unwrap()))));
    let hour = Some(Duration::from_secs(3600));
    let pin = NewPin { name: "audit".to_owned(), owner: "a test".to_owned(), order: Order::new(3), ttl: hour };
    policy.add_pin(pin).unwrap();
    policy.set_consumer("indexer", Order::new(20), hour).unwrap();
    Arc::new(policy)
}

/// The wall clock steps at each moment of a run: the run ends as if it had not, and so does the cooldown after it. What is
/// kept for a time stays: a wrong reading of the clock is no reason to let go of it.
#[test]
fn clock_jump_in_each_phase() {
    let base = genesis();
    base.chain.grow(Profile::Uniform, 158, 29);
    let cooldown = Duration::from_secs(60);
    let moments = |at: usize, to: u64| {
        let rig = base.twin();
        let (clock, seen) = (Arc::clone(&rig.clock), Arc::new(Mutex::new(0)));
        clock.set_unix_ms(1_000_000_000);
        let count = Arc::clone(&seen);
        let policy = held_for_an_hour(&rig);
        let setup = Setup { policy: Some(Arc::clone(&policy)), delete_batch: 20, ..Setup::cooled(&rig, cooldown) };
        let pruner = setup.start_with(move |moment| {
            if !matches!(moment, Moment::Progress(_)) {
                if *count.lock() == at {
                    clock.set_unix_ms(to);
                }
                *count.lock() += 1;
            }
        });
        pruner.committed(rig.chain.head());
        settle(&pruner);
        let status = pruner.status();
        let context = format!("the clock is set to {to} at moment {at}");
        assert_eq!((status.cycles_finished, status.triggers.cooldown_ms), (1, Some(60_000)), "{context}");
        assert!(status.deleted_total > 0, "{context}");
        assert_eq!(status.triggers.runs[0].duration_ms, Some(0), "{context}: durations are monotonic");
        rig.clock.advance(cooldown);
        assert_eq!(pruner.status().triggers.cooldown_ms, None, "{context}");
        policy.advance_under(Durability::Synced).unwrap();
        drop(pruner);
        assert_eq!((policy.silent().unwrap(), policy.status().unwrap().pins.len()), (Vec::new(), 1), "{context}");
        assert_eq!((rig.chain.floor().get(), rig.chain.store.kept().len()), (20, 1), "{context}");
        let kept = [Order::new(3)].into_iter().chain(orders(Order::new(20), rig.chain.head()));
        assert_eq!(check::present(&rig.chain.store), rig.chain.archive.live(kept), "{context}");
        *seen.lock()
    };
    let all = moments(usize::MAX, 0);
    assert!(all > 8, "{all} moments are too few for every phase");
    for at in 0..all {
        for to in [0, 1 << 60] {
            moments(at, to);
        }
    }
}

/// Whether the first cycle went on with what an earlier process had begun.
fn resumed(rig: &Rig) -> bool {
    let certificate = std::fs::read(rig.state_dir().join("certificates/cycle-00000001.json"));
    certificate.is_ok_and(|text| serde_json::from_slice::<serde_json::Value>(&text).unwrap()["trigger"] == "resumed")
}

/// A run dies at each of its moments, and the next process has other limits, or retains more or less.
#[test]
fn config_change_in_each_phase() {
    let base = genesis();
    base.chain.grow(Profile::Uniform, 159, 39);
    for (keep_last, delete_batch) in [(5, 7), (3, 50), (9, 50)] {
        let (mut went_on, mut deaths) = (0, 0);
        loop {
            let (rig, faulty) = base.faulty();
            let (dying, seen) = (faulty.clone(), Arc::new(Mutex::new(0)));
            let count = Arc::clone(&seen);
            let pruner = Setup::new(&rig, 1_000_000).start_with(move |moment| {
                if matches!(moment, Moment::Progress(_)) {
                    return; // how many there are depends on threads
                }
                if *count.lock() == deaths {
                    dying.freeze_after(0);
                }
                *count.lock() += 1;
            });
            let reply = pruner.command(Command::Run);
            assert!(matches!(reply, Reply::Accepted | Reply::Unsaved { .. }), "it may be dead by then: {reply:?}");
            settle(&pruner);
            drop(pruner);
            if *seen.lock() <= deaths {
                break; // it lived to its end
            }
            let rig = rig.crashed(faulty.crash_image(CrashTail::Kept).unwrap());
            let context = format!("killed at moment {deaths}, then {keep_last} kept by batches of {delete_batch}");
            let pruner = Setup { keep_last, delete_batch, ..Setup::new(&rig, 1_000_000) }.start();
            settle(&pruner);
            went_on += usize::from(resumed(&rig));
            check::complete(&rig.chain, &context);
            assert_eq!(pruner.command(Command::Run), Reply::Accepted, "{context}");
            settle(&pruner);
            let ended = runs(&pruner).pop().unwrap().outcome.unwrap().ended;
            assert!(matches!(ended, Ended::Finished { .. }), "{context}: {ended:?}");
            adds_up(&pruner, 39, &context);
            drop(pruner);
            check::exact(&rig.chain, &context);
            deaths += 1;
        }
        assert!(deaths > 8, "{deaths} moments are too few for every phase");
        assert_eq!(went_on > 0, keep_last == 5, "{went_on} of {deaths} sweeps went on with {keep_last} kept");
    }
}
