//! L9, S36, S37, life cycle 9: the chain goes back to an older order, at rest and while the pruner works.
//!
//! The oracle is the archive, which forgets the branch: what its orders need is there, and once the cycle has finished that
//! a rollback owes, nothing else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU64, NonZeroUsize},
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use state_pruner::{
    Command, Control, Ended, KeepPolicy, LiveRetention, NewPin, Outcome, Pause, PruneError, Pruner, PrunerParts,
    RecordKey, Reply, RetentionParts, Run, StoreRecords, Trigger, TriggerState,
    cycle::CycleEnv,
    events::{Event, EventSink},
    incremental::IncrementalSweep,
    phase::{PhaseRecord, PrunePhase},
    snapshot::RetentionPolicy,
};
use state_store::{Batch, CrashTail, RolledBack, StoreError, Table};
use state_tests::{
    check,
    hooks::{Hooks, Moment},
    records::Use,
    rig::{Engine, Rig},
    told::Told,
    waits::{until, until_beside_commits},
    workload::{Profile, Workload, content, key, leaf},
};
use state_tree::{Change, Changes, FieldsBase, NodeHash, Order, Put};

use crate::{books, left};

const KEEP: NonZeroU64 = NonZeroU64::new(5).unwrap();

fn retention(rig: &Rig) -> LiveRetention {
    LiveRetention::new(rig.retention_parts(Some(KeepPolicy::last(KEEP))))
}

/// Starts a pruner that has reason for a cycle when asked, when counts need one, and when one is owed.
fn start(rig: &Rig, act: impl FnMut(Moment) + Send + 'static) -> Pruner {
    let parts = rig.pruner_parts(&Hooks::new(act));
    let config = rig.plan(KEEP.get()).pruner();
    Pruner::start_under(parts, config, Arc::new(retention(rig))).unwrap()
}

/// Waits until no cycle is at work and none is due.
fn settle(pruner: &Pruner) {
    loop {
        let status = pruner.status();
        if !status.running && status.triggers.triggers.iter().all(|of| of.standing != TriggerState::Due) {
            return;
        }
        thread::yield_now();
    }
}

fn commit(rig: &Rig, pruner: &Pruner, workload: &mut Workload, count: u64) {
    for _ in 0..count {
        rig.chain.run(workload, 1);
        pruner.committed(rig.chain.head());
    }
}

/// Asks for a cycle and waits for its end.
fn cycle(pruner: &Pruner) {
    settle(pruner);
    while pruner.command(Command::Run) == Reply::AlreadyRunning {
        thread::yield_now();
    }
    settle(pruner);
}

fn back(rig: &Rig, orders: u64) -> Order {
    rig.chain.head().minus(orders).unwrap().max(rig.chain.floor()) // which rounds move, between two looks too
}

/// S36: what the branch had declared dead is live again, and no later sweep believes the branch.
#[test]
fn a_rollback_cancels_the_stale_entries_of_its_branch() {
    let mut swept = 0;
    for (profile, seed) in Profile::ALL.into_iter().flat_map(|profile| (0..6).map(move |seed| (profile, seed))) {
        let mut rig = Rig::new(Engine::Memory);
        let mut workload = Workload::new(profile, seed);
        rig.chain.run(&mut workload, 8);
        rig.cycle(&rig.plan(KEEP.get()));
        rig.chain.run(&mut workload, 6);
        let to = back(&rig, 1 + seed % 4);
        retention(&rig).rollback(to, Batch::new()).unwrap();
        rig.chain.archive.forget_after(to);
        if seed % 2 == 0 {
            rig = rig.restart(); // the index comes from the journal
            rig.chain.store.index_journal(&|| true).unwrap();
        }
        let (plan, mut sweep) = (rig.plan(KEEP.get()), IncrementalSweep::default());
        let env = rig.env(&plan, &Hooks::none());
        for step in 0..14 {
            rig.chain.run(&mut workload, 1);
            let few = NonZeroUsize::new(8).unwrap();
            swept += sweep.round(&env, &plan.config.state_dir, few, &mut |_| ControlFlow::Continue(few)).unwrap().nodes;
            check::complete(&rig.chain, &format!("{profile:?} seed {seed} step {step}"));
        }
    }
    assert!(swept > 100, "only {swept} nodes were swept: the test tells nothing");
}

