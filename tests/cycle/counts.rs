//! S57, L9, P3: what is known of the counts of commits after a rollback and after a first cycle that a restart interrupted, and
//! that the lag is what the archive says.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use state_pruner::{
    Control, HeldBy, PruneError, Pruner, Trigger, TriggerState, Uncounted,
    incremental::{IncrementalSweep, Round, RoundEnd},
};
use state_store::{Batch, Durability, Indexed, Lag, LostBy, StoreConfig, Table};
use state_tests::{
    archive::orders,
    chain::STORE,
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig},
    workload::{Profile, Workload},
};
use state_tree::Order;

use crate::triggers::{standing, standing_in};

const WINDOW: u64 = 5;

/// What waits of these entries, by the archive: the nodes that each order lost, where nothing is shared and nothing comes back.
pub(crate) fn lag_of(rig: &Rig, entries: impl Iterator<Item = Order>) -> Lag {
    let archive = &rig.chain.archive;
    let lost = |order: Order| archive.live([order.minus(1).unwrap()]).difference(&archive.live([order])).count() as u64;
    let named: Vec<(Order, u64)> = entries.map(|order| (order, lost(order))).filter(|(_, lost)| *lost > 0).collect();
    let chain_ms = named.first().map_or(0, |(first, _)| 1000 * rig.chain.floor().get().saturating_sub(first.get()));
    Lag { orders: named.len() as u64, nodes: named.iter().map(|(_, lost)| lost).sum(), chain_ms }
}

/// The orders after `order` up to `last`.
pub(crate) fn after(order: Order, last: Order) -> impl Iterator<Item = Order> {
    orders(order.next().unwrap(), last)
}

/// Moves the floor to where the window wants it.
pub(crate) fn raise_floor(rig: &Rig) {
    rig.chain.store.raise_floor(rig.chain.head().minus(WINDOW - 1).unwrap(), Batch::new()).unwrap();
}

/// A round of a process that has just begun, to its end.
fn drain(rig: &Rig) -> Round {
    let (plan, few) = (rig.plan(WINDOW), NonZeroUsize::new(16).unwrap());
    let env = rig.env(&plan, &Hooks::none());
    let round =
        IncrementalSweep::default().round(&env, &plan.config.state_dir, few, &mut |_| ControlFlow::Continue(few));
    round.unwrap()
}

/// A cycle whose process ends in the middle of its sweep; what the next one finds.
fn interrupted(rig: Rig) -> Rig {
    let control: Arc<OnceLock<Arc<Control>>> = Arc::default();
    let (seen, to_stop) = (AtomicUsize::new(0), Arc::clone(&control));
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::Deleting && seen.fetch_add(1, Ordering::Relaxed) == 1 {
            to_stop.get().unwrap().stop();
        }
    });
    let plan = rig.plan(WINDOW).batches(3);
    let env = rig.env(&plan, &hooks);
    assert!(control.set(Arc::clone(&env.control)).is_ok());
    let ended = plan.run(&env);
    assert!(matches!(ended, Err(PruneError::Stopped)), "{ended:?}");
    drop(env);
    rig.restart()
}

/// S57: on a store that was counted exactly from its first commit on, a first cycle that is resumed settles the counts.
#[test]
fn a_first_cycle_that_is_resumed_settles_counts_that_were_exact() {
    let rig = Rig::new(Engine::Memory);
    let mut workload = Workload::new(Profile::Uniform, 601);
    rig.chain.run(&mut workload, 12);
    let rig = interrupted(rig);
    assert!(!rig.chain.store.counts_are_settled());
    let (plan, first) = (rig.plan(WINDOW), rig.chain.floor());
    assert!(plan.resume(&rig.env(&plan, &Hooks::none())).unwrap().is_some(), "it goes on");
    assert!(rig.chain.store.counts_are_settled());
    rig.chain.store.index_journal(&|| true).unwrap();
    rig.chain.run(&mut workload, WINDOW + 4);
    raise_floor(&rig);
    let lag = rig.chain.store.lag().unwrap();
    assert_eq!(lag, lag_of(&rig, after(first, rig.chain.floor())));
    assert!(lag.orders > 2 && lag.chain_ms > 2000, "the test tells nothing: {lag:?}");
    let round = drain(&rig);
    assert_eq!((round.end, round.nodes), (RoundEnd::Done, lag.nodes));
    check::exact(&rig.chain, "no other cycle is needed");
}

