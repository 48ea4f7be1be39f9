//! C19, O10: the record of a cycle that is not at work. While the node runs it is taken up by the worker, and a cycle that has
//! finished stays finished.

use std::{
    cell::Cell,
    fs,
    num::NonZeroU64,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Command, Control, Doubted, Ended, Freeze, LiveRetention, Outcome, PruneError, Pruner, PrunerConfig, PrunerParts,
    PrunerStatus, RecordKey, Records, Reply, RetentionParts, StoreRecords, SweepChoice, SwitchedOff, Trigger, Verdict,
    events::{Event, EventSink, NoEvents},
    incremental::RoundEnd,
    mark::MarkChoice,
    phase::{PhaseRecord, PrunePhase},
    recovery::Came,
};
use state_store::{Batch, FaultyDisk, FileCall, Lasting, Point, StoreError, record, watch};
use state_tests::{
    check, folder,
    hooks::{Hooks, Moment},
    records::{Acting, Use},
    rig::{Engine, Plan, Rig},
    told::Told,
    waits::{until, until_beside_commits},
    workload::Profile,
};

const WINDOW: u64 = 5;

pub(crate) fn io() -> PruneError {
    StoreError::Io { what: "removing a record".to_owned(), source: std::io::Error::other("injected") }.into()
}

/// A pruner with a sweep between cycles, whose cycles come when somebody asks.
pub(crate) fn start(
    rig: &Rig,
    hooks: &Hooks,
    act: impl Fn(Use, RecordKey) -> Result<(), PruneError> + Send + Sync + 'static,
) -> Pruner {
    let config = rig.plan(WINDOW).in_order().batches(20).pruner();
    let parts = rig.pruner_parts(hooks);
    let records = Acting::over(Arc::clone(&parts.records), act);
    Pruner::start(PrunerParts { records, ..parts }, config).unwrap()
}

/// The first look of a pruner at what an earlier process left, by another thread than that of the test: it is held.
pub(crate) struct HeldLook {
    begun: Receiver<()>,
    release: Sender<()>,
}

impl HeldLook {
    pub(crate) fn begins(&self) {
        self.begun.recv().unwrap();
    }

    pub(crate) fn goes_on(self) {
        drop(self.release);
    }
}

/// A look that is held, and what the records do for that.
pub(crate) fn held_look() -> (HeldLook, impl Fn(Use, RecordKey) -> Result<(), PruneError>) {
    let (told, begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (hold, starter) = (Mutex::new(Some((told, released))), thread::current().id());
    let act = move |what, key| {
        let is_a_look = what == Use::Load && key == RecordKey::Phase && thread::current().id() != starter;
        if let Some((told, released)) = is_a_look.then(|| hold.lock().take()).flatten() {
            told.send(()).unwrap();
            assert!(released.recv().is_err(), "nothing is ever sent: only the end of the test's hold counts");
        }
        Ok(())
    };
    (HeldLook { begun, release }, act)
}

/// A chain that is longer than its window, whose counts are exact.
fn settled() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 601, 12);
    rig.cycle(&rig.plan(WINDOW));
    rig.chain.grow(Profile::Tables, 602, 12);
    rig
}

/// The same, whose process ended in the middle of the sweep of another cycle.
pub(crate) fn interrupted() -> Rig {
    interrupted_by(|plan| plan)
}

/// The same, marked by a plan that somebody has changed.
pub(crate) fn interrupted_by(change: impl FnOnce(Plan) -> Plan) -> Rig {
    let rig = settled();
    let plan = change(rig.plan(WINDOW).in_order().batches(20));
    let control: Arc<Mutex<Option<Arc<Control>>>> = Arc::default();
    let (stops, mut batches) = (Arc::clone(&control), 0);
    let hooks = Hooks::new(move |moment| {
        batches += usize::from(moment == Moment::Deleting);
        if batches == 3 {
            stops.lock().as_ref().unwrap().stop();
        }
    });
    let env = rig.env(&plan, &hooks);
    *control.lock() = Some(Arc::clone(&env.control));
    let ended = plan.run(&env);
    assert!(matches!(ended, Err(PruneError::Stopped)), "{ended:?}");
    drop(env);
    rig.restart()
}