/// S36: whoever goes back, the process that made the branch or a later one, what is marked then is what was marked when the
/// target was the newest order.
#[test]
fn a_rollback_leaves_the_marks_that_its_target_had_over_any_restarts() {
    let mut taken_back = 0;
    for (profile, seed) in
        [Profile::Toggle, Profile::Tables].into_iter().flat_map(|of| (0..8).map(move |seed| (of, seed)))
    {
        let (mut rig, mut rng) = (Rig::new(Engine::Memory), ChaCha8Rng::seed_from_u64(seed));
        let mut workload = Workload::new(profile, seed);
        let mut marked_at = BTreeMap::new();
        rig.chain.run(&mut workload, 3);
        for step in 0..70 {
            let context = format!("{profile:?} seed {seed} step {step}");
            match rng.random_range(0..20) {
                0 => rig = rig.restart(),
                1 => {
                    rig.cycle(&rig.plan(99));
                    marked_at.clear(); // it takes some away that nothing needs
                }
                2 | 3 if step > 0 => {
                    let to = **marked_at.keys().collect::<Vec<_>>().choose(&mut rng).unwrap();
                    let before = books::marked(&rig.chain.store).len();
                    rig.chain.store.rollback(to, Batch::new()).unwrap();
                    rig.chain.archive.forget_after(to);
                    marked_at.retain(|order, _| *order <= to);
                    let marked = books::marked(&rig.chain.store);
                    assert_eq!(marked, marked_at[&to], "{context}: back to order {to}");
                    assert_eq!(rig.chain.store.marks(), Some(marked.len() as u64), "{context}: in memory");
                    taken_back += before - marked.len();
                }
                _ => rig.chain.run(&mut workload, 1),
            }
            marked_at.insert(rig.chain.head(), books::marked(&rig.chain.store));
        }
    }
    assert!(taken_back > 100, "only {taken_back} marks were taken back: the test tells nothing");
}

/// A pruner whose work is held when a moment has come so often since it was armed.
struct Held {
    release: mpsc::Sender<()>, // goes BEFORE the pruner, which waits for its thread
    pruner: Pruner,
    countdown: Arc<AtomicU32>,
    reached: mpsc::Receiver<()>,
}

