//! Life cycle 5, 6, 16, 17, O18, P17, S54: the policy of a live chain through every transition, with the exact live set
//! as the judge: what is kept is whole, what is let go is gone after the next cycle, and nothing that is gone is claimed.

use std::{
    cell::Cell,
    collections::BTreeSet,
    num::{NonZeroU64, NonZeroUsize},
    ops::ControlFlow,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Asked, Bound, Cause, Clock, Command, Explanation, Fill, Freeze, HashExplained, HeldBy, KeepPolicy, KeptBy,
    LiveRetention, NewPin, NodeStanding, OldReaders, OrderExplained, PinState, PruneError, Pruner, PrunerConfig,
    PrunerParts, ReaderLimit, ReaderState, RecordKey, Records as _, Reply, RetentionParts, Standing, Standstill,
    StoreRecords, Trigger, TriggerState, Verdict, WaitsFor, Why,
    cycle::{CycleEnv, Finished},
    events::Event,
    incremental::{IncrementalSweep, Round, RoundEnd, SliceReport},
    offline::StoreLayout,
    retained,
    snapshot::{NodeFacts, RetentionPolicy},
};
use state_store::{Batch, CrashTail, Durability, Fault, Lasting, Operation, Point, StoreConfig, StoreError, watch};
use state_tests::{
    archive::orders,
    chain::{STORE, ViewReader},
    check,
    hooks::{Hooks, Moment},
    offline,
    records::{Acting, Use},
    rig::{Engine, Plan, Rig, WAYS, env},
    told::Told,
    workload::{Profile, Workload, paths},
};
use state_tree::{NodeHash, Order, RoochLayout, get};

use crate::left::io;

fn order(at: u64) -> Order {
    Order::new(at)
}

fn keep(last: u64) -> KeepPolicy {
    KeepPolicy::last(NonZeroU64::new(last).unwrap())
}

fn every(last: u64, every: u64) -> KeepPolicy {
    KeepPolicy { every: NonZeroU64::new(every), ..keep(last) }
}

/// The policy of a rig, as a process finds it when it starts.
fn policy(rig: &Rig, keep: KeepPolicy) -> Arc<LiveRetention> {
    Arc::new(LiveRetention::new(rig.retention_parts(Some(keep))))
}

/// Time passes, by both clocks.
pub(crate) fn passes(rig: &Rig, time: Duration) {
    rig.clock.advance(time);
    rig.clock.set_unix_ms(rig.clock.unix_ms() + time.as_millis() as u64);
}

pub(crate) fn pin(name: &str, at: u64, ttl: Option<Duration>) -> NewPin {
    NewPin { name: name.to_owned(), owner: "a test".to_owned(), order: order(at), ttl }
}

fn under(rig: &Rig, policy: &Arc<LiveRetention>, hooks: &Hooks) -> (CycleEnv, Plan) {
    let last = policy.keep().unwrap().last;
    let parts = rig.parts(last, hooks);
    let parts = state_pruner::snapshot::SnapshotParts { policy: Arc::clone(policy) as _, ..parts };
    (env(parts, hooks), Plan { keep_last: last, ..rig.plan(1) })
}

/// Runs a cycle under the policy that nothing disturbs.
fn cycle(rig: &Rig, policy: &Arc<LiveRetention>) -> Finished {
    let (env, plan) = under(rig, policy, &Hooks::none());
    plan.run(&env).unwrap()
}

/// Every readable order, single ones included.
fn readable(rig: &Rig) -> BTreeSet<Order> {
    let kept = rig.chain.store.kept().into_iter().map(|(order, _)| order);
    kept.chain(orders(rig.chain.floor(), rig.chain.head())).collect()
}

/// Exactly these orders are readable: their nodes are there and no others, their roots and their objects are those of
/// the archive, and every other order is pruned.
fn exactly(rig: &Rig, expected: impl IntoIterator<Item = u64>, context: &str) {
    let expected: BTreeSet<Order> = expected.into_iter().map(order).collect();
    assert_eq!(readable(rig), expected, "{context}");
    let live = rig.chain.archive.live(expected.iter().copied());
    assert_eq!(check::present(&rig.chain.store), live, "{context}: exactly the nodes of the readable orders");
    let reader = ViewReader(rig.chain.store.view().unwrap());
    for at in orders(Order::GENESIS, rig.chain.head()) {
        match rig.chain.store.pin(at, "the test") {
            Ok(pin) => {
                assert!(expected.contains(&at), "{context}: order {at}");
                for path in paths(Profile::Tables).into_iter().step_by(61) {
                    let theirs = get(pin.root(), &path, &*rig.chain.archive).unwrap();
                    assert_eq!(get(pin.root(), &path, &reader).unwrap(), theirs, "{context}: order {at}");
                }
            }
            Err(StoreError::Pruned { floor, .. }) => {
                assert!(!expected.contains(&at) && floor == rig.chain.floor(), "{context}: order {at}");
            }
            Err(error) => panic!("{context}: order {at}: {error}"),
        }
    }
}

fn grown(count: u64) -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 61, count);
    rig
}

#[test]
fn every_kth_order_and_named_pins_stay_whole_below_the_window_until_they_are_let_go() {
    for (mark, sweep) in WAYS {
        let rig = grown(30);
        let kept = policy(&rig, every(5, 10));
        kept.add_pin(pin("audit", 13, None)).unwrap();
        let (env, plan) = under(&rig, &kept, &Hooks::none());
        let retained = plan.by(mark, sweep).run(&env).unwrap().certificate.retained;
        let why: Vec<(u64, KeptBy)> = retained.listed.into_iter().map(|root| (root.order, root.kept_by)).collect();
        let pinned = KeptBy::Pin("audit of a test".to_owned());
        let below = [(0, KeptBy::Every), (10, KeptBy::Every), (13, pinned), (20, KeptBy::Every)];
        assert_eq!(why[..4], below, "{mark:?} {sweep:?}");
        exactly(&rig, [0, 10, 13, 20].into_iter().chain(25..30), &format!("{mark:?} {sweep:?}"));
        kept.remove_pin("audit").unwrap();
        assert!(rig.chain.store.root(order(13)).is_ok(), "until the floor moves");
        cycle(&rig, &kept);
        exactly(&rig, [0, 10, 20].into_iter().chain(25..30), "the pin is gone");
    }
}

/// I12: on an old chain that begins to keep every second order they are many, and commits wait for each write.
#[test]
fn a_floor_that_passes_many_single_orders_moves_in_steps_and_so_they_are_let_go() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Toggle, 62, 2_600);
    let moves = Rc::new(Cell::new(0));
    let counted = Rc::clone(&moves);
    let _watching = watch(move |point| counted.set(counted.get() + u32::from(point == Point::FloorMoved)));
    let kept = policy(&rig, every(10, 2));
    kept.add_pin(pin("audit", 1_001, None)).unwrap();
    kept.advance().unwrap();
    assert_eq!(moves.take(), 2);
    let evens = (0..2_590).step_by(2);
    let expected: BTreeSet<Order> = evens.chain([1_001]).chain(2_590..2_600).map(order).collect();
    assert_eq!(readable(&rig), expected);
    let fewer = policy(&rig, keep(10));
    fewer.advance().unwrap();
    assert_eq!(moves.take(), 2);
    let explained = fewer.explain(Asked::Order(order(2_588)), &RoochLayout, 10).unwrap();
    let Explanation::Order(of_last_step) = &explained else { panic!("{explained}") };
    let Standing::Pruned { gone: Some(gone), .. } = &of_last_step.standing else { panic!("{explained}") };
    assert_eq!(gone.by, [Cause::Policy], "in the last step, too");
    assert_eq!(readable(&rig), [1_001].into_iter().chain(2_590..2_600).map(order).collect());
    fewer.advance().unwrap();
    assert_eq!(moves.take(), 0, "nothing is left to move");
}

#[test]
fn kept_orders_and_pins_survive_restarts_and_a_policy_that_stops_keeping_lets_them_go() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Tables, 61, 30);
    let kept = policy(&rig, every(5, 10));
    kept.add_pin(pin("audit", 13, None)).unwrap();
    cycle(&rig, &kept);
    drop(kept);
    let rig = rig.restart();
    let kept = policy(&rig, every(5, 10));
    assert_eq!(kept.status().unwrap().pins[0].state, PinState::Kept);
    cycle(&rig, &kept);
    exactly(&rig, [0, 10, 13, 20].into_iter().chain(25..30), "after a restart");
    let fewer = policy(&rig, every(5, 20));
    cycle(&rig, &fewer);
    exactly(&rig, [0, 13, 20].into_iter().chain(25..30), "every twentieth order now");
    cycle(&rig, &policy(&rig, every(5, 10)));
    exactly(&rig, [0, 13, 20].into_iter().chain(25..30), "what is gone does not come back");
    cycle(&rig, &policy(&rig, keep(5)));
    exactly(&rig, [13].into_iter().chain(25..30), "no kth order is kept any more");
}

/// O14: health and status ask for what is kept while the floor is being moved by a write that does not end.
#[test]
fn what_is_kept_is_told_while_the_floor_moves() {
    let (rig, faulty) = grown(30).faulty();
    let kept = policy(&rig, keep(5));
    kept.add_pin(pin("audit", 13, None)).unwrap();
    kept.set_consumer("indexer", order(20), Some(Duration::from_secs(60))).unwrap();
    passes(&rig, Duration::from_secs(61)); // it is silent
    let (told, writing) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let hold = Mutex::new(Some((told, released)));
    faulty.before_write(move || {
        if let Some((told, released)) = hold.lock().take() {
            told.send(()).unwrap();
            assert!(released.recv().is_err(), "nothing is ever sent: only the end of the test's hold counts");
        }
    });
    let (mover, asker) = (Arc::clone(&kept), Arc::clone(&kept));
    let moving = std::thread::Builder::new().spawn(move || mover.advance()).unwrap();
    writing.recv().unwrap();
    let (answer, answers) = mpsc::channel();
    let asking = std::thread::Builder::new().spawn(move || answer.send((asker.silent(), asker.status())).unwrap());
    let answered = answers.recv_timeout(Duration::from_secs(60)); // only one that waits takes longer
    drop(release);
    moving.join().unwrap().unwrap();
    asking.unwrap().join().unwrap();
    let (silent, status) = answered.expect("an answer before the floor has moved");
    assert_eq!(silent.unwrap(), ["indexer"]);
    let status = status.unwrap();
    assert_eq!((status.floor, status.pins.len(), status.consumers.len()), (0, 1, 1));
    assert_eq!((status.head, rig.chain.floor()), (29, order(25)));
    kept.remove_consumer("indexer").unwrap();
    kept.remove_pin("audit").unwrap();
    let status = kept.status().unwrap();
    assert_eq!((status.floor, status.pins.len(), status.consumers.len()), (25, 0, 0), "what changed is shown");
    assert!(kept.silent().unwrap().is_empty());
}

