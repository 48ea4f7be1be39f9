//! IncrementalSweep against the archive: whatever commits, readers, rollbacks, cycles, restarts and crashes come between its
//! slices, nothing that a retained root reaches goes, and a major cycle afterwards leaves nothing behind.

use std::{
    collections::BTreeSet,
    num::{NonZeroU64, NonZeroUsize},
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use state_pruner::{
    Clock, Control, KeepPolicy, LiveRetention, NewPin, PruneError, RetentionParts, StoreRecords,
    cycle::CycleEnv,
    events::NoEvents,
    incremental::{IncrementalSweep, Round, RoundEnd, SlicePace},
    snapshot::{RetentionPolicy, SnapshotParts},
};
use state_store::{
    Batch, CrashTail, Durability, Fault, FaultyBackend, Flow, Indexed, KeyRange, Lag, Pin, Store, StoreConfig,
    StoreError, Table,
};
use state_tests::{
    archive::orders,
    chain::STORE,
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Plan, Rig, WAYS, env},
    workload::{Profile, Workload},
};
use state_tree::{NodeHash, Order};

/// A chain whose journal is swept.
struct Swept {
    rig: Rig,
    plan: Plan,
    env: CycleEnv,
    sweep: IncrementalSweep,
    /// Another policy than that of a plain window.
    policy: Option<Arc<dyn RetentionPolicy>>,
}

impl Swept {
    fn new(rig: Rig, keep_last: u64) -> Self {
        let plan = rig.plan(keep_last);
        let env = rig.env(&plan, &Hooks::none());
        Self { rig, plan, env, sweep: IncrementalSweep::default(), policy: None }
    }

    fn env_of(&self, plan: &Plan, hooks: &Hooks) -> CycleEnv {
        let parts = self.rig.parts(plan.keep_last, hooks);
        match &self.policy {
            Some(policy) => env(SnapshotParts { policy: Arc::clone(policy), ..parts }, hooks),
            None => env(parts, hooks),
        }
    }

    /// Single orders below the floor.
    fn kept(&self) -> impl Iterator<Item = Order> {
        self.rig.chain.store.kept().into_iter().map(|(order, _)| order)
    }

