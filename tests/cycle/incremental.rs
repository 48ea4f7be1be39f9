//! IncrementalSweep against the archive: whatever commits, readers, rollbacks, cycles, restarts and crashes come between its
//! slices, nothing that a retained root reaches goes, and a major cycle afterwards leaves nothing behind.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use state_pruner::{
    Command, Control, PruneError, Pruner, PrunerParts, Reply, Verdict,
    cycle::{CycleEnv, Finished},
    events::Event,
    incremental::{IncrementalSweep, Round, RoundEnd, SlicePace},
    snapshot::{RetentionPolicy, SnapshotParts},
};
use state_store::{
    Batch, CrashTail, Durability, Fault, FaultyBackend, Flow, Indexed, KeyRange, Lag, Pin, Store, StoreConfig,
    StoreError, Table,
};
use state_tests::{
    chain::STORE,
    check,
    hooks::Hooks,
    rig::{Engine, Plan, Rig, env},
    told::Told,
    waits::until,
    workload::{Profile, Workload},
};
use state_tree::{NodeHash, Order};

/// A chain whose journal is swept.
pub(crate) struct Swept {
    pub(crate) rig: Rig,
    pub(crate) plan: Plan,
    pub(crate) env: CycleEnv,
    pub(crate) sweep: IncrementalSweep,
    /// Another policy than that of a plain window.
    pub(crate) policy: Option<Arc<dyn RetentionPolicy>>,
}

impl Swept {
    pub(crate) fn new(rig: Rig, keep_last: u64) -> Self {
        let plan = rig.plan(keep_last);
        let env = rig.env(&plan, &Hooks::none());
        Self { rig, plan, env, sweep: IncrementalSweep::default(), policy: None }
    }

    pub(crate) fn env_of(&self, plan: &Plan, hooks: &Hooks) -> CycleEnv {
        let parts = self.rig.parts(plan.keep_last, hooks);
        match &self.policy {
            Some(policy) => env(SnapshotParts { policy: Arc::clone(policy), ..parts }, hooks),
            None => env(parts, hooks),
        }
    }

    /// Single orders below the floor.
    pub(crate) fn kept(&self) -> impl Iterator<Item = Order> {
        self.rig.chain.store.kept().into_iter().map(|(order, _)| order)
    }