impl Held {
    /// A settled pruner that is held at moments of this kind.
    fn start(rig: &Rig, at: Moment) -> Self {
        let countdown = Arc::new(AtomicU32::new(0));
        let ((told, reached), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
        let counts = Arc::clone(&countdown);
        let pruner = start(rig, move |moment| {
            let armed = moment == at && counts.load(Ordering::Acquire) > 0;
            if armed && counts.fetch_sub(1, Ordering::AcqRel) == 1 {
                told.send(()).unwrap();
                assert!(released.recv().is_ok(), "the test ends the hold");
            }
        });
        settle(&pruner);
        Self { release, pruner, countdown, reached }
    }

    fn arm(&self, count: u32) {
        self.countdown.store(count, Ordering::Release);
    }

    /// Goes back while the work is held, which it is until it was told to end or the chain is back. Whether it was told to.
    fn rollback(&self, to: Order) -> (bool, Result<RolledBack, PruneError>) {
        let pruner = &self.pruner;
        let paused = pruner.command(Command::Pause) == Reply::Accepted;
        let (ends, rolled) = thread::scope(|scope| {
            let rollback = scope.spawn(|| pruner.rollback(to, Batch::new()));
            while paused && !rollback.is_finished() && pruner.status().pause != Pause::No {
                thread::yield_now();
            }
            let ends = !rollback.is_finished();
            self.release.send(()).unwrap();
            (ends, rollback.join().unwrap())
        });
        pruner.command(Command::Resume); // where it goes on
        (ends, rolled)
    }
}

/// S37: the open cycle has marked a root above the target, and never the one that the next commit builds on.
#[test]
fn a_rollback_below_the_captured_root_abandons_the_cycle() {
    for record in 1..=2 {
        let rig = Rig::new(Engine::Memory);
        let mut workload = Workload::new(Profile::Toggle, 201);
        let held = held_in_cycle(&rig, &mut workload, (Moment::PhaseSaved, record));
        let (to, from) = (back(&rig, 3), rig.chain.head());
        let (ends, rolled) = held.rollback(to);
        assert!(ends, "at record {record}");
        assert_eq!(rolled.unwrap(), RolledBack { to, from });
        rig.chain.archive.forget_after(to);
        let abandoned =
            held.pruner.status().triggers.runs.into_iter().rev().find(|run| run.trigger == Trigger::Operator);
        assert_eq!(
            abandoned.unwrap().outcome,
            None,
            "at record {record}: interrupted, so who asked waits for the next one"
        );
        let status = held.pruner.status();
        assert_eq!((status.cycles_cancelled, status.cycles_failed), (0, 1), "no operator ended it");
        commit(&rig, &held.pruner, &mut workload, 4);
        cycle(&held.pruner);
        check::exact(&rig.chain, &format!("abandoned at record {record}"));
    }
}

/// A pruner whose cycle is held at one of its moments: its first record comes before it marks, its second before its first delete.
fn held_in_cycle(rig: &Rig, workload: &mut Workload, (moment, count): (Moment, u32)) -> Held {
    rig.chain.run(workload, 12);
    let held = Held::start(rig, moment);
    rig.chain.run(workload, 8); // not told, so no round comes first
    held.arm(count);
    assert_eq!(held.pruner.command(Command::Run), Reply::Accepted);
    held.reached.recv().unwrap();
    held
}

/// Whether this is an operator's run whose cycle has finished.
fn finished(run: Option<&Run>) -> bool {
    let finished = |outcome: &Outcome| matches!(outcome.ended, Ended::Finished { .. });
    run.is_some_and(|run| run.trigger == Trigger::Operator && run.outcome.as_ref().is_some_and(finished))
}

/// S37, L9: the cycle has captured the target, or an older order. The rollback does not wait for it, and what the branch had is
/// left to the next one.
#[test]
fn a_rollback_that_is_not_below_the_captured_root_lets_the_cycle_go_on() {
    for (record, depth) in [1, 2].into_iter().flat_map(|record| [1, 3].map(|depth| (record, depth))) {
        let (rig, context) = (Rig::new(Engine::Memory), format!("record {record} by {depth}"));
        let mut workload = Workload::new(Profile::Toggle, 211);
        let held = held_in_cycle(&rig, &mut workload, (Moment::PhaseSaved, record));
        let pruner = &held.pruner;
        rig.chain.run(&mut workload, 3);
        let to = back(&rig, depth);
        let (ends, rolled) = held.rollback(to);
        rolled.unwrap();
        assert!(!ends, "{context}: it waits for nobody");
        rig.chain.archive.forget_after(to);
        rig.chain.run(&mut workload, 4); // on the branch that takes its place
        settle(pruner);
        let status = pruner.status();
        assert!(finished(status.triggers.runs.last()), "{context}: {:#?}", status.triggers.runs);
        assert_eq!(status.cycles_failed, 0, "{context}");
        check::complete(&rig.chain, &context);
        let needed = check::needed(&rig.chain);
        assert!(
            check::present(&rig.chain.store).difference(&needed).next().is_some(),
            "{context}: the branch is there"
        );
        commit(&rig, pruner, &mut workload, KEEP.get());
        settle(pruner);
        let run = pruner.status().triggers.runs.pop().unwrap();
        assert_eq!(run.trigger, Trigger::Rollback, "{context}: a window later");
        cycle(pruner);
        check::exact(&rig.chain, &format!("{context}: later"));
    }
}

/// S37, L9: the same where the process ends first, and the chain goes back at rest.
#[test]
fn an_interrupted_cycle_goes_on_behind_a_rollback_that_is_not_below_its_captured_root() {
    for back_by in [1, 3] {
        let rig = Rig::new(Engine::Memory);
        let mut workload = Workload::new(Profile::Tables, 212);
        let held = held_in_cycle(&rig, &mut workload, (Moment::PhaseSaved, 2));
        rig.chain.run(&mut workload, 3);
        assert!(held.pruner.stop_within(Duration::ZERO).is_err(), "it is told, and held");
        held.release.send(()).unwrap();
        held.pruner.stop();
        drop(held);
        let records = StoreRecords(Arc::clone(&rig.chain.store));
        let left = PhaseRecord::load(&records).unwrap();
        assert!(left.is_some(), "the cycle was stopped");
        let to = back(&rig, back_by);
        retention(&rig).rollback(to, Batch::new()).unwrap();
        rig.chain.archive.forget_after(to);
        assert_eq!(PhaseRecord::load(&records).unwrap(), left, "back by {back_by}");
        drop(records);
        rig.chain.run(&mut workload, 2);
        let rig = rig.restart();
        let pruner = start(&rig, |_| ());
        settle(&pruner);
        let status = pruner.status();
        assert_eq!((status.cycles_finished, status.cycles_failed), (1, 0), "back by {back_by}");
        assert!(finished(status.triggers.runs.last()), "back by {back_by}: {:#?}", status.triggers.runs);
        check::complete(&rig.chain, "behind the cycle that went on");
        commit(&rig, &pruner, &mut workload, KEEP.get());
        settle(&pruner);
        assert_eq!(pruner.status().triggers.runs.pop().unwrap().trigger, Trigger::Rollback);
        cycle(&pruner);
        check::exact(&rig.chain, "later");
    }
}

/// S37: the run has captured nothing yet, so it costs nothing to begin anew, and the run that follows pays for the branch (L9).
#[test]
fn a_run_that_has_captured_nothing_yet_gives_way_to_a_rollback() {
    let rig = Rig::new(Engine::Memory);
    let mut workload = Workload::new(Profile::Uniform, 213);
    let held = held_in_cycle(&rig, &mut workload, (Moment::RunSaved, 1));
    let to = back(&rig, 2);
    let (ends, rolled) = held.rollback(to);
    rolled.unwrap();
    rig.chain.archive.forget_after(to);
    assert!(ends);
    settle(&held.pruner);
    let status = held.pruner.status();
    assert!(finished(status.triggers.runs.last()), "who asked has waited for it: {:#?}", status.triggers.runs);
    check::exact(&rig.chain, "it has captured the target");
}

/// L9: what triggers counted is taken over by a look that fails at first, and the chain goes back while it is read again.
#[test]
fn a_rollback_while_records_are_read_again_keeps_what_is_owed() {
    let rig = left::interrupted();
    let pruner = left::start(&rig, &Hooks::none(), |_, _| Ok(()));
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    drop(pruner);
    let rig = rig.restart();
    rig.chain.grow(Profile::Tables, 604, 4);
    let (is_up, passed) = (Arc::new(AtomicBool::new(false)), AtomicU32::new(0));
    let up = Arc::clone(&is_up);
    let ((told, reached), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let released = Mutex::new(released);
    let pruner = left::start(&rig, &Hooks::none(), move |what, key| {
        if !up.load(Ordering::Acquire) && (what, key) == (Use::Load, RecordKey::LastOutcome) {
            return Err(left::io());
        }
        let is_look = thread::current().name() == Some("pruner") && up.load(Ordering::Acquire);
        if is_look && (what, key) == (Use::Load, RecordKey::Quarantine) && passed.fetch_add(1, Ordering::AcqRel) == 2 {
            told.send(()).unwrap();
            assert!(released.lock().recv().is_err(), "held until the other end is dropped");
        }
        Ok(())
    });
    is_up.store(true, Ordering::Release);
    until_beside_commits(&rig, &pruner, |_| reached.try_recv().is_ok());
    let to = back(&rig, 2);
    thread::scope(|scope| {
        let rollback = scope.spawn(|| pruner.rollback(to, Batch::new()));
        (0..100_000).take_while(|_| !rollback.is_finished()).for_each(|_| thread::yield_now()); // one that waits for nothing is done
        drop(release);
        rollback.join().unwrap().unwrap();
    });
    rig.chain.archive.forget_after(to);
    until_beside_commits(&rig, &pruner, |pruner| !pruner.status().triggers.runs.is_empty()); // they are taken over
    let status = pruner.status().triggers;
    let mut triggers = status.triggers.iter().filter(|of| of.trigger == Trigger::Rollback);
    let is_paid = status.runs.iter().any(|run| run.trigger == Trigger::Rollback);
    assert!(is_paid || triggers.any(|of| of.standing != TriggerState::Armed), "{status:#?}");
}

/// S57: a sweep is stopped, the chain goes on and back, and the sweep goes on in the same process. What it took of the branch is as
/// absent as it is to a later process.
#[test]
fn what_a_resumed_sweep_took_of_a_branch_is_not_taken_for_stored() {
    let rows = || Changes((0..30).map(|row| (key(row), leaf(row))).collect());
    let table = || Change::Put(Put { object: Some(content(1)), base: FieldsBase::Keep, fields: rows() });
    let put = |rig: &Rig| rig.chain.put(&Changes([(key(9001), table())].into()));
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 601, 12);
    rig.cycle(&rig.plan(KEEP.get()));
    rig.chain.grow(Profile::Tables, 602, 12);
    let plan = rig.plan(KEEP.get()).in_order().batches(5);
    let control: Arc<OnceLock<Arc<Control>>> = Arc::default();
    let stops = Arc::clone(&control);
    let env = rig.env(
        &plan,
        &Hooks::new(move |moment| {
            if moment == Moment::Deleting {
                stops.get().unwrap().stop();
            }
        }),
    );
    assert!(control.set(Arc::clone(&env.control)).is_ok());
    let captured = rig.chain.head();
    assert!(matches!(plan.run(&env), Err(PruneError::Stopped)));
    let before = check::present(&rig.chain.store).len();
    put(&rig);
    let with_branch = check::present(&rig.chain.store).len();
    retention(&rig).rollback(captured, Batch::new()).unwrap();
    rig.chain.archive.forget_after(captured);
    let env = CycleEnv { snapshots: Arc::clone(&env.snapshots), ..rig.env(&plan, &Hooks::none()) };
    assert!(plan.resume(&env).unwrap().is_some());
    check::complete(&rig.chain, "behind the sweep that went on");
    assert!(check::present(&rig.chain.store).len() < before && before < with_branch);
    let bookkeeping = |rig: &Rig| {
        let store = &rig.chain.store;
        let (marks, stored) = (store.marks().unwrap(), store.nodes_stored());
        put(rig);
        store.catch_up().unwrap();
        (store.marks().unwrap() - marks, store.nodes_stored() - stored)
    };
    let later_process = rig.twin();
    assert_eq!(bookkeeping(&rig), bookkeeping(&later_process));
}

/// S37: of a cycle that an earlier process left behind a later capture, nothing goes on.
#[test]
fn a_rollback_gives_up_what_an_interrupted_cycle_left() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 202, 12);
    rig.cycle(&rig.plan(KEEP.get()));
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    interrupted(&rig).save(&records).unwrap();
    let (to, told) = (back(&rig, 2), Arc::new(Told::default()));
    let events: Arc<dyn EventSink> = Arc::clone(&told) as _;
    let parts = RetentionParts { events, ..rig.retention_parts(Some(KeepPolicy::last(KEEP))) };
    LiveRetention::new(parts).rollback(to, Batch::new()).unwrap();
    rig.chain.archive.forget_after(to);
    assert!(PhaseRecord::load(&records).unwrap().is_none());
    assert_eq!(told.ends(), [(1, "not_resumable".to_owned())]);
    let rig = rig.restart();
    let pruner = start(&rig, |_| ());
    settle(&pruner);
    check::exact(&rig.chain, "after the cycle that was owed");
}