    /// A round of at most so many slices of at most so many nodes.
    fn round(&mut self, slices: u64, nodes: usize) -> Round {
        let nodes = NonZeroUsize::new(nodes).unwrap();
        let mut left = slices;
        let before = check::present(&self.rig.chain.store).len() as u64;
        let round = self.sweep.round(&self.env, &self.plan.config.state_dir, nodes, &mut |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(nodes) }
        });
        let round = round.unwrap();
        let gone = before - check::present(&self.rig.chain.store).len() as u64;
        assert_eq!(round.nodes, gone, "a report counts what is gone: {round:?}");
        round
    }

    fn drain(&mut self) -> Round {
        self.round(u64::MAX, 64)
    }

    /// What a restart of the process finds, with its journal read.
    fn restart(self) -> Self {
        let Self { rig, plan, env, sweep, policy } = self;
        drop((env, sweep, policy));
        Self::reopened(rig.restart(), plan.keep_last.get())
    }

    fn reopened(rig: Rig, keep_last: u64) -> Self {
        rig.chain.store.index_journal().unwrap();
        Self::new(rig, keep_last)
    }

    fn cycle(&self) {
        self.plan.run(&self.env).unwrap();
    }

    /// A cycle that is cancelled at one of its batches, or finishes before.
    fn cancelled_cycle(&self, batch: usize) {
        let control: Arc<OnceLock<Arc<Control>>> = Arc::default();
        let (seen, to_cancel) = (AtomicUsize::new(0), Arc::clone(&control));
        let hooks = Hooks::new(move |moment| {
            if moment == Moment::Deleting && seen.fetch_add(1, Ordering::Relaxed) == batch {
                to_cancel.get().unwrap().cancel();
            }
        });
        let plan = self.rig.plan(self.plan.keep_last.get()).batches(3);
        let env = self.env_of(&plan, &hooks);
        assert!(control.set(Arc::clone(&env.control)).is_ok());
        let ended = plan.run(&env);
        assert!(matches!(ended, Ok(_) | Err(PruneError::Cancelled)), "{ended:?}");
    }

    /// A cycle whose process ends at one of its batches, or that finishes before, and that the next process goes on with.
    fn resumed_cycle(self, batch: usize, keep: KeepPolicy) -> Self {
        let control: Arc<OnceLock<Arc<Control>>> = Arc::default();
        let (seen, to_stop) = (AtomicUsize::new(0), Arc::clone(&control));
        let hooks = Hooks::new(move |moment| {
            if moment == Moment::Deleting && seen.fetch_add(1, Ordering::Relaxed) == batch {
                to_stop.get().unwrap().stop();
            }
        });
        let plan = self.rig.plan(self.plan.keep_last.get()).batches(3);
        let env = self.env_of(&plan, &hooks);
        assert!(control.set(Arc::clone(&env.control)).is_ok());
        let ended = plan.run(&env);
        assert!(matches!(ended, Ok(_) | Err(PruneError::Stopped)), "{ended:?}");
        drop(env);
        let mut next = self.restart();
        let policy = keep_by(&mut next, keep);
        next.plan.resume(&next.env).unwrap();
        drop(policy);
        next
    }

    /// Everything readable is whole, single orders below the floor included, and so is what readers hold.
    fn check(&self, pins: &[Pin], context: &str) {
        check::complete(&self.rig.chain, context);
        let present = check::present(&self.rig.chain.store);
        let lost: Vec<NodeHash> = held(self, pins).difference(&present).copied().collect();
        assert!(lost.is_empty(), "{context}: what is held below the floor lost {lost:?}");
    }

    fn leaks(&self, pins: &[Pin]) -> usize {
        let needed = &check::needed(&self.rig.chain) | &held(self, pins);
        check::present(&self.rig.chain.store).difference(&needed).count()
    }
}

/// What readers and the policy hold below the floor, by the archive.
fn held(swept: &Swept, pins: &[Pin]) -> BTreeSet<NodeHash> {
    let archive = &swept.rig.chain.archive;
    let orders = pins.iter().map(Pin::order).chain(swept.kept()).filter(|order| Some(*order) <= archive.head());
    archive.live(orders)
}

#[test]
fn the_disk_stays_flat_between_cycles() {
    for engine in Engine::ALL {
        let mut swept = Swept::new(Rig::new(engine), 6);
        swept.rig.chain.grow(Profile::Uniform, 41, 12);
        assert_eq!(swept.drain().end, RoundEnd::Uncounted);
        swept.cycle();
        let mut workload = Workload::new(Profile::Uniform, 42);
        for step in 0..40 {
            swept.rig.chain.run(&mut workload, 1);
            let round = swept.drain();
            assert_eq!(round.end, RoundEnd::Done, "step {step}");
            check::exact(&swept.rig.chain, &format!("{engine:?} step {step}")); // nothing is ever shared here
        }
        let lag = swept.rig.chain.store.lag().unwrap();
        assert_eq!((lag.orders, lag.nodes), (0, 0));
    }
}

/// S57: nothing is deleted before a cycle has seeded the marks, also on a store that is exact from its first commit.
#[test]
fn incremental_waits_for_a_cycle_to_seed_the_shared_marks() {
    let mut swept = Swept::new(Rig::new(Engine::Memory), 4);
    swept.rig.chain.grow(Profile::Tables, 43, 30);
    let before = check::present(&swept.rig.chain.store);
    assert_eq!(swept.drain().end, RoundEnd::Uncounted);
    assert_eq!(check::present(&swept.rig.chain.store), before);
    swept.cycle();
    swept.rig.chain.grow(Profile::Tables, 44, 30);
    assert!(swept.drain().nodes > 0);
    swept.check(&[], "after the first sweep");
}

