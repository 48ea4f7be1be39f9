//! C12, C13, life cycle row 12: a device that is really full, before, in and after a sweep. The store is read all the while,
//! the reserve lets commits and a sweep go on, and once there is room the next cycle leaves nothing behind.

use std::{
    num::NonZeroU64,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use state_pruner::{
    Command, Ended, PruneError, Pruner, PrunerConfig, Reply, SweepChoice, Verdict,
    cycle::Finished,
    offline::{HealthRequest, health_of_opened},
    recovery::RecoveryConfig,
    validate::{Check, ValidationResult},
};
use state_store::{Disposition, KeyRange, Reserve, Room, StoreError};
use state_tests::{
    check,
    device::Device,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig},
    workload::{Profile, Workload, content, key},
};
use state_tree::{Change, Changes, FieldsBase, Object, Put};

const WINDOW: u64 = 5;
const DEVICE_MIB: u32 = 160;
const RESERVE: u64 = 32 << 20;
/// With it a sweep wants more room than the log of the engine gives back when memtables are flushed, and less than that and
/// the reserve.
const HEAVY: u64 = 24;

fn grown(device: &Device) -> Rig {
    let rig = Rig::at(device.path(), Arc::default());
    rig.chain.grow(Profile::Tables, 951, 30);
    rig
}

/// A value of so many bytes that does not compress.
fn put(n: u64, bytes: usize, dice: &mut ChaCha8Rng) -> Change {
    let mut value = vec![0; bytes];
    dice.fill_bytes(&mut value);
    let object = Object { value, ..content(n) };
    Change::Put(Put { object: Some(object), base: FieldsBase::Keep, fields: Changes::default() })
}

/// Adds live values of a mebibyte each, which lie in blob files.
fn add_weight(rig: &Rig) {
    for n in 0..HEAVY {
        rig.chain.put(&Changes([(key(10_000 + n), put(n, 1 << 20, &mut ChaCha8Rng::seed_from_u64(n)))].into()));
    }
    rig.backend.flush().unwrap();
}

fn keep_room(rig: &Rig, device: &Device) {
    let reserve = Reserve::new(device.path().join("reserve"), NonZeroU64::new(RESERVE).unwrap());
    assert_eq!(rig.chain.store.keep_room(reserve).unwrap(), Room::Kept);
}

fn start(rig: &Rig, sweep: SweepChoice) -> Pruner {
    let mut plan = rig.plan(WINDOW);
    plan.config.sweep = sweep;
    let config = PrunerConfig {
        recovery: RecoveryConfig { max_phase_retries: 0, ..RecoveryConfig::default() },
        ..plan.pruner_of_cycles()
    };
    Pruner::start(rig.pruner_parts(&Hooks::none()), config).unwrap()
}

/// Asks for a cycle and waits for its end.
fn run(pruner: &Pruner) -> Ended {
    let ended = || {
        let status = pruner.status();
        (status.cycles_finished + status.cycles_failed, status.running)
    };
    while ended().1 {
        thread::yield_now();
    }
    let (before, _) = ended();
    assert!(matches!(pruner.command(Command::Run), Reply::Accepted | Reply::FollowUp));
    while ended() == (before, false) || ended().1 {
        thread::yield_now();
    }
    pruner.status().last.unwrap().ended
}

/// What somebody tells who looks at the store from outside.
fn at_rest(rig: &Rig) -> Vec<String> {
    let reserve = NonZeroU64::new(RESERVE);
    let request = HealthRequest { reserve, ..HealthRequest::new(&rig.store_dir(), None) };
    let health = health_of_opened(Arc::clone(&rig.chain.store), &request).unwrap();
    let ages = ["cycle_age_unknown", "lag_unknown", "running"]; // of a store whose node is this process
    health.reasons.into_iter().map(|reason| reason.code).filter(|code| !ages.contains(&code.as_str())).collect()
}

/// Whether a validation fails for want of room.
fn finds_no_room(pruner: &Pruner) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let report = runtime.block_on(pruner.validator().run_comprehensive_validation());
    let of = report.checks.iter().find(|checked| checked.check == Check::Resources).unwrap();
    matches!(of.result, ValidationResult::Failed { .. })
}

fn codes(pruner: &Pruner) -> Vec<String> {
    pruner.health().reasons.into_iter().map(|reason| reason.code).collect()
}