/// A sweep that its process did not end.
fn interrupted(rig: &Rig) -> PhaseRecord {
    PhaseRecord {
        cycle: 1,
        phase: PrunePhase::SweepExpired,
        snapshot_id: 1,
        head_order: rig.chain.head().get(),
        first_order: rig.chain.floor().get(),
        roots_digest: [0; 32],
        integrity_hash: [0; 32],
        mark_digest: None,
        config: [0; 32],
        cursor: None,
        swept_by: None,
        deleted: 0,
    }
}

/// L9: by a cycle that comes without another commit, also in the next process, and once.
#[test]
fn nodes_of_an_abandoned_branch_are_deleted_in_time() {
    for with_restart in [false, true] {
        let mut rig = Rig::new(Engine::Memory);
        let mut workload = Workload::new(Profile::Uniform, 203);
        rig.chain.run(&mut workload, 12);
        let mut pruner = start(&rig, |_| ());
        commit(&rig, &pruner, &mut workload, 6);
        cycle(&pruner);
        let (to, from) = (back(&rig, 3), rig.chain.head());
        let branch: BTreeSet<NodeHash> = check::present(&rig.chain.store);
        if with_restart {
            drop(pruner);
            assert_eq!(retention(&rig).rollback(to, Batch::new()).unwrap(), RolledBack { to, from });
            rig = rig.restart();
            pruner = start(&rig, |_| ());
        } else {
            assert_eq!(pruner.rollback(to, Batch::new()).unwrap(), RolledBack { to, from });
        }
        rig.chain.archive.forget_after(to);
        settle(&pruner);
        let runs = pruner.status().triggers.runs;
        assert_eq!(runs.iter().filter(|run| run.trigger == Trigger::Rollback).count(), 1, "{runs:#?}");
        check::exact(&rig.chain, "after the cycle that was owed");
        assert!(check::present(&rig.chain.store).len() < branch.len(), "the branch had nodes of its own");
        assert_eq!(pruner.rollback(to, Batch::new()).unwrap(), RolledBack { to, from: to }, "to where it is");
        settle(&pruner);
        assert_eq!(pruner.status().triggers.runs.len(), runs.len(), "owes nothing");
    }
}

