//! P3, P4, P14, I11: the sweep between cycles in the worker, by itself: when it begins, when it must not, and what it leaves to
//! the next process.

use std::{
    cell::OnceCell,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Clock, Command, Ended, Facts, Freeze, HealthConfig, IncrementalConfig, IncrementalStatus, KeepPolicy,
    LiveRetention, Outcome, Pause, Pruner, PrunerConfig, PrunerParts, RecordKey, Records, Reply, StoreRecords,
    TriggerConfig, Verdict, assess, incremental::RoundEnd,
};
use state_store::{Batch, CrashTail, Fault, StoreConfig, Table, record};
use state_tests::{
    chain::STORE,
    check,
    hooks::{Hooks, Moment},
    records::{Acting, Use},
    rig::{Engine, Rig},
    waits::until,
    workload::{Profile, Workload, key, leaf},
};
use state_tree::{Changes, Order};

use crate::retention::{passes, pin};

const WINDOW: u64 = 5;

/// A pruner whose cycles come when counts need one, or when somebody asks.
fn start(rig: &Rig, incremental: Option<IncrementalConfig>, act: impl FnMut(Moment) + Send + 'static) -> Pruner {
    let parts = rig.pruner_parts(&Hooks::new(act));
    let config = PrunerConfig { incremental, ..rig.plan(WINDOW).pruner() };
    Pruner::start(parts, config).unwrap()
}

/// One order per round while commits come.
fn each_order() -> Option<IncrementalConfig> {
    Some(IncrementalConfig { stride: NonZeroU64::MIN })
}

/// Whether the floor is where the window wants it, and nothing that has fallen to it waits; and the status says so.
fn is_swept(rig: &Rig, pruner: &Pruner) -> bool {
    let is_done = rig.chain.floor().get() == rig.chain.head().get() + 1 - WINDOW
        && rig.chain.store.lag().is_some_and(|lag| lag.nodes == 0);
    let incremental = pruner.status().incremental.unwrap();
    let is_told = incremental.failure.is_none() && incremental.lag_nodes == Some(0);
    is_done && is_told && incremental.last == Some(RoundEnd::Done)
}

/// A chain that is longer than its window, whose counts are exact, at rest.
fn settled() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 401, 9);
    rig.cycle(&rig.plan(WINDOW));
    rig
}

#[test]
fn commits_alone_keep_the_disk_flat() {
    for engine in Engine::ALL {
        let rig = Rig::new(engine);
        let pruner = start(&rig, each_order(), |_| ());
        for step in 0..30 {
            rig.chain.grow(Profile::Uniform, 410 + step, 1);
            pruner.committed(rig.chain.head());
            if rig.chain.head().get() < WINDOW {
                assert_eq!(pruner.status().cycles_finished, 0, "the window is not full");
                continue;
            }
            let swept = || rig.chain.store.head().unwrap().nodes_put - rig.chain.store.nodes_stored();
            until(&rig, &pruner, |pruner| {
                let is_counted = pruner.status().incremental.unwrap().deleted_total == swept();
                is_counted && !pruner.status().running && is_swept(&rig, pruner)
            });
            check::exact(&rig.chain, &format!("{engine:?} step {step}"));
        }
        let status = pruner.status();
        assert_eq!(status.cycles_finished, 1, "the one that counts are owed, and no other");
        let turnover = status.triggers.turnover.unwrap();
        let present = check::present(&rig.chain.store).len() as u64;
        assert_eq!(
            (turnover.live + turnover.added, turnover.waiting),
            (present, 0),
            "{turnover:?}: what went is taken off"
        );
        let incremental = status.incremental.unwrap();
        assert!(incremental.deleted_total > 0 && incremental.slices_total > 0, "{incremental:?}");
        assert_eq!((incremental.set_aside_total, incremental.unindexed_total), (0, 0));
        assert_eq!((incremental.lag_orders, incremental.lag_ms, incremental.failure), (Some(0), Some(0), None));
        assert_eq!(pruner.health().verdict, Verdict::Healthy);
    }
}

#[test]
fn no_round_begins_where_there_is_no_sweep_between_cycles() {
    let rig = settled();
    let pruner = start(&rig, None, |_| ());
    let floor = rig.chain.floor();
    rig.chain.grow(Profile::Uniform, 420, 30);
    pruner.committed(rig.chain.head());
    rig.clock.advance(Duration::from_secs(3600));
    pruner.committed(rig.chain.head());
    until(&rig, &pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.status().incremental, None);
    let before = check::present(&rig.chain.store);
    drop(pruner); // the worker has seen every message
    assert_eq!((check::present(&rig.chain.store), rig.chain.floor()), (before, floor));
}