/// Commits until the engine writes again: it looks for room by itself every few seconds.
fn commits_again(rig: &Rig, workload: &mut Workload) {
    let (_open, never) = mpsc::channel::<()>();
    let went_on = (0..3_000).any(|_| {
        let committed = rig.chain.try_commit(|root, reader| workload.changes(root, reader)).is_ok();
        committed || never.recv_timeout(Duration::from_millis(10)).is_ok()
    });
    assert!(went_on, "there is room, and the engine never wrote again");
}

#[test]
fn a_sweep_on_a_device_that_is_nearly_full_has_the_room_of_the_reserve() {
    let Some(device) = Device::mount("a nearly full device", DEVICE_MIB) else { return };
    let rig = grown(&device);
    add_weight(&rig);
    rig.chain.grow(Profile::Tables, 955, 12);
    for sweep in [SweepChoice::Filter, SweepChoice::Delete] {
        device.fill_to(8 << 20); // less than a sweep wants
        let pruner = start(&rig, sweep);
        let ended = run(&pruner);
        let Ended::Failed { code, .. } = &ended else { panic!("{sweep:?}: {} free, {ended:?}", device.free()) };
        assert_eq!(code, "no_room", "{sweep:?}");
        check::complete(&rig.chain, "without a reserve");
        device.empty();
        assert!(matches!(run(&pruner), Ended::Finished { .. }));
        rig.chain.grow(Profile::Tables, 952, 12);
    }
    keep_room(&rig, &device);
    device.fill_to(8 << 20);
    let pruner = start(&rig, SweepChoice::Filter);
    let is_told = |pruner: &Pruner| codes(pruner).contains(&"reserve_released".to_owned());
    assert!(!is_told(&pruner));
    let ended = run(&pruner);
    assert!(matches!(ended, Ended::Finished { .. }), "{ended:?}");
    assert_eq!(rig.chain.store.reserve().unwrap().room(), Room::LetGo);
    assert!(is_told(&pruner));
    assert!(at_rest(&rig).contains(&"reserve_released".to_owned()), "{:?}", at_rest(&rig));
    check::exact(&rig.chain, "swept with the room of the reserve");

    device.empty();
    assert!(matches!(run(&pruner), Ended::Finished { .. }));
    assert_eq!(rig.chain.store.reserve().unwrap().room(), Room::Kept, "it is taken again");
    assert_eq!(pruner.health().verdict, Verdict::Healthy);
}

/// Overwrites many values that lie in the tables of the engine, which then lie in a few files of its last level.
fn grow_wide(rig: &Rig) {
    let mut dice = ChaCha8Rng::seed_from_u64(7);
    for part in 0..40 {
        let change = |n| (key(20_000 + n), put(n, 700, &mut dice));
        rig.chain.put(&Changes((part * 1_500..part * 1_500 + 2_250).map(change).collect()));
    }
    rig.backend.flush().unwrap();
    rig.chain.store.catch_up().unwrap(); // holds no view
    rig.backend.rewrite_files(&KeyRange::ALL).unwrap();
}

/// C13: a range that has no room is cut until it has, and only where it cannot be cut there is none.
#[test]
fn a_sweep_without_room_for_its_range_goes_on_in_smaller_ones() {
    let rig = Rig::new(Engine::Rocks).behind_faults();
    grow_wide(&rig);
    let mut plan = rig.plan(WINDOW);
    (plan.config.sweep, plan.config.range_bytes) = (SweepChoice::Filter, NonZeroU64::MAX);
    let env = rig.env(&plan, &Hooks::none());
    rig.faults().say_free(1 << 20);
    let refused = plan.run(&env).unwrap_err();
    let PruneError::NoRoom { free, need } = refused else { panic!("{refused}") };
    let whole: u64 = rig.backend.node_files().unwrap().iter().map(|file| file.bytes).sum();
    assert!(free == 1 << 20 && need < whole * 3 / 4, "the smallest range needs {need}, all are {whole}");
    rig.faults().say_free(need + (1 << 20)); // files differ by a little
    let ranges = plan.run(&env).unwrap().certificate.sweep.ranges;
    assert!(ranges > 1, "{ranges} ranges");
    check::exact(&rig.chain, "swept in ranges that fit");
}