/// L4: what a reader holds below the floor is shown with its owner and age, told when it is too old, and let go if that is
/// wanted: it reads "pruned" then, and what it had read was right.
#[test]
fn a_long_lived_reader_is_named_and_bounded() {
    for then in [OldReaders::Report, OldReaders::LetGo] {
        let rig = grown(30);
        let kept = LiveRetention::new(rig.retention_parts(Some(keep(5))));
        let limit = ReaderLimit { max_age: Some(Duration::from_secs(60)), then };
        let kept = Arc::new(kept.limiting_readers(limit));
        let [old, new] = [13, 29].map(|at| rig.chain.store.pin(order(at), &format!("export {at}")).unwrap());
        let states = || kept.readers().into_iter().map(|reader| (reader.order, reader.state)).collect::<Vec<_>>();
        assert_eq!(states(), [(13, ReaderState::InWindow), (29, ReaderState::InWindow)]);
        cycle(&rig, &kept);
        assert_eq!(states(), [(13, ReaderState::Below), (29, ReaderState::InWindow)]);
        rig.clock.advance(Duration::from_secs(61));
        assert_eq!(states(), [(13, ReaderState::TooOld), (29, ReaderState::InWindow)]);
        let shown = &kept.status().unwrap().readers[0];
        assert_eq!((shown.owner.as_str(), shown.since_order, shown.age_ms), ("export 13", 29, 61_000));
        assert_eq!(
            shown.to_string(),
            "export 13 holds order 13 since order 29, for 61 s, 61 s of them without anybody else"
        );
        let read = || {
            let reader = ViewReader(rig.chain.store.view().unwrap());
            let read = |path: &Vec<_>| get(old.root(), path, &reader).map(|found| (path.clone(), found));
            paths(Profile::Tables).iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        let before = read().unwrap();
        cycle(&rig, &kept);
        let window = rig.chain.archive.live((25..30).map(order));
        let held = rig.chain.archive.live([order(13)]);
        match then {
            OldReaders::Report => {
                assert_eq!(check::present(&rig.chain.store), &window | &held, "it stays, and is told");
                old.check().unwrap();
                assert_eq!(read().unwrap(), before);
                assert_eq!(states()[0], (13, ReaderState::TooOld));
            }
            OldReaders::LetGo => {
                assert_eq!(check::present(&rig.chain.store), window, "what only it held is gone");
                assert!(read().is_err(), "what is gone is no absence");
                let pruned = old.check().unwrap_err();
                assert!(matches!(pruned, StoreError::Pruned { floor, .. } if floor == order(25)), "{pruned}");
                assert_eq!(states(), [(29, ReaderState::InWindow)]);
            }
        }
        new.check().unwrap();
        drop((old, new));
        assert!(kept.readers().is_empty());
    }
}

/// L4: what is retained costs nothing by being read, so its readers are never too old, and their time begins when it leaves.
#[test]
fn a_reader_of_a_retained_order_is_never_too_old_and_its_time_begins_when_that_leaves() {
    let rig = grown(30);
    let parts = rig.retention_parts(Some(every(5, 10)));
    let limit = ReaderLimit { max_age: Some(Duration::from_secs(60)), then: OldReaders::LetGo };
    let kept = LiveRetention::new(parts).limiting_readers(limit);
    kept.add_pin(pin("audit", 13, None)).unwrap();
    let readers = [10, 13, 27].map(|at| rig.chain.store.pin(order(at), "export").unwrap());
    let states = || {
        kept.advance().unwrap();
        kept.readers().into_iter().map(|reader| (reader.state, reader.alone_ms)).collect::<Vec<_>>()
    };
    let (is_kept, in_window) = ((ReaderState::Kept, None), (ReaderState::InWindow, None));
    assert_eq!(states(), [is_kept, is_kept, in_window]);
    rig.clock.advance(Duration::from_secs(3_600));
    assert_eq!(states(), [is_kept, is_kept, in_window], "however long");

    kept.remove_pin("audit").unwrap();
    let below = |seconds: u64| (ReaderState::Below, Some(seconds * 1_000));
    assert_eq!(states(), [is_kept, below(0), in_window], "its time begins now");
    rig.chain.grow(Profile::Tables, 63, 5);
    assert_eq!(states(), [is_kept, below(0), below(0)]);
    rig.clock.advance(Duration::from_secs(60));
    assert_eq!(states(), [is_kept, below(60), below(60)]);
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(states(), [is_kept], "the others are let go");
    readers[0].check().unwrap();
    assert!(readers[1..].iter().all(|reader| reader.check().is_err()));
}

#[test]
fn whether_a_window_of_time_is_full_is_not_said_while_its_first_block_cannot_be_read() {
    let (rig, faulty) = Rig::new_faulty();
    rig.chain.grow(Profile::Tables, 61, 8);
    let kept = policy(&rig, KeepPolicy { time: Some(Duration::from_secs(20)), ..keep(2) });
    faulty.inject(Operation::ReadRow, 0, Fault::Transient, Lasting::Once);
    assert_eq!(kept.is_filling().unwrap_err().code(), "io");
    assert!(kept.is_filling().unwrap(), "it is asked for again");
    faulty.inject(Operation::ReadRow, 0, Fault::Transient, Lasting::Once);
    assert!(kept.is_filling().unwrap(), "and no more once it is known");
}

/// A clock that tells when another thread than the first reads it.
#[derive(Debug)]
struct Read {
    inner: Arc<dyn Clock>,
    by_second: mpsc::Sender<()>,
}

impl Clock for Read {
    fn monotonic(&self) -> Duration {
        if std::thread::current().name() == Some("second") {
            self.by_second.send(()).unwrap();
        }
        self.inner.monotonic()
    }

    fn unix_ms(&self) -> u64 {
        self.inner.unix_ms()
    }
}

/// O14: whoever waited for the one who reads the records has the answer by then.
#[test]
fn two_who_ask_at_once_what_is_kept_read_the_records_once() {
    let rig = grown(3);
    let ((by_second, waits), (begun, begins)) = (mpsc::channel(), mpsc::channel());
    let parts = rig.retention_parts(Some(keep(2)));
    let (waits, reads) = (Mutex::new(waits), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&reads);
    let records = Acting::over(Arc::clone(&parts.records), move |_, key| {
        if key == RecordKey::Holds {
            counted.fetch_add(1, Ordering::AcqRel);
            begun.send(()).unwrap();
            waits.lock().recv().unwrap(); // the second has seen that nothing is known yet, and waits
        }
        Ok(())
    });
    let clock = Arc::new(Read { inner: Arc::clone(&parts.clock), by_second });
    let retention = LiveRetention::new(RetentionParts { records, clock, ..parts });
    let silent = || assert_eq!(retention.silent().unwrap(), [""; 0]);
    std::thread::scope(|scope| {
        scope.spawn(silent);
        begins.recv().unwrap();
        std::thread::Builder::new().name("second".to_owned()).spawn_scoped(scope, silent).unwrap();
    });
    assert_eq!(reads.load(Ordering::Acquire), 1);
}

/// S13: a chain younger than its window by time has nothing to delete, so no cycle begins by itself, and none is late.
#[test]
fn a_chain_younger_than_its_window_begins_no_cycle_by_itself() {
    let rig = grown(8); // a second of chain time each
    let kept = policy(&rig, KeepPolicy { time: Some(Duration::from_secs(20)), ..keep(2) });
    assert!(kept.is_filling().unwrap() && !policy(&rig, keep(2)).is_filling().unwrap());
    let config = PrunerConfig { every_orders: NonZeroU64::MIN, ..rig.plan(2).pruner_of_cycles() };
    let pruner = Pruner::start_under(rig.pruner_parts(&Hooks::none()), config, Arc::clone(&kept) as _).unwrap();
    let mut workload = Workload::new(Profile::Tables, 62);
    while kept.is_filling().unwrap() {
        pruner.committed(rig.chain.head());
        let orders = pruner.status().triggers.triggers.into_iter().find(|of| of.trigger == Trigger::Orders).unwrap();
        let held = [HeldBy::ShortChain, HeldBy::Running]; // the look at what an earlier process left
        assert!(held.map(|by| TriggerState::Held { by }).contains(&orders.standing), "{:?}", orders.standing);
        assert_eq!(pruner.health().verdict, Verdict::Healthy, "{:?}", pruner.health());
        assert_eq!(pruner.status().cycles_finished, 0);
        rig.chain.run(&mut workload, 1);
    }
    assert_eq!(rig.chain.head(), order(21), "one order is older than the window");
    pruner.committed(rig.chain.head());
    while pruner.status().cycles_finished == 0 {
        std::thread::yield_now();
    }
    drop(pruner);
    exactly(&rig, 1..22, "the first cycle came when there was something to delete");
}

/// Whoever keeps an order is told with it, readers beside a pin by name included.
#[test]
fn everybody_who_keeps_an_order_is_named() {
    let rig = grown(30);
    let kept = policy(&rig, every(5, 10));
    kept.add_pin(pin("audit", 13, None)).unwrap();
    let pins = [12, 13, 20, 13].map(|at| rig.chain.store.pin(order(at), &format!("reader {at}")).unwrap());
    kept.advance().unwrap();
    let named: Vec<(u64, KeptBy)> = retained(&*kept, &rig.chain.store)
        .unwrap()
        .pins
        .into_iter()
        .map(|root| (root.order.get(), root.kept_by))
        .collect();
    let by = |names: &str| KeptBy::Pin(names.to_owned());
    let audit = "audit of a test, reader 13 since order 29, reader 13 since order 29";
    let expected = [
        (0, KeptBy::Every),
        (10, KeptBy::Every),
        (12, by("reader 12 since order 29")),
        (13, by(audit)),
        (20, KeptBy::Every),
    ];
    assert_eq!(named, expected);
    let Explanation::Order(told) = kept.explain(Asked::Order(order(13)), &RoochLayout, 1).unwrap() else { panic!() };
    assert_eq!(told.to_string().matches("reader 13").count(), 2, "{told}");
    kept.remove_pin("audit").unwrap();
    let leaving = retained(&*kept, &rig.chain.store).unwrap().pins;
    let readers = "reader 13 since order 29, reader 13 since order 29";
    assert!(leaving.iter().any(|root| root.kept_by == by(readers)), "{leaving:?}");
    drop(pins);
}

/// A round under the policy of at most so many slices of a few nodes each.
fn slices(rig: &Rig, kept: &Arc<LiveRetention>, most: u64) -> Round {
    let (env, plan) = under(rig, kept, &Hooks::none());
    let (few, mut left) = (NonZeroUsize::new(8).unwrap(), most);
    let mut between = |_: &SliceReport| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(few) }
    };
    IncrementalSweep::default().round(&env, &plan.config.state_dir, few, &mut between).unwrap()
}

