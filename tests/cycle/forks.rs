//! I3, S37: commits on an older state than the newest: what the sweep between cycles still trusts afterwards, and what not.

use std::{num::NonZeroUsize, ops::ControlFlow, sync::Arc, time::Duration};

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use state_pruner::{
    Clock as _, HeldBy, Pruner, PrunerParts, SystemClock, Trigger, TriggerState, Uncounted, Verdict,
    cycle::CycleEnv,
    events::Event,
    incremental::{IncrementalSweep, Round, RoundEnd},
};
use state_store::{Lag, LostBy, StoreConfig};
use state_tests::{
    archive::orders,
    chain::STORE,
    check,
    hooks::Hooks,
    rig::{Engine, Plan, Rig},
    told::Told,
    workload::{Profile, Workload},
};
use state_tree::Order;

use crate::counts::{after, lag_of, raise_floor};
use crate::triggers::{standing, standing_in};

/// A chain that is swept between its cycles.
pub(crate) struct Swept {
    pub(crate) rig: Rig,
    pub(crate) plan: Plan,
    env: CycleEnv,
    sweep: IncrementalSweep,
}

impl Swept {
    pub(crate) fn new(rig: Rig, keep_last: u64) -> Self {
        let plan = rig.plan(keep_last);
        let env = rig.env(&plan, &Hooks::none());
        Self { rig, plan, env, sweep: IncrementalSweep::default() }
    }

    pub(crate) fn drain(&mut self) -> Round {
        let few = NonZeroUsize::new(16).unwrap();
        self.sweep.round(&self.env, &self.plan.config.state_dir, few, &mut |_| ControlFlow::Continue(few)).unwrap()
    }

    pub(crate) fn cycle(&self) {
        self.plan.run(&self.env).unwrap();
    }

    pub(crate) fn restart(self) -> Self {
        let Self { rig, plan, env, sweep } = self;
        drop((env, sweep));
        let rig = rig.restart();
        rig.chain.store.index_journal(&|| true).unwrap();
        Self::new(rig, plan.keep_last.get())
    }

    pub(crate) fn fork(&self, base: Order, workload: &mut Workload) {
        self.rig.chain.fork_at(base, |root, reader| workload.changes(root, reader));
    }

    pub(crate) fn leaks(&self) -> usize {
        check::present(&self.rig.chain.store).difference(&check::needed(&self.rig.chain)).count()
    }
}

/// Forks again and again, on any readable state, between rounds, cycles and restarts.
#[test]
fn what_a_branch_had_lost_is_kept_for_the_state_that_still_has_it() {
    let histories = std::env::var("INCREMENTAL_HISTORIES").map_or(60, |text| text.parse().unwrap());
    let (mut nodes, mut exact, mut ended) = (0, 0, 0);
    for (seed, profile) in (0..histories).flat_map(|seed| [(seed, Profile::Toggle), (seed, Profile::Tables)]) {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut workload = Workload::new(profile, seed);
        let mut swept = Swept::new(Rig::new(Engine::Memory), rng.random_range(2..=7));
        swept.rig.chain.run(&mut workload, 9);
        swept.cycle();
        for step in 0..60 {
            let context = format!("{profile:?} seed {seed} step {step}");
            match rng.random_range(0..100) {
                0..55 => swept.rig.chain.run(&mut workload, 1),
                55..70 => {
                    let window: Vec<Order> = orders(swept.rig.chain.floor(), swept.rig.chain.head()).collect();
                    swept.fork(*window.choose(rng).unwrap(), &mut workload);
                    *if swept.rig.chain.store.counts_are_settled() { &mut exact } else { &mut ended } += 1;
                }
                70..90 => nodes += swept.drain().nodes,
                90..96 => {
                    swept.cycle();
                    assert_eq!(swept.leaks(), 0, "{context}");
                }
                _ => swept = swept.restart(),
            }
            check::complete(&swept.rig.chain, &context);
        }
        swept.cycle();
        assert_eq!(swept.leaks(), 0, "{profile:?} seed {seed}: a cycle leaves nothing behind");
    }
    assert!(nodes > 1000 && exact > 100 && ended > 100, "{nodes} nodes swept, {exact} and {ended}: it tests nothing");
}

/// A fork leaves what waited to a cycle, says how much that was, and goes on exactly from there, also after a restart.
#[test]
fn after_a_fork_the_sweep_goes_on_with_what_comes_after_it() {
    const WINDOW: u64 = 5;
    for restarts in [false, true] {
        let mut swept = Swept::new(Rig::new(Engine::Memory), WINDOW);
        let mut workload = Workload::new(Profile::Uniform, 501);
        swept.rig.chain.run(&mut workload, 9);
        swept.cycle();
        swept.rig.chain.run(&mut workload, 4);
        let chain = swept.rig.chain.clone();
        let waits = chain.store.pending().unwrap();
        assert_eq!(
            waits.held,
            lag_of(&swept.rig, after(chain.floor(), chain.head())).nodes,
            "all of it is in the index"
        );
        swept.fork(chain.head().minus(2).unwrap(), &mut workload);
        let fork = chain.head();
        let given_up = chain.store.pending().unwrap();
        assert_eq!((given_up.held, given_up.unindexed), (0, waits.held), "and is left to a cycle, which is told");
        drop(chain);
        if restarts {
            swept = swept.restart();
        }
        swept.rig.chain.run(&mut workload, WINDOW + 3);
        let chain = swept.rig.chain.clone();
        raise_floor(&swept.rig);
        let lag = chain.store.lag().unwrap();
        assert_eq!(lag, lag_of(&swept.rig, after(fork, chain.floor())), "restarts: {restarts}");
        assert!(lag.orders > 2, "the test tells nothing: {lag:?}");
        let round = swept.drain();
        assert_eq!((round.end, round.nodes), (RoundEnd::Done, lag.nodes), "all that the new branch lost goes");
        assert_eq!(chain.store.lag().unwrap(), Lag::default());
        check::complete(&chain, "after the fork");
        assert!(swept.leaks() > 0, "what waited before it is left");
        drop(chain);
        swept.cycle();
        check::exact(&swept.rig.chain, "and a cycle finds it");
    }
}