pub(crate) fn records(rig: &Rig) -> StoreRecords {
    StoreRecords(Arc::clone(&rig.chain.store))
}

fn left(rig: &Rig) -> Option<PrunePhase> {
    PhaseRecord::load(&records(rig)).unwrap().map(|record| record.phase)
}

/// New orders are swept between cycles.
pub(crate) fn rounds_go_on(rig: &Rig, pruner: &Pruner, context: &str) {
    rig.chain.grow(Profile::Tables, 603, 10);
    pruner.committed(rig.chain.head());
    until(rig, pruner, |pruner| {
        let is_done = rig.chain.floor().get() == rig.chain.head().get() + 1 - WINDOW
            && rig.chain.store.lag().is_some_and(|lag| lag.nodes == 0);
        is_done && pruner.status().incremental.unwrap().last == Some(RoundEnd::Done)
    });
    check::complete(&rig.chain, context);
}

/// The same, and its pruner has the run on record, which nobody has ended.
fn interrupted_run() -> Rig {
    let rig = settled();
    let slot: Arc<Mutex<Option<Arc<Pruner>>>> = Arc::default();
    let (stops, (told, stopping), mut batches) = (Arc::clone(&slot), mpsc::channel(), 0);
    let hooks = Hooks::new(move |moment| {
        batches += usize::from(moment == Moment::Deleting);
        if moment == Moment::Deleting && batches == 3 {
            let stopped = stops.lock().as_ref().unwrap().stop_within(Duration::ZERO);
            assert!(stopped.is_err(), "it works on to its next checkpoint");
            told.send(()).unwrap();
        }
    });
    let config = PrunerConfig { incremental: None, ..rig.plan(WINDOW).in_order().batches(20).pruner() };
    let pruner = Arc::new(Pruner::start(rig.pruner_parts(&hooks), config).unwrap());
    *slot.lock() = Some(Arc::clone(&pruner));
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    stopping.recv().unwrap();
    slot.lock().take();
    pruner.stop();
    drop(pruner);
    rig.restart()
}

/// The runs that ended, each with whether it finished.
fn runs(pruner: &Pruner) -> Vec<(Trigger, bool)> {
    let finished = |outcome: Option<Outcome>| matches!(outcome, Some(Outcome { ended: Ended::Finished { .. }, .. }));
    let runs = pruner.status().triggers.runs.into_iter();
    runs.map(|run| (run.trigger, finished(run.outcome))).collect()
}

/// An interrupted cycle that a freeze keeps from going on.
fn held() -> (Rig, Pruner) {
    held_by(Arc::new(NoEvents))
}

fn held_by(events: Arc<dyn EventSink>) -> (Rig, Pruner) {
    let rig = interrupted_run();
    let damage = PruneError::from(StoreError::Corrupt("a block".to_owned()));
    Doubted::remember(&damage, &records(&rig)).unwrap(); // of what is not known its mark might have believed a wrong hash
    let freeze = Freeze { cycle: 1, at: 0, why: damage.to_string() };
    records(&rig).save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
    let config = rig.plan(WINDOW).in_order().batches(20).pruner();
    let pruner = Pruner::start(PrunerParts { events, ..rig.pruner_parts(&Hooks::none()) }, config).unwrap();
    until(&rig, &pruner, |pruner| !pruner.status().running);
    (rig, pruner)
}

