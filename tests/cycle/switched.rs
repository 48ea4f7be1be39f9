//! Life cycle 8, `prune-disable` and `prune-enable`: pruning is switched off at each moment of a cycle, at each read of the
//! rounds between cycles, and under a freeze. From then on nothing goes and the floor stays, over a restart too; once it is
//! switched on again everything is as if it had never been off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{Command, Pruner, PrunerConfig, Reply, incremental::SlicePace};
use state_store::StoreError;
use state_tests::{
    check,
    hooks::Hooks,
    rig::{Engine, Rig},
    waits::until,
    workload::Profile,
};
use state_tree::Order;

const WINDOW: u64 = 4;
/// A round that is switched off writes its slice, that it is off, and lets go of its lock.
const MOST_WRITES: u64 = 6;

/// Moments of a pruner's work, counted from when it is handed over; at one of them it is switched off, on its own thread.
#[derive(Clone, Default)]
struct Moments {
    pruner: Arc<Mutex<Option<Arc<Pruner>>>>,
    seen: Arc<AtomicU64>,
}

impl Moments {
    /// Whether it is the worker that asks.
    fn is_of_worker(&self) -> bool {
        thread::current().name() == Some("pruner")
    }

    /// Gives the worker the time to go on with what it is at, if it does.
    fn are_quiet(&self) {
        let (mut seen, mut unchanged) = (0, 0);
        while unchanged < 100 {
            thread::yield_now();
            let now = self.seen.load(Ordering::Acquire);
            unchanged = if now == seen { unchanged + 1 } else { 0 };
            seen = now;
        }
    }

    /// A read of the worker has come; its first one waits until the pruner is handed over.
    fn read(&self, at: u64) {
        if !self.is_of_worker() {
            return;
        }
        while self.seen.load(Ordering::Acquire) == 0 && self.pruner.lock().is_none() {
            thread::yield_now();
        }
        self.come(at);
    }

    /// A moment has come; the one of this number switches off.
    fn come(&self, at: u64) {
        let Some(pruner) = self.pruner.lock().clone() else { return };
        if self.seen.fetch_add(1, Ordering::AcqRel) == at {
            assert_eq!(pruner.command(Command::Disable), Reply::Accepted);
        }
    }

    fn begin(&self, pruner: &Arc<Pruner>) {
        *self.pruner.lock() = Some(Arc::clone(pruner));
    }

    /// How many there were.
    fn end(&self) -> u64 {
        self.pruner.lock().take();
        self.seen.load(Ordering::Acquire)
    }
}

fn is_at_rest(pruner: &Pruner) -> bool {
    !pruner.status().running
}

fn is_swept(rig: &Rig) -> bool {
    let floor = rig.chain.head().minus(WINDOW - 1).unwrap();
    rig.chain.floor() == floor && rig.chain.store.lag().is_some_and(|lag| lag.nodes == 0)
}

fn start(rig: &Rig, config: PrunerConfig, hooks: &Hooks) -> Arc<Pruner> {
    let pruner = Arc::new(Pruner::start(rig.pruner_parts(hooks), config).unwrap());
    until(rig, &pruner, is_at_rest);
    pruner
}

/// Ends a pruner that nobody else has; a moment of its worker may still be at an end.
fn end(pruner: Arc<Pruner>) {
    while Arc::strong_count(&pruner) > 1 {
        thread::yield_now();
    }
    Arc::try_unwrap(pruner).unwrap().stop();
}

/// A history that a cycle has settled, and many orders behind it. No two places share a node.
fn settled(seed: u64) -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, seed, 12);
    rig.cycle(&rig.plan(WINDOW));
    rig.chain.grow(Profile::Uniform, seed + 1, 20);
    rig
}

/// Commits come, operators ask, time passes: nothing goes.
fn stays_off(rig: &Rig, pruner: &Pruner, context: &str) {
    let (floor, before) = (rig.chain.floor(), check::present(&rig.chain.store));
    assert!(pruner.status().off.is_some(), "{context}");
    for _ in 0..5 {
        rig.chain.grow(Profile::Uniform, 640, 1);
        pruner.committed(rig.chain.head());
        rig.clock.advance(Duration::from_secs(3_600));
        thread::yield_now();
    }
    assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }), "{context}");
    assert_eq!(rig.chain.floor(), floor, "{context}: the floor stays");
    assert!(before.is_subset(&check::present(&rig.chain.store)), "{context}: nothing goes");
    check::complete(&rig.chain, context);
}

/// Off over a restart, then on again.
fn goes_on(rig: Rig, config: impl Fn(&Rig) -> PrunerConfig, context: &str) -> (Rig, Arc<Pruner>) {
    let rig = rig.restart();
    let pruner = start(&rig, config(&rig), &Hooks::none());
    stays_off(&rig, &pruner, &format!("{context}, in another process"));
    assert_eq!(pruner.command(Command::Enable), Reply::Accepted, "{context}");
    assert!(pruner.status().off.is_none(), "{context}");
    (rig, pruner)
}