/// Every operation there is, in any order, against the archive.
#[test]
fn incremental_sweeps_lose_nothing_whatever_comes_between_them() {
    let mut nodes = 0;
    for seed in 0..histories(40) {
        for profile in [Profile::Toggle, Profile::Tables] {
            nodes += history(seed, profile);
        }
    }
    assert!(nodes > 1500, "only {nodes} nodes were swept: the histories test nothing");
}

/// More histories than a test run needs: `INCREMENTAL_HISTORIES=2000`.
fn histories(usual: u64) -> u64 {
    std::env::var("INCREMENTAL_HISTORIES").map_or(usual, |text| text.parse().unwrap())
}

/// The retention of a history: the window changes, single orders stay below it, some by name.
struct Retained {
    keep: KeepPolicy,
    policy: Arc<LiveRetention>,
    named: Vec<(String, Order)>,
    names: u64,
}

impl Retained {
    fn of(swept: &mut Swept, keep: KeepPolicy) -> Self {
        let policy = keep_by(swept, keep);
        Self { keep, policy, named: Vec::new(), names: 0 }
    }

    /// What a process finds that was configured otherwise.
    fn change(&mut self, swept: &mut Swept, keep: KeepPolicy) {
        (self.keep, self.policy) = (keep, keep_by(swept, keep));
    }

    fn pin(&mut self, order: Order) {
        let name = format!("pin-{}", self.names);
        self.names += 1;
        let pin = NewPin { name: name.clone(), owner: "a test".to_owned(), order, ttl: None };
        self.policy.add_pin(pin).unwrap();
        self.named.push((name, order));
    }

    fn unpin(&mut self, at: usize) {
        let (name, _) = self.named.swap_remove(at);
        self.policy.remove_pin(&name).unwrap();
    }
}

/// The policy that a chain is swept under from now on.
fn keep_by(swept: &mut Swept, keep: KeepPolicy) -> Arc<LiveRetention> {
    let policy = Arc::new(LiveRetention::new(RetentionParts {
        store: Arc::clone(&swept.rig.chain.store),
        records: Arc::new(StoreRecords(Arc::clone(&swept.rig.chain.store))),
        clock: Arc::clone(&swept.rig.clock) as Arc<dyn Clock>,
        keep: Some(keep),
        floor_rows: None,
        events: Arc::new(NoEvents),
    }));
    swept.policy = Some(Arc::clone(&policy) as _);
    swept.plan.keep_last = keep.last;
    swept.env = swept.env_of(&swept.plan, &Hooks::none());
    policy
}

fn any_keep(rng: &mut ChaCha8Rng) -> KeepPolicy {
    KeepPolicy {
        last: NonZeroU64::new(rng.random_range(1..=8)).unwrap(),
        time: rng.random_bool(0.3).then(|| Duration::from_millis(rng.random_range(0..9000))),
        every: if rng.random_bool(0.4) { NonZeroU64::new(rng.random_range(2..=7)) } else { None },
    }
}