/// P3: the commits that were not journalled are of an earlier process, and this one has none.
#[test]
fn counts_that_an_earlier_process_has_lost_are_told_though_nothing_is_committed() {
    const WINDOW: u64 = 5;
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 512, 12);
    let pruner = Pruner::start(rig.pruner_parts(&Hooks::none()), rig.plan(WINDOW).pruner()).unwrap();
    pruner.run_once("from its snapshot on a window is waited for");
    rig.until(|| {
        let status = pruner.status();
        status.cycles_finished > 0 && !status.running // one more may follow a cycle that had begun by itself
    });
    drop(pruner);
    let rig = rig.rest().with(StoreConfig { journal: false, ..STORE }).wake();
    rig.chain.grow(Profile::Uniform, 513, 1);
    let rig = rig.rest().with(STORE).wake();
    let told = Arc::new(Told::default());
    let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&Hooks::none()) };
    let pruner = Pruner::start(parts, rig.plan(WINDOW).pruner()).unwrap();
    let lost = || told.0.lock().iter().filter(|event| matches!(event, Event::CountsLost { .. })).count();
    let (clock, patience) = (SystemClock::new(), Duration::from_secs(20));
    while lost() == 0 {
        assert!(clock.monotonic() < patience, "the clock of the pruner stands still, and nothing wakes it");
        std::thread::yield_now();
    }
    drop(pruner);
    assert_eq!(lost(), 1, "once");
}

/// P3: where a fork ends exact counting, event, status and health say so at once, and a cycle begins by itself that ends it.
#[test]
fn a_fork_that_ends_exact_counting_is_told_and_a_cycle_begins_for_it() {
    const WINDOW: u64 = 5;
    let rig = Rig::new(Engine::Memory);
    let mut workload = Workload::new(Profile::Uniform, 511);
    rig.chain.run(&mut workload, 9);
    rig.cycle(&rig.plan(WINDOW));
    let told = Arc::new(Told::default());
    let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&Hooks::none()) };
    let config = rig.plan(WINDOW).pruner();
    let pruner = Pruner::start(parts, config).unwrap();
    let commit = |workload: &mut Workload| {
        rig.chain.run(workload, 1);
        pruner.committed(rig.chain.head());
    };
    let counts = || standing(&pruner, Trigger::Counts);
    let rests = || {
        let status = pruner.status(); // one moment: it begins between two
        !status.running && standing_in(&status, Trigger::Counts) != TriggerState::Due
    };
    let lost = || told.0.lock().iter().filter(|event| matches!(event, Event::CountsLost { .. })).count();
    rig.until(|| !pruner.status().running);
    pruner.run_once("from its snapshot on a window is waited for");
    rig.until(|| pruner.status().cycles_finished == 1 && !pruner.status().running);
    let old = rig.chain.head().minus(1).unwrap();
    for _ in 0..2 {
        rig.chain.fork_at(old, |root, reader| workload.changes(root, reader));
        pruner.committed(rig.chain.head());
    }
    let at = rig.chain.head().get();
    let status = pruner.status().incremental.unwrap();
    let by_fork = Some(Uncounted::Lost { by: LostBy::Fork, order: at });
    assert_eq!((status.uncounted, status.last, status.lag_nodes), (by_fork, Some(RoundEnd::Uncounted), None));
    let health = pruner.health();
    assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Degraded, "counts_lost"), "{health:?}");
    rig.until(|| lost() == 1);
    assert_eq!(counts(), TriggerState::Held { by: HeldBy::Window });
    while pruner.status().cycles_finished == 1 {
        assert!(rig.chain.head().get() <= at + WINDOW, "a window later, by itself");
        commit(&mut workload);
        rig.until(rests);
    }
    assert_eq!((pruner.status().incremental.unwrap().uncounted, pruner.health().verdict), (None, Verdict::Healthy));
    (0..WINDOW).for_each(|_| commit(&mut workload));
    let is_swept = || {
        rig.chain.floor().get() == rig.chain.head().get() + 1 - WINDOW && rig.chain.store.lag() == Some(Lag::default())
    };
    rig.until(is_swept);
    check::complete(&rig.chain, "the sweep goes on");
    assert_eq!(lost(), 1, "told once");
}