#[test]
fn no_round_begins_while_deletes_are_frozen() {
    let rig = settled();
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    let freeze = Freeze { cycle: 1, at: 0, why: "a test".to_owned() };
    records.save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
    let pruner = start(&rig, each_order(), |_| ());
    until(&rig, &pruner, |pruner| !pruner.status().running);
    let floor = rig.chain.floor();
    rig.chain.grow(Profile::Uniform, 430, 20);
    let before = check::present(&rig.chain.store);
    for _ in 0..20 {
        pruner.committed(rig.chain.head());
        rig.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(pruner.health().reasons[0].code, "frozen");
    assert_eq!((check::present(&rig.chain.store), rig.chain.floor()), (before, floor));
    assert_eq!(pruner.status().incremental.unwrap().last, None, "no round has begun");
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    pruner.committed(rig.chain.head());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    check::exact(&rig.chain, "after the freeze");
}

/// What one process leaves of the journal the next one works off, without a commit and without a cycle.
#[test]
fn a_restart_goes_on_with_what_waits() {
    let rig = settled();
    rig.chain.grow(Profile::Uniform, 440, 40);
    let rig = rig.restart();
    let pruner = start(&rig, each_order(), |_| ());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    check::exact(&rig.chain, "the second process");
    assert_eq!(pruner.status().cycles_finished, 0);
    rig.chain.grow(Profile::Uniform, 441, 3);
    pruner.committed(rig.chain.head());
    drop(pruner); // perhaps in the middle of a round
    check::complete(&rig.chain, "stopped");
    let rig = rig.restart();
    let pruner = start(&rig, each_order(), |_| ());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    check::exact(&rig.chain, "the third process");
}

/// P4: a round ends when its share is done, so a cycle that somebody asks for begins although much is left to sweep, and the
/// sweep goes on after it.
#[test]
fn no_task_starves_while_another_has_backlog() {
    let rig = settled();
    rig.chain.grow(Profile::Uniform, 450, 400); // much more than a round takes
    let (told, at_round) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let moments = Arc::new(Mutex::new(Vec::new()));
    let (seen, store, mut held) = (Arc::clone(&moments), Arc::clone(&rig.chain.store), false);
    let pruner = start(&rig, each_order(), move |moment| {
        seen.lock().push((moment, store.lag().map_or(0, |lag| lag.nodes)));
        if moment == Moment::Captured && !held {
            held = true;
            told.send(()).unwrap();
            assert!(released.recv().is_err(), "nothing is ever sent: only the end of the test's hold counts");
        }
    });
    rig.clock.advance(Duration::from_secs(2)); // an idle chain
    pruner.committed(rig.chain.head());
    at_round.recv().unwrap(); // the first round has taken its snapshot
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    moments.lock().clear();
    drop(release);
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    let (first, waited) = moments.lock()[0];
    assert_eq!(first, Moment::RunSaved, "no further round comes before the run");
    assert!(waited > 0, "the round did all there was: the test tells nothing");
    check::exact(&rig.chain, "the cycle took all that was left");
    rig.chain.grow(Profile::Uniform, 451, 20);
    pruner.committed(rig.chain.head());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    check::exact(&rig.chain, "the sweep goes on");
    assert_eq!(pruner.status().cycles_finished, 1);
}

/// While a cycle works the floor stands still, and so does the sweep; what waits for it is told all the same.
#[test]
fn what_waits_for_the_sweep_is_told_while_a_cycle_works() {
    let rig = settled();
    rig.chain.grow(Profile::Uniform, 452, 30);
    let (told, deleting) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (chain, clock, next) = (rig.chain.clone(), Arc::clone(&rig.clock), Arc::new(Mutex::new(None)));
    let of_hooks = Arc::clone(&next);
    let pruner = start(&rig, each_order(), move |moment| {
        let mut next = of_hooks.lock();
        if *next != Some(moment) {
            return; // rounds come before the cycle, and after it
        }
        *next = match moment {
            Moment::RunSaved => Some(Moment::Captured),
            Moment::Captured => {
                chain.grow(Profile::Uniform, 453, 20); // while it works
                clock.advance(Duration::from_secs(2));
                Some(Moment::Deleting)
            }
            Moment::Deleting | Moment::PhaseSaved | Moment::OutcomeSaved | Moment::Progress(_) => {
                told.send(()).unwrap();
                assert!(released.recv().is_err(), "nothing is ever sent: only the end of the test's hold counts");
                None
            }
        };
    });
    pruner.committed(rig.chain.head());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner) && !pruner.status().running);
    rig.chain.grow(Profile::Uniform, 454, 3); // nobody tells the pruner, so no round comes before the run
    *next.lock() = Some(Moment::RunSaved);
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    deleting.recv().unwrap();
    let waits = pruner.status().incremental.unwrap();
    assert!(waits.lag_orders >= Some(20) && waits.lag_nodes > Some(100) && waits.lag_ms > Some(0), "{waits:?}");
    drop(release);
    pruner.committed(rig.chain.head());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    check::exact(&rig.chain, "the cycle, and the sweep after it");
}