#[test]
fn a_cycle_that_a_freeze_holds_goes_on_when_it_is_lifted() {
    let (rig, pruner) = held();
    assert_eq!(left(&rig), Some(PrunePhase::SweepExpired), "it waits");
    assert_eq!(runs(&pruner), [], "and its run with it");
    drop(pruner);
    let rig = rig.restart();
    let pruner = start(&rig, &Hooks::none(), |_, _| Ok(()));
    until(&rig, &pruner, |pruner| !pruner.status().running);
    assert_eq!(runs(&pruner), [], "in another process, too");
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert_eq!(left(&rig), None);
    assert_eq!(runs(&pruner), [(Trigger::Operator, true)], "it is one run");
    check::exact(&rig.chain, "it went on");
    rounds_go_on(&rig, &pruner, "after it");
    assert_eq!(pruner.status().cycles_finished, 1, "nobody asked for another one");
}

/// Switched off while it waits, it is abandoned, as if it had run.
#[test]
fn a_cycle_that_a_freeze_holds_is_abandoned_when_pruning_is_switched_off() {
    let told = Arc::new(Told::default());
    let (rig, pruner) = held_by(Arc::clone(&told) as _);
    let before = check::present(&rig.chain.store);
    let deleted = PhaseRecord::load(&records(&rig)).unwrap().unwrap().deleted;
    assert_eq!((told.ends(), pruner.command(Command::Disable)), (Vec::new(), Reply::Accepted)); // it may end at once
    until(&rig, &pruner, |pruner| left(&rig).is_none() && !pruner.status().running);
    assert_eq!(check::present(&rig.chain.store), before, "nothing is deleted");
    assert_eq!(pruner.status().cycles_finished, 0);
    assert_eq!(runs(&pruner), [(Trigger::Operator, false)], "its run is over");
    assert_eq!(told.ends(), [(2, "cancelled".to_owned())]);
    let told_deleted = |event: &Event| if let Event::CycleEnded(end) = event { end.deleted } else { None };
    assert_eq!(told.0.lock().iter().find_map(told_deleted), Some(deleted).filter(|deleted| *deleted > 0));
}

/// How much was stored when its snapshot was taken is on no record: no figure is better than one that is too low.
#[test]
fn after_a_cycle_that_went_on_without_a_run_on_record_garbage_is_not_measured() {
    let rig = interrupted();
    let pruner = start(&rig, &Hooks::none(), |_, _| Ok(()));
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    rounds_go_on(&rig, &pruner, "after it");
    assert_eq!((runs(&pruner), pruner.status().triggers.turnover), (vec![(Trigger::Resumed, true)], None));
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 2 && !pruner.status().running);
    rounds_go_on(&rig, &pruner, "after the next one");
    until(&rig, &pruner, |pruner| pruner.status().triggers.turnover.is_some());
}

/// A copy or a read meets damage while a cycle deletes.
#[test]
fn a_cycle_at_work_stops_when_damage_is_found_beside_it_and_goes_on_after_the_freeze() {
    let (rig, slot) = (settled(), Arc::new(Mutex::new(None::<Arc<Pruner>>)));
    let (finds, batches) = (Arc::clone(&slot), Arc::new(AtomicU64::new(0)));
    let judged = Arc::clone(&batches);
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::Deleting && judged.fetch_add(1, Ordering::AcqRel) == 2 {
            let pruner = finds.lock().clone().unwrap();
            pruner.found(&StoreError::Corrupt("a checksum".to_owned()).into()).unwrap();
        }
    });
    let config = PrunerConfig { incremental: None, ..rig.plan(WINDOW).in_order().batches(20).pruner() };
    let pruner = Arc::new(Pruner::start(rig.pruner_parts(&hooks), config).unwrap());
    *slot.lock() = Some(Arc::clone(&pruner));
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    until(&rig, &pruner, |pruner| pruner.status().frozen.is_some() && !pruner.status().running);
    slot.lock().take();
    assert_eq!((batches.load(Ordering::Acquire), left(&rig)), (3, Some(PrunePhase::SweepExpired)), "no further batch");
    assert_eq!((outcomes(&pruner), runs(&pruner)), ((0, 0, 0), vec![]), "it has not ended");
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert_eq!((left(&rig), runs(&pruner)), (None, vec![(Trigger::Operator, true)]), "it is one run");
    check::exact(&rig.chain, "it went on");
}