fn history(seed: u64, profile: Profile) -> u64 {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    println!("incremental history {profile:?} seed {seed}");
    let mut workload = Workload::new(profile, seed);
    let marks_limit = if seed % 3 == 2 { 8 } else { STORE.marks_limit }; // more marks than that are read
    let mut swept = Swept::new(Rig::with(Engine::Memory, StoreConfig { marks_limit, ..STORE }), 1);
    let mut retained = Retained::of(&mut swept, any_keep(rng));
    let mut pins: Vec<Pin> = Vec::new();
    let mut nodes = 0;
    swept.rig.chain.run(&mut workload, 3);
    if seed.is_multiple_of(2) {
        swept.cycle();
    } else {
        swept = swept.resumed_cycle(1, retained.keep);
        retained.change(&mut swept, any_keep(rng));
        assert!(swept.rig.chain.store.counts_are_settled(), "it was counted exactly from its first commit on");
    }
    for step in 0..70 {
        let context = format!("{profile:?} seed {seed} step {step}");
        let (head, floor) = (swept.rig.chain.head(), swept.rig.chain.floor());
        let window: Vec<Order> = orders(floor, head).collect();
        let readable: Vec<Order> = window.iter().copied().chain(swept.kept()).collect();
        match rng.random_range(0..118) {
            0..50 => swept.rig.chain.run(&mut workload, 1),
            50..70 => nodes += swept.round(rng.random_range(1..=4), rng.random_range(1..=8)).nodes,
            70..78 => nodes += swept.drain().nodes,
            78..84 => {
                (swept.plan.config.mark, swept.plan.config.sweep) = *WAYS.choose(rng).unwrap();
                swept.cycle();
                assert_eq!(swept.leaks(&pins), 0, "{context}: a cycle leaves nothing behind");
            }
            84..88 => pins.push(swept.rig.chain.store.pin(*readable.choose(rng).unwrap(), "a reader").unwrap()),
            88..91 if !pins.is_empty() => drop(pins.swap_remove(rng.random_range(0..pins.len()))),
            91..94 => swept.rig.clock.advance(Duration::from_secs(20)), // a reader that stays is walked around
            94..97 => {
                let to = *window.choose(rng).unwrap();
                match retained.policy.roll_back(&swept.rig.chain.store, to, Batch::new()) {
                    Ok(_) => swept.rig.chain.archive.forget_after(to),
                    Err(PruneError::Store(StoreError::HeldAbove { order, .. })) => {
                        let mut held = pins.iter().map(Pin::order).chain(retained.named.iter().map(|(_, at)| *at));
                        assert!(held.any(|at| at == order), "{context}: order {order}");
                    }
                    Err(error) => panic!("{context}: {error}"),
                }
            }
            97 => swept.cancelled_cycle(rng.random_range(0..6)),
            98..100 => {
                let base = *window.choose(rng).unwrap();
                swept.rig.chain.fork_at(base, |root, reader| workload.changes(root, reader));
            }
            100..106 => retained.change(&mut swept, any_keep(rng)),
            106..111 => retained.pin(*readable.choose(rng).unwrap()),
            111..115 if !retained.named.is_empty() => retained.unpin(rng.random_range(0..retained.named.len())),
            115..118 if pins.is_empty() => {
                let keep = retained.keep;
                swept = swept.resumed_cycle(rng.random_range(0..6), keep);
                retained.change(&mut swept, keep);
            }
            _ if pins.is_empty() => {
                swept = swept.restart();
                let keep = retained.keep;
                retained.change(&mut swept, keep);
            }
            _ => {}
        }
        swept.check(&pins, &context);
        for (name, order) in &retained.named {
            assert!(swept.rig.chain.store.root(*order).is_ok(), "{context}: {name} keeps order {order}");
        }
    }
    drop(pins);
    swept.cycle();
    assert_eq!(swept.leaks(&[]), 0, "{profile:?} seed {seed}: at the end");
    nodes
}