/// A sweep that lacks room lets the reserve go, so that whoever judges the room counts it: the node, and from outside.
#[test]
fn the_room_for_the_next_cycle_is_judged_at_rest_as_by_its_node() {
    let Some(device) = Device::mount("room at rest", DEVICE_MIB) else { return };
    let rig = grown(&device);
    add_weight(&rig);
    keep_room(&rig, &device);
    let pruner = start(&rig, SweepChoice::Filter);
    let levels = [96, 72, 56, 48, 40, 32, 24, 16, 8, 0]; // less than the reserve apart
    let told = levels.map(|mebibytes| {
        device.empty();
        device.fill_to(mebibytes << 20);
        assert_eq!(codes(&pruner), at_rest(&rig), "{mebibytes} MiB are free");
        let is_short = codes(&pruner).contains(&"cycle_room".to_owned());
        assert_eq!(finds_no_room(&pruner), is_short, "a validation judges as health does at {mebibytes} MiB");
        is_short
    });
    assert!(!told[0] && told[9], "{told:?}");
}

#[test]
fn commits_on_a_device_that_is_full_go_on_with_the_room_of_the_reserve() {
    let Some(device) = Device::mount("commits on a full device", DEVICE_MIB) else { return };
    let rig = grown(&device);
    keep_room(&rig, &device);
    device.fill_to(0);
    let mut workload = Workload::new(Profile::Uniform, 953);
    let refused = (0..2_000).find_map(|_| rig.chain.try_commit(|root, reader| workload.changes(root, reader)).err());
    let Some(error @ StoreError::DiskFull { .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(error.disposition(), Disposition::Resource);
    assert_eq!(rig.chain.store.reserve().unwrap().room(), Room::LetGo);
    check::complete(&rig.chain, "while commits are refused");
    commits_again(&rig, &mut workload);
    let pruner = start(&rig, SweepChoice::Filter);
    assert!(codes(&pruner).contains(&"reserve_released".to_owned()), "{:?}", pruner.health());
    let ended = run(&pruner);
    assert!(matches!(ended, Ended::Finished { .. }), "{ended:?}");
    check::exact(&rig.chain, "pruned on a device that is nearly full");
    drop(pruner);
    let archive = Arc::clone(&rig.chain.archive);
    drop(rig);
    check::exact(&Rig::at(device.path(), archive).chain, "reopened");
}

/// A cycle in which the device is full from a moment on.
fn fills_up(rig: &Rig, device: &Arc<Device>, sweep: SweepChoice, at: u64) -> Result<Finished, PruneError> {
    let (device, mut moments) = (Arc::clone(device), 0);
    let hooks = Hooks::new(move |moment| {
        if !matches!(moment, Moment::Captured | Moment::PhaseSaved | Moment::Deleting) {
            return;
        }
        if moments == at {
            device.fill_to(0);
        }
        moments += 1;
    });
    let mut plan = rig.plan(WINDOW);
    plan.config.sweep = sweep;
    plan.run(&rig.env(&plan, &hooks))
}

/// The device fills up at one moment of a cycle after the other, and stays full until the cycle has ended.
#[test]
fn disk_full_in_each_phase() {
    let Some(device) = Device::mount("a device that fills up", DEVICE_MIB) else { return };
    let device = Arc::new(device);
    for sweep in [SweepChoice::Filter, SweepChoice::Delete] {
        let rig = Rig::at(&device.path().join(format!("{sweep:?}")), Arc::default());
        let (mut failed, mut workload) = (0, Workload::new(Profile::Tables, 954));
        for at in [0, 1, 2, 3, 6] {
            commits_again(&rig, &mut workload);
            rig.chain.run(&mut workload, 12);
            let context = format!("{sweep:?} moment {at}");
            let full = fills_up(&rig, &device, sweep, at);
            check::complete(&rig.chain, &format!("{context}: full"));
            if let Err(error) = full {
                assert_eq!(error.disposition(), Disposition::Resource, "{context}: {error}");
                failed += 1;
            }
            device.empty();
            commits_again(&rig, &mut workload);
            rig.cycle(&rig.plan(WINDOW));
            check::exact(&rig.chain, &context);
        }
        assert!(failed > 1, "{sweep:?}: a full device stopped only {failed} cycles");
    }
}