/// A cycle that walks and writes its walk down.
fn walking(rig: &Rig) -> Plan {
    rig.plan(WINDOW).in_order().noted().by(MarkChoice::Walk, SweepChoice::Delete)
}

/// Reads from where a cycle says that it marks until it has walked.
fn reads_of_a_walk() -> u64 {
    let (rig, faulty) = settled().faulty();
    let (begun, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (begins, ends) = (Rc::clone(&begun), Rc::clone(&ended));
    let plan = walking(&rig);
    let env = rig.env(&plan, &Hooks::none());
    let _watching = watch(move |point| {
        if point == Point::MarkBegins {
            begins.set(faulty.reads());
        }
        if point == Point::MarkWalked {
            ends.set(faulty.reads());
        }
    });
    plan.run(&env).unwrap();
    ended.get() - begun.get()
}

/// S20, S21: damage is found beside a walk that is written down; commits come just before, while deletes are frozen, and after.
#[test]
fn a_walk_that_a_freeze_stops_loses_nothing_whatever_is_committed_before_it_is_lifted() {
    let reads = reads_of_a_walk();
    assert!(reads > 3, "{reads} reads");
    for at in 0..reads {
        let (rig, faulty) = settled().faulty();
        let (slot, left_to_read) = (Arc::new(Mutex::new(None::<Arc<Pruner>>)), Arc::new(Mutex::new(None)));
        let begun = Arc::clone(&left_to_read);
        let hooks = Hooks::new(move |moment| {
            if moment == Moment::PhaseSaved {
                begun.lock().get_or_insert(at);
            }
        });
        let (chain, finds) = (rig.chain.clone(), Arc::clone(&slot));
        faulty.before_read(move || {
            let is_its_turn = left_to_read.lock().as_mut().is_some_and(|left| {
                *left = left.wrapping_sub(1);
                *left == u64::MAX
            });
            let pruner = if is_its_turn { finds.lock().take() } else { None };
            pruner.iter().for_each(|pruner| {
                chain.grow(Profile::Tables, 610 + at, 2);
                pruner.found(&StoreError::Corrupt("a checksum".to_owned()).into()).unwrap();
            });
        });
        let config = PrunerConfig { incremental: None, ..walking(&rig).pruner() };
        let pruner = Arc::new(Pruner::start(rig.pruner_parts(&hooks), config).unwrap());
        *slot.lock() = Some(Arc::clone(&pruner));
        assert_eq!(pruner.command(Command::Run), Reply::Accepted);
        until(&rig, &pruner, |pruner| pruner.status().frozen.is_some() && !pruner.status().running);
        assert_eq!(left(&rig), Some(PrunePhase::BuildReach), "read {at}");
        rig.chain.grow(Profile::Tables, 620 + at, 6);
        assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
        until(&rig, &pruner, |pruner| pruner.status().cycles_finished > 0 && !pruner.status().running);
        check::complete(&rig.chain, &format!("read {at}"));
        rig.chain.grow(Profile::Tables, 630 + at, 2);
        assert_eq!(pruner.command(Command::Run), Reply::Accepted);
        until(&rig, &pruner, |pruner| pruner.status().cycles_finished > 1 && !pruner.status().running);
        check::exact(&rig.chain, &format!("read {at}, the cycle after it"));
    }
}

/// How long something stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Once,
    UntilHealed,
}

fn outcomes(pruner: &Pruner) -> (u64, u64, u64) {
    let status = pruner.status();
    (status.cycles_finished, status.cycles_cancelled, status.cycles_failed)
}