/// P4: a cycle that somebody asks for does not wait for the walk of what an older state holds, nor for what comes after it.
#[test]
fn a_cycle_that_is_due_ends_the_walk_of_an_older_state() {
    let (rig, faulty) = settled().faulty();
    let left_at_runs = Arc::new(Mutex::new(Vec::new()));
    let (left, store) = (Arc::clone(&left_at_runs), Arc::clone(&rig.chain.store));
    let pruner = start(&rig, each_order(), move |moment| {
        if moment == Moment::RunSaved {
            left.lock().push(store.lag().map_or(0, |lag| lag.nodes));
        }
    });
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    left_at_runs.lock().clear();
    let pin = rig.chain.store.pin(rig.chain.floor(), "a reader that stays").unwrap();
    rig.chain.grow(Profile::Uniform, 455, 40);
    pruner.committed(rig.chain.head());
    let waits = RoundEnd::Waits { order: pin.order().get(), owner: "a reader that stays".to_owned() };
    while pruner.status().incremental.unwrap().last.as_ref() != Some(&waits) {
        thread::yield_now(); // no time passes: its patience does not end
    }
    let (told, walking) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let hold = Mutex::new(Some((told, released)));
    let marks = rig.state_dir();
    faulty.before_read(move || {
        if let Some((told, released)) = marks.exists().then(|| hold.lock().take()).flatten() {
            told.send(()).unwrap();
            assert!(released.recv().is_err(), "nothing is ever sent: only the end of the test's hold counts");
        }
    });
    rig.clock.advance(Duration::from_secs(20));
    until(&rig, &pruner, |_| walking.try_recv().is_ok()); // the walk begins: its folder is there
    let left = rig.chain.store.lag().unwrap().nodes;
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    drop(release);
    while pruner.status().cycles_finished == 0 {
        thread::yield_now();
    }
    assert_eq!(left_at_runs.lock().first(), Some(&left), "the round ended for the cycle, without a slice");
    assert_eq!(pruner.status().incremental.unwrap().failure, None);
    drop(pin);
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    check::complete(&rig.chain, "afterwards");
}

/// I13: what waits is told also while a state below the floor is read, which keeps the sweep from its next slice.
#[test]
fn what_waits_for_an_older_state_to_be_known_is_told_meanwhile() {
    let (rig, faulty) = settled().faulty();
    let pruner = Arc::new(start(&rig, each_order(), |_| ()));
    let known = rig.chain.store.pin(rig.chain.floor(), "a reader that stays").unwrap();
    rig.chain.grow(Profile::Uniform, 457, 20);
    pruner.committed(rig.chain.head());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner)); // its state is known by then
    let pin = rig.chain.store.pin(rig.chain.floor(), "another one").unwrap();
    let (reads, read) = mpsc::channel::<mpsc::Sender<()>>();
    let (reads, walker, test) = (Mutex::new(reads), Arc::clone(&pruner), thread::current().id());
    let is_walking = |pruner: &Pruner| pruner.status().incremental.unwrap().walking.is_some();
    faulty.before_read(move || {
        if thread::current().id() != test && is_walking(&walker) {
            let (go_on, wait) = mpsc::channel();
            let is_watched = reads.lock().send(go_on).is_ok();
            assert!(
                !is_watched || wait.recv().is_err(),
                "nothing is ever sent: only the end of the test's hold counts"
            );
        }
    });
    rig.chain.grow(Profile::Uniform, 458, 20);
    pruner.committed(rig.chain.head());
    let held = OnceCell::new();
    until(&rig, &pruner, |_| read.try_recv().is_ok_and(|go_on| held.set(go_on).is_ok()));
    let walking = pruner.status().incremental.unwrap().walking.unwrap();
    assert_eq!((walking.states, walking.newest, walking.nodes), (1, pin.order().get(), 0));
    let health = pruner.health();
    assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Healthy, "incremental_waits"));
    assert!(health.reasons[0].message.contains("1 states below the floor"), "{health:?}");
    rig.chain.grow(Profile::Uniform, 459, 30);
    rig.chain.store.catch_up().unwrap(); // so that what reads is the walk
    pruner.committed(rig.chain.head());
    rig.clock.advance(Duration::from_secs(2));
    drop(held);
    let mut told = vec![0];
    loop {
        let is_over = !is_walking(&pruner);
        if let Ok(next) = read.try_recv() {
            let status = pruner.status().incremental.unwrap();
            assert!(status.lag_orders >= Some(30), "{status:?}");
            told.push(status.walking.unwrap().nodes);
            drop(next);
        } else if is_over {
            break;
        }
        thread::yield_now();
    }
    assert!(told.len() > 3 && told.is_sorted_by(|before, after| before < after), "of all its reads: {told:?}");
    drop(read);
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    assert_eq!(pruner.status().incremental.unwrap().walking, None);
    faulty.before_read(|| ());
    drop((known, pin));
    check::complete(&rig.chain, "afterwards");
}