    /// A round of at most so many slices of at most so many nodes.
    pub(crate) fn round(&mut self, slices: u64, nodes: usize) -> Round {
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

    pub(crate) fn drain(&mut self) -> Round {
        self.round(u64::MAX, 64)
    }

    /// What a restart of the process finds, with its journal read.
    pub(crate) fn restart(self) -> Self {
        let Self { rig, plan, env, sweep, policy } = self;
        drop((env, sweep, policy));
        Self::reopened(rig.restart(), plan.keep_last.get())
    }

    pub(crate) fn reopened(rig: Rig, keep_last: u64) -> Self {
        rig.chain.store.index_journal(&|| true).unwrap();
        Self::new(rig, keep_last)
    }

    pub(crate) fn cycle(&self) -> Finished {
        self.plan.run(&self.env).unwrap()
    }

    /// Everything readable is whole, single orders below the floor included, and so is what readers hold.
    pub(crate) fn check(&self, pins: &[Pin], context: &str) {
        check::complete(&self.rig.chain, context);
        let present = check::present(&self.rig.chain.store);
        let lost: Vec<NodeHash> = held(self, pins).difference(&present).copied().collect();
        assert!(lost.is_empty(), "{context}: what is held below the floor lost {lost:?}");
    }

    pub(crate) fn leaks(&self, pins: &[Pin]) -> usize {
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

/// I9: the process dies at any write of rounds and commits, or the machine does and takes the unsynced tail with it. What was
/// acknowledged is there where it was to survive that.
#[test]
fn a_slice_that_is_killed_at_any_write_loses_nothing_and_forgets_nothing() {
    let (kept, lost) = (CrashTail::Kept, CrashTail::Lost);
    for (tail, durability) in [(kept, Durability::Logged), (lost, Durability::Logged), (lost, Durability::Synced)] {
        let base = {
            let swept = Swept::new(Rig::new(Engine::Memory), 4);
            swept.rig.chain.grow(Profile::Tables, 51, 20);
            swept.cycle();
            swept.rig.chain.grow(Profile::Tables, 52, 20);
            swept.rig
        };
        for write in 0.. {
            let (rig, faulty) = base.faulty_with(StoreConfig { durability, ..STORE });
            rig.chain.store.index_journal(&|| true).unwrap();
            let mut swept = Swept::new(rig, 4);
            faulty.freeze_after(write);
            let survived = live_for_a_while(&mut swept);
            let image = faulty.crash_image(tail).unwrap();
            let Swept { rig, env, sweep, .. } = swept;
            drop((env, sweep));
            let context = format!("{tail:?} of {durability:?} commits at write {write}");
            let acknowledged = rig.chain.archive.head().unwrap();
            let rig = rig.crashed(image);
            let found = rig.chain.head();
            let may_lose = (tail, durability) == (lost, Durability::Logged);
            let survives = if may_lose { base.chain.head() } else { acknowledged };
            assert!(found >= survives && found <= acknowledged, "{context}: {survives} <= {found} <= {acknowledged}");
            rig.chain.archive.forget_after(found);
            let mut swept = Swept::reopened(rig, 4);
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
    for found in [Found::ByARound, Found::AtTheStart] {
        alerted(found);
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Found {
    ByARound,
    AtTheStart,
}

/// A worker that comes upon a torn row says so, by an event and in health, until a cycle has finished.
fn alerted(found: Found) {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 61, 8);
    rig.cycle(&rig.plan(3));
    let rig = match found {
        Found::ByARound => rig,
        Found::AtTheStart => {
            grow_past_a_torn_row(&rig);
            rig.restart()
        }
    };
    let told = Arc::new(Told::default());
    let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&Hooks::none()) };
    let pruner = Pruner::start(parts, rig.plan(3).pruner()).unwrap();
    until(&rig, &pruner, |pruner| pruner.status().incremental.unwrap().last.is_some());
    if found == Found::ByARound {
        assert!(pruner.health().reasons.is_empty(), "{:?}", pruner.health());
        grow_past_a_torn_row(&rig);
        pruner.committed(rig.chain.head());
    }
    let at_the_window = rig.chain.head().minus(2).unwrap();
    until(&rig, &pruner, |pruner| {
        let status = pruner.status().incremental.unwrap();
        rig.chain.floor() == at_the_window && status.last == Some(RoundEnd::Done) && status.poison_items > 0
    });
    let (health, status) = (pruner.health(), pruner.status().incremental.unwrap());
    assert_eq!((status.poison_items, status.set_aside_total), (1, 1), "{found:?}");
    let codes: Vec<&str> = health.reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert_eq!((health.verdict, codes), (Verdict::Degraded, vec!["poison_items"]), "{found:?}");
    assert!(health.reasons[0].message.contains("1 rows or nodes") && health.reasons[0].message.contains("prune-run"));
    until(&rig, &pruner, |_| told.0.lock().iter().any(|event| matches!(event, Event::PoisonItem { count: 1, .. })));
    assert_eq!(pruner.command(Command::Run), Reply::Accepted, "{found:?}");
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert!(pruner.health().reasons.is_empty(), "{found:?}: {:?}", pruner.health());
    assert_eq!(pruner.status().incremental.unwrap().set_aside_total, 1, "{found:?}: it happened");
    drop(pruner);
    check::exact(&rig.chain, "what the row named is gone");
}

/// Twelve orders more; the journal row of the sixth, whose order this gives, cannot be read.
pub(crate) fn grow_past_a_torn_row(rig: &Rig) -> Order {
    rig.chain.grow(Profile::Uniform, 62, 6);
    let bad = rig.chain.head();
    rig.chain.grow(Profile::Uniform, 63, 6);
    spoil(&rig.chain.store, bad);
    bad
}

/// The orders that have a row in the journal.
pub(crate) fn orders_of_rows(store: &Store) -> Vec<Order> {
    let mut orders = Vec::new();
    let mut take = |key: &[u8], _: &[u8]| {
        orders.push(Order::new(u64::from_be_bytes(key[..8].try_into().unwrap())));
        Flow::Continue(())
    };
    store.view().unwrap().scan(&Table::JOURNAL, &KeyRange::ALL, &mut take).unwrap();
    orders
}

/// The row of an order cannot be read from now on.
pub(crate) fn spoil(store: &Store, order: Order) {
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
    assert_eq!(rig.chain.store.index_journal(&|| true).unwrap(), Indexed::Uncounted);
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
        rig.chain.store.index_journal(&|| true).unwrap();
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

/// I12: however long the nodes of a slice take to delete, by a clock that is this test's, the next one keeps its time.
#[test]
fn slices_are_sized_by_how_long_those_before_them_held_the_gate() {
    let base = {
        let swept = Swept::new(Rig::new(Engine::Memory), 3);
        swept.rig.chain.grow(Profile::Uniform, 91, 8);
        swept.cycle();
        swept.rig.chain.grow(Profile::Uniform, 92, 120);
        swept.rig
    };
    let largest = |micros_per_node: u64| {
        let (rig, faulty) = base.faulty();
        rig.chain.store.index_journal(&|| true).unwrap();
        let mut swept = Swept::new(rig, 3);
        let (clock, dir, mut pace) = (Arc::clone(&swept.rig.clock), swept.rig.state_dir(), SlicePace::new());
        let hold = Arc::new(AtomicU64::new(0));
        let is_sized = |pace: &SlicePace| {
            hold.store(micros_per_node * pace.size().get() as u64, Ordering::Relaxed);
            pace.size()
        };
        let (first, of_write) = (is_sized(&pace), Arc::clone(&hold));
        faulty.before_write(move || clock.advance(Duration::from_micros(of_write.load(Ordering::Relaxed))));
        let (mut size, mut largest) = (first, 0);
        let round = swept.sweep.round(&swept.env, &dir, first, &mut |slice| {
            let held = slice.taking;
            assert!(held <= SlicePace::MOST_TAKING || size.get() == SlicePace::LEAST, "{size} nodes held it {held:?}");
            largest = largest.max(slice.nodes + slice.passed);
            pace.took(slice.nodes + slice.passed, held);
            size = is_sized(&pace);
            ControlFlow::Continue(size)
        });
        assert_eq!(round.unwrap().end, RoundEnd::Done);
        faulty.before_write(|| ());
        swept.check(&[], &format!("{micros_per_node} microseconds per node"));
        largest
    };
    let sizes = [1, 10, 30, 70, 100, 1000].map(largest);
    assert!(sizes.is_sorted_by(|shorter, longer| shorter >= longer) && sizes[0] > 200, "{sizes:?}");
    assert_eq!(sizes[5], SlicePace::LEAST as u64);
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
        rig.chain.store.index_journal(&|| true).unwrap();
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
    rig.chain.store.index_journal(&|| true).unwrap();
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
    assert_eq!(rig.chain.store.index_journal(&|| true).unwrap(), Indexed::Gap(missing));
    assert_eq!(rig.chain.store.index_journal(&|| true).unwrap(), Indexed::Uncounted, "and nothing is trusted any more");
}

/// I12: what a slice does under the gate goes by what it finds below its nodes, too.
#[test]
fn a_slice_of_trees_weighs_what_lies_below_its_nodes_too() {
    let mut swept = Swept::new(Rig::new(Engine::Memory), 3);
    swept.rig.chain.grow(Profile::Tables, 95, 8);
    swept.cycle();
    swept.rig.chain.grow(Profile::Tables, 96, 150);
    let (most, mut heavy, mut larger) = (NonZeroUsize::new(100).unwrap(), 0, 0);
    let round = swept.sweep.round(&swept.env, &swept.plan.config.state_dir, most, &mut |slice| {
        let nodes = slice.nodes + slice.passed;
        assert!(slice.weight <= 100 || nodes <= 32, "{nodes} nodes weigh {}", slice.weight);
        heavy += u64::from(slice.weight > nodes);
        larger += u64::from(nodes > 32);
        ControlFlow::Continue(most)
    });
    assert_eq!((round.unwrap().end, heavy > 3, larger > 3), (RoundEnd::Done, true, true), "{heavy} {larger}");
    swept.check(&[], "slices of trees");
}

/// I12: a read may wait for a disk, and a commit would wait with it. Time passes by reads alone here.
#[test]
fn no_slice_reads_under_the_gate_also_where_marks_have_no_room() {
    let base = {
        let swept = Swept::new(Rig::new(Engine::Memory), 3);
        swept.rig.chain.grow(Profile::Tables, 97, 8);
        swept.cycle();
        swept.rig.chain.grow(Profile::Tables, 98, 60);
        assert!(swept.rig.chain.store.marks() > Some(1));
        swept.rig
    };
    let (rig, faulty) = base.faulty_with(StoreConfig { marks_limit: 1, ..STORE });
    rig.chain.store.index_journal(&|| true).unwrap();
    assert_eq!(rig.chain.store.marks(), None);
    let mut swept = Swept::new(rig, 3);
    let (clock, dir, most) = (Arc::clone(&swept.rig.clock), swept.rig.state_dir(), NonZeroUsize::new(48).unwrap());
    faulty.before_read(move || clock.advance(Duration::from_millis(1)));
    let mut passed = 0;
    let round = swept.sweep.round(&swept.env, &dir, most, &mut |slice| {
        assert_eq!(slice.taking, Duration::ZERO, "{slice:?}");
        assert!(slice.reading > Duration::ZERO);
        passed += slice.passed;
        ControlFlow::Continue(most)
    });
    assert_eq!((round.unwrap().end, passed > 0), (RoundEnd::Done, true), "marks have kept {passed}");
    faulty.before_read(|| ());
    swept.check(&[], "marks that have no room");
}
