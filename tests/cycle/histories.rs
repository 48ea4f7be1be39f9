//! IncrementalSweep under every operation there is, in any order, against an exact model: no reachable node is ever missing, no
//! unreachable one is left after a cycle, journal and marks say what the archive says, what was acknowledged is there, and what
//! is readable is what the oracle says.
//!
//! Commits, branches and rollbacks come between slices and inside cycles; cycles are cancelled, or their process ends; the
//! process dies, or the machine does with what was not synced; reads and writes fail; processes without a sweep between
//! cycles come in between. The retention, the limits of index and marks and the durability of commits differ from history
//! to history.
//!
//! In memory a machine dies, too; on the real engine a process does, and its folder is opened again. A history is told with
//! its profile and seed; in memory those make it the same again.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use state_pruner::{
    Clock as _, Control, KeepPolicy, LiveRetention, NewPin, PruneError,
    cycle::CycleEnv,
    incremental::{Round, RoundEnd},
    snapshot::RetentionPolicy as _,
};
use state_store::{Batch, CrashTail, Durability, Fault, FaultyBackend, Pin, StoreConfig, StoreError};
use state_tests::{
    archive::orders,
    chain::{Chain, STORE},
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Plan, Rig, WAYS},
    workload::{Profile, Workload},
};
use state_tree::{NodeReader, Order};

use crate::{
    books::{self, Marks},
    incremental::Swept,
    oracle::{Oracle, Readable},
};

const STEPS: u64 = 70;
/// Commits inside one cycle, at most.
const INSIDE: u64 = 6;
/// The consumer goes silent after a while, or is heard of for longer than any history takes.
const HEARD: [Duration; 3] = [Duration::from_secs(15), Duration::from_secs(40), Duration::from_secs(24 * 3600)];
/// Beyond every history: what is to fail there never does.
const NEVER: u64 = u64::MAX >> 1;

/// As many histories in memory as one of real files, by the time they take.
const IN_MEMORY: u64 = 6;

/// Every operation there is, in any order, against the archive.
#[test]
fn incremental_sweeps_lose_nothing_whatever_comes_between_them() {
    live(Engine::Memory, histories(32));
}

/// The same on the real engine.
#[test]
fn incremental_sweeps_of_real_files_lose_nothing_whatever_comes_between_them() {
    live(Engine::Rocks, histories(32).div_ceil(IN_MEMORY));
}

/// More histories than a test run needs: `INCREMENTAL_HISTORIES=2000`.
fn histories(usual: u64) -> u64 {
    std::env::var("INCREMENTAL_HISTORIES").map_or(usual, |text| text.parse().unwrap())
}

/// A history of each profile for so many seeds.
fn live(engine: Engine, seeds: u64) {
    let mut seen = Seen::default();
    for seed in 0..seeds {
        for profile in Profile::ALL {
            History::new(engine, seed, profile).run(&mut seen);
        }
    }
    println!("{engine:?}, {seeds} seeds: {seen:?}");
    let Seen { swept, crashes, troubles, switches, marks, named, lapsed, went_back } = seen;
    let met = crashes.min(troubles) > seeds && switches.min(went_back) > seeds / 2 && lapsed > seeds;
    let enough = met && swept > 15 * seeds && marks > 10 * seeds && named > 100 * seeds;
    assert!(enough, "the histories test nothing: {seen:?}");
}

/// What the histories came upon.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    /// Nodes deleted between cycles.
    swept: u64,
    crashes: u64,
    /// Operations that met a failure.
    troubles: u64,
    /// Starts with a sweep between cycles after a process without one, or the other way round.
    switches: u64,
    /// Marks that were compared one by one.
    marks: u64,
    /// Nodes that entries named, compared one by one.
    named: u64,
    /// Pins that were over, and consumers that were silent, where that let something go.
    lapsed: u64,
    /// Cycles, rounds and failures inside which the chain went back.
    went_back: u64,
}

/// The policy that a chain is swept under from now on.
pub(crate) fn keep_by(swept: &mut Swept, keep: KeepPolicy) -> Arc<LiveRetention> {
    let policy = Arc::new(LiveRetention::new(swept.rig.retention_parts(Some(keep))));
    swept.policy = Some(Arc::clone(&policy) as _);
    swept.plan.keep_last = keep.last;
    swept.env = swept.env_of(&swept.plan, &Hooks::none());
    policy.retention().unwrap(); // whoever is waited for is so from now on
    policy
}