/// A reader below the floor is named in health, which is no fault, and nothing that it may have goes while it is waited for.
#[test]
fn a_reader_that_is_waited_for_is_named_and_no_fault() {
    let rig = settled();
    let pin = rig.chain.store.pin(rig.chain.floor(), "a slow reader").unwrap();
    let (from, pinned) = (rig.chain.floor(), rig.chain.archive.live([rig.chain.floor()]));
    let pruner = start(&rig, each_order(), |_| ());
    rig.chain.grow(Profile::Uniform, 460, 10);
    pruner.committed(rig.chain.head());
    let waits = RoundEnd::Waits { order: from.get(), owner: "a slow reader".to_owned() };
    while pruner.status().incremental.unwrap().last.as_ref() != Some(&waits) {
        thread::yield_now(); // no time passes: its patience does not end
    }
    let health = pruner.health();
    assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Healthy, "incremental_waits"));
    assert!(health.reasons[0].message.contains("a slow reader"), "{health:?}");
    assert!(pinned.is_subset(&check::present(&rig.chain.store)));
    // It stays: what it holds is learnt, and the sweep goes on around it.
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    assert!(pinned.is_subset(&check::present(&rig.chain.store)));
    assert!(pruner.health().reasons.is_empty());
    drop(pin);
    check::complete(&rig.chain, "around the reader");
}

/// What fails is tried again, later each time; health says so until a round has ended.
#[test]
fn a_round_that_fails_is_told_and_tried_again() {
    let (rig, faulty) = settled().faulty();
    let pruner = start(&rig, each_order(), |_| ());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    rig.chain.grow(Profile::Uniform, 470, 10);
    rig.chain.store.catch_up().unwrap(); // so that the next write is that of a round
    faulty.fail_write(0, Fault::Transient);
    pruner.committed(rig.chain.head());
    while pruner.status().incremental.unwrap().failure.is_none() {
        thread::yield_now(); // no time passes: it is not tried again yet
    }
    let health = pruner.health();
    assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Degraded, "incremental_failed"));
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    assert_eq!((pruner.health().verdict, pruner.status().incremental.unwrap().failure), (Verdict::Healthy, None));
    check::exact(&rig.chain, "tried again");
}

/// The worker panics at a write of a record, one after the other, in rounds that succeed, that fail and that meet damage. A
/// rollback that comes then does not wait for what has died.
#[test]
fn a_panic_at_any_write_of_a_round_leaves_nobody_waiting() {
    for fault in [None, Some(Fault::Transient), Some(Fault::Corrupt)] {
        for at in 0.. {
            let context = format!("{fault:?}, write {at}");
            let (rig, faulty) = settled().faulty();
            let left = Arc::new(AtomicI64::new(i64::MAX));
            let counts = Arc::clone(&left);
            let parts = rig.pruner_parts(&Hooks::none());
            let records = Acting::over(Arc::clone(&parts.records), move |what, _| {
                if what != Use::Load && thread::current().name() == Some("pruner") {
                    assert!(counts.fetch_sub(1, Ordering::AcqRel) != 0, "a bug of ours");
                }
                Ok(())
            });
            let config = PrunerConfig { incremental: each_order(), ..rig.plan(WINDOW).pruner() };
            let pruner = Arc::new(Pruner::start(PrunerParts { records, ..parts }, config).unwrap());
            until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
            rig.chain.grow(Profile::Uniform, 471, 10);
            fault.into_iter().for_each(|fault| faulty.fail_write(0, fault));
            left.store(at, Ordering::Release);
            pruner.committed(rig.chain.head());
            until(&rig, &pruner, |pruner| {
                let status = pruner.status();
                status.poisoned.is_some()
                    || status.frozen.is_some()
                    || is_swept(&rig, pruner)
                    || left.load(Ordering::Acquire) < 0
            });
            let (to, asker, (answer, answers)) =
                (rig.chain.head().minus(2).unwrap(), Arc::clone(&pruner), mpsc::channel());
            thread::Builder::new().spawn(move || answer.send(asker.rollback(to, Batch::new()))).unwrap();
            let rolled = answers.recv_timeout(Duration::from_secs(60)); // only one that waits for ever takes longer
            rolled.expect(&context).expect(&context);
            assert_eq!(rig.chain.head(), to, "{context}");
            rig.chain.archive.forget_after(to);
            check::complete(&rig.chain, &context);
            let died = left.load(Ordering::Acquire) < 0;
            if died {
                until(&rig, &pruner, |pruner| pruner.status().poisoned.is_some());
                assert_eq!(pruner.health().verdict, Verdict::Critical, "{context}");
            } else {
                assert!(at > 0, "{context}: nothing was written, so this tells nothing");
                break;
            }
        }
    }
}