#[test]
fn pruning_that_is_switched_off_at_any_moment_of_a_cycle_is_as_exact_when_it_is_on_again() {
    let base = settled(641);
    let config = |rig: &Rig| rig.plan(WINDOW).in_order().batches(10).pruner_of_cycles();
    let mut abandoned = 0;
    for at in 0.. {
        let (rig, moments, context) = (base.twin(), Moments::default(), format!("moment {at}"));
        let counted = moments.clone();
        let pruner = start(&rig, config(&rig), &Hooks::new(move |_| counted.come(at)));
        moments.begin(&pruner);
        assert_eq!(pruner.command(Command::Run), Reply::Accepted, "{context}");
        let has_ended = |pruner: &Pruner| {
            let status = pruner.status();
            !status.running && status.cycles_finished + status.cycles_cancelled > 0
        };
        until(&rig, &pruner, has_ended);
        let seen = moments.end();
        if seen <= at {
            assert!(abandoned > 8, "only {abandoned} cycles of {at} were abandoned");
            return end(pruner);
        }
        abandoned += pruner.status().cycles_cancelled;
        check::complete(&rig.chain, &context);
        stays_off(&rig, &pruner, &context);
        end(pruner);
        let (rig, pruner) = goes_on(rig, config, &context);
        assert_eq!(pruner.command(Command::Run), Reply::Accepted, "{context}");
        until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
        end(pruner);
        check::exact(&rig.chain, &context);
    }
}

#[test]
fn pruning_that_is_switched_off_at_any_read_of_a_round_goes_on_where_it_was() {
    let base = settled(643);
    let config = |rig: &Rig| rig.plan(WINDOW).pruner();
    let mut stopped = 0;
    for at in 0.. {
        let (rig, moments, context) = (base.twin().behind_faults(), Moments::default(), format!("read {at}"));
        let before = check::present(&rig.chain.store).len();
        let (counted, clock) = (moments.clone(), Arc::clone(&rig.clock));
        rig.faults().before_read(move || {
            clock.advance(SlicePace::MOST_READING * 2 / 3); // so that slices are short
            counted.read(at);
        });
        let (writes, of_worker) = (Arc::new(AtomicU64::new(0)), moments.clone());
        let later = Arc::clone(&writes);
        rig.faults().before_write(move || {
            if of_worker.is_of_worker() && of_worker.seen.load(Ordering::Acquire) > at {
                later.fetch_add(1, Ordering::AcqRel);
            }
        });
        let pruner = Arc::new(Pruner::start(rig.pruner_parts(&Hooks::none()), config(&rig)).unwrap());
        moments.begin(&pruner);
        until(&rig, &pruner, |pruner| pruner.status().off.is_some() || is_swept(&rig));
        moments.are_quiet();
        let after = writes.load(Ordering::Acquire);
        assert!(pruner.status().off.is_none() || after <= MOST_WRITES, "{context}: {after} writes after it");
        rig.faults().before_read(|| ());
        let seen = moments.end();
        if seen <= at {
            assert!(stopped > 3, "no round was ended: {stopped}");
            return end(pruner);
        }
        until(&rig, &pruner, |pruner| pruner.status().off.is_some()); // the read has come; what it says may be on its way
        end(pruner); // what was at work has ended
        stopped += u64::from(!is_swept(&rig) && check::present(&rig.chain.store).len() < before);
        check::complete(&rig.chain, &context);
        let (rig, pruner) = goes_on(rig, config, &context);
        until(&rig, &pruner, |_| is_swept(&rig));
        assert_eq!(pruner.status().cycles_finished, 0, "{context}: by the sweep alone");
        end(pruner);
        check::exact(&rig.chain, &context); // nothing is ever shared here
    }
}

/// A freeze and the switch hold deletes each for itself, in whatever order they end.
#[test]
fn pruning_that_is_switched_off_under_a_freeze_is_on_only_when_both_have_ended() {
    for ends in [[Command::Unfreeze, Command::Enable], [Command::Enable, Command::Unfreeze]] {
        let (rig, context) = (settled(645), format!("{ends:?}"));
        let (floor, config) = (rig.chain.floor(), rig.plan(WINDOW).pruner());
        let pruner = Arc::new(Pruner::start(rig.pruner_parts(&Hooks::none()), config).unwrap());
        pruner.found(&StoreError::Corrupt("a checksum".to_owned()).into()).unwrap();
        assert_eq!(pruner.command(Command::Disable), Reply::Accepted, "{context}");
        until(&rig, &pruner, is_at_rest);
        end(pruner);
        let (floor, before) = (floor.max(rig.chain.floor()), check::present(&rig.chain.store));
        let rig = rig.restart();
        let pruner = start(&rig, rig.plan(WINDOW).pruner(), &Hooks::none());
        stays_off(&rig, &pruner, &context);
        assert_eq!(pruner.command(ends[0]), Reply::Accepted, "{context}");
        let status = pruner.status();
        assert!(status.off.is_some() != status.frozen.is_some(), "{context}: one of the two has ended");
        rig.chain.grow(Profile::Uniform, 647, 1);
        pruner.committed(rig.chain.head());
        assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }), "{context}");
        assert_eq!(rig.chain.floor(), floor, "{context}: the floor stays");
        assert!(before.is_subset(&check::present(&rig.chain.store)), "{context}: nothing goes");
        assert_eq!(pruner.command(ends[1]), Reply::Accepted, "{context}");
        until(&rig, &pruner, |_| is_swept(&rig));
        end(pruner);
        check::exact(&rig.chain, &context);
        assert!(rig.chain.floor() > Order::GENESIS);
    }
}