/// The lag after a rollback is that of the history that is left; what its branch had taken out comes back with a restart.
#[test]
fn after_a_rollback_the_lag_is_that_of_what_is_left() {
    for restarts in [false, true] {
        let mut rig = Rig::new(Engine::Memory);
        let mut workload = Workload::new(Profile::Uniform, 611);
        rig.chain.run(&mut workload, 9);
        rig.cycle(&rig.plan(WINDOW));
        let first = rig.chain.floor();
        rig.chain.run(&mut workload, 6);
        let to = rig.chain.head().minus(3).unwrap();
        rig.chain.store.rollback(to, Batch::new()).unwrap();
        rig.chain.archive.forget_after(to);
        let held = rig.chain.store.pending().unwrap().held;
        assert_eq!(held, lag_of(&rig, after(first, to)).nodes, "right after it");
        if restarts {
            rig = rig.restart();
            rig.chain.store.index_journal(&|| true).unwrap();
        }
        rig.chain.run(&mut workload, WINDOW + 2);
        raise_floor(&rig);
        let lag = rig.chain.store.lag().unwrap();
        assert_eq!(lag, lag_of(&rig, after(first, rig.chain.floor())), "restarts: {restarts}");
        assert!(lag.orders > 4 && rig.chain.floor() > to, "the test tells nothing: {lag:?}");
        let round = drain(&rig);
        assert_eq!((round.end, round.nodes), (RoundEnd::Done, lag.nodes));
        assert_eq!(rig.chain.store.lag(), Some(Lag::default()));
        check::complete(&rig.chain, "after the rollback");
        rig.cycle(&rig.plan(WINDOW));
        check::exact(&rig.chain, "the branch is gone");
    }
}

/// S57: a first cycle that had to make counts exact made them so before its sweep, and one that is resumed settles them.
#[test]
fn a_first_cycle_that_counted_blindly_and_is_resumed_settles_the_counts() {
    let rig = Rig::with(Engine::Memory, StoreConfig { journal: false, ..STORE });
    let mut workload = Workload::new(Profile::Tables, 621);
    rig.chain.run(&mut workload, 12);
    let rig = interrupted(rig.twin());
    let (plan, first) = (rig.plan(WINDOW), rig.chain.head());
    assert_eq!((rig.chain.store.counts_are_settled(), rig.chain.store.counts_lost()), (false, None));
    assert!(plan.resume(&rig.env(&plan, &Hooks::none())).unwrap().is_some(), "it goes on");
    assert!(rig.chain.store.counts_are_settled());
    rig.chain.store.index_journal(&|| true).unwrap();
    while rig.chain.floor() <= first {
        rig.chain.run(&mut workload, 1);
        raise_floor(&rig);
    }
    let round = drain(&rig);
    assert!(round.end == RoundEnd::Done && round.nodes > 0, "the test tells nothing: {round:?}");
    check::complete(&rig.chain, "after what was lost since has gone");
    rig.cycle(&plan);
    check::exact(&rig.chain, "after the next cycle");
}

/// Rule 7: marks are as exact after a cycle that was interrupted in its sweep and went on as after one that was not.
#[test]
fn a_cycle_that_is_resumed_leaves_the_marks_exact() {
    let grown = || {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Tables, 641, 60);
        rig
    };
    let whole = grown();
    let before = whole.chain.store.marks().unwrap();
    whole.cycle(&whole.plan(WINDOW));
    let exact = whole.chain.store.marks().unwrap();
    assert!(0 < exact && exact < before, "the test tells nothing: {before} marks, then {exact}");
    let rig = interrupted(grown());
    let plan = rig.plan(WINDOW);
    assert!(plan.resume(&rig.env(&plan, &Hooks::none())).unwrap().is_some(), "it goes on");
    assert_eq!(rig.chain.store.marks().unwrap(), exact);
}