/// Where a rig stands when its policy changes: at rest, after some slices of what its window has lost, and at each moment of
/// a cycle.
fn at_each_moment(last: KeepPolicy, mut then: impl FnMut(Rig, &str)) {
    let base = grown(30);
    base.chain.grow(Profile::Tables, 62, 1);
    cycle(&base, &policy(&base, last));
    base.chain.grow(Profile::Tables, 63, 12);
    then(base.twin(), "idle");
    for most in 1.. {
        let rig = base.twin();
        rig.chain.store.index_journal(&|| true).unwrap();
        let round = slices(&rig, &policy(&rig, last), most);
        then(rig.restart(), &format!("stopped after {most} slices"));
        if round.end != RoundEnd::Paused {
            assert!(round.end == RoundEnd::Done && round.nodes > 10, "no slice ends inside its entries: {round:?}");
            break;
        }
    }
    for at in 0.. {
        let rig = base.twin();
        let (stop, moments) = (Arc::new(Mutex::new(None::<Arc<state_pruner::Control>>)), Arc::new(Mutex::new(0)));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&moments));
        let hooks = Hooks::new(move |_: Moment| {
            let now = std::mem::replace(&mut *counted.lock(), 0);
            if now == at
                && let Some(control) = told.lock().as_ref()
            {
                control.stop();
            }
            *counted.lock() = now + 1;
        });
        let kept = policy(&rig, last);
        let (env, plan) = under(&rig, &kept, &hooks);
        *stop.lock() = Some(Arc::clone(&env.control));
        let plan = plan.in_order().batches(200);
        let ran = plan.run(&env);
        drop((env, kept));
        if *moments.lock() <= at {
            assert!(ran.is_ok() && at > 3, "the cycle has no moment inside");
            return;
        }
        assert!(matches!(ran, Err(PruneError::Stopped) | Ok(_)), "{ran:?}");
        then(rig.restart(), &format!("stopped at moment {at}"));
    }
}

/// Goes on under another policy, as a node does that starts again: the interrupted cycle is looked at first.
fn go_on(rig: &Rig, kept: &Arc<LiveRetention>) {
    let (env, plan) = under(rig, kept, &Hooks::none());
    plan.resume(&env).unwrap();
    rig.chain.store.index_journal(&|| true).unwrap();
    slices(rig, kept, u64::MAX);
    check::complete(&rig.chain, "swept on under another policy");
    plan.run(&env).unwrap();
}

#[test]
fn widening_the_window_in_each_phase() {
    at_each_moment(keep(5), |rig, context| {
        let floor = rig.chain.floor();
        let wide = policy(&rig, keep(40));
        go_on(&rig, &wide);
        assert_eq!(rig.chain.floor(), floor, "{context}: what is in effect is what is left");
        exactly(&rig, floor.get()..43, context);
        let status = wide.status().unwrap();
        let winner = status.winner.unwrap();
        assert_eq!((winner.by, winner.from), (Bound::Last { orders: 40 }, 3), "{context}");
        assert_eq!(status.gone_already, Some(floor.get() - 3), "{context}: it says which part of the window is gone");
        let Explanation::Order(gone) = wide.explain(Asked::Order(order(3)), &RoochLayout, 1).unwrap() else {
            panic!("an order was asked for")
        };
        assert!(matches!(gone.standing, Standing::Pruned { .. }), "{context}: {gone:?}");
        rig.chain.grow(Profile::Tables, 64, 20);
        go_on(&rig, &wide);
        exactly(&rig, floor.get().max(23)..63, &format!("{context}: the window has filled"));
    });
}

#[test]
fn narrowing_the_window_in_each_phase() {
    at_each_moment(keep(20), |rig, context| {
        let floor = rig.chain.floor().get();
        let narrow = policy(&rig, keep(3));
        narrow.add_pin(pin("audit", floor + 2, None)).unwrap();
        narrow.set_consumer("indexer", order(37), None).unwrap();
        let (env, plan) = under(&rig, &narrow, &Hooks::none());
        plan.resume(&env).unwrap();
        narrow.advance().unwrap();
        assert_eq!(rig.chain.floor(), order(37), "{context}: the floor moves first");
        plan.run(&env).unwrap();
        exactly(&rig, [floor + 2].into_iter().chain(37..43), context);
        narrow.remove_consumer("indexer").unwrap();
        go_on(&rig, &narrow);
        exactly(&rig, [floor + 2].into_iter().chain(40..43), &format!("{context}: nobody else needs more"));
    });
}

/// C9 for every part of the policy: a sweep that was interrupted does not go on under another one.
#[test]
fn a_change_of_any_part_of_the_policy_in_each_phase() {
    let time = KeepPolicy { time: Some(Duration::from_millis(3)), ..every(5, 10) };
    for other in [every(5, 7), time] {
        at_each_moment(every(5, 10), |rig, context| {
            let (before, (env, plan)) = (rig.chain.floor().get(), under(&rig, &policy(&rig, other), &Hooks::none()));
            assert!(plan.resume(&env).unwrap().is_none(), "{context}: went on under {other:?}");
            rig.chain.store.index_journal(&|| true).unwrap();
            slices(&rig, &policy(&rig, other), u64::MAX);
            check::complete(&rig.chain, &format!("{context}: swept on under {other:?}"));
            plan.run(&env).unwrap();
            let window = rig.chain.floor().get()..43;
            let single = (0..window.start).filter(|at| at.is_multiple_of(10) || *at >= before);
            let single = single.filter(|at| other.every.is_some_and(|every| at.is_multiple_of(every.get())));
            exactly(&rig, single.chain(window), &format!("{context} {other:?}"));
        });
    }
    at_each_moment(every(5, 10), |rig, context| {
        go_on(&rig, &policy(&rig, every(5, 10)));
        exactly(&rig, [0, 10, 20, 30].into_iter().chain(38..43), &format!("{context}: the same one goes on"));
    });
}

/// C16: the wall clock steps, or the machine sleeps, between any two slices of a sweep of the journal, or a process ends there
/// and the clock of the next one is behind. The floor, what goes, and what is kept for a time are what they are without.
#[test]
fn clock_jump_between_any_two_slices() {
    type Jump = (&'static str, fn(&Rig));
    const NOON: u64 = 1_000_000_000;
    let hour = Duration::from_secs(3600);
    let bounds = KeepPolicy { time: Some(Duration::from_secs(4)), ..every(3, 10) };
    let base = grown(30);
    base.clock.set_unix_ms(NOON);
    cycle(&base, &policy(&base, bounds));
    base.chain.grow(Profile::Tables, 63, 12);
    let jumps: [Jump; 4] = [
        ("back", |rig| rig.clock.set_unix_ms(0)),
        ("back, and a restart", |rig| rig.clock.set_unix_ms(0)),
        ("forward", |rig| rig.clock.set_unix_ms(u64::MAX)),
        ("a sleep of most of the hour", |rig| passes(rig, Duration::from_secs(3500))),
    ];
    for ((jump, step), at) in jumps.into_iter().flat_map(|jump| (0..4).map(move |at| (jump, at))) {
        let (context, restarts) = (format!("{jump} after slice {at}"), jump.ends_with("restart"));
        let mut rig = base.twin();
        rig.clock.set_unix_ms(NOON);
        rig.chain.store.index_journal(&|| true).unwrap();
        let mut kept = policy(&rig, bounds);
        kept.add_pin(pin("audit", 33, Some(hour))).unwrap();
        kept.set_consumer("indexer", order(36), Some(hour)).unwrap();
        let (env, plan) = under(&rig, &kept, &Hooks::none());
        let (few, mut taken) = (NonZeroUsize::new(8).unwrap(), 0);
        let mut between = |_: &SliceReport| {
            taken += 1;
            if taken == at + 1 {
                step(&rig);
            }
            if restarts && taken > at { ControlFlow::Break(()) } else { ControlFlow::Continue(few) }
        };
        let round = IncrementalSweep::default().round(&env, &plan.config.state_dir, few, &mut between).unwrap();
        let end = if restarts { RoundEnd::Paused } else { RoundEnd::Done };
        assert!(round.end == end && taken > at, "{context}: {round:?}");
        drop(env);
        if restarts {
            drop(kept);
            rig = rig.restart();
            rig.chain.store.index_journal(&|| true).unwrap();
            kept = policy(&rig, bounds);
            assert_eq!(slices(&rig, &kept, u64::MAX).end, RoundEnd::Done, "{context}");
        }
        assert_eq!(rig.chain.store.lag().map(|lag| lag.nodes), Some(0), "{context}");
        check::complete(&rig.chain, &context);
        cycle(&rig, &kept);
        assert!(kept.silent().unwrap().is_empty(), "{context}");
        exactly(&rig, [0, 10, 20, 30, 33].into_iter().chain(36..42), &context);
    }
}

/// A node with its pruner disabled has no bounds: nothing moves, nothing goes, pins are kept; what is enabled again finds
/// the floor where it was.
#[test]
fn disabling_and_enabling_in_each_phase() {
    at_each_moment(every(5, 10), |rig, context| {
        let (floor, before) = (rig.chain.floor(), readable(&rig));
        // Its commits are not journalled, and no entry from before may be trusted when it is enabled again.
        let rig = rig.reopened_with(StoreConfig { journal: false, ..STORE });
        let idle = LiveRetention::new(rig.retention_parts(None));
        idle.add_pin(pin("audit", 41, None)).unwrap();
        rig.chain.grow(Profile::Tables, 68, 20);
        idle.advance().unwrap();
        assert!(rig.chain.floor() == floor && readable(&rig).is_superset(&before), "{context}");
        let why = idle.explain(Asked::Order(order(39)), &RoochLayout, 1).unwrap().to_string();
        assert!(why.contains("no policy is in force"), "{context}: {why}");
        drop(idle);
        let rig = rig.twin();
        assert!(!rig.chain.store.counts_are_settled(), "{context}: there is a gap");
        go_on(&rig, &policy(&rig, every(5, 10)));
        exactly(&rig, [0, 10, 20, 30, 40, 41, 50].into_iter().chain(58..63), context);
    });
}

#[test]
fn a_policy_that_comes_late_to_an_old_store_begins_with_its_whole_history() {
    let rig = grown(60);
    let late = policy(&rig, every(7, 25));
    late.add_pin(pin("first", 1, None)).unwrap();
    assert_eq!(late.status().unwrap().gone_already, Some(0));
    cycle(&rig, &late);
    exactly(&rig, [0, 1, 25, 50].into_iter().chain(53..60), "enabled late");
}

/// What a node keeps below its window is neither missing nor leaked for whoever looks from outside.
#[test]
fn a_look_from_outside_counts_the_orders_kept_below_the_window_as_live() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Tables, 69, 30);
    let kept = policy(&rig, every(5, 10));
    let live = cycle(&rig, &kept).certificate.live_nodes;
    drop(kept);
    let rest = rig.rest();
    let report = offline::verify(&rest.store_dir(), StoreLayout::Native, 5).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.live_nodes, report.present_nodes, report.roots), (Some(live), Some(live), 8));
    let asked = |what: &str| {
        let clock = Arc::new(state_pruner::ManualClock::default());
        state_pruner::offline::explain(&rest.store_dir(), what.parse().unwrap(), 1, clock).unwrap().to_string()
    };
    assert!(asked("10").contains("one of every 10"), "{}", asked("10"));
    assert!(asked("11").contains("pruned"), "{}", asked("11"));
}