/// P3: production near capacity for long is a reason of health, with both figures, and only where both are measured.
#[test]
fn commits_that_outrun_the_sweep_turn_health_degraded() {
    let rig = settled();
    let pruner = start(&rig, each_order(), |_| ());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    let status = IncrementalStatus {
        production_per_second: Some(900.0),
        capacity_per_second: Some(1000.0),
        ..pruner.status().incremental.unwrap()
    };
    let unmeasured = IncrementalStatus { capacity_per_second: None, ..status.clone() };
    for (status, too_much, codes) in
        [(&status, true, vec!["incremental_behind"]), (&status, false, vec![]), (&unmeasured, true, vec![])]
    {
        let facts = Facts { incremental: Some(status.clone()), too_much, ..Facts::default() };
        let health = assess(&facts, &HealthConfig::default());
        let found: Vec<&str> = health.reasons.iter().map(|reason| reason.code.as_str()).collect();
        assert_eq!(found, codes, "{status:?}");
        assert!(health.reasons.iter().all(|reason| reason.message.contains("drop 900 nodes per second")), "{health:?}");
    }
}

/// Whoever sweeps nothing between cycles holds no index, however long that goes on; what was lost meanwhile goes once somebody
/// sweeps again, without a cycle.
#[test]
fn a_sweep_that_is_switched_off_and_on_again_takes_what_was_lost_in_between() {
    let commit = |rig: &Rig, pruner: &Pruner, workload: &mut Workload, count: u64| {
        for _ in 0..count {
            rig.chain.run(workload, 1);
            pruner.committed(rig.chain.head());
        }
    };
    let (off, mut workload) = (StoreConfig { pending_limit: 0, ..STORE }, Workload::new(Profile::Uniform, 481));
    let mut rig = Rig::with(Engine::Memory, off);
    rig.chain.run(&mut workload, 9);
    for round in 0..2 {
        let pruner = start(&rig, None, |_| ());
        until(&rig, &pruner, |pruner| !pruner.status().running);
        assert_eq!(pruner.command(Command::Run), Reply::Accepted);
        until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
        commit(&rig, &pruner, &mut workload, 20);
        assert_eq!(rig.chain.store.pending().map_or(0, |pending| pending.held), 0, "round {round}: it holds no index");
        drop(pruner);
        rig = rig.reopened_with(STORE);
        let pruner = start(&rig, each_order(), |_| ());
        commit(&rig, &pruner, &mut workload, 1);
        until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
        check::exact(&rig.chain, &format!("round {round}: all that was lost meanwhile is gone"));
        assert_eq!(pruner.status().cycles_finished, 0, "round {round}: by the sweep alone");
        drop(pruner);
        rig = rig.reopened_with(off);
    }
}

/// What the next process is configured to.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// A window of so many orders.
    Window(u64),
    /// A window of three orders or so many seconds of the chain, whichever is more.
    Seconds(u64),
    /// No sweep between cycles, and then the same as before.
    OffAndOn,
}

/// A pruner that sweeps each order under a policy of orders and time.
fn under_policy(rig: &Rig, keep: KeepPolicy) -> Pruner {
    let policy = LiveRetention::new(rig.retention_parts(Some(keep)));
    let config = PrunerConfig { incremental: each_order(), ..rig.plan(keep.last.get()).pruner() };
    Pruner::start_under(rig.pruner_parts(&Hooks::none()), config, Arc::new(policy)).unwrap()
}

/// Nobody commits: what ends by a word or with time alone lets its orders go all the same, and the sweep takes what they held back.
#[test]
fn a_chain_that_stands_still_lets_go_of_what_nobody_asks_for_any_more() {
    let rig = settled();
    let keep = KeepPolicy::last(NonZeroU64::new(WINDOW).unwrap());
    let policy = Arc::new(LiveRetention::new(rig.retention_parts(Some(keep))));
    let (floor, hour) = (rig.chain.floor(), Duration::from_secs(3600));
    let later = |orders: u64| Order::new(floor.get() + orders);
    policy.set_consumer("indexer", floor, Some(2 * hour)).unwrap();
    policy.add_pin(pin("audit", floor.get(), None)).unwrap();
    policy.add_pin(pin("export", later(1).get(), Some(hour))).unwrap();
    rig.chain.grow(Profile::Uniform, 405, 20);
    let incremental = Some(IncrementalConfig { stride: NonZeroU64::new(1000).unwrap() });
    let config = PrunerConfig { incremental, ..rig.plan(WINDOW).pruner() };
    let pruner = Pruner::start_under(rig.pruner_parts(&Hooks::none()), config, Arc::clone(&policy) as _).unwrap();
    let swept_to = |to: Order, kept: &[Order]| {
        until(&rig, &pruner, |pruner| {
            let is_there = rig.chain.floor() == to && rig.chain.store.lag().is_some_and(|lag| lag.nodes == 0);
            let still: Vec<Order> = rig.chain.store.kept().into_iter().map(|(order, _)| order).collect();
            is_there && still == kept && pruner.status().incremental.unwrap().last == Some(RoundEnd::Done)
        });
        check::complete(&rig.chain, &format!("swept to {to}"));
    };
    let [second, third] = [1, 2].map(later);
    let deleted = || pruner.status().incremental.unwrap().deleted_total;
    swept_to(floor, &[]);
    policy.set_consumer("indexer", third, Some(2 * hour)).unwrap();
    swept_to(third, &[floor, second]);
    let before = deleted();
    policy.remove_pin("audit").unwrap();
    swept_to(third, &[second]);
    passes(&rig, hour);
    policy.look_around().unwrap();
    swept_to(third, &[]);
    passes(&rig, hour);
    policy.look_around().unwrap();
    swept_to(rig.chain.head().minus(WINDOW - 1).unwrap(), &[]);
    assert!(deleted() > before, "the consumer is silent, and nothing waits for a commit");
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    check::exact(&rig.chain, "what the pins held goes with a cycle");
}