/// The end of a cycle cannot be written down for a while: what it came to stands, and the worker writes it down later.
#[test]
fn a_cycle_whose_end_cannot_be_written_down_is_what_it_was() {
    for (cancelled, stands) in [false, true].into_iter().flat_map(|c| [(c, Stands::Once), (c, Stands::UntilHealed)]) {
        let (rig, context) = (settled(), format!("cancelled {cancelled}, {stands:?}"));
        let armed = Arc::new(AtomicBool::new(false));
        let (fails, slot) = (Arc::clone(&armed), Arc::new(Mutex::new(None::<Arc<Pruner>>)));
        let canceller = Arc::clone(&slot);
        let hooks = Hooks::new(move |moment| {
            let pruner = canceller.lock().clone().filter(|_| cancelled && moment == Moment::Deleting);
            pruner.inspect(|pruner| assert_eq!(pruner.command(Command::Cancel), Reply::Accepted));
        });
        let pruner = Arc::new(start(&rig, &hooks, move |what, key| {
            let fail = (what, key) == (Use::Remove, RecordKey::Phase) && fails.load(Ordering::Acquire);
            if fail && stands == Stands::Once {
                fails.store(false, Ordering::Release);
            }
            if fail { Err(io()) } else { Ok(()) }
        }));
        rounds_go_on(&rig, &pruner, "before");
        *slot.lock() = Some(Arc::clone(&pruner));
        armed.store(true, Ordering::Release);
        assert_eq!(pruner.command(Command::Run), Reply::Accepted);
        while outcomes(&pruner) == (0, 0, 0) || pruner.status().running {
            thread::yield_now(); // no time passes: its end is not tried again yet
        }
        slot.lock().take();
        let came_to = (u64::from(!cancelled), u64::from(cancelled), 0);
        assert_eq!(outcomes(&pruner), came_to, "{context}: {:?}", pruner.status().last);
        assert_eq!(left(&rig), Some(PrunePhase::SweepExpired), "{context}");
        if stands == Stands::UntilHealed {
            until_beside_commits(&rig, &pruner, |pruner| pruner.status().recovery.attempts.len() >= 4);
            let codes: Vec<String> = pruner.health().reasons.into_iter().map(|reason| reason.code).collect();
            assert!(codes.contains(&"recovery_exhausted".to_owned()), "{context}: {codes:?}");
            armed.store(false, Ordering::Release);
        }
        until_beside_commits(&rig, &pruner, |_| left(&rig).is_none());
        rounds_go_on(&rig, &pruner, &context);
        assert_eq!((left(&rig), outcomes(&pruner)), (None, came_to), "{context}: it is not run again");
        let status = pruner.status();
        assert_eq!(matches!(status.last.unwrap().ended, Ended::Finished { .. }), !cancelled, "{context}");
        let came: Vec<Came> = status.recovery.attempts.into_iter().map(|attempt| attempt.came).collect();
        assert!(matches!(came.as_slice(), [Came::Retry { .. }, .., Came::Success]), "{context}: {came:?}");
        assert_eq!(status.recovery.exhausted_by, None, "{context}");
    }
}

/// What an earlier process left cannot be read at first: that is no cycle that failed, and it goes on when it can be.
#[test]
fn a_record_that_cannot_be_read_at_the_start_is_looked_at_again() {
    let rig = interrupted();
    let failing = Arc::new(AtomicU64::new(2));
    let fail = Arc::clone(&failing);
    let pruner = start(&rig, &Hooks::none(), move |what, key| {
        let left = fail.load(Ordering::Acquire);
        if what == Use::Load && key == RecordKey::Phase && left > 0 {
            fail.store(left - 1, Ordering::Release);
            return Err(io());
        }
        Ok(())
    });
    until_beside_commits(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert_eq!((pruner.status().cycles_failed, left(&rig)), (0, None));
    check::exact(&rig.chain, "it went on");
}

/// P2: nothing could ever end with a record that nobody can read, and no mark is worth a node whose sweep stands still.
#[test]
fn a_damaged_record_of_a_phase_is_given_up_at_the_start_and_stands_in_nobodys_way() {
    for is_off in [false, true] {
        let (rig, told) = (interrupted(), Arc::new(Told::default()));
        let cycle = PhaseRecord::load(&records(&rig)).unwrap().unwrap().cycle;
        records(&rig).save(RecordKey::Phase, b"torn").unwrap();
        let mark = rig.state_dir().join(format!("mark-{cycle:016x}.sealed"));
        assert!(mark.exists());
        if is_off {
            records(&rig).save(RecordKey::Switch, &record::encode(&SwitchedOff { at: 0 }).unwrap()).unwrap();
        }
        let config = rig.plan(WINDOW).in_order().batches(20).pruner();
        let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&Hooks::none()) };
        let pruner = Pruner::start(parts, config).unwrap();
        until(&rig, &pruner, |pruner| !pruner.status().running);
        assert_eq!((left(&rig), told.ends()), (None, vec![(cycle, "record".to_owned())]), "switched off: {is_off}");
        assert!(!mark.exists());
        let recovery = pruner.status().recovery;
        assert_eq!((recovery.exhausted_by, recovery.attempts), (None, vec![]), "nothing is tried in vain");
        if !is_off {
            rounds_go_on(&rig, &pruner, "without a cycle");
        }
    }
}