/// Nobody speaks to who looks on: what is silent by the record is told to be. A node that starts waits for it, if it still may.
#[test]
fn a_look_from_outside_tells_who_is_silent_and_a_start_waits_only_for_whom_it_can_still_serve() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Tables, 69, 30);
    rig.clock.set_unix_ms(1_000_000);
    let kept = policy(&rig, keep(4));
    let hour = Some(Duration::from_secs(3_600));
    kept.set_consumer("behind", order(20), hour).unwrap();
    kept.set_consumer("gone", order(10), hour).unwrap();
    kept.remove_consumer("gone").unwrap();
    passes(&rig, Duration::from_secs(3_601));
    let silent = || {
        let clock = Arc::clone(&rig.clock) as Arc<dyn Clock>;
        let consumers = state_pruner::offline::retention(&rig.store_dir(), clock).unwrap().consumers;
        consumers.into_iter().map(|told| told.silent).collect::<Vec<bool>>()
    };
    assert_eq!((kept.silent().unwrap(), silent()), (vec!["behind".to_owned()], vec![true]));
    let again = policy(&rig, keep(4));
    assert_eq!((again.silent().unwrap(), silent()), (vec![], vec![true]));
    kept.advance().unwrap();
    assert_eq!(rig.chain.floor(), order(26), "over what it needed");
    let later = policy(&rig, keep(4));
    assert_eq!(later.silent().unwrap(), ["behind"], "it could set no watermark there");
}

#[test]
fn disabling_one_consumer_never_freezes_the_cutoff() {
    let rig = grown(30);
    let kept = policy(&rig, keep(4));
    let hour = Some(Duration::from_secs(3600));
    kept.set_consumer("slow", order(7), hour).unwrap();
    kept.set_consumer("ahead", order(1000), hour).unwrap();
    kept.set_consumer("near", order(20), hour).unwrap();
    kept.advance().unwrap();
    assert_eq!(rig.chain.floor(), order(7), "the slowest one is waited for");
    assert_eq!(kept.status().unwrap().winner.unwrap().by, Bound::Consumer { name: "slow".to_owned() });

    passes(&rig, Duration::from_secs(3600));
    let silent: Vec<bool> = kept.status().unwrap().consumers.iter().map(|consumer| consumer.silent).collect();
    assert_eq!(silent, [true, true, true], "silence is told");
    let mut at_risk = kept.silent().unwrap();
    at_risk.sort();
    assert_eq!(at_risk, ["near", "slow"], "of the one ahead of the head nothing is there that may go");
    kept.set_consumer("near", order(20), hour).unwrap();
    kept.advance().unwrap();
    assert_eq!(rig.chain.floor(), order(20), "and is not waited for");
    let late = kept.set_consumer("slow", order(8), hour);
    assert!(matches!(late, Err(PruneError::Store(StoreError::Pruned { floor, .. })) if floor == order(20)));
    kept.set_consumer("slow", order(21), hour).unwrap();
    kept.remove_consumer("near").unwrap();
    kept.advance().unwrap();
    assert_eq!(rig.chain.floor(), order(21), "one that is removed asks for nothing");
    kept.remove_consumer("slow").unwrap();
    kept.set_consumer("ahead", order(1000), hour).unwrap();
    kept.advance().unwrap();
    assert_eq!(rig.chain.floor(), order(26), "one that is ahead of the head asks for nothing that is there");
    rig.clock.set_unix_ms(0); // and a clock that steps back wakes nobody to what is gone
    kept.advance().unwrap();
    assert_eq!(rig.chain.floor(), order(26));
    cycle(&rig, &kept);
    exactly(&rig, 26..30, "the last four");
}

#[test]
fn a_pin_is_refused_for_what_is_gone_and_goes_only_when_its_time_is_over() {
    let rig = grown(30);
    let kept = policy(&rig, keep(4));
    rig.clock.set_unix_ms(1_000_000);
    kept.add_pin(pin("short", 9, Some(Duration::from_secs(10)))).unwrap();
    kept.advance().unwrap();
    let gone = kept.add_pin(pin("late", 10, None)).unwrap_err();
    assert!(matches!(&gone, PruneError::Store(StoreError::Pruned { floor, .. }) if *floor == order(26)), "{gone}");
    assert!(gone.to_string().contains("26"), "{gone}");
    let never = kept.add_pin(pin("early", 30, None));
    assert!(matches!(never, Err(PruneError::Store(StoreError::NoSuchOrder { .. }))));
    kept.add_pin(pin("also", 9, None)).unwrap();
    kept.remove_pin("also").unwrap();
    for at_ms in [1_009_999, 0, 1_009_999] {
        rig.clock.set_unix_ms(at_ms);
        kept.advance().unwrap();
        assert!(rig.chain.store.root(order(9)).is_ok(), "at {at_ms}");
    }
    rig.clock.set_unix_ms(u64::MAX); // a wrong reading of the wall clock alone
    kept.advance().unwrap();
    assert_eq!(kept.status().unwrap().pins[0].state, PinState::Kept, "its time has not passed");
    rig.clock.set_unix_ms(1_000_000);
    passes(&rig, Duration::from_secs(10));
    assert_eq!(kept.status().unwrap().pins[0].state, PinState::Expired, "shown, and still kept");
    assert!(rig.chain.store.root(order(9)).is_ok(), "only the pruner lets it go");
    kept.advance().unwrap();
    let status = kept.status().unwrap();
    assert_eq!((status.pins.len(), status.expired_pins[0].name.as_str()), (0, "short"));
    assert!(matches!(rig.chain.store.root(order(9)), Err(StoreError::Pruned { .. })));
    let restarted = policy(&rig, keep(4));
    assert!(restarted.status().unwrap().pins.is_empty(), "durably");
    cycle(&rig, &kept);
    exactly(&rig, 26..30, "and its state goes with the next cycle");
}

/// A process that begins knows only what its wall clock says; how much of a pin's time was left then has to pass in it, too.
#[test]
fn over_a_restart_a_pin_lasts_for_what_is_left_of_its_time_and_a_consumer_has_its_own_again() {
    let rig = grown(30);
    rig.clock.set_unix_ms(1_000_000);
    let ten = Some(Duration::from_secs(10));
    let kept = policy(&rig, keep(4));
    kept.add_pin(pin("short", 9, ten)).unwrap();
    kept.set_consumer("indexer", order(20), ten).unwrap();
    passes(&rig, Duration::from_secs(6));
    let stand = |kept: &LiveRetention| {
        kept.advance_under(Durability::Synced).unwrap();
        (kept.status().unwrap().pins.len(), kept.silent().unwrap().len())
    };
    let restarted = policy(&rig, keep(4));
    assert_eq!(stand(&restarted), (1, 0));
    rig.clock.set_unix_ms(u64::MAX);
    assert_eq!(stand(&restarted), (1, 0), "a step of the clock after the start ends nothing");
    rig.clock.set_unix_ms(1_006_000);
    passes(&rig, Duration::from_millis(3_999));
    assert_eq!(stand(&restarted), (1, 0));
    passes(&rig, Duration::from_millis(1));
    assert_eq!(stand(&restarted), (0, 0), "it had nobody to speak to while the node was down");
    passes(&rig, Duration::from_millis(5_999));
    assert_eq!(stand(&restarted), (0, 0));
    passes(&rig, Duration::from_millis(1));
    assert_eq!(stand(&restarted), (0, 1), "their time is over");
    let later = policy(&rig, keep(4));
    later.set_consumer("daily", order(29), Some(Duration::from_secs(86_400))).unwrap();
    passes(&rig, Duration::from_secs(86_399));
    let last = policy(&rig, keep(4));
    assert!(!last.silent().unwrap().contains(&"daily".to_owned()));
    passes(&rig, Duration::from_secs(3_599));
    assert!(!last.silent().unwrap().contains(&"daily".to_owned()));
    passes(&rig, Duration::from_secs(1));
    assert!(last.silent().unwrap().contains(&"daily".to_owned()), "an hour at most");
}