/// C9: a process dies at any write of its sweep, between two slices or inside one, and the next one has another configuration:
/// it loses nothing, goes on with what the other left, and needs no cycle for it.
#[test]
fn config_change_between_any_two_slices() {
    let base = settled();
    base.chain.grow(Profile::Uniform, 402, 24);
    let (head, all) = (base.chain.head(), check::present(&base.chain.store).len());
    for next in [Next::Window(2), Next::Window(9), Next::Seconds(7), Next::OffAndOn] {
        let mut inside = 0;
        for write in 0.. {
            let (rig, faulty) = base.faulty();
            faulty.freeze_after(write); // BEFORE the worker begins by itself
            let pruner = start(&rig, each_order(), |_| ());
            pruner.committed(head);
            until(&rig, &pruner, |pruner| {
                is_swept(&rig, pruner) || pruner.status().incremental.unwrap().failure.is_some()
            });
            let is_over = pruner.status().incremental.unwrap().failure.is_none();
            drop(pruner);
            let rig = rig.crashed(faulty.crash_image(CrashTail::Kept).unwrap());
            let floor = rig.chain.floor();
            inside += u64::from(!is_over && check::present(&rig.chain.store).len() < all);
            let context = format!("killed at write {write}, then {next:?}");
            check::complete(&rig.chain, &context);
            let keep = |last| KeepPolicy::last(NonZeroU64::new(last).unwrap());
            let then = match next {
                Next::Window(last) => keep(last),
                Next::Seconds(seconds) => KeepPolicy { time: Some(Duration::from_secs(seconds)), ..keep(3) },
                Next::OffAndOn => {
                    let (before, pruner) = (check::present(&rig.chain.store), start(&rig, None, |_| ()));
                    let mut workload = Workload::new(Profile::Uniform, 403);
                    for _ in 0..3 {
                        rig.chain.run(&mut workload, 1);
                        pruner.committed(rig.chain.head());
                    }
                    drop(pruner);
                    assert!(check::present(&rig.chain.store).is_superset(&before), "{context}: nothing goes");
                    keep(WINDOW)
                }
            };
            let pruner = under_policy(&rig, then);
            // What comes back before the journal is read is taken for shared.
            until(&rig, &pruner, |_| rig.chain.store.lag().is_some());
            let mut workload = Workload::new(Profile::Uniform, 404);
            for _ in 0..3 {
                rig.chain.run(&mut workload, 1);
                pruner.committed(rig.chain.head());
            }
            let window = match next {
                Next::Window(last) => last,
                Next::Seconds(seconds) => seconds + 1,
                Next::OffAndOn => WINDOW,
            };
            let expected = rig.chain.head().minus(window - 1).unwrap().max(floor);
            let nothing_waits = || rig.chain.store.lag().is_some_and(|lag| lag.nodes == 0);
            until(&rig, &pruner, |_| rig.chain.floor() == expected && nothing_waits());
            assert_eq!(pruner.status().cycles_finished, 0, "{context}: by the sweep alone");
            drop(pruner);
            check::exact(&rig.chain, &context);
            if is_over {
                assert!(inside > 3, "only {inside} deaths between two slices");
                break;
            }
        }
    }
}

/// P3, from end to end: each round takes as long as the orders that it deals with took to come, so commits make the sweep
/// work all the time. It is told after ten minutes of that, by what a worker measures, and no longer than it goes on.
#[test]
fn a_worker_that_has_worked_without_rest_for_ten_minutes_is_behind_until_the_chain_rests() {
    const ROUND: Duration = Duration::from_secs(10);
    let rig = settled();
    let (clock, pace) = (Arc::clone(&rig.clock), Arc::new(Mutex::new(Duration::ZERO)));
    let takes = Arc::clone(&pace);
    let pruner = start(&rig, each_order(), move |moment| {
        if moment == Moment::Captured {
            clock.advance(*takes.lock()); // it waits for its lock, neither reading nor deleting
        }
    });
    let told = || tells(&pruner, "incremental_behind");
    let orders = |rounds: u32| {
        let began = rig.clock.monotonic();
        for _ in 0..rounds {
            let slices = slices(&pruner);
            even(&rig, 8);
            pruner.committed(rig.chain.head());
            while slices == self::slices(&pruner) || !is_swept(&rig, &pruner) {
                thread::yield_now(); // no time passes but that of rounds
            }
        }
        rig.clock.monotonic() - began
    };
    orders(10);
    *pace.lock() = ROUND;
    assert_eq!(orders(60), 60 * ROUND, "one snapshot per round");
    assert!(!told(), "not yet for ten minutes");
    orders(10);
    let status = pruner.status().incremental.unwrap();
    let (made, done) = (status.production_per_second.unwrap(), status.capacity_per_second.unwrap());
    assert!(told(), "{made} against {done}");
    assert!(made > done * 0.8 && made < done * 1.25, "the rounds took all the time: {made} against {done}");
    assert_eq!(status.working_seconds, 0.0, "waiting is no work of its own");
    rig.clock.advance(Duration::from_secs(3600));
    let status = pruner.status().incremental.unwrap();
    assert_eq!((told(), status.production_per_second), (false, None), "an idle chain is not behind");
}