/// S57: where a mark cannot be read at the restart that interrupted a cycle, the cycle goes on and settles nothing: the status
/// says why, and another one begins by itself.
#[test]
fn a_cycle_that_is_resumed_and_cannot_settle_the_counts_is_followed_by_another() {
    let rig = Rig::new(Engine::Memory);
    let mut workload = Workload::new(Profile::Uniform, 621);
    rig.chain.run(&mut workload, 12);
    let rig = interrupted(rig);
    let mut row = Batch::new();
    row.put(Table::MANY, 7_u64.to_be_bytes(), [0; 12]);
    rig.chain.store.write_rows(&row, Durability::Logged).unwrap();
    let rig = rig.restart();
    let config = rig.plan(WINDOW).pruner();
    let pruner = Pruner::start(rig.pruner_parts(&Hooks::none()), config).unwrap();
    let settle = || {
        rig.until(|| {
            let status = pruner.status(); // one moment: it begins between two
            !status.running && standing_in(&status, Trigger::Counts) != TriggerState::Due
        });
    };
    settle();
    let status = pruner.status();
    assert_eq!(
        (status.cycles_finished, standing(&pruner, Trigger::Counts)),
        (1, TriggerState::Held { by: HeldBy::Window }),
        "the one that was resumed"
    );
    let order = rig.chain.head().get();
    assert_eq!(status.incremental.unwrap().uncounted, Some(Uncounted::Lost { by: LostBy::Mark, order }));
    while pruner.status().cycles_finished == 1 {
        assert!(rig.chain.head().get() <= order + WINDOW, "a window later");
        rig.chain.run(&mut workload, 1);
        pruner.committed(rig.chain.head());
        settle();
    }
    assert_eq!((pruner.status().incremental.unwrap().uncounted, rig.chain.store.counts_are_settled()), (None, true));
}

/// C5: marks that cannot be read and had no room in memory end exact counting once: the cycle that follows leaves none of them to
/// the processes that come.
#[test]
fn marks_that_cannot_be_read_cost_one_cycle_and_not_one_after_each_restart() {
    let rig = Rig::with(Engine::Memory, StoreConfig { marks_limit: 2, ..STORE });
    let mut workload = Workload::new(Profile::Tables, 881);
    rig.chain.run(&mut workload, 30);
    rig.cycle(&rig.plan(WINDOW));
    rig.chain.run(&mut workload, 5);
    let mut rows = Batch::new();
    rows.put(Table::MANY, [0xff; 8], [0; 12]);
    rows.put(Table::MANY, [0xff; 9], [0; 12]);
    rig.chain.store.write_rows(&rows, Durability::Logged).unwrap();
    let rig = rig.restart();
    assert_eq!(rig.chain.store.index_journal(&|| true).unwrap(), Indexed::Uncounted);
    assert_eq!(rig.chain.store.counts_lost().map(|lost| lost.by), Some(LostBy::Mark));
    rig.cycle(&rig.plan(WINDOW));
    let rig = rig.restart();
    assert_eq!(rig.chain.store.index_journal(&|| true).unwrap(), Indexed::Whole { bad_rows: Vec::new() });
    assert_eq!((rig.chain.store.counts_lost(), rig.chain.store.counts_are_settled()), (None, true));
    rig.chain.run(&mut workload, WINDOW + 4);
    raise_floor(&rig);
    let round = drain(&rig);
    assert!(round.end == RoundEnd::Done && round.nodes > 0, "the test tells nothing: {round:?}");
    check::complete(&rig.chain, "counted exactly from that cycle on");
}

/// C20: marks that had no room are read before a cycle begins; whoever ends that ends the cycle, and the next one reads them.
#[test]
fn a_cancel_while_marks_are_read_ends_the_cycle_and_the_next_one_reads_them() {
    const READ: u64 = 10;
    let base = Rig::new(Engine::Memory);
    let plan = base.plan(WINDOW);
    base.chain.grow(Profile::Tables, 871, 30);
    base.cycle(&plan);
    base.chain.grow(Profile::Tables, 872, 150);
    let marks = base.chain.store.marks().unwrap();
    assert!(marks > 5 * READ, "{marks}");
    let (rig, faults) = base.faulty_with(StoreConfig { marks_limit: 2, ..STORE });
    let (plan, rows) = (rig.plan(WINDOW), Arc::new(AtomicU64::new(0)));
    let env = rig.env(&plan, &Hooks::none());
    let (counted, control) = (Arc::clone(&rows), Arc::clone(&env.control));
    faults.before_row(move |table| {
        if *table == Table::MANY && counted.fetch_add(1, Ordering::AcqRel) == READ {
            control.cancel();
        }
    });
    let ended = plan.run(&env);
    assert!(matches!(ended, Err(PruneError::Cancelled)), "{ended:?}");
    let rows = rows.load(Ordering::Acquire);
    assert!(rows < marks, "{rows} of {marks} marks were read although nobody waited for them");
    rig.cycle(&plan);
    check::exact(&rig.chain, "after the next cycle");
}