/// C16: what was written by a clock that was far ahead holds nothing for ever.
#[test]
fn a_time_that_began_in_the_future_lasts_as_long_as_it_says() {
    let rig = grown(30);
    rig.clock.set_unix_ms(9_000_000_000);
    let ten = Some(Duration::from_secs(10));
    let kept = policy(&rig, keep(4));
    kept.add_pin(pin("short", 9, ten)).unwrap();
    kept.set_consumer("indexer", order(20), ten).unwrap();
    drop(kept);
    rig.clock.set_unix_ms(1_000_000);
    let kept = policy(&rig, keep(4));
    let stand = || {
        kept.advance_under(Durability::Synced).unwrap();
        (kept.status().unwrap().pins.len(), kept.silent().unwrap().len(), rig.chain.floor().get())
    };
    assert_eq!(stand(), (1, 0, 20));
    passes(&rig, Duration::from_millis(9_999));
    assert_eq!(stand(), (1, 0, 20));
    passes(&rig, Duration::from_millis(1));
    assert_eq!(stand(), (0, 1, 26));
}

/// O9: what is said twice is said the same, before anything begins.
#[test]
fn a_pruner_whose_policy_keeps_another_number_of_orders_does_not_start() {
    let rig = grown(30);
    let kept = policy(&rig, keep(4));
    let config = rig.plan(5).pruner();
    let error = Pruner::start_under(rig.pruner_parts(&Hooks::none()), config, kept as _).unwrap_err();
    assert!(matches!(error, PruneError::TwoWindows(5, 4)), "{error}");
}

/// It would let go of what they keep; who knows of them and finds that they have ended may say so.
#[test]
fn a_pruner_with_a_window_alone_does_not_start_where_pins_or_consumers_are_on_record() {
    let rig = grown(30);
    let start = || Pruner::start(rig.pruner_parts(&Hooks::none()), rig.plan(4).pruner());
    let kept = policy(&rig, keep(4));
    kept.add_pin(pin("audit", 28, None)).unwrap();
    kept.set_consumer("indexer", order(27), None).unwrap();
    let refused = start().unwrap_err();
    assert!(
        matches!(&refused, PruneError::HeldByName(named) if named == "pin `audit`, consumer `indexer`"),
        "{refused}"
    );
    kept.remove_pin("audit").unwrap();
    assert!(matches!(start(), Err(PruneError::HeldByName(_))));
    kept.remove_consumer("indexer").unwrap();
    drop(start().unwrap());
    StoreRecords(Arc::clone(&rig.chain.store)).save(RecordKey::Holds, b"torn").unwrap();
    assert!(
        matches!(start(), Err(PruneError::Store(StoreError::Record { .. }))),
        "nobody knows what it would let go of"
    );
}

/// A consumer speaks with each block, and the disk is not waited for each time; what a power cut takes of that keeps more.
#[test]
fn only_a_consumer_that_goes_on_may_be_set_back_by_a_power_cut() {
    let rig = Rig::new(Engine::Memory).behind_faults();
    rig.chain.grow(Profile::Uniform, 169, 30);
    let kept = policy(&rig, keep(4));
    let (hour, day) = (Some(Duration::from_secs(3_600)), Some(Duration::from_secs(86_400)));
    for (name, at, ttl) in [("a", 20, hour), ("b", 22, hour), ("b", 19, hour), ("c", 21, hour), ("c", 25, day)] {
        kept.set_consumer(name, order(at), ttl).unwrap();
    }
    kept.set_consumer("a", order(26), hour).unwrap();
    let known = |kept: &LiveRetention| -> Vec<(String, u64)> {
        let consumers = kept.status().unwrap().consumers.into_iter();
        consumers.map(|told| (told.consumer.name, told.consumer.order)).collect()
    };
    let expected = |a| [("a", a), ("b", 19), ("c", 25)].map(|(name, at)| (name.to_owned(), at));
    assert_eq!(known(&kept), expected(26));
    drop(kept);
    let rig = rig.crash(CrashTail::Lost);
    let kept = policy(&rig, keep(4));
    assert_eq!(known(&kept), expected(20));
    passes(&rig, Duration::from_secs(3_601));
    assert!(kept.silent().unwrap().contains(&"a".to_owned()));
    kept.set_consumer("a", order(27), hour).unwrap();
    drop(kept);
    let rig = rig.crash(CrashTail::Lost);
    let kept = policy(&rig, keep(4));
    assert_eq!((known(&kept), kept.silent().unwrap().contains(&"a".to_owned())), (expected(27).to_vec(), false));
}

#[test]
fn the_window_is_what_either_number_or_time_asks_for_and_its_end_is_found_by_few_reads() {
    let base = Rig::new(Engine::Memory);
    base.chain.grow(Profile::Uniform, 65, 400);
    let view = base.chain.store.view().unwrap();
    let times: Vec<u64> =
        (0..400).map(|at| state_store::NativeChain.record(&*view, order(at)).unwrap().unwrap().timestamp_ms).collect();
    assert!(times.is_sorted() && times[0] < times[399], "chain time goes on: {times:?}");
    for (last, time) in [(1, 0), (1, 1), (10, 30_000), (300, 30_000), (1, times[399] / 2), (1, u64::MAX)] {
        let (rig, faulty) = base.faulty();
        let kept = policy(&rig, KeepPolicy { time: Some(Duration::from_millis(time)), ..keep(last) });
        let before = faulty.reads();
        kept.advance_under(Durability::Logged).unwrap();
        let oldest = times[399].saturating_sub(time);
        let of_time = times.iter().position(|at| *at >= oldest).unwrap() as u64;
        assert_eq!(rig.chain.floor().get(), of_time.min(400 - last), "last {last} or {time} ms");
        assert!(faulty.reads() - before < 30, "{} reads", faulty.reads() - before);
        let (reads, writes) = (faulty.reads(), faulty.writes());
        kept.advance_under(Durability::Logged).unwrap();
        assert!(faulty.reads() - reads <= 1 && faulty.writes() == writes, "nothing moves, and nothing is written");
    }
}

#[test]
fn explain_names_the_bound_that_keeps_each_root() {
    let rig = grown(30);
    rig.clock.set_unix_ms(5_000);
    let kept = policy(&rig, every(4, 10));
    kept.add_pin(pin("audit", 13, None)).unwrap();
    kept.set_consumer("indexer", order(24), None).unwrap();
    cycle(&rig, &kept);
    let standing = |at: u64| match kept.explain(Asked::Order(order(at)), &RoochLayout, 10).unwrap() {
        Explanation::Order(explained) => explained.standing,
        Explanation::Hash(hash) => panic!("{hash}"),
    };
    let reasons = |at: u64| match standing(at) {
        Standing::Kept { reasons, .. } => reasons,
        other => panic!("order {at}: {other:?}"),
    };
    let consumer =
        |why: &Why| matches!(why, Why::Asked(ask) if ask.by == Bound::Consumer { name: "indexer".to_owned() });
    let last = |why: &Why| matches!(why, Why::Asked(ask) if ask.by == Bound::Last { orders: 4 });
    assert!(matches!(&reasons(29)[..], [Why::Head, a, b] if last(a) && consumer(b)));
    assert!(matches!(&reasons(24)[..], [why] if consumer(why)));
    assert!(matches!(&reasons(20)[..], [Why::Every { orders: 10 }]));
    let made = |at: u64| match kept.explain(Asked::Order(order(at)), &RoochLayout, 10).unwrap() {
        Explanation::Order(explained) => explained.timestamp_ms,
        Explanation::Hash(hash) => panic!("{hash}"),
    };
    assert_eq!([29, 20, 13, 14].map(made), [Some(29_000), Some(20_000), Some(13_000), None], "its row is kept with it");
    assert!(matches!(&reasons(13)[..], [Why::Pin(pin)] if (pin.name.as_str(), pin.since_ms) == ("audit", 5_000)));
    let Standing::Pruned { floor: 24, gone: Some(gone) } = standing(14) else { panic!("{:?}", standing(14)) };
    assert_eq!((gone.by_ms, gone.head), (5_000, 29), "since when, and at which head");
    assert_eq!(gone.by, [Cause::Consumer { name: "indexer".to_owned() }], "the lowest of the bounds");
    assert!(matches!(standing(30), Standing::NeverExisted { head: 29 }));

    let hash = |hash: NodeHash, limit: u64| match kept.explain(Asked::Hash(hash), &RoochLayout, limit).unwrap() {
        Explanation::Hash(explained) => explained,
        Explanation::Order(order) => panic!("{order}"),
    };
    let archive = &rig.chain.archive;
    let old = hash(archive.root(order(13)).hash(), 100_000);
    assert!(old.root_of.iter().any(|explained| explained.order == 13), "{old}");
    let only_old = archive.live([order(13)]);
    let young = archive.live((20..30).map(order).chain([order(0), order(10)]));
    let node = only_old.difference(&young).next().unwrap();
    let NodeStanding::Reached { order: 13, kept: by, .. } = hash(*node, 100_000).node else { panic!("it is kept") };
    assert!(
        matches!(&by.standing, Standing::Kept { reasons, .. } if matches!(&reasons[..], [Why::Pin { .. }])),
        "{by}"
    );
    assert!(matches!(hash(*node, 3).node, NodeStanding::NotFound { looked_at: 3, .. }), "and never guesses");
    let gone = kept.explain(Asked::Order(order(23)), &RoochLayout, 1).unwrap();
    let Explanation::Order(OrderExplained { standing: Standing::Pruned { gone, .. }, .. }) = gone else { panic!() };
    assert_eq!(hash(archive.root(order(14)).hash(), 10).node, NodeStanding::Absent { floor: 24, gone });
    kept.remove_pin("audit").unwrap();
    kept.advance().unwrap();
    assert!(matches!(hash(*node, 100_000).node, NodeStanding::Garbage { .. }), "there until the next cycle");

    // What is over keeps nothing, and is named as long as the order is there, and when it has gone.
    kept.add_pin(pin("short", 25, Some(Duration::from_secs(10)))).unwrap();
    passes(&rig, Duration::from_secs(25 * 3600)); // the consumer is silent after a day
    let [expired, silent, leaving] = &reasons(25)[..] else { panic!("{:?}", reasons(25)) };
    assert!(matches!(expired, Why::PinExpired(pin) if (pin.name.as_str(), pin.ttl_ms) == ("short", Some(10_000))));
    assert_eq!(*silent, Why::ConsumerSilent { name: "indexer".to_owned(), from: 24 });
    assert_eq!(*leaving, Why::Leaving { waits_for: Some(Standstill::Unknown) }, "no pruner is asked");
    assert_eq!(kept.status().unwrap().pins[0].state, PinState::Expired, "as the status says");
    kept.advance().unwrap();
    let gone = |kept: &LiveRetention, at: u64| match kept.explain(Asked::Order(order(at)), &RoochLayout, 1).unwrap() {
        Explanation::Order(OrderExplained { standing: Standing::Pruned { gone: Some(gone), .. }, .. }) => gone.by,
        other => panic!("{other}"),
    };
    let owner = || "a test".to_owned();
    let removed = Cause::PinRemoved { name: "audit".to_owned(), owner: owner() };
    let expired = Cause::PinExpired { name: "short".to_owned(), owner: owner() };
    let silent = Cause::ConsumerSilent { name: "indexer".to_owned(), order: 24 };
    let last = |orders| Cause::Last { orders };
    assert_eq!(gone(&kept, 13), [removed]);
    assert_eq!(gone(&kept, 24), [silent.clone(), last(4)]);
    assert_eq!(gone(&kept, 25), [expired, silent, last(4)]);
    let narrow = policy(&rig, every(2, 20)); // as a process that starts again
    narrow.set_consumer("late", order(26), None).unwrap();
    narrow.remove_consumer("late").unwrap();
    passes(&rig, Duration::from_secs(3_600)); // for so long the silent one is waited for again
    narrow.advance().unwrap();
    assert_eq!(gone(&narrow, 10), [Cause::Policy], "no longer one of every few");
    let late = Cause::ConsumerRemoved { name: "late".to_owned(), order: 26 };
    assert_eq!(gone(&narrow, 27), [Cause::Policy, late, last(2)]);
    assert_eq!(gone(&narrow, 25), gone(&kept, 25), "over a restart, too");
    let told = narrow.explain(Asked::Order(order(25)), &RoochLayout, 1).unwrap().to_string();
    let words = "pin `short` of a test expired; consumer `indexer` needed every order from 24 on, and was silent";
    assert!(told.contains(words), "{told}");
}