/// P3: commits that get slower and slower make slices small, and what waits grows by what they leave. Health says
/// so, whatever it knows of capacity.
#[test]
fn what_waits_and_grows_for_ten_minutes_turns_health_degraded() {
    const STEP: Duration = Duration::from_millis(900); // the chain is never idle
    let rig = settled();
    let pruner = start(&rig, each_order(), |_| ());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    let (began, mut took) = (rig.clock.monotonic(), Duration::from_millis(1));
    while rig.clock.monotonic() - began < Duration::from_secs(720) {
        let slices = slices(&pruner);
        even(&rig, 80); // more than two slices
        pruner.committed_in(rig.chain.head(), Some(took));
        while slices == self::slices(&pruner) {
            thread::yield_now(); // no time passes
        }
        rig.clock.advance(STEP);
        took = took.mul_f64(1.01);
        let is_early = rig.clock.monotonic() - began < Duration::from_secs(600);
        assert!(!is_early || !tells(&pruner, "incremental_lagging"), "not yet for ten minutes");
    }
    let reasons = pruner.health().reasons;
    let told = reasons.iter().find(|reason| reason.code == "incremental_lagging");
    assert!(told.is_some_and(|reason| reason.message.contains(" orders")), "{reasons:?}");
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    assert!(!tells(&pruner, "incremental_lagging"), "what waited is gone");
}

/// P3: what the index has no place for waits for a cycle; where that goes on, somebody has to know.
#[test]
fn an_index_that_is_full_again_and_again_turns_health_degraded() {
    let rig = settled().reopened_with(StoreConfig { pending_limit: 20, ..STORE });
    let pruner = start(&rig, each_order(), |_| ());
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    for order in 0..4 {
        assert!(order > 1 || !tells(&pruner, "index_full"), "order {order}");
        even(&rig, 20);
        pruner.committed(rig.chain.head());
        until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    }
    assert!(tells(&pruner, "index_full"), "{:?}", pruner.status().incremental);
    rig.clock.advance(Duration::from_secs(600));
    assert!(!tells(&pruner, "index_full"), "nothing was left out for ten minutes");
}

fn slices(pruner: &Pruner) -> u64 {
    pruner.status().incremental.unwrap().slices_total
}

fn tells(pruner: &Pruner, code: &str) -> bool {
    pruner.health().reasons.iter().any(|reason| reason.code == code)
}

/// An order that changes the same objects each time, so that it loses as many nodes as the one before.
fn even(rig: &Rig, objects: u64) {
    let fresh = rig.chain.head().get() * 1000;
    rig.chain.put(&Changes((0..objects).map(|n| (key(n), leaf(fresh + n))).collect()));
}

/// A reading of the journal that hangs at one of its rows.
struct Reading {
    /// Rows read so far.
    rows: Arc<AtomicU64>,
    /// Told once it hangs.
    begun: mpsc::Receiver<()>,
    /// Lets it go on.
    answers: mpsc::Sender<()>,
}

impl Reading {
    fn hanging_at(row: u64, rig: &Rig) -> Self {
        let ((reading, begun), (answers, hung)) = (mpsc::channel(), mpsc::channel::<()>());
        let (rows, hung) = (Arc::new(AtomicU64::new(0)), Mutex::new(hung));
        let counted = Arc::clone(&rows);
        rig.faults().before_row(move |table| {
            if *table == Table::JOURNAL && counted.fetch_add(1, Ordering::AcqRel) == row {
                reading.send(()).unwrap();
                hung.lock().recv().unwrap();
            }
        });
        Self { rows, begun, answers }
    }
}