/// The same where nobody starts: going back at rest needs nothing of the cycle that it gives up.
#[test]
fn a_damaged_record_of_a_phase_is_given_up_by_a_rollback_at_rest() {
    let (rig, told) = (interrupted(), Arc::new(Told::default()));
    let cycle = PhaseRecord::load(&records(&rig)).unwrap().unwrap().cycle;
    records(&rig).save(RecordKey::Phase, b"torn").unwrap();
    let parts = RetentionParts { events: Arc::clone(&told) as _, ..rig.retention_parts(None) };
    let to = rig.chain.head().minus(2).unwrap();
    LiveRetention::new(parts).rollback(to, Batch::new()).unwrap();
    assert_eq!((rig.chain.store.head().unwrap().order, left(&rig)), (to.get(), None));
    assert_eq!(told.ends(), [(cycle, "record".to_owned())]);
}

/// What is tried again outside of a phase is told like what is within one: records that cannot be read, a look at what was
/// left, and an end that cannot be written down.
#[test]
fn what_is_tried_again_outside_of_a_phase_is_an_event() {
    for failing in [(Use::Load, RecordKey::Triggers), (Use::Load, RecordKey::Phase), (Use::Remove, RecordKey::Phase)] {
        let (rig, told, failures) = (interrupted(), Arc::new(Told::default()), AtomicU64::new(2));
        let config = rig.plan(WINDOW).in_order().batches(20).pruner();
        let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&Hooks::none()) };
        let records = Acting::over(Arc::clone(&parts.records), move |what, key| {
            let left = failures.load(Ordering::Acquire);
            if (what, key) != failing || left == 0 {
                return Ok(());
            }
            failures.store(left - 1, Ordering::Release);
            Err(io())
        });
        let pruner = Pruner::start(PrunerParts { records, ..parts }, config).unwrap();
        let is_over = |pruner: &Pruner| {
            pruner.status().recovery.attempts.last().is_some_and(|attempt| attempt.came == Came::Success)
        };
        until_beside_commits(&rig, &pruner, is_over);
        let tried: Vec<Came> = pruner.status().recovery.attempts.into_iter().map(|attempt| attempt.came).collect();
        drop(pruner);
        let retried = |event: &Event| {
            let Event::RetryAttempted { what, attempt, delay_ms, error } = event else { return None };
            Some((what.clone(), *attempt, Came::Retry { wait_ms: *delay_ms }, error.clone()))
        };
        let retried: Vec<_> = told.0.lock().iter().filter_map(retried).collect();
        let expected = [0, 1].map(|at| ("idle".to_owned(), at as u32 + 1, tried[at].clone(), "io".to_owned()));
        assert_eq!(retried, expected, "{failing:?}: {tried:?}");
    }
}