/// What is at work when the chain goes back.
#[derive(Debug, Clone, Copy, PartialEq)]
enum During {
    Idle,
    BuildReach,
    SweepExpired,
    IncrementalSweep,
}

impl During {
    /// Stops at this moment when it has come so often.
    fn moment(self) -> (Moment, u32) {
        match self {
            Self::Idle | Self::BuildReach => (Moment::PhaseSaved, 1),
            Self::SweepExpired => (Moment::PhaseSaved, 2),
            Self::IncrementalSweep => (Moment::Captured, 1),
        }
    }
}

#[test]
fn rollback_in_each_phase() {
    for during in [During::Idle, During::BuildReach, During::SweepExpired, During::IncrementalSweep] {
        for profile in Profile::ALL {
            for depth in [1, 2, 4, 6] {
                goes_back(during, profile, depth);
            }
        }
    }
}

/// Rolls back, unless a round or the owed cycle has just moved the floor over the order.
fn goes(pruner: &Pruner, to: Order) -> bool {
    match pruner.rollback(to, Batch::new()) {
        Err(PruneError::Store(StoreError::Pruned { .. })) => false,
        other => other.map(|_| true).unwrap(),
    }
}

/// Goes back from three orders after the capture by `depth`, then once more, and on from there.
fn goes_back(during: During, profile: Profile, depth: u64) {
    let context = format!("{during:?} {profile:?} by {depth}");
    let rig = Rig::new(Engine::Memory);
    let mut workload = Workload::new(profile, depth);
    rig.chain.run(&mut workload, 12);
    let (moment, count) = during.moment();
    let held = Held::start(&rig, moment);
    let (pruner, mut ends) = (&held.pruner, true);
    commit(&rig, pruner, &mut workload, 6);
    cycle(pruner);
    if during == During::Idle {
        rig.chain.run(&mut workload, 3);
        while !goes(pruner, back(&rig, depth)) {}
    } else {
        held.arm(count);
        if during == During::IncrementalSweep {
            commit(&rig, pruner, &mut workload, 1);
        } else {
            rig.chain.run(&mut workload, 4); // not told, so no round comes first
            assert_eq!(pruner.command(Command::Run), Reply::Accepted, "{context}");
        }
        held.reached.recv().unwrap();
        rig.chain.run(&mut workload, 3);
        let (ended, rolled) = held.rollback(back(&rig, depth));
        ends = ended;
        assert_eq!(ends, during == During::IncrementalSweep || depth > 3, "{context}");
        match rolled {
            // A round cannot be paused, so the release may come first, and the next round moves the floor over the order.
            Err(PruneError::Store(StoreError::Pruned { .. })) if during == During::IncrementalSweep => {
                assert!(goes(pruner, back(&rig, 1)), "{context}: no floor passes the order below the head");
            }
            other => drop(other.unwrap()),
        }
    }
    rig.chain.archive.forget_after(rig.chain.head());
    let again = back(&rig, 1);
    if again >= rig.chain.floor() && goes(pruner, again) {
        rig.chain.archive.forget_after(again);
    }
    settle(pruner);
    if ends {
        check::exact(&rig.chain, &format!("{context}: the owed cycle"));
    } else {
        check::complete(&rig.chain, &format!("{context}: the cycle that went on"));
    }
    commit(&rig, pruner, &mut workload, 12);
    cycle(pruner);
    check::exact(&rig.chain, &format!("{context}: later"));
    let (health, status) = (pruner.health(), pruner.status());
    assert!(status.frozen.is_none() && status.poisoned.is_none(), "{context}: {health:?}");
}