/// I9: the process dies at any write of rounds and commits, or the machine does and takes the unsynced tail with it.
#[test]
fn a_slice_that_is_killed_at_any_write_loses_nothing_and_forgets_nothing() {
    for tail in [CrashTail::Kept, CrashTail::Lost] {
        let base = {
            let swept = Swept::new(Rig::new(Engine::Memory), 4);
            swept.rig.chain.grow(Profile::Tables, 51, 20);
            swept.cycle();
            swept.rig.chain.grow(Profile::Tables, 52, 20);
            swept.rig
        };
        for write in 0.. {
            let (rig, faulty) = base.faulty();
            rig.chain.store.index_journal().unwrap();
            let mut swept = Swept::new(rig, 4);
            faulty.freeze_after(write);
            let survived = live_for_a_while(&mut swept);
            let image = faulty.crash_image(tail).unwrap();
            let Swept { rig, env, sweep, .. } = swept;
            drop((env, sweep));
            let head = rig.chain.archive.head();
            let rig = rig.crashed(image);
            let found = rig.chain.head();
            assert!(Some(found) <= head || !survived);
            rig.chain.archive.forget_after(found);
            let mut swept = Swept::reopened(rig, 4);
            let context = format!("{tail:?} at write {write}");
            swept.check(&[], &context);
            swept.drain();
            swept.check(&[], &context);
            swept.cycle();
            assert_eq!(swept.leaks(&[]), 0, "{context}");
            if survived {
                assert!(write > 10, "the test tells nothing");
                break;
            }
        }
    }
}

/// Commits and slices until a write fails; whether none did.
fn live_for_a_while(swept: &mut Swept) -> bool {
    let mut workload = Workload::new(Profile::Tables, 53);
    for _ in 0..4 {
        let committed = swept.rig.chain.try_commit(|root, reader| workload.changes(root, reader));
        let few = NonZeroUsize::new(3).unwrap();
        let round =
            swept.sweep.round(&swept.env, &swept.plan.config.state_dir, few, &mut |_| ControlFlow::Continue(few));
        if committed.is_err() || round.is_err() {
            return false;
        }
    }
    true
}

/// P2: a journal row that goes bad while the process lives is passed and counted, once, wherever it stands among the entries at
/// or below the floor; what it named waits for a cycle, and is not waited for.
#[test]
fn one_bad_journal_entry_is_passed_counted_and_alerted() {
    const WINDOW: u64 = 3;
    for below_floor in [4, 1, 0] {
        let context = format!("{below_floor} orders below the floor");
        let mut swept = Swept::new(Rig::new(Engine::Memory), WINDOW);
        swept.rig.chain.grow(Profile::Uniform, 61, 8);
        swept.cycle();
        swept.rig.chain.grow(Profile::Uniform, 62, 12);
        let bad = swept.rig.chain.head().minus(WINDOW - 1 + below_floor).unwrap();
        spoil(&swept.rig.chain.store, bad);
        let round = swept.drain();
        assert_eq!((round.set_aside, round.end.clone()), (1, RoundEnd::Done), "{context}");
        assert!(round.nodes > 0, "{context}: it does not block what comes before and behind it");
        assert_eq!(swept.rig.chain.store.lag(), Some(Lag::default()), "{context}: nothing is waited for");
        swept.check(&[], &format!("{context}: past the bad row"));
        let mut workload = Workload::new(Profile::Uniform, 63);
        for _ in 0..3 {
            swept.rig.chain.run(&mut workload, 1);
            let round = swept.drain();
            assert_eq!((round.set_aside, round.end), (0, RoundEnd::Done), "{context}: nobody comes upon it again");
            assert_eq!(swept.rig.chain.store.lag(), Some(Lag::default()), "{context}: later");
        }
        let store = Arc::clone(&swept.rig.chain.store);
        let is_left = orders_of_rows(&store).contains(&bad);
        assert!(!is_left, "{context}: the row is dealt with");
        drop(store);
        let swept = swept.restart();
        swept.check(&[], &format!("{context}: after a restart"));
        assert!(swept.leaks(&[]) > 0, "{context}: what the row named is left");
        swept.cycle();
        assert_eq!(swept.leaks(&[]), 0, "{context}");
    }
}

/// The orders that have a row in the journal.
fn orders_of_rows(store: &Store) -> Vec<Order> {
    let mut orders = Vec::new();
    let mut take = |key: &[u8], _: &[u8]| {
        orders.push(Order::new(u64::from_be_bytes(key[..8].try_into().unwrap())));
        Flow::Continue(())
    };
    store.view().unwrap().scan(&Table::JOURNAL, &KeyRange::ALL, &mut take).unwrap();
    orders
}