/// C20: a stop is not kept waiting by a journal that takes long to read, and what was not read is read by the next process.
#[test]
fn a_stop_while_the_journal_is_read_ends_the_reading_and_the_next_start_reads_it_again() {
    const ORDERS: u64 = 200;
    const READ: u64 = 50;
    let rig = settled();
    rig.chain.grow(Profile::Uniform, 490, ORDERS);
    let rig = rig.behind_faults();
    let Reading { rows, begun, answers } = Reading::hanging_at(READ, &rig);
    let pruner = start(&rig, each_order(), |_| ());
    begun.recv().unwrap();
    assert_eq!(pruner.stop_within(Duration::ZERO).unwrap_err().code(), "still_working");
    answers.send(()).unwrap();
    pruner.stop();
    let rows = rows.load(Ordering::Acquire);
    assert!(rows < ORDERS / 2, "{rows} rows of the journal were read although nobody waited for them");
    assert_eq!(rig.chain.store.pending(), None, "what was read is not taken for the whole");
    let status = pruner.status();
    assert_eq!(status.incremental.unwrap().failure, None, "and nothing has failed");
    drop(pruner);

    let rig = rig.restart();
    let pruner = start(&rig, each_order(), |_| ());
    until(&rig, &pruner, |pruner| rig.chain.store.pending().is_some() && is_swept(&rig, pruner));
    assert_eq!(pruner.status().cycles_finished, 0, "no cycle had to find what the journal names");
    check::exact(&rig.chain, "after the next start");
}

/// P4: who asks for a cycle does not wait until all of the journal was read, which that cycle settles; the sweep goes on after it.
#[test]
fn a_cycle_that_is_asked_for_does_not_wait_for_the_journal_to_be_read() {
    assert!(rows_read_before_a_run(settled()) < LEFT / 2);
}

/// Cycles that fail one after the other would else keep it from ever being read, and the sweep from its first slice.
#[test]
fn the_journal_is_read_to_its_end_before_another_cycle_where_the_last_one_failed() {
    let rig = settled();
    let ended = Ended::Failed { code: "no_room".to_owned(), message: "a test".to_owned() };
    let failed = record::encode(&Outcome { cycle: None, at: 0, head_order: None, ended }).unwrap();
    StoreRecords(Arc::clone(&rig.chain.store)).save(RecordKey::LastOutcome, &failed).unwrap();
    let read = rows_read_before_a_run(rig);
    assert!(read >= LEFT, "{read} rows");
}

/// Orders whose rows an earlier process has left.
const LEFT: u64 = 200;

/// How many rows are read before a run begins that somebody asks for while they are read.
fn rows_read_before_a_run(rig: Rig) -> u64 {
    const READ: u64 = 50;
    rig.chain.grow(Profile::Uniform, 491, LEFT);
    let rig = rig.behind_faults();
    let Reading { rows, begun, answers } = Reading::hanging_at(READ, &rig);
    let (read_at_run, run_begins) = mpsc::channel();
    let pruner = start(&rig, each_order(), move |moment| {
        if moment == Moment::Captured {
            read_at_run.send(rows.load(Ordering::Acquire)).unwrap();
        }
    });
    begun.recv().unwrap();
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    rig.clock.advance(Duration::from_secs(10));
    answers.send(()).unwrap();
    let read = run_begins.recv().unwrap();
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    rig.chain.grow(Profile::Uniform, 492, 20);
    pruner.committed(rig.chain.head());
    until(&rig, &pruner, |pruner| rig.chain.store.pending().is_some() && is_swept(&rig, pruner));
    assert_eq!(pruner.status().cycles_finished, 1, "no further cycle had to come");
    check::exact(&rig.chain, "the cycle, and the sweep after it");
    read
}

/// I13: a cycle may be paused for days, in which commits go on: what waits and what is free is told all the same.
#[test]
fn a_paused_cycle_tells_what_waits_and_how_much_is_free() {
    const BOUND: u64 = 1 << 40;
    let rig = settled().behind_faults();
    rig.faults().say_free(2 * BOUND);
    let ((told, captured), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::Captured {
            told.send(()).unwrap();
            assert!(released.recv().is_err(), "nothing is ever sent: only the end of the test's hold counts");
        }
    });
    let triggers = TriggerConfig { low_disk: NonZeroU64::new(BOUND), ..TriggerConfig::default() };
    let config = PrunerConfig { incremental: each_order(), triggers, ..rig.plan(WINDOW).pruner() };
    let pruner = Pruner::start(rig.pruner_parts(&hooks), config).unwrap();
    until(&rig, &pruner, |pruner| is_swept(&rig, pruner));
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    captured.recv().unwrap();
    assert_eq!(pruner.command(Command::Pause), Reply::Accepted);
    drop(release);
    until(&rig, &pruner, |pruner| pruner.status().pause == Pause::Holding);
    rig.chain.grow(Profile::Uniform, 493, 30);
    rig.faults().say_free(BOUND - 1);
    until(&rig, &pruner, |pruner| {
        let status = pruner.status();
        let is_low = status.triggers.disk.is_some_and(|disk| disk.low && disk.free == Some(BOUND - 1));
        is_low && status.incremental.is_some_and(|incremental| incremental.lag_orders >= Some(25))
    });
    assert_eq!(pruner.status().pause, Pause::Holding);
    assert_eq!(pruner.command(Command::Resume), Reply::Accepted);
    until(&rig, &pruner, |pruner| !pruner.status().running && pruner.status().cycles_finished > 0);
}