/// What an order waits for that nobody asks for.
fn leaving(explained: Result<Explanation, PruneError>) -> Option<Standstill> {
    match explained.unwrap() {
        Explanation::Order(OrderExplained { standing: Standing::Kept { reasons, .. }, .. }) => match &reasons[..] {
            [Why::Leaving { waits_for }] => waits_for.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other}"),
    }
}

/// As the pruner tells that moves the floor.
fn leaving_beside(pruner: &Pruner, kept: &LiveRetention, at: u64) -> Option<Standstill> {
    leaving(kept.explain_beside(pruner, Asked::Order(order(at)), (&RoochLayout, 1)))
}

/// What takes a node that is garbage, and what holds that back.
fn garbage(explained: Result<Explanation, PruneError>) -> (WaitsFor, Option<Standstill>) {
    match explained.unwrap() {
        Explanation::Hash(HashExplained { node: NodeStanding::Garbage { waits_for, held_by, .. }, .. }) => {
            (waits_for, held_by)
        }
        other => panic!("{other}"),
    }
}

/// As the pruner tells that deletes.
fn garbage_beside(pruner: &Pruner, kept: &LiveRetention, hash: NodeHash) -> (WaitsFor, Option<Standstill>) {
    garbage(kept.explain_beside(pruner, Asked::Hash(hash), (&RoochLayout, 100_000)))
}

/// A pruner under the policy that has looked at what was left.
fn start(parts: PrunerParts, config: PrunerConfig, kept: &Arc<LiveRetention>) -> Pruner {
    let pruner = Pruner::start_under(parts, config, Arc::clone(kept) as _).unwrap();
    while pruner.status().running {
        std::thread::yield_now();
    }
    pruner
}

/// An order that nobody asks for is there as long as the floor does not move, and why it does not is told.
#[test]
fn explain_names_what_the_floor_waits_for() {
    let rig = grown(30);
    let kept = policy(&rig, keep(4));
    let recorded = || leaving(kept.explain(Asked::Order(order(27)), &RoochLayout, 1));
    let control = Arc::new(Mutex::new(None::<Arc<state_pruner::Control>>));
    let of_cycle = Arc::clone(&control);
    let hooks = Hooks::new(move |moment| {
        if let (Moment::Deleting, Some(control)) = (moment, of_cycle.lock().as_ref()) {
            control.stop();
        }
    });
    let (env, plan) = under(&rig, &kept, &hooks);
    *control.lock() = Some(Arc::clone(&env.control));
    assert!(matches!(plan.run(&env), Err(PruneError::Stopped)));
    drop(env);
    rig.chain.grow(Profile::Tables, 62, 5);
    assert_eq!(recorded(), Some(Standstill::Cycle { cycle: 1 }));
    let (env, plan) = under(&rig, &kept, &Hooks::none());
    plan.resume(&env).unwrap();
    rig.chain.grow(Profile::Tables, 63, 1);
    drop(env);
    let pruner = start(rig.pruner_parts(&Hooks::none()), rig.plan(4).pruner_of_cycles(), &kept);
    let told = || leaving_beside(&pruner, &kept, 27);
    rig.clock.set_unix_ms(7_000);
    assert_eq!(pruner.command(Command::Disable), Reply::Accepted);
    assert_eq!((told(), recorded()), (Some(Standstill::Switch { since_ms: 7_000 }), told()));
    pruner.found(&StoreError::Corrupt("a checksum".to_owned()).into()).unwrap();
    let Some(Standstill::Freeze { reason }) = told() else { panic!("{:?}", told()) };
    assert!(reason.contains("a checksum"), "{reason}");
    assert_eq!(recorded(), told());
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    assert_eq!(pruner.command(Command::Enable), Reply::Accepted);
    assert_eq!(told(), Some(Standstill::IncrementalOff), "a cycle moves it, and no round");
    assert_eq!(recorded(), Some(Standstill::Unknown), "no record tells of more, and none that there is no more");
}

/// Nothing begins before records can be read, and never where they are damaged: that is told, not that they are.
#[test]
fn explain_names_records_that_are_not_read_and_a_pruner_that_has_ended() {
    let rig = grown(30);
    let kept = policy(&rig, keep(4));
    cycle(&rig, &kept);
    rig.chain.grow(Profile::Tables, 62, 5);
    let parts = || rig.pruner_parts(&Hooks::none());
    let read =
        |what: Use, key: RecordKey| if (what, key) == (Use::Load, RecordKey::Freeze) { Err(io()) } else { Ok(()) };
    let records = Acting::over(parts().records, read);
    let pruner = start(PrunerParts { records, ..parts() }, rig.plan(4).pruner(), &kept);
    let told = leaving_beside(&pruner, &kept, 27);
    assert!(matches!(&told, Some(Standstill::Unread { why }) if why.contains("injected")), "{told:?}");
    drop(pruner);
    parts().records.save(RecordKey::Freeze, b"torn").unwrap();
    let pruner = start(parts(), rig.plan(4).pruner(), &kept);
    let told = leaving_beside(&pruner, &kept, 27);
    assert!(matches!(told, Some(Standstill::WorkerGone { .. })), "{told:?}");
    assert!(kept.explain(Asked::Order(order(27)), &RoochLayout, 1).is_err(), "who has the records alone knows nothing");
    assert!(kept.explain(Asked::Order(order(34)), &RoochLayout, 1).is_ok(), "but of what stays");
}

#[test]
fn explain_names_rounds_that_fail_and_the_breaker_that_they_open() {
    let (rig, fails) = (grown(30), Arc::new(AtomicBool::new(false)));
    let kept = policy(&rig, keep(4));
    cycle(&rig, &kept);
    let (parts, fail) = (rig.pruner_parts(&Hooks::none()), Arc::clone(&fails));
    let records = Acting::over(Arc::clone(&parts.records), move |what, key| {
        let is_a_round = (what, key) == (Use::Load, RecordKey::Freeze);
        if is_a_round && fail.load(Ordering::Acquire) { Err(io()) } else { Ok(()) }
    });
    let pruner = start(PrunerParts { records, ..parts }, rig.plan(4).pruner(), &kept);
    let round = || pruner.status().incremental.unwrap();
    rig.until(|| round().last == Some(RoundEnd::Done));
    fails.store(true, Ordering::Release);
    rig.chain.grow(Profile::Tables, 62, 5);
    assert_eq!(leaving_beside(&pruner, &kept, 27), None, "it goes with the next round");
    pruner.committed(rig.chain.head());
    while round().failure.is_none() {
        std::thread::yield_now(); // no time passes: it is not tried again yet
    }
    let told = leaving_beside(&pruner, &kept, 27);
    assert!(matches!(&told, Some(Standstill::RoundsFail { why }) if why.contains("injected")), "{told:?}");
    (0..2).for_each(|_| pruner.recovery().cycle_failed(&io())); // the third failure in a row
    let told = leaving_beside(&pruner, &kept, 27);
    assert!(matches!(told, Some(Standstill::Breaker { for_ms: 1.. })), "{told:?}");
}

/// A node that follows its chain and is not at its head.
struct CatchesUp;

impl NodeFacts for CatchesUp {
    fn mempool_size(&self) -> Option<u64> {
        None
    }

    fn sync_status(&self) -> Option<bool> {
        Some(false)
    }
}

#[test]
fn explain_says_that_a_cycle_is_owed_before_any_round_begins() {
    let old = Rig::with(Engine::Memory, StoreConfig { journal: false, ..STORE });
    old.chain.grow(Profile::Tables, 61, 30);
    let rig = old.twin();
    let kept = policy(&rig, keep(4));
    let parts = PrunerParts { facts: Some(Arc::new(CatchesUp)), ..rig.pruner_parts(&Hooks::none()) };
    let pruner = start(parts, rig.plan(4).pruner(), &kept);
    assert_eq!(leaving_beside(&pruner, &kept, 10), Some(Standstill::CountsOwed));
    kept.advance().unwrap();
    let archive = &rig.chain.archive;
    let live = archive.live((26..30).map(order));
    let lost = *archive.live([order(10)]).difference(&live).next().unwrap();
    assert_eq!(garbage_beside(&pruner, &kept, lost), (WaitsFor::CountsOwed, None));
}