/// The row of an order cannot be read from now on.
fn spoil(store: &Store, order: Order) {
    let mut keys = Vec::new();
    let range = KeyRange { start: Some(order.to_key().to_vec()), end: Some(order.next().unwrap().to_key().to_vec()) };
    let mut take = |key: &[u8], _: &[u8]| {
        keys.push(key.to_vec());
        Flow::Continue(())
    };
    store.view().unwrap().scan(&Table::JOURNAL, &range, &mut take).unwrap();
    assert_eq!(keys.len(), 1, "order {order} has one row");
    let mut batch = Batch::new();
    keys.into_iter().for_each(|key| batch.put(Table::JOURNAL, key, *b"torn"));
    store.write_rows(&batch, Durability::Logged).unwrap();
}

/// C11, S33: a journal that was off for a while is not trusted before a cycle has made counts exact again.
#[test]
fn entries_before_a_gap_in_the_journal_are_never_trusted() {
    let swept = Swept::new(Rig::new(Engine::Memory), 3);
    swept.rig.chain.grow(Profile::Tables, 71, 8);
    swept.cycle();
    swept.rig.chain.grow(Profile::Tables, 72, 8);
    let rig = swept.rig.reopened_with(StoreConfig { journal: false, ..STORE });
    rig.chain.grow(Profile::Tables, 73, 1);
    let rig = rig.twin();
    assert_eq!(rig.chain.store.index_journal().unwrap(), Indexed::Uncounted);
    let mut swept = Swept::new(rig, 3);
    swept.rig.chain.grow(Profile::Tables, 74, 8);
    assert_eq!(swept.drain().end, RoundEnd::Uncounted);
    swept.cycle();
    swept.rig.chain.grow(Profile::Tables, 75, 12);
    assert_eq!(swept.drain().end, RoundEnd::Done);
    swept.check(&[], "after the journal began again");
    swept.cycle();
    assert_eq!(swept.leaks(&[]), 0);
}

/// P9: where each read takes long, a slice has the nodes that could be read in its time, not all it may have.
#[test]
fn a_slice_ends_by_its_deadline_on_a_slow_disk() {
    let base = {
        let mut swept = Swept::new(Rig::new(Engine::Memory), 3);
        swept.rig.chain.grow(Profile::Uniform, 87, 8);
        swept.cycle();
        swept.rig.chain.grow(Profile::Uniform, 88, 60);
        swept.round(1, 1); // entries that are begun are read by whoever goes on with them
        swept.rig
    };
    let slices = |reading: Duration| {
        let (rig, faulty) = base.faulty();
        rig.chain.store.index_journal().unwrap();
        let mut swept = Swept::new(rig, 3);
        let (clock, dir, many) =
            (Arc::clone(&swept.rig.clock), swept.rig.state_dir(), NonZeroUsize::new(2048).unwrap());
        faulty.before_read(move || clock.advance(reading));
        let mut slices = Vec::new();
        let round = swept.sweep.round(&swept.env, &dir, many, &mut |slice| {
            slices.push((slice.nodes + slice.passed, slice.reading));
            ControlFlow::Continue(many)
        });
        assert_eq!(round.unwrap().end, RoundEnd::Done);
        faulty.before_read(|| ());
        swept.check(&[], "a slow disk");
        slices
    };
    let fast = slices(Duration::ZERO);
    let [(nodes, _)] = fast[..] else { panic!("a fast disk takes all at once: {fast:?}") };
    let slow = slices(SlicePace::MOST_READING * 2 / 3);
    assert_eq!(slow.iter().map(|(nodes, _)| nodes).sum::<u64>(), nodes, "the same, in pieces");
    for (nodes, reading) in &slow[1..] {
        assert!(*nodes <= 32 && *reading <= SlicePace::MOST_READING, "{nodes} nodes in {reading:?}");
    }
    assert!(slow.len() > 3, "the test tells nothing: {slow:?}");
}