fn any_keep(rng: &mut ChaCha8Rng) -> KeepPolicy {
    KeepPolicy {
        last: NonZeroU64::new(rng.random_range(1..=8)).unwrap(),
        time: rng.random_bool(0.3).then(|| Duration::from_millis(rng.random_range(0..9000))),
        every: if rng.random_bool(0.4) { NonZeroU64::new(rng.random_range(2..=7)) } else { None },
    }
}

/// One of the orders from this one to the head.
fn any_order(rng: &mut ChaCha8Rng, chain: &Chain, from: Order) -> Order {
    let orders: Vec<Order> = orders(from, chain.head()).collect();
    *orders.choose(rng).unwrap()
}

/// What else than a look of the pruner may have come of an operation.
#[derive(Debug, Clone, Copy)]
enum OrNone {
    /// It has looked.
    No,
    /// It failed before.
    Yes,
    /// The disk has lost the newest looks.
    Earlier,
}

/// What came of hooks.
#[derive(Debug, Default)]
struct Inside {
    /// The newest order that there was.
    highest: Option<Order>,
    /// Where the chain went back to last.
    back: Option<Order>,
}

impl Inside {
    /// Goes back, unless somebody keeps a later order or what is to fail does.
    fn roll_back(&mut self, chain: &Chain, policy: &LiveRetention, to: Order) {
        match policy.roll_back(&chain.store, to, Batch::new()) {
            Ok((done, _)) if done.from == to => {}
            Ok(_) => {
                chain.archive.forget_after(to);
                self.back = Some(to);
            }
            Err(PruneError::PinnedAbove { .. } | PruneError::Store(StoreError::HeldAbove { .. })) => {}
            Err(PruneError::Store(error)) => failed(error),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A process on its chain.
struct Process {
    swept: Swept,
    policy: Arc<LiveRetention>,
    pins: Vec<Pin>,
}

/// One random history.
struct History {
    name: String,
    engine: Engine,
    /// How the store of a process that sweeps between cycles behaves.
    config: StoreConfig,
    rng: ChaCha8Rng,
    source: Arc<Mutex<Workload>>,
    /// Nothing only while the next process begins.
    process: Option<Process>,
    /// Whether it sweeps between cycles.
    is_swept: bool,
    oracle: Oracle,
    /// What was readable since the disk is known to have all of it: a machine that dies may go back to one of these.
    earlier: Vec<Readable>,
    named: Vec<(String, Order)>,
    /// Orders that a pin was made for that lets go by itself, and may have.
    for_a_while: Vec<Order>,
    names: u64,
    /// Whether there is a consumer.
    is_heard: bool,
    synced: bool,
    /// The newest order that the disk is known to have.
    durable: Order,
    /// The newest order there ever was.
    highest: Order,
    seen: Seen,
}

impl History {
    fn new(engine: Engine, seed: u64, profile: Profile) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let config = StoreConfig {
            // More marks than that are read.
            marks_limit: if rng.random_bool(0.5) { rng.random_range(0..9) } else { STORE.marks_limit },
            pending_limit: if rng.random_bool(0.2) { rng.random_range(1..40) } else { STORE.pending_limit },
            durability: if rng.random_bool(0.3) { Durability::Synced } else { Durability::Logged },
            shared_per_presumed: u64::from(seed.is_multiple_of(3)),
            ..STORE
        };
        let name = format!("{engine:?} {profile:?} seed {seed}");
        println!("incremental history {name}: {config:?}");
        let mut workload = Workload::new(profile, seed);
        let rig = Rig::with(engine, config).behind_faults();
        rig.chain.run(&mut workload, 3);
        let keep = any_keep(&mut rng);
        let mut history = Self {
            name,
            engine,
            config,
            rng,
            source: Arc::new(Mutex::new(workload)),
            process: None,
            is_swept: true,
            oracle: Oracle::new(keep),
            earlier: Vec::new(),
            named: Vec::new(),
            for_a_while: Vec::new(),
            names: 0,
            is_heard: false,
            synced: config.durability == Durability::Synced,
            durable: Order::GENESIS,
            highest: Order::GENESIS,
            seen: Seen::default(),
        };
        history.begin(Swept::new(rig, 1));
        if seed.is_multiple_of(2) {
            history.cycle("the first cycle");
        } else {
            history.ended_cycle(1, "the first cycle");
            let settled = history.chain().store.counts_are_settled();
            assert!(settled, "{}: it was counted exactly from its first commit on", history.name);
        }
        history
    }

    fn run(mut self, seen: &mut Seen) {
        for step in 0..STEPS {
            let context = format!("{} step {step}", self.name);
            self.step(&context);
            if step % 5 == 4 {
                self.chain().store.catch_up().unwrap(); // bundles of marks live through some steps, and through some crashes
            }
            let Process { swept, pins, .. } = self.process();
            swept.check(pins, &context);
            books::journal_is_whole(&swept.rig.chain, &context);
            for (name, order) in &self.named {
                assert!(self.chain().store.root(*order).is_ok(), "{context}: {name} keeps order {order}");
            }
            self.oracle.agrees(self.chain(), &context);
        }
        self.process_mut().pins.clear();
        if self.is_heard {
            self.process().policy.remove_consumer("indexer").unwrap();
            self.oracle.forget("indexer");
        }
        let context = format!("{} at the end", self.name);
        self.cycle(&context);
        let Seen { swept, crashes, troubles, switches, marks, named, lapsed: _, went_back } = self.seen;
        seen.lapsed += self.oracle.lapsed;
        seen.swept += swept;
        seen.crashes += crashes;
        seen.troubles += troubles;
        seen.switches += switches;
        seen.marks += marks;
        seen.named += named;
        seen.went_back += went_back;
    }

    fn step(&mut self, context: &str) {
        let readers = self.process().pins.len();
        match self.rng.random_range(0..150) {
            0..46 => self.commit(context),
            46..74 if !self.is_swept => self.commit(context), // nobody sweeps what it loses
            46..66 => {
                let (slices, nodes) = (self.rng.random_range(1..=4), self.rng.random_range(1..=8));
                self.sweeps(context, |swept| swept.round(slices, nodes));
            }
            66..74 => self.sweeps(context, Swept::drain),
            74..80 => self.cycle(context),
            80..86 => self.busy_cycle(context),
            86..89 => self.read(),
            89..92 if readers > 0 => {
                let at = self.rng.random_range(0..readers);
                drop(self.process_mut().pins.swap_remove(at));
            }
            92..94 | 146..150 => self.time_passes(), // a reader that stays is walked around
            94..98 => self.roll_back(context),
            98 => self.cancelled_cycle(context),
            99..102 => self.branch(),
            102..108 => {
                self.oracle.keep = any_keep(&mut self.rng);
                self.keep_on();
            }
            108..113 => self.pin(),
            113..117 if !self.named.is_empty() => self.unpin(),
            117..120 if readers == 0 => {
                let batch = self.rng.random_range(0..6);
                self.ended_cycle(batch, context);
            }
            120..126 => self.trouble(context),
            126..133 => self.crash(context),
            133..136 => self.consumer(),
            136..138 => self.pin_for_a_while(),
            138..142 if self.is_swept && readers == 0 => self.restart(),
            138..146 if readers == 0 => self.switch(),
            _ => {}
        }
        self.highest = self.highest.max(self.chain().head());
    }

    fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    fn chain(&self) -> &Chain {
        &self.process().swept.rig.chain
    }

    /// The orders that a commit may build on.
    fn window(&self) -> Vec<Order> {
        orders(self.chain().floor(), self.chain().head()).collect()
    }

    fn readable(&self) -> Vec<Order> {
        self.window().into_iter().chain(self.process().swept.kept()).collect()
    }

    /// The next process on what it finds.
    fn wake(&mut self, rig: Rig) {
        let keep_last = self.oracle.keep.last.get();
        let swept = if self.is_swept { Swept::reopened(rig, keep_last) } else { Swept::new(rig, keep_last) };
        self.begin(swept);
    }

    fn begin(&mut self, mut swept: Swept) {
        let policy = keep_by(&mut swept, self.oracle.keep);
        self.process = Some(Process { swept, policy, pins: Vec::new() });
    }

    /// The same process under the retention as it is now.
    fn keep_on(&mut self) {
        let keep = self.oracle.keep;
        let process = self.process_mut();
        process.policy = keep_by(&mut process.swept, keep);
        self.oracle.starts();
    }

    /// Ends the process.
    fn end(&mut self) -> Swept {
        let Process { swept, policy, pins } = self.process.take().unwrap();
        drop((policy, pins));
        swept
    }

    fn restart(&mut self) {
        let Swept { rig, plan, env, sweep, policy } = self.end();
        drop((plan, env, sweep, policy));
        let pending_limit = if self.is_swept { self.config.pending_limit } else { 0 }; // nobody asks for the index
        self.wake(rig.rest().with(StoreConfig { pending_limit, ..self.config }).wake());
        self.oracle.starts();
    }

    /// The next process sweeps between cycles if this one does not, and does not if this one does.
    fn switch(&mut self) {
        self.is_swept = !self.is_swept;
        self.seen.switches += 1;
        self.restart();
    }

    /// What the entry of the commit names is what its state lost.
    fn commit(&mut self, context: &str) {
        let source = Arc::clone(&self.source);
        self.chain().run(&mut source.lock(), 1);
        if self.chain().store.counts_are_settled() {
            self.seen.named += books::newest_entry_is_exact(self.chain(), context) as u64;
        }
    }

    /// A round looks at the head, unless a cycle goes first.
    fn sweeps(&mut self, context: &str, round: impl FnOnce(&mut Swept) -> Round) {
        let head = self.chain().head();
        let round = round(&mut self.process_mut().swept);
        self.seen.swept += round.nodes;
        if round.end != RoundEnd::CycleOpen {
            self.looks(head, context);
        }
    }

    /// The pruner has looked at a head: what is readable is what the oracle says.
    fn looks(&mut self, head: Order, context: &str) {
        self.earlier.push(self.oracle.readable().clone());
        self.oracle.looks(head);
        self.oracle.agrees(self.chain(), context);
    }

    /// It has looked at a head from this one on.
    fn may_have_looked(&mut self, from: Order, or_none: (OrNone, &str)) {
        let to = self.chain().head();
        self.may_have_looked_up_to(from, to, or_none);
    }

    fn may_have_looked_up_to(&mut self, from: Order, to: Order, (or_none, context): (OrNone, &str)) {
        let mut allowed: Vec<Readable> = orders(from, to).map(|head| self.oracle.after_a_look(head)).collect();
        match or_none {
            OrNone::No => {}
            OrNone::Yes => allowed.push(self.oracle.readable().clone()),
            OrNone::Earlier => allowed.extend(self.earlier.iter().cloned().chain([self.oracle.readable().clone()])),
        }
        self.earlier.push(self.oracle.readable().clone());
        let process = self.process.as_ref().unwrap();
        self.oracle.is_one_of(&process.swept.rig.chain, &allowed, context);
    }

    /// Time passes, by both clocks.
    fn time_passes(&mut self) {
        let time = Duration::from_secs(self.rng.random_range(10..60));
        let clock = &self.process().swept.rig.clock;
        clock.advance(time);
        clock.set_unix_ms(clock.unix_ms() + time.as_millis() as u64);
        self.oracle.now_ms += time.as_millis() as u64;
    }

    fn read(&mut self) {
        let order = *self.readable().choose(&mut self.rng).unwrap();
        let pin = self.chain().store.pin(order, "a reader").unwrap();
        self.process_mut().pins.push(pin);
    }

    fn branch(&mut self) {
        let base = *self.window().choose(&mut self.rng).unwrap();
        let source = Arc::clone(&self.source);
        self.chain().fork_at(base, |root, reader| source.lock().changes(root, reader));
    }

    fn pin(&mut self) {
        let order = *self.readable().choose(&mut self.rng).unwrap();
        let name = format!("pin-{}", self.names);
        self.names += 1;
        let pin = NewPin { name: name.clone(), owner: "a test".to_owned(), order, ttl: None };
        self.process().policy.add_pin(pin).unwrap();
        self.oracle.pin(&name, order, None);
        self.named.push((name, order));
    }

    /// A pin that lets go by itself when readers have been passed by a few times.
    fn pin_for_a_while(&mut self) {
        let order = *self.readable().choose(&mut self.rng).unwrap();
        let name = format!("while-{}", self.names);
        self.names += 1;
        let ttl = Some(Duration::from_secs(30));
        self.oracle.pin(&name, order, ttl);
        self.process().policy.add_pin(NewPin { name, owner: "a test".to_owned(), order, ttl }).unwrap();
        self.for_a_while.push(order);
    }

    /// The one consumer moves its watermark, comes, or goes.
    fn consumer(&mut self) {
        let order = *self.window().choose(&mut self.rng).unwrap();
        if self.is_heard && self.rng.random_bool(0.6) {
            self.is_heard = false;
            self.process().policy.remove_consumer("indexer").unwrap();
            self.oracle.forget("indexer");
        } else {
            self.is_heard = true;
            let ttl = *HEARD.choose(&mut self.rng).unwrap();
            self.process().policy.set_consumer("indexer", order, Some(ttl)).unwrap();
            self.oracle.hear("indexer", order, ttl);
        }
    }

    fn unpin(&mut self) {
        let at = self.rng.random_range(0..self.named.len());
        let (name, _) = self.named.swap_remove(at);
        self.process().policy.remove_pin(&name).unwrap();
        self.oracle.unpin(&name);
    }

    fn roll_back(&mut self, context: &str) {
        let to = *self.window().choose(&mut self.rng).unwrap();
        self.roll_back_to(to, context);
    }

    fn roll_back_to(&mut self, to: Order, context: &str) {
        let Process { swept, policy, pins } = self.process();
        match policy.roll_back(&swept.rig.chain.store, to, Batch::new()) {
            Ok((done, _)) => {
                swept.rig.chain.archive.forget_after(to);
                self.durable = if done.from == to { self.durable } else { to }; // nothing is written where nothing changes
            }
            Err(PruneError::Store(StoreError::HeldAbove { order, .. })) => {
                assert!(pins.iter().any(|pin| pin.order() == order), "{context}: order {order}");
            }
            Err(PruneError::PinnedAbove { order, .. }) => {
                let mut pinned = self.named.iter().map(|(_, at)| at).chain(&self.for_a_while);
                assert!(pinned.any(|at| at.get() == order), "{context}: order {order}");
            }
            Err(error) => panic!("{context}: {error}"),
        }
    }

    fn any_way(&mut self) {
        let way = *WAYS.choose(&mut self.rng).unwrap();
        let config = &mut self.process_mut().swept.plan.config;
        (config.mark, config.sweep) = way;
    }

    /// A cycle leaves nothing behind, and marks what two references of the state lead to that it traced: of a window of one
    /// order, or where counts were lost, the newest one.
    fn cycle(&mut self, context: &str) {
        if self.rng.random_bool(0.3) {
            self.oracle.keep = KeepPolicy::last(NonZeroU64::MIN);
            self.keep_on();
        }
        self.any_way();
        let (head, was_lost) = (self.chain().head(), self.chain().store.counts_lost().is_some());
        let before = check::present(&self.chain().store).len() as u64;
        let certificate = self.process().swept.cycle().certificate;
        self.looks(head, context);
        self.earlier.clear(); // a cycle syncs
        self.oracle.is_synced();
        let Process { swept, pins, .. } = self.process();
        assert_eq!(swept.leaks(pins), 0, "{context}: a cycle leaves nothing behind");
        let chain = &swept.rig.chain;
        let after = check::present(&chain.store).len() as u64;
        let (deleted, gone) = (certificate.deleted, before - after);
        assert_eq!(certificate.live_nodes, after, "{context}: it tells what is left");
        match self.engine {
            Engine::Memory => assert_eq!(deleted, gone, "{context}: it tells what it deleted"),
            // Versions are counted, also one below a delete that a compaction of the engine's own has not met.
            Engine::Rocks => assert!(deleted >= gone, "{context}: it deleted {gone}, and tells {deleted}"),
        }
        assert!(chain.store.counts_are_settled(), "{context}: {:?}", chain.store.counts_lost());
        assert_eq!(
            books::journal_is_whole(chain, context),
            chain.floor().next().unwrap(),
            "{context}: what it settled"
        );
        books::names_nothing_alive(chain, context);
        let mut compared = 0;
        if was_lost || chain.floor() == head {
            let exact = if head >= self.highest { Marks::Exact } else { Marks::More }; // a branch may have renewed some
            compared = books::marks_are_those_of(chain, head, exact, context);
        }
        self.seen.marks += compared as u64;
        self.durable = head;
    }

    /// Commits and branches at some of the moments, made from the archive: a failure reaches nothing else of the test. Once a view
    /// is taken, rollbacks to what it has or to a later order, too.
    fn hooks(&mut self) -> (Hooks, Arc<Mutex<Inside>>) {
        let Process { policy, swept, .. } = self.process();
        let (chain, policy, source) = (swept.rig.chain.clone(), Arc::clone(policy), Arc::clone(&self.source));
        let (mut rng, mut left) = (ChaCha8Rng::seed_from_u64(self.rng.random()), self.rng.random_range(0..=INSIDE));
        let (inside, mut captured): (Arc<Mutex<Inside>>, _) = (Arc::default(), None);
        let came = Arc::clone(&inside);
        let hooks = Hooks::new(move |moment| {
            captured = if moment == Moment::Captured { Some(chain.head()) } else { captured };
            if left == 0 || !rng.random_bool(0.2) {
                return;
            }
            left -= 1;
            let source = &mut *source.lock();
            let changes = |root, reader: &dyn NodeReader| source.changes(root, reader);
            match (rng.random_range(0..20), captured) {
                (0, _) => {
                    let base = any_order(&mut rng, &chain, chain.floor());
                    chain.try_fork_from_archive(base, changes).map_or_else(failed, |_| ());
                }
                (1..6, Some(captured)) => {
                    let to = any_order(&mut rng, &chain, captured);
                    came.lock().roll_back(&chain, &policy, to);
                }
                _ => chain.try_commit_from_archive(changes).map_or_else(failed, |_| ()),
            }
            let inside = &mut *came.lock();
            inside.highest = inside.highest.max(Some(chain.head()));
        });
        (hooks, inside)
    }

    /// Takes over what came inside; whether the chain went back.
    fn had_inside(&mut self, inside: &Mutex<Inside>) -> bool {
        let Inside { highest, back } = std::mem::take(&mut *inside.lock());
        self.highest = highest.map_or(self.highest, |highest| highest.max(self.highest));
        self.durable = back.map_or(self.durable, |to| to); // what goes back syncs
        self.seen.went_back += u64::from(back.is_some());
        back.is_some()
    }

    /// A cycle with commits inside leaves nothing behind either, unless the chain goes back meanwhile (L9).
    fn busy_cycle(&mut self, context: &str) {
        self.any_way();
        let (head, (hooks, inside)) = (self.chain().head(), self.hooks());
        let swept = &self.process().swept;
        swept.plan.run(&swept.env_of(&swept.plan, &hooks)).unwrap();
        self.may_have_looked(head, (OrNone::No, context));
        let went_back = self.had_inside(&inside);
        let Process { swept, pins, .. } = self.process();
        let leaks = swept.leaks(pins);
        assert!(leaks == 0 || went_back, "{context}: a cycle leaves nothing behind, and this one leaves {leaks}");
        books::names_nothing_alive(&swept.rig.chain, context);
        self.durable = head;
    }

    /// Hooks that end a cycle at one of its batches, with where its control goes.
    fn ends_at(batch: usize, end: fn(&Control)) -> (Hooks, Arc<OnceLock<Arc<Control>>>) {
        let control: Arc<OnceLock<Arc<Control>>> = Arc::default();
        let (seen, of_cycle) = (AtomicUsize::new(0), Arc::clone(&control));
        let hooks = Hooks::new(move |moment| {
            if moment == Moment::Deleting && seen.fetch_add(1, Ordering::Relaxed) == batch {
                end(of_cycle.get().unwrap());
            }
        });
        (hooks, control)
    }

    /// A cycle in small batches that something ends, or that finishes before.
    fn ending_cycle(&mut self, batch: usize, end: fn(&Control), context: &str) {
        let (hooks, control) = Self::ends_at(batch, end);
        let Process { swept, .. } = self.process();
        let plan: Plan = swept.plan.clone().batches(3);
        let env: CycleEnv = swept.env_of(&plan, &hooks);
        assert!(control.set(Arc::clone(&env.control)).is_ok());
        let ended = plan.run(&env);
        assert!(matches!(ended, Ok(_) | Err(PruneError::Cancelled | PruneError::Stopped)), "{ended:?}");
        drop(env);
        self.looks(self.chain().head(), context);
    }

    fn cancelled_cycle(&mut self, context: &str) {
        let batch = self.rng.random_range(0..6);
        let cancel = |control: &Control| {
            control.cancel();
        };
        self.ending_cycle(batch, cancel, context);
    }

    /// A cycle whose process ends, and that the next one goes on with, perhaps once the chain has gone back to what it captured or to
    /// a later order.
    fn ended_cycle(&mut self, batch: usize, context: &str) {
        let captured = self.chain().head();
        self.ending_cycle(batch, Control::stop, context);
        self.restart();
        if self.rng.random_bool(0.5) {
            (0..3).for_each(|_| self.commit(context));
            self.highest = self.highest.max(self.chain().head());
            let chain = self.chain().clone();
            let to = any_order(&mut self.rng, &chain, captured);
            self.roll_back_to(to, context);
            self.commit(context);
        }
        self.resume(context);
    }

    fn resume(&mut self, context: &str) {
        let Process { swept, .. } = self.process();
        swept.plan.resume(&swept.env).unwrap();
        self.may_have_looked(self.chain().head(), (OrNone::Yes, context));
    }

    /// What a process may be at when something happens to it, from `arm` on: whether it came to its end.
    fn at_work(&mut self, arm: impl FnOnce(&FaultyBackend)) -> bool {
        let (what, is_swept) = (self.rng.random_range(0..3), self.is_swept);
        let (source, (hooks, inside), few) = (Arc::clone(&self.source), self.hooks(), NonZeroUsize::new(3).unwrap());
        let Process { swept, .. } = self.process_mut();
        let (env, dir) = (swept.env_of(&swept.plan, &hooks), swept.plan.config.state_dir.clone());
        arm(swept.rig.faults());
        let came_to_its_end = match what {
            0 => (0..3).all(|_| {
                let commit = |root, reader: &dyn NodeReader| source.lock().changes(root, reader);
                swept.rig.chain.try_commit_from_archive(commit).map_err(failed).is_ok()
            }),
            1 if is_swept => swept.sweep.round(&env, &dir, few, &mut |_| ControlFlow::Continue(few)).is_ok(),
            _ => swept.plan.run(&env).is_ok(),
        };
        self.had_inside(&inside);
        came_to_its_end
    }

    /// How many reads or writes are let through: mostly so few that every operation has more.
    fn soon(&mut self) -> u64 {
        let most = if self.rng.random_bool(0.7) { 5 } else { 30 };
        self.rng.random_range(0..most)
    }

    /// A read or a write fails, and the process goes on.
    fn trouble(&mut self, context: &str) {
        let head = self.chain().head();
        let (distance, is_write) = (self.soon(), self.rng.random_bool(0.5));
        let ended = self.at_work(|faults| {
            if is_write {
                faults.fail_write(distance, Fault::Transient);
            } else {
                faults.fail_read(distance, Fault::Transient);
            }
        });
        self.seen.troubles += u64::from(!ended);
        let faults = self.process().swept.rig.faults();
        faults.fail_write(NEVER, Fault::Transient);
        faults.fail_read(NEVER, Fault::Transient);
        self.may_have_looked(head, (OrNone::Yes, context));
    }

    /// The process dies at some write, or the machine does: what was acknowledged is there, if it was to survive that.
    fn crash(&mut self, context: &str) {
        self.process_mut().pins.clear();
        let drawn = *[CrashTail::Kept, CrashTail::Lost].choose(&mut self.rng).unwrap();
        let tail = if self.engine == Engine::Memory { drawn } else { CrashTail::Kept }; // this machine lives on
        let (write, head) = (self.soon(), self.chain().head());
        let ended = self.at_work(|faults| faults.freeze_after(write));
        self.seen.crashes += u64::from(!ended);
        let acknowledged = self.chain().archive.head().unwrap();
        self.highest = self.highest.max(acknowledged);
        let Swept { rig, plan, env, sweep, policy } = self.end();
        drop((plan, env, sweep, policy));
        let rig = rig.crash(tail);
        let found = rig.chain.head();
        let survives = if tail == CrashTail::Kept || self.synced { acknowledged } else { self.durable };
        let context = format!("{context}: {tail:?} at write {write}");
        assert!(found >= survives && found <= acknowledged, "{context}: {survives} <= {found} <= {acknowledged}");
        rig.chain.archive.forget_after(found);
        self.wake(rig);
        let or_none = if tail == CrashTail::Lost { OrNone::Earlier } else { OrNone::Yes };
        self.may_have_looked_up_to(head, acknowledged, (or_none, &context));
        if tail == CrashTail::Lost {
            let found = self.process().policy.status().unwrap().consumers;
            self.oracle.finds(&found, &context);
        }
        self.oracle.starts();
        let Process { swept, .. } = self.process();
        swept.check(&[], &format!("{context}: as found"));
        books::names_nothing_alive(&swept.rig.chain, &context);
        self.resume(&context);
    }
}

/// Only what was told to fail has failed.
fn failed(error: StoreError) {
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}