/// What is garbage is not said to go with the next round while nothing is deleted, or where there are no rounds.
#[test]
fn explain_says_of_garbage_what_holds_its_deletion_back() {
    let rig = grown(30);
    let kept = policy(&rig, keep(4));
    cycle(&rig, &kept);
    let pruner = start(rig.pruner_parts(&Hooks::none()), rig.plan(4).pruner(), &kept);
    pruner.found(&StoreError::Corrupt("a checksum".to_owned()).into()).unwrap();
    rig.chain.grow(Profile::Uniform, 31, 3);
    kept.advance().unwrap(); // and nothing sweeps
    let live = rig.chain.archive.live((29..=32).map(order));
    let lost = rig.chain.archive.live([order(28)]);
    let is_named = |hash: &NodeHash| matches!(garbage_beside(&pruner, &kept, *hash).0, WaitsFor::Sweep { .. });
    let named = lost.difference(&live).copied().find(is_named).unwrap();
    let (_, held_by) = garbage_beside(&pruner, &kept, named);
    assert!(matches!(&held_by, Some(Standstill::Freeze { reason }) if reason.contains("a checksum")), "{held_by:?}");
    rig.clock.set_unix_ms(7_000);
    assert_eq!(pruner.command(Command::Disable), Reply::Accepted);
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    let (waits_for, held_by) = garbage_beside(&pruner, &kept, named);
    assert!(matches!(waits_for, WaitsFor::Sweep { .. }), "{waits_for:?}");
    assert_eq!(held_by, Some(Standstill::Switch { since_ms: 7_000 }));
    drop((pruner, kept));

    // The next process has no sweep between cycles, and nobody reads the journal.
    let rig = rig.restart();
    let kept = policy(&rig, keep(4));
    let pruner = start(rig.pruner_parts(&Hooks::none()), rig.plan(4).pruner_of_cycles(), &kept);
    assert_eq!(pruner.command(Command::Enable), Reply::Accepted);
    assert_eq!(garbage_beside(&pruner, &kept, named), (WaitsFor::IncrementalOff, None));
    let asked = |kept: &LiveRetention| garbage(kept.explain(Asked::Hash(named), &RoochLayout, 100_000));
    assert_eq!(asked(&kept), (WaitsFor::Unknown, None), "no pruner is asked");
    let idle = LiveRetention::new(rig.retention_parts(None));
    assert_eq!(asked(&idle), (WaitsFor::Unknown, Some(Standstill::NoPolicy)));
}

/// A window of chain time that is made wider says that it is not filled until it is, over restarts too; the window in effect is
/// shown in chain time.
#[test]
fn widening_a_window_of_time_never_claims_what_is_gone() {
    let rig = grown(30); // a second of chain time each
    let seconds = |time: u64| KeepPolicy { time: Some(Duration::from_secs(time)), ..every(2, 10) };
    let status = |kept: &LiveRetention| kept.status().unwrap();
    let week = policy(&rig, seconds(7));
    assert_eq!(status(&week).winner.unwrap().fill, Fill::Filled, "nothing has gone yet");
    cycle(&rig, &week);
    let shown = status(&week);
    let winner = shown.winner.clone().unwrap();
    assert_eq!((winner.by, winner.from, winner.fill), (Bound::Time { time_ms: 7_000 }, 22, Fill::Filled));
    assert_eq!((shown.floor_timestamp_ms, shown.window_ms, shown.gone_already), (Some(22_000), Some(7_000), Some(0)));
    let words =
        "in force: the last 2 orders, the last 7s, every 10 orders; orders 22 to 29 are readable, 7s of chain time; ";
    assert!(shown.to_string().starts_with(words) && !shown.to_string().contains("filled"), "{shown}");
    loop {
        let wide = policy(&rig, seconds(30)); // as a process that starts again
        wide.advance().unwrap();
        let (shown, head) = (status(&wide), rig.chain.head().get());
        assert_eq!((shown.floor, shown.window_ms), (22, Some((head - 22) * 1000)), "at head {head}");
        let winner = shown.winner.clone().unwrap();
        assert_eq!((&winner.by, winner.from), (&Bound::Time { time_ms: 30_000 }, 22), "at head {head}");
        let told = shown.to_string();
        let claims =
            told.contains("keep_time (30s of chain time) is not filled yet: older orders that it asks for are gone");
        if head < 52 {
            assert_eq!((winner.fill, shown.gone_already, claims), (Fill::Short, None, true), "at head {head}: {told}");
        } else {
            assert_eq!(
                (winner.fill, shown.gone_already, claims),
                (Fill::Filled, Some(0), false),
                "at head {head}: {told}"
            );
            break;
        }
        rig.chain.grow(Profile::Tables, 64 + head, 1);
    }
    rig.chain.grow(Profile::Tables, 65, 1);
    cycle(&rig, &policy(&rig, seconds(30)));
    exactly(&rig, [0, 10, 20].into_iter().chain(23..54), "the window has filled");
}

/// Who has seen orders that are gone is told, and asks for nothing until the chain has come there again.
#[test]
fn a_consumer_that_a_rollback_left_ahead_of_the_head_is_told() {
    let (rig, told) = (grown(30), Arc::new(Told::default()));
    let parts = RetentionParts { events: Arc::clone(&told) as _, ..rig.retention_parts(Some(keep(8))) };
    let kept = LiveRetention::new(parts);
    kept.set_consumer("fast", order(28), None).unwrap();
    kept.set_consumer("slow", order(20), None).unwrap();
    let seen = || {
        let consumers = kept.status().unwrap().consumers.into_iter();
        consumers.map(|consumer| (consumer.behind, consumer.ahead)).collect::<Vec<_>>()
    };
    assert_eq!(seen(), [(1, 0), (9, 0)]);
    told.0.lock().clear();
    let roll_back = |to| kept.roll_back(&rig.chain.store, order(to), Batch::new()).unwrap().1;
    let ahead = |head| Event::ConsumerAhead { name: "fast".to_owned(), order: 28, head };
    assert_eq!(roll_back(25), [ahead(25)], "whoever went back tells it");
    rig.chain.archive.forget_after(order(25));
    assert_eq!(seen(), [(0, 3), (5, 0)]);
    assert_eq!(roll_back(25), [], "nothing went");
    rig.chain.grow(Profile::Tables, 66, 4);
    assert_eq!((seen(), told.0.lock().len()), (vec![(1, 0), (9, 0)], 0));
    kept.rollback(order(26), Batch::new()).unwrap();
    assert_eq!(told.0.lock().first(), Some(&ahead(26)), "where no pruner works, it is told at once");
    kept.set_consumer("beyond", order(999), None).unwrap();
    kept.set_consumer("next", order(27), None).unwrap();
    rig.chain.archive.forget_after(order(26));
    let next = Event::ConsumerAhead { name: "next".to_owned(), order: 27, head: 25 };
    assert_eq!(roll_back(25), [next], "the other has seen nothing of what is gone, and one was told before");
    let asks = kept.status().unwrap().asks;
    let of_consumers = asks.iter().filter(|ask| matches!(ask.by, Bound::Consumer { .. }));
    assert_eq!(of_consumers.map(|ask| ask.from).collect::<Vec<u64>>(), [20], "who is ahead asks for nothing");
}

/// Garbage is told with what takes it and since when it waits; an order that was taken away is not told as one that never was.
#[test]
fn explain_says_what_takes_garbage_and_what_was_rolled_back() {
    let rig = grown(30);
    let kept = policy(&rig, keep(4));
    cycle(&rig, &kept);
    let archive = &rig.chain.archive;
    let explain = |asked: Asked| kept.explain(asked, &RoochLayout, 100_000).unwrap();
    let waits_for = |hash: NodeHash| match explain(Asked::Hash(hash)) {
        Explanation::Hash(HashExplained { node: NodeStanding::Garbage { waits_for, .. }, .. }) => waits_for,
        other => panic!("{other}"),
    };
    rig.chain.grow(Profile::Uniform, 31, 3);
    kept.advance().unwrap(); // and nothing sweeps
    let live = archive.live((29..=32).map(order));
    let lost = archive.live([order(28)]).difference(&live).copied().collect::<Vec<_>>();
    let lag_nodes = rig.chain.store.lag().unwrap().nodes;
    let sweep = WaitsFor::Sweep { lost_in: 29, floor: 29, lag_orders: 3, lag_nodes };
    let (named, below): (Vec<_>, Vec<_>) = lost.into_iter().map(waits_for).partition(|waits_for| *waits_for == sweep);
    assert!(!named.is_empty(), "{below:?}");
    assert!(below.iter().all(|waits_for| *waits_for == WaitsFor::Unlisted), "below trees that were dropped: {below:?}");
    // The branch that was left is in no list, and its orders were committed once.
    let branch = archive.live([order(32)]);
    rig.chain.store.rollback(order(30), Batch::new()).unwrap();
    let stay = archive.live((26..=30).map(order));
    let left = branch.difference(&stay).next().unwrap();
    assert_eq!(waits_for(*left), WaitsFor::Unlisted);
    let standing = |at: u64| match explain(Asked::Order(order(at))) {
        Explanation::Order(explained) => explained.standing,
        Explanation::Hash(hash) => panic!("{hash}"),
    };
    assert_eq!(standing(32), Standing::RolledBack { head: 30 });
    assert_eq!(standing(33), Standing::NeverExisted { head: 30 });
    rig.chain.grow(Profile::Uniform, 32, 4); // to 34, after which no floor has moved
    rig.chain.store.rollback(order(31), Batch::new()).unwrap();
    assert_eq!(standing(34), Standing::AboveHead { head: 31 });
    // Counts that are not exact any more know nothing of it.
    let unknown = rig.restart();
    let kept = policy(&unknown, keep(4));
    let told = kept.explain(Asked::Hash(*left), &RoochLayout, 100_000).unwrap();
    assert!(told.to_string().contains("not known here"), "nobody has read the journal: {told}");
}