/// P4: a cancel reaches the walk of an older state between two batches, and the next round goes on.
#[test]
fn a_cancel_ends_the_walk_of_an_older_state_at_its_next_batch() {
    let (rig, faulty) = Rig::new(Engine::Memory).faulty();
    let mut swept = Swept::new(rig, 3);
    swept.rig.chain.grow(Profile::Uniform, 83, 8);
    swept.cycle();
    let pin = swept.rig.chain.store.pin(swept.rig.chain.floor(), "a reader that stays").unwrap();
    swept.rig.chain.grow(Profile::Uniform, 84, 12);
    let waits = RoundEnd::Waits { order: pin.order().get(), owner: "a reader that stays".to_owned() };
    assert_eq!(swept.drain().end, waits);
    swept.rig.clock.advance(Duration::from_secs(20));
    let few = NonZeroUsize::new(5).unwrap();
    for read in 0.. {
        let control = Arc::new(Control::default());
        let left = AtomicUsize::new(read);
        let (to_cancel, counted) = (Arc::clone(&control), faulty.clone());
        let cancelled_at = Arc::new(OnceLock::new());
        let at = Arc::clone(&cancelled_at);
        faulty.before_read(move || {
            if left.fetch_sub(1, Ordering::Relaxed) == 0 {
                at.set(counted.reads()).unwrap();
                to_cancel.cancel();
            }
        });
        let env_now = CycleEnv { control, ..swept.env.clone() };
        let round = swept.sweep.round(&env_now, &swept.plan.config.state_dir, few, &mut |_| ControlFlow::Continue(few));
        let round = round.unwrap();
        let reads = faulty.reads();
        faulty.before_read(|| ());
        swept.check(std::slice::from_ref(&pin), &format!("cancelled at read {read}"));
        if round.end == RoundEnd::Done {
            assert!(read > 10, "the test tells nothing: {read} reads");
            break;
        }
        let cancelled_at = cancelled_at.get().unwrap();
        assert_eq!(round.end, RoundEnd::Paused, "at read {read}");
        assert!(reads - cancelled_at <= 8, "at read {read}: {} more", reads - cancelled_at);
        swept.sweep = IncrementalSweep::default(); // nothing is known yet of what the reader holds
        assert_eq!(swept.drain().end, waits);
        swept.rig.clock.advance(Duration::from_secs(20));
    }
    drop(pin);
}

/// C20: a cancel is seen between two batches of marks, and the next cycle makes them exact.
#[test]
fn a_cancel_while_marks_are_made_exact_is_seen_at_the_next_batch() {
    let grown = Rig::new(Engine::Memory);
    grown.chain.grow(Profile::Tables, 85, 24);
    for write in 0.. {
        let (rig, faulty) = grown.faulty();
        rig.chain.store.index_journal().unwrap();
        let swept = Swept::new(rig, 4);
        let plan = swept.rig.plan(4).batches(2);
        let (left, counted) = (AtomicUsize::new(write), faulty.clone());
        let (to_cancel, cancelled_at) = (Arc::clone(&swept.env.control), Arc::new(OnceLock::new()));
        let at = Arc::clone(&cancelled_at);
        faulty.before_write(move || {
            if left.fetch_sub(1, Ordering::Relaxed) == 0 {
                at.set(counted.writes()).unwrap();
                to_cancel.cancel();
            }
        });
        let ended = plan.run(&swept.env);
        let writes = faulty.writes();
        faulty.before_write(|| ());
        let context = format!("cancelled at write {write}");
        swept.check(&[], &context);
        let Some(cancelled_at) = cancelled_at.get() else {
            assert!(write > 30, "the test tells nothing: {write} writes");
            break;
        };
        assert!(matches!(ended, Ok(_) | Err(PruneError::Cancelled)), "{context}: {ended:?}");
        // Among them that a lock was taken and let go, of which there are two.
        assert!(writes - cancelled_at <= 8, "{context}: {} more writes", writes - cancelled_at);
        let mut swept = Swept::new(swept.rig, 4);
        swept.cycle();
        swept.rig.chain.grow(Profile::Tables, 86, 6);
        assert_eq!(swept.drain().end, RoundEnd::Done, "{context}");
        swept.check(&[], &context);
    }
}