/// Nothing is given up for a rollback that is refused.
#[test]
fn a_rollback_that_would_take_a_kept_order_away_is_refused_by_name() {
    let rig = Rig::new(Engine::Memory);
    let mut workload = Workload::new(Profile::Uniform, 204);
    rig.chain.run(&mut workload, 12);
    let held = Held::start(&rig, Moment::PhaseSaved);
    commit(&rig, &held.pruner, &mut workload, 6);
    held.arm(1);
    assert_eq!(held.pruner.command(Command::Run), Reply::Accepted);
    held.reached.recv().unwrap();
    let (head, floor) = (rig.chain.head(), rig.chain.floor());
    let refused = |to: Order| match held.pruner.rollback(to, Batch::new()) {
        Err(PruneError::Store(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(floor.minus(1).unwrap()), StoreError::Pruned { .. }));
    assert!(matches!(refused(head.next().unwrap()), StoreError::NoSuchOrder { .. }));
    let pin = rig.chain.store.pin(head, "an export").unwrap();
    assert!(matches!(refused(back(&rig, 1)), StoreError::HeldAbove { owner, .. } if owner == "an export"));
    drop(pin);
    assert!(held.pruner.status().running, "and the cycle goes on");
    held.release.send(()).unwrap();
    settle(&held.pruner);
    drop(held);

    let retention = retention(&rig);
    let new = |name: &str, order| NewPin { name: name.to_owned(), owner: "audit".to_owned(), order, ttl: None };
    retention.add_pin(new("a", head)).unwrap();
    retention.set_consumer("indexer", head, None).unwrap();
    let error = retention.rollback(back(&rig, 1), Batch::new()).unwrap_err();
    assert_eq!(error.code(), "held_above");
    let words = ["pin `a` of audit", "pin remove a --url"];
    assert!(words.iter().all(|words| error.to_string().contains(words)), "{error}");
    assert_eq!(rig.chain.head(), head);
    for (to, code) in [(floor.minus(1).unwrap(), "pruned"), (head.next().unwrap(), "never_existed")] {
        let error = retention.rollback(to, Batch::new()).unwrap_err();
        assert_eq!(error.code(), code, "what is wrong with the order itself comes first: {error}");
    }
    retention.remove_pin("a").unwrap();
    retention.rollback(back(&rig, 1), Batch::new()).unwrap();
    retention.advance().unwrap(); // the consumer is ahead, and asks for nothing
}

/// Who told what.
#[derive(Debug, Default)]
struct Tellers(Mutex<Vec<(Option<String>, Event)>>);

impl EventSink for Tellers {
    fn emit(&self, event: Event) {
        self.0.lock().push((thread::current().name().map(str::to_owned), event));
    }
}

/// Whoever tells may wait for the disk, and whoever goes back may hold what commits wait for.
#[test]
fn whoever_goes_back_tells_nothing() {
    let (rig, tellers) = (Rig::new(Engine::Memory), Arc::new(Tellers::default()));
    rig.chain.grow(Profile::Uniform, 207, 12);
    let parts =
        RetentionParts { events: Arc::clone(&tellers) as _, ..rig.retention_parts(Some(KeepPolicy::last(KEEP))) };
    let retention = Arc::new(LiveRetention::new(parts));
    retention.set_consumer("indexer", rig.chain.head(), None).unwrap();
    let parts = PrunerParts { events: Arc::clone(&tellers) as _, ..rig.pruner_parts(&Hooks::none()) };
    let pruner = Pruner::start_under(parts, rig.plan(KEEP.get()).pruner(), retention).unwrap();
    settle(&pruner);
    tellers.0.lock().clear();
    pruner.rollback(back(&rig, 1), Batch::new()).unwrap();
    let is_told = |code: &str| tellers.0.lock().iter().any(|(_, event)| event.code() == code);
    while !["consumer_ahead", "rolled_back"].into_iter().all(is_told) {
        thread::yield_now();
    }
    let by_others: Vec<_> =
        tellers.0.lock().extract_if(.., |(teller, _)| teller.as_deref() != Some("pruner")).collect();
    assert!(by_others.is_empty(), "{by_others:?}");
}

/// S36, C2: whatever a crash leaves is the history before or the one after, never half of either.
#[test]
fn a_crash_during_a_rollback_leaves_the_history_before_or_after_it() {
    let base = Rig::new(Engine::Memory);
    base.chain.grow(Profile::Tables, 205, 14);
    base.cycle(&base.plan(KEEP.get()));
    base.chain.grow(Profile::Tables, 206, 4);
    let (from, to) = (base.chain.head(), back(&base, 3));
    for tail in [CrashTail::Kept, CrashTail::Lost] {
        let mut found = BTreeSet::new();
        for write in 0..6 {
            let (rig, faulty) = base.faulty();
            interrupted(&rig).save(&StoreRecords(Arc::clone(&rig.chain.store))).unwrap();
            let mut rows = Batch::new();
            rows.put(Table::BLOCK, to.to_key(), *b"the chain went back");
            faulty.freeze_after(write);
            let survived = retention(&rig).rollback(to, rows).is_ok();
            let rig = rig.crashed(faulty.crash_image(tail).unwrap());
            let (head, view) = (rig.chain.head(), rig.chain.store.view().unwrap());
            let context = format!("{tail:?} at write {write}");
            assert!(head == to || (head == from && !survived), "{context}: {head}");
            let row = view.row(&Table::BLOCK, &to.to_key()).unwrap();
            assert_eq!(row.is_some(), head == to, "{context}: the row of the chain");
            drop(view);
            found.insert(head);
            rig.chain.archive.forget_after(head);
            let pruner = start(&rig, |_| ());
            settle(&pruner);
            let owed = pruner.status().triggers.runs.iter().any(|run| run.trigger == Trigger::Rollback);
            assert_eq!(owed, head == to, "{context}: what is owed");
            cycle(&pruner);
            check::exact(&rig.chain, &context);
        }
        assert_eq!(found, [to, from].into(), "{tail:?}");
    }
}