/// Neither can the mark of its sweep: the same sweep goes on when it can be, with that mark.
#[test]
fn a_mark_that_cannot_be_read_at_the_start_is_opened_again() {
    for (call, lasting) in
        [(FileCall::Open, Lasting::Once), (FileCall::Read, Lasting::Once), (FileCall::Open, Lasting::UntilHealed)]
    {
        let (rig, context) = (interrupted(), format!("{call:?}, {lasting:?}"));
        let cycle = PhaseRecord::load(&records(&rig)).unwrap().unwrap().cycle;
        let disk = FaultyDisk::under(&rig.state_dir());
        disk.inject("mark-*.sealed", call, 0, lasting);
        let pruner = start(&rig, &Hooks::none(), |_, _| Ok(()));
        if lasting == Lasting::UntilHealed {
            let is_over = |pruner: &Pruner| pruner.status().recovery.attempts.len() >= 4 || left(&rig).is_none();
            until_beside_commits(&rig, &pruner, is_over);
            let record = PhaseRecord::load(&records(&rig)).unwrap();
            assert_eq!(record.map(|record| record.cycle), Some(cycle), "{context}: it is given up");
            let codes: Vec<String> = pruner.health().reasons.into_iter().map(|reason| reason.code).collect();
            assert!(codes.contains(&"recovery_exhausted".to_owned()), "{context}: {codes:?}");
            disk.heal();
        }
        until_beside_commits(&rig, &pruner, |pruner| left(&rig).is_none() && !pruner.status().running);
        let (status, finished) = (pruner.status(), outcomes(&pruner));
        assert!(disk.met() > 0, "{context}");
        assert_eq!((status.cycle, finished), (Some(cycle), (1, 0, 0)), "{context}: it did not go on");
        until(&rig, &pruner, |pruner| pruner.status().recovery.exhausted_by.is_none());
        check::exact(&rig.chain, &context);
    }
}

/// Nor does a cycle that is due meanwhile take its mark away.
#[test]
fn a_sweep_that_waits_for_its_mark_holds_back_what_is_due() {
    let rig = interrupted();
    let cycle = PhaseRecord::load(&records(&rig)).unwrap().unwrap().cycle;
    let disk = FaultyDisk::under(&rig.state_dir());
    disk.inject("mark-*.sealed", FileCall::Open, 0, Lasting::Once);
    let config = PrunerConfig { every_orders: NonZeroU64::MIN, ..rig.plan(WINDOW).in_order().batches(20).pruner() };
    let pruner = Pruner::start(rig.pruner_parts(&Hooks::none()), config).unwrap();
    pruner.committed(rig.chain.head());
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished > 0);
    assert_eq!((pruner.status().last.unwrap().cycle, disk.met()), (Some(cycle), 1), "the sweep went on");
}

/// A mark that is damaged is another matter: no time makes it whole.
#[test]
fn a_mark_that_is_damaged_at_the_start_ends_its_cycle() {
    let rig = interrupted();
    let marks = folder::with_ending(&rig.state_dir(), "sealed");
    let [mark] = marks.as_slice() else { panic!("{marks:?}") };
    let mut bytes = fs::read(mark).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(mark, bytes).unwrap();
    let pruner = start(&rig, &Hooks::none(), |_, _| Ok(()));
    until(&rig, &pruner, |pruner| !pruner.status().running);
    assert_eq!((outcomes(&pruner), left(&rig)), ((0, 0, 0), None), "it is abandoned, which is no failure");
    rounds_go_on(&rig, &pruner, "after it");
}

