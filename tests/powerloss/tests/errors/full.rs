//! C12, C13 inside the engine: a device that fills up while a commit waits for it, and one that is full while the store is
//! closed and opened.

use std::thread;

use state_powerloss::{Call, Cause, Device, Fault, Files, Job, Lasting};
use state_store::{Backend as _, StoreError};
use state_tests::{chain::STORE, check, rig::Rig};

use crate::support::{
    Disk, History, assert_full, assert_refused, changes, commit, commits_again, look_again, refusal, stopped_commit,
};

/// The smallest that the engine has.
const MEMTABLE: usize = 64 << 10;

fn no_room(files: Files, lasting: Lasting) -> Fault {
    Fault::first(files, Call::Write, lasting).by(Cause::Full)
}

/// Reads go on while the device fails; then the engine goes on by itself.
fn goes_on(disk: &Disk, rig: Rig, context: &str) {
    check::complete(&rig.chain, context);
    disk.device.mend();
    commits_again(&rig.chain, &mut changes(2), context);
    let head = commit(&rig.chain, &mut changes(3)).unwrap();
    check::complete(&rig.chain, context);
    drop(rig);
    disk.comes_back(head, context);
}

fn waits_for_a_flush(history: &History) {
    let context = "a flush without room";
    let disk = Disk::of(history, Device::keeping(), STORE);
    let (rig, engine) = disk.open_with_engine(context);
    let error = stopped_commit(&disk, (&rig, &engine), no_room(Files::Table, Lasting::UntilMended));
    assert_full(&error, context);
    assert_full(&commit(&rig.chain, &mut changes(1)).unwrap_err(), context);
    drop(engine);
    goes_on(&disk, rig, context);
}

/// Tables pile up that cannot be compacted: the engine slows commits down and then takes none, with much more room than a flush
/// wants.
fn waits_for_a_compaction(history: &History) {
    let context = "a compaction without room";
    let disk = Disk::of(history, Device::keeping(), STORE).with_memtables(MEMTABLE);
    let (rig, engine) = disk.open_with_engine(context);
    disk.device.fail(Fault { job: Job::Compaction, ..no_room(Files::Table, Lasting::UntilMended) });
    let mut was_slowed = false;
    let error = refusal(&rig.chain, || was_slowed |= engine.slows_writes());
    assert_full(&error, context);
    assert!(was_slowed && engine.takes_no_write(), "the engine was slow: {was_slowed}");
    drop(engine);
    goes_on(&disk, rig, context);
}

/// The list of files ends within a record then: its write was cut short.
#[test]
fn a_store_that_is_closed_on_a_full_device_is_whole_once_there_is_room() {
    let history = History::new();
    for files in [Files::Table, Files::List] {
        let context = format!("{files:?}");
        let disk = Disk::of(&history, Device::keeping(), STORE);
        let (rig, engine) = disk.open_with_engine(&context);
        let head = commit(&rig.chain, &mut changes(0)).unwrap();
        disk.device.fail(no_room(files, Lasting::UntilMended));
        assert_full(&engine.flush().unwrap_err(), &context);
        assert_full(&commit(&rig.chain, &mut changes(1)).unwrap_err(), &context);
        drop((rig, engine));
        assert_full(&disk.try_open().unwrap_err(), &context);
        disk.device.mend();
        disk.comes_back(head, &context);
    }
}

/// Once there is room the engine begins another list of files, and cannot put it in force: it tries again.
fn waits_for_a_name(history: &History) {
    let context = "a list without a name";
    let disk = Disk::of(history, Device::keeping(), STORE);
    let (rig, engine) = disk.open_with_engine(context);
    commit(&rig.chain, &mut changes(0)).unwrap();
    disk.device.fail(no_room(Files::List, Lasting::UntilMended));
    assert_full(&engine.flush().unwrap_err(), context);
    disk.device.fail(Fault::first(Files::Current, Call::Rename, Lasting::UntilMended));
    while disk.device.met() == 0 {
        look_again();
    }
    assert_full(&commit(&rig.chain, &mut changes(1)).unwrap_err(), context);
    drop(engine);
    goes_on(&disk, rig, context);
}

#[test]
fn a_commit_that_waits_for_room_ends_and_others_follow_once_there_is_some() {
    let history = History::new();
    thread::scope(|scope| {
        for waits in [waits_for_a_flush, waits_for_a_compaction, waits_for_a_name] {
            let history = &history;
            scope.spawn(move || waits(history));
        }
    });
}

/// A commit says so, then every other, and reads go on.
fn has_stopped(rig: &Rig, context: &str) {
    let error = commit(&rig.chain, &mut changes(1)).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{context}: {error:?}");
    let error = commit(&rig.chain, &mut changes(1)).unwrap_err();
    assert!(matches!(error, StoreError::Poisoned { .. }), "{context}: {error:?}");
    check::complete(&rig.chain, context);
}

/// The engine goes on by itself where the device is full, but does not know of quotas, and has no way back where there is no room
/// for a log.
#[test]
fn a_lack_of_room_that_the_engine_does_not_get_over_stops_it_until_it_is_opened_again() {
    let history = History::new();
    let quota = Fault::first(Files::Table, Call::Write, Lasting::UntilMended).by(Cause::Quota);
    let log = Fault::first(Files::Log, Call::Make, Lasting::UntilMended).by(Cause::Full);
    for fault in [quota, log] {
        let context = format!("{fault:?}");
        let disk = Disk::of(&history, Device::keeping(), STORE);
        let (rig, engine) = disk.open_with_engine(&context);
        let head = commit(&rig.chain, &mut changes(0)).unwrap();
        disk.device.fail(fault);
        let error = engine.flush().unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{context}: {error:?}");
        has_stopped(&rig, &context);
        disk.device.mend();
        assert_refused(&commit(&rig.chain, &mut changes(1)).unwrap_err(), &context);
        drop((rig, engine));
        disk.comes_back(head, &context);
    }
}
