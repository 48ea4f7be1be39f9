//! P18: the bytes that a sweep moves against the time that it takes, on a clock that only whoever rests moves on.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use state_pruner::{Clock, PruneError, SweepChoice, mark::MarkChoice};
use state_store::{Flow, KeyRange, Point, watch};
use state_tests::{
    check,
    hooks::Hooks,
    rig::{Engine, Rig},
    workload::Profile,
};

const WINDOW: u64 = 5;
const RATE: u64 = 1000;

/// Bytes of keys and values of every node there is.
fn bytes(rig: &Rig) -> u64 {
    let mut bytes = 0;
    let view = rig.chain.store.view().unwrap();
    view.scan_nodes(&KeyRange::ALL, &mut |key, value| {
        bytes += (key.len() + value.len()) as u64;
        Flow::Continue(())
    })
    .unwrap();
    bytes
}

/// How long a cycle takes under a limit, if it may move so many bytes each second.
fn takes(rig: &Rig, sweep: SweepChoice, limit: Option<u64>) -> Duration {
    let mut plan = rig.plan(WINDOW).in_order().batches(40).by(MarkChoice::Scan, sweep);
    plan.config.io_limit = limit.and_then(NonZeroU64::new);
    let begun = rig.clock.monotonic();
    rig.cycle(&plan);
    check::exact(&rig.chain, &format!("{sweep:?} at {limit:?}"));
    rig.clock.monotonic() - begun
}

#[test]
fn a_sweep_by_filter_takes_exactly_as_long_as_what_it_moves_at_its_limit() {
    let base = Rig::new(Engine::Memory);
    base.chain.grow(Profile::Tables, 1001, 25);
    assert_eq!(takes(&base.twin(), SweepChoice::Filter, None), Duration::ZERO);
    let moves = bytes(&base);
    assert!(moves > 30 * RATE, "{moves} bytes tell nothing");
    for rate in [RATE, 3 * RATE] {
        let expected = Duration::from_secs_f64(moves as f64 / rate as f64);
        let took = takes(&base.twin(), SweepChoice::Filter, Some(rate));
        assert!(took.abs_diff(expected) < Duration::from_millis(1), "{took:?} instead of {expected:?} at {rate}");
    }
}

/// The engine's own compactions are not braked, those of level 0 have a floor under their rate, and several at a time share one
/// brake: so at least as long as one of them alone.
#[test]
fn a_rewrite_by_the_engine_is_braked_as_a_whole() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Tables, 1002, 25);
    rig.chain.store.catch_up().unwrap(); // holds no view, which the engine would write all of this anew for
    rig.backend.flush().unwrap();
    rig.backend.rewrite_files(&KeyRange::ALL).unwrap(); // nothing is in level 0
    let least = Duration::from_secs_f64(bytes(&rig) as f64 / RATE as f64);
    let took = takes(&rig, SweepChoice::Filter, Some(RATE));
    assert!(took + Duration::from_millis(1) >= least, "{took:?} for what takes {least:?}");
}

/// Nor does a brake outlive a cancel: what rests ends.
#[test]
fn a_cancel_ends_a_sweep_that_is_braked() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 1003, 20);
    let mut plan = rig.plan(WINDOW).in_order().by(MarkChoice::Scan, SweepChoice::Filter);
    plan.config.io_limit = Some(NonZeroU64::MIN);
    let env = rig.env(&plan, &Hooks::none());
    let control = Arc::clone(&env.control);
    let _watching = watch(move |point| {
        if point == Point::RangePassed {
            control.cancel();
        }
    });
    assert!(matches!(plan.run(&env), Err(PruneError::Cancelled)));
    check::complete(&rig.chain, "cancelled");
}
