//! What the worker of a node makes of a device that fails: it waits where that helps, tells it in its health, and finishes once
//! the device is mended.

use std::thread;

use state_powerloss::{Call, Device, Fault, Files, Lasting};
use state_pruner::{Command, Ended, Pruner, Reply, SweepChoice, Verdict};
use state_tests::{chain::STORE, check, hooks::Hooks, rig::Rig};

use crate::support::{Disk, History, assert_refused, changes, commit, plan};

fn start(rig: &Rig) -> Pruner {
    let mut plan = plan(rig);
    plan.config.sweep = SweepChoice::Filter;
    let pruner = Pruner::start(rig.pruner_parts(&Hooks::none()), plan.pruner_of_cycles()).unwrap();
    rest(&pruner);
    pruner
}

fn rest(pruner: &Pruner) {
    while pruner.status().running {
        thread::yield_now();
    }
}

/// Asks for a cycle and waits for its end.
fn run(pruner: &Pruner) -> Ended {
    let ended = || {
        let status = pruner.status();
        status.cycles_finished + status.cycles_failed
    };
    let before = ended();
    assert!(matches!(pruner.command(Command::Run), Reply::Accepted | Reply::FollowUp));
    while ended() == before {
        thread::yield_now();
    }
    rest(pruner);
    pruner.status().last.unwrap().ended
}

fn ends_well(pruner: Pruner, rig: &Rig, context: &str) {
    let ended = run(&pruner);
    assert!(matches!(ended, Ended::Finished { .. }), "{context}: {ended:?}");
    let health = pruner.health();
    assert_eq!(health.verdict, Verdict::Healthy, "{context}: {health:?}");
    drop(pruner);
    check::exact(&rig.chain, context);
}

#[test]
fn reads_of_the_engine_that_fail_a_few_times_cost_waits_and_no_cycle() {
    let disk = Disk::of(&History::new(), Device::keeping(), STORE);
    let rig = disk.open("reads fail");
    let pruner = start(&rig);
    disk.device.fail(Fault::first(Files::Table, Call::Read, Lasting::Times(2)));
    let before = rig.clock.slept().len();
    let ended = run(&pruner);
    assert!(matches!(ended, Ended::Finished { .. }), "{ended:?}");
    assert_eq!((disk.device.met(), rig.clock.slept().len() - before), (2, 2));
    check::exact(&rig.chain, "tried again");
    ends_well(pruner, &rig, "reads fail");
}

#[test]
fn a_device_that_keeps_failing_is_a_reason_of_health_until_it_is_mended() {
    let history = History::new();
    for (call, code, verdict) in [(Call::Read, "io", Verdict::Degraded), (Call::Write, "poisoned", Verdict::Critical)] {
        let context = format!("{call:?}");
        let disk = Disk::of(&history, Device::keeping(), STORE);
        let rig = disk.open(&context);
        let pruner = start(&rig);
        disk.device.fail(Fault::first(Files::Table, call, Lasting::UntilMended));
        let ended = run(&pruner);
        assert!(matches!(&ended, Ended::Failed { code: of, .. } if of == code), "{context}: {ended:?}");
        let health = pruner.health();
        assert_eq!(health.verdict, verdict, "{context}: {health:?}");
        assert!(
            health.reasons.iter().any(|reason| reason.message.contains(&format!("({code})"))),
            "{context}: {health:?}"
        );
        assert!(pruner.status().frozen.is_none(), "{context}");
        disk.device.mend();
        check::complete(&rig.chain, &format!("{context}: mended"));
        if call == Call::Read {
            ends_well(pruner, &rig, &context);
            continue;
        }
        let told = health.reasons.iter().any(|reason| reason.code == "engine_stopped");
        assert!(told, "{context}: {health:?}");
        assert_refused(&commit(&rig.chain, &mut changes(0)).unwrap_err(), &context);
        drop(pruner);
        drop(rig);
        let rig = disk.open(&context);
        ends_well(start(&rig), &rig, &context);
    }
}