/// Whoever goes back writes down from where: no floor need have moved under that head.
#[test]
fn what_was_just_rolled_back_is_told_to_have_been() {
    let rig = grown(30);
    let kept = policy(&rig, keep(8));
    kept.advance().unwrap();
    rig.chain.grow(Profile::Uniform, 33, 4);
    kept.rollback(order(31), Batch::new()).unwrap();
    let standing = |kept: &LiveRetention, at: u64| match kept.explain(Asked::Order(order(at)), &RoochLayout, 1).unwrap()
    {
        Explanation::Order(explained) => explained.standing,
        Explanation::Hash(hash) => panic!("{hash}"),
    };
    let told = [32, 33, 34].map(|at| standing(&kept, at));
    let gone = Standing::RolledBack { head: 31 };
    assert_eq!(told, [gone.clone(), gone, Standing::NeverExisted { head: 31 }]);
    let again = policy(&rig, keep(8));
    assert_eq!([32, 33, 34].map(|at| standing(&again, at)), told, "for later processes, too");
    assert!(matches!(standing(&again, 21), Standing::Pruned { gone: Some(_), .. }), "what is gone is told as before");
}

/// How often an answer needed no walk.
#[derive(Default)]
struct Unwalked {
    /// It waits, and a state of the window has it.
    in_window: u64,
    /// It waits, and no state has it.
    garbage: u64,
    /// It is a root.
    roots: u64,
    /// It waits, and an older state has it, which was walked for.
    older: u64,
    /// It waits, and the state before the order at which it does is kept and lacks it.
    earlier: u64,
}

/// Of every node of the store, what is explained is what the archive says: which order is the newest that has it, if any has.
fn explained_as_by_the_archive(rig: &Rig, kept: &LiveRetention, (told, context): (&mut Unwalked, &str)) {
    let live = |at: Order| (at.get(), rig.chain.archive.live([at]));
    let retained: Vec<(u64, BTreeSet<NodeHash>)> = readable(rig).into_iter().rev().map(live).collect();
    for hash in check::present(&rig.chain.store) {
        let explain = |limit| match kept.explain(Asked::Hash(hash), &RoochLayout, limit).unwrap() {
            Explanation::Hash(explained) => explained,
            Explanation::Order(order) => panic!("{order}"),
        };
        let explained = explain(100_000);
        let newest = retained.iter().find(|(_, live)| live.contains(&hash)).map(|(at, _)| *at);
        let is_lacked_before =
            |lost_in: u64| retained.iter().any(|(at, live)| at + 1 == lost_in && !live.contains(&hash));
        let looked_at = match &explained.node {
            NodeStanding::Reached { order, looked_at, lost_in, .. } => {
                assert_eq!(Some(*order), newest, "{context}: {explained}");
                assert!(lost_in.is_none_or(|lost_in| *order < lost_in), "{context}: {explained}");
                told.roots += u64::from(*looked_at == 0 && lost_in.is_none());
                told.in_window += u64::from(*looked_at == 0 && lost_in.is_some());
                told.older += u64::from(*looked_at > 0 && lost_in.is_some());
                told.earlier += u64::from(lost_in.is_some_and(is_lacked_before));
                *looked_at
            }
            NodeStanding::Garbage { looked_at, waits_for, .. } => {
                assert_eq!(newest, None, "{context}: {explained}");
                if let WaitsFor::Sweep { lost_in, .. } = waits_for {
                    told.garbage += u64::from(*looked_at == 0);
                    told.earlier += u64::from(is_lacked_before(*lost_in));
                }
                *looked_at
            }
            NodeStanding::Empty | NodeStanding::Absent { .. } | NodeStanding::NotFound { .. } => {
                panic!("{context}: {explained}")
            }
        };
        if looked_at == 0 {
            assert_eq!(explain(1), explained, "{context}: no state is walked");
        }
    }
}

/// What costs little is asked first, and proves no more than it does: nodes come back, are shared, are held by a pin below the
/// floor, and are taken away with their orders.
#[test]
fn explain_says_of_every_node_what_the_archive_says() {
    let mut told = Unwalked::default();
    for profile in Profile::ALL {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(profile, 71, 20);
        let kept = policy(&rig, keep(4));
        cycle(&rig, &kept);
        kept.add_pin(pin("audit", 18, None)).unwrap();
        rig.chain.grow(profile, 72, 6);
        explained_as_by_the_archive(&rig, &kept, (&mut told, &format!("{profile:?} before the floor moves")));
        kept.advance().unwrap(); // and nothing sweeps
        explained_as_by_the_archive(&rig, &kept, (&mut told, &format!("{profile:?} behind the floor")));
        kept.remove_pin("audit").unwrap();
        kept.advance().unwrap();
        explained_as_by_the_archive(&rig, &kept, (&mut told, &format!("{profile:?} without the pin")));
        rig.chain.store.rollback(order(24), Batch::new()).unwrap();
        explained_as_by_the_archive(&rig, &kept, (&mut told, &format!("{profile:?} gone back")));
        rig.chain.grow(profile, 73, 3);
        explained_as_by_the_archive(&rig, &kept, (&mut told, &format!("{profile:?} on another branch")));
    }
    let Unwalked { in_window, garbage, roots, older, earlier } = told;
    assert!([in_window, garbage, roots, older].iter().all(|times| *times > 0), "{in_window} {garbage} {roots} {older}");
    assert_eq!(earlier, 0, "nothing sweeps, so each node waits at the order that lost it");
}

/// What a slice finds below a dropped tree waits at the last of the orders that are worked on together: that the state before
/// that order is kept does not mean that it has the node, whoever reads the journal.
#[test]
fn explain_says_what_the_archive_says_while_a_sweep_is_in_the_middle_of_its_entries() {
    let mut told = Unwalked::default();
    for profile in Profile::ALL {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(profile, 74, 20);
        let kept = policy(&rig, every(2, 38));
        cycle(&rig, &kept);
        rig.chain.grow(profile, 75, 21);
        for pause in 1.. {
            let round = slices(&rig, &kept, 1);
            assert_eq!(readable(&rig), [0, 38, 39, 40].map(order).into(), "an order among the entries is kept");
            let context = format!("{profile:?} in pause {pause}");
            explained_as_by_the_archive(&rig, &kept, (&mut told, &context));
            let again = rig.twin();
            again.chain.store.index_journal(&|| true).unwrap();
            let kept = policy(&again, every(2, 38));
            explained_as_by_the_archive(&again, &kept, (&mut told, &format!("{context} after a restart")));
            if round.end == RoundEnd::Done {
                break;
            }
        }
    }
    assert!(told.earlier > 0, "no node was lost before the order at which it waits");
}

/// The record of pins and the kept orders, with a crash or a failure at each write of what moves them.
#[test]
fn a_pin_that_was_acknowledged_survives_a_crash_at_every_write() {
    let base = grown(30);
    for tail in [CrashTail::Kept, CrashTail::Lost] {
        for writes in 0.. {
            let (rig, faulty) = base.faulty();
            let kept = policy(&rig, every(4, 10));
            faulty.freeze_after(writes);
            let added = kept.add_pin(pin("audit", 13, None));
            let moved = added.is_ok() && kept.advance_under(Durability::Synced).is_ok();
            let image = faulty.crash_image(tail).unwrap();
            let found = Rig::on(rig.chain.fork(Arc::new(image.clone())), Arc::new(image));
            let again = policy(&found, every(4, 10));
            let context = format!("{tail:?} after {writes} writes");
            if added.is_ok() {
                assert_eq!(again.status().unwrap().pins.len(), 1, "{context}");
                again.advance().unwrap();
                cycle(&found, &again);
                exactly(&found, [0, 10, 13, 20].into_iter().chain(26..30), &context);
            }
            if moved {
                break;
            }
        }
    }
}

#[test]
fn records_of_pins_that_cannot_be_read_keep_everything() {
    let (rig, faulty) = grown(30).faulty();
    let kept = policy(&rig, keep(4));
    faulty.fail_read(0, Fault::Transient);
    assert!(kept.advance().is_err());
    assert_eq!(rig.chain.floor(), Order::GENESIS);
    faulty.fail_write(0, Fault::DiskFull);
    assert!(kept.add_pin(pin("audit", 13, None)).is_err());
    assert!(kept.status().unwrap().pins.is_empty(), "what is not durable is not acknowledged");
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    state_pruner::Records::save(&records, state_pruner::RecordKey::Holds, b"torn").unwrap();
    let torn = policy(&rig, keep(4));
    assert!(matches!(torn.advance(), Err(PruneError::Store(StoreError::Record { .. }))));
    assert!(matches!(torn.retention(), Err(PruneError::Store(StoreError::Record { .. }))));
    assert!(Freeze::load(&records).unwrap().is_none());
    assert_eq!(rig.chain.floor(), Order::GENESIS);
}

/// S41: a reader that pinned an order, in the window or below it, reads its whole state while the policy lets it go at
/// each moment of a cycle, and is named as the one who keeps it.
#[test]
fn old_reader_in_each_phase() {
    let base = grown(30);
    for at in 0.. {
        let rig = base.twin();
        let kept = policy(&rig, every(4, 10));
        kept.advance().unwrap();
        let readers = [10, 26].map(|at| rig.chain.store.pin(order(at), "an export").unwrap());
        rig.chain.grow(Profile::Tables, 66, 10);
        let fewer = policy(&rig, keep(4));
        let (told, moments) = mpsc::channel();
        let (chain, late) = (rig.chain.clone(), Arc::clone(&fewer));
        let mut now = 0;
        let hooks = Hooks::new(move |_: Moment| {
            if now == at {
                late.advance_under(Durability::Logged).unwrap();
                chain.grow(Profile::Tables, 67, 1);
            }
            now += 1;
            told.send(()).unwrap();
        });
        let (env, plan) = under(&rig, &fewer, &hooks);
        plan.in_order().batches(20).run(&env).unwrap();
        let context = format!("moment {at}");
        for reader in &readers {
            let tree = rig.chain.archive.live([reader.order()]);
            assert!(tree.is_subset(&check::present(&rig.chain.store)), "{context}: order {}", reader.order());
            assert!(rig.chain.store.root(reader.order()).is_err(), "{context}: nobody else may read it");
            let explained = fewer.explain(Asked::Order(reader.order()), &RoochLayout, 1).unwrap();
            assert!(explained.to_string().contains("a reader holds it (an export"), "{context}: {explained}");
        }
        check::complete(&rig.chain, &context);
        drop(readers);
        cycle(&rig, &fewer);
        check::exact(&rig.chain, &context);
        if moments.try_iter().count() <= at {
            assert!(at > 3, "the cycle has no moment inside");
            break;
        }
    }
}