/// I10: a phase that lost its lock takes no slice.
#[test]
fn a_round_whose_lock_was_taken_deletes_nothing_more() {
    let mut swept = Swept::new(Rig::new(Engine::Memory), 3);
    swept.rig.chain.grow(Profile::Uniform, 81, 8);
    swept.cycle();
    swept.rig.chain.grow(Profile::Uniform, 82, 12);
    let (store, few) = (swept.rig.chain.store.clone(), NonZeroUsize::new(2).unwrap());
    let mut left = None;
    let round = swept.sweep.round(&swept.env, &swept.plan.config.state_dir, few, &mut |_| {
        drop(store.issue_permit());
        left = Some(check::present(&store));
        ControlFlow::Continue(few)
    });
    assert!(matches!(round, Err(PruneError::Store(StoreError::PermitRevoked))), "{round:?}");
    assert_eq!(Some(check::present(&swept.rig.chain.store)), left);
}

/// A slice that fails at any read or write is read anew, and goes on where it was.
#[test]
fn a_round_that_fails_anywhere_goes_on_where_it_was() {
    let base = {
        let swept = Swept::new(Rig::new(Engine::Memory), 3);
        swept.rig.chain.grow(Profile::Tables, 91, 20);
        swept.cycle();
        swept.rig.chain.grow(Profile::Tables, 92, 25);
        swept.rig
    };
    let whole = fail(&base, |_| ()).1;
    for distance in 0..40 {
        for on_read in [true, false] {
            let fault = |faulty: &FaultyBackend| {
                if on_read {
                    faulty.fail_read(distance, Fault::Transient);
                } else {
                    faulty.fail_write(distance, Fault::Transient);
                }
            };
            let (failed, left) = fail(&base, fault);
            assert_eq!(left, whole, "failed at {distance}, on a read {on_read}: {failed}");
        }
    }
}

fn fail(base: &Rig, fault: impl Fn(&FaultyBackend)) -> (bool, BTreeSet<NodeHash>) {
    let (rig, faulty) = base.faulty();
    rig.chain.store.index_journal().unwrap();
    let mut swept = Swept::new(rig, 3);
    fault(&faulty);
    let few = NonZeroUsize::new(5).unwrap();
    let failed =
        swept.sweep.round(&swept.env, &swept.plan.config.state_dir, few, &mut |_| ControlFlow::Continue(few)).is_err();
    faulty.fail_read(u64::MAX >> 1, Fault::Transient);
    faulty.fail_write(u64::MAX >> 1, Fault::Transient);
    swept.drain();
    swept.check(&[], "after a failure");
    (failed, check::present(&swept.rig.chain.store))
}

/// C11: wherever a row is missing, reading the journal comes to an end and says where.
#[test]
fn a_gap_far_below_the_head_ends_the_reading_of_the_journal() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 95, 300);
    let missing = Order::new(40);
    let mut batch = Batch::new();
    batch.delete_range(Table::JOURNAL, missing.to_key(), missing.next().unwrap().to_key());
    rig.chain.store.write_rows(&batch, Durability::Logged).unwrap();
    let rig = rig.restart();
    assert_eq!(rig.chain.store.index_journal().unwrap(), Indexed::Gap(missing));
    assert_eq!(rig.chain.store.index_journal().unwrap(), Indexed::Uncounted, "and nothing is trusted any more");
}