/// Any record of an earlier process cannot be read at first: nothing begins and nothing is written over, and it goes on by
/// itself when it can be.
#[test]
fn a_read_error_that_passes_holds_the_pruner_no_longer_than_it_lasts() {
    use RecordKey::{Freeze, LastOutcome, Lock, Quarantine, Recovery, Snapshot, Switch, Triggers, Validation};
    for unread in [Recovery, Lock, Snapshot, LastOutcome, Freeze, Triggers, Switch, Validation, Quarantine] {
        let (rig, context) = (interrupted(), format!("{unread:?}"));
        let (fails, saved) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (fail, save) = (Arc::clone(&fails), Arc::clone(&saved));
        let pruner = start(&rig, &Hooks::none(), move |what, key| {
            let failing = fail.load(Ordering::Acquire);
            save.fetch_or(failing && what != Use::Load, Ordering::AcqRel);
            if failing && (what, key) == (Use::Load, unread) { Err(io()) } else { Ok(()) }
        });
        let before = check::present(&rig.chain.store);
        let is_over = |status: PrunerStatus| status.recovery.attempts.len() == 4 || status.poisoned.is_some();
        until_beside_commits(&rig, &pruner, |pruner| is_over(pruner.status()));
        let (status, health) = (pruner.status(), pruner.health());
        assert_eq!((status.poisoned, status.recovery.exhausted_by.as_deref()), (None, Some("io")), "{context}");
        let codes: Vec<&str> = health.reasons.iter().map(|reason| reason.code.as_str()).collect();
        assert!(health.verdict == Verdict::Degraded && codes.contains(&"recovery_exhausted"), "{context}: {codes:?}");
        for command in [Command::Run, Command::Disable, Command::Enable, Command::Unfreeze] {
            let reply = pruner.command(command);
            assert!(matches!(&reply, Reply::Refused { why } if why.contains("injected")), "{context}: {reply:?}");
        }
        assert_eq!(check::present(&rig.chain.store), before, "{context}: nothing goes");
        assert!(!saved.load(Ordering::Acquire), "{context}: what is not known is not written over");
        fails.store(false, Ordering::Release);
        until_beside_commits(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
        assert_eq!((pruner.status().cycles_failed, left(&rig)), (0, None), "{context}");
        until(&rig, &pruner, |pruner| pruner.status().recovery.exhausted_by.is_none());
        check::exact(&rig.chain, &context);
    }
}

/// The chain goes back while what triggers counted cannot be read by the worker: it is not forgotten.
#[test]
fn a_rollback_before_the_records_are_read_keeps_what_triggers_counted() {
    let rig = interrupted();
    let pruner = start(&rig, &Hooks::none(), |_, _| Ok(()));
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    let runs = pruner.status().triggers.runs;
    assert_eq!(runs.len(), 1);
    drop(pruner);
    let rig = rig.restart();
    rig.chain.grow(Profile::Tables, 604, 4);
    let fails = Arc::new(AtomicBool::new(true));
    let fail = Arc::clone(&fails);
    let pruner = start(&rig, &Hooks::none(), move |what, key| {
        let failing = fail.load(Ordering::Acquire) && (what, key) == (Use::Load, RecordKey::LastOutcome);
        if failing { Err(io()) } else { Ok(()) }
    });
    let to = rig.chain.head().minus(2).unwrap();
    pruner.rollback(to, state_store::Batch::new()).unwrap();
    rig.chain.archive.forget_after(to);
    fails.store(false, Ordering::Release);
    until_beside_commits(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    let triggers: Vec<_> = pruner.status().triggers.runs.into_iter().map(|run| run.trigger).collect();
    assert_eq!(triggers, [runs[0].trigger, Trigger::Rollback], "the run before it is remembered, and one was owed");
    check::exact(&rig.chain, "gone back");
}

/// The switch comes while the worker looks at what an earlier process left: the sweep that it finds does not go on.
#[test]
fn switching_off_ends_a_look_that_finds_a_sweep() {
    let rig = interrupted();
    let (look, held) = held_look();
    let pruner = start(&rig, &Hooks::none(), held);
    look.begins();
    let before = check::present(&rig.chain.store);
    assert_eq!(pruner.command(Command::Disable), Reply::Accepted);
    look.goes_on();
    until(&rig, &pruner, |pruner| !pruner.status().running);
    assert_eq!(outcomes(&pruner), (0, 1, 0), "it is abandoned as if it had run");
    assert_eq!((check::present(&rig.chain.store), left(&rig)), (before, None), "nothing more is deleted");
    drop(pruner);
    check::complete(&rig.chain, "abandoned");
}
