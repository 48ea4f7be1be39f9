//! Calls that fail while a store is opened: the engine reads its list of files and its logs, and writes both anew.

use std::thread;

use state_powerloss::{Call, Cause, Device, Fault, Files};
use state_store::{Disposition, StoreError};
use state_tests::chain::STORE;

use crate::support::{Disk, History, assert_full, between, calls, faults, fillings};

/// Calls of each kind when nothing fails.
fn calls_of(history: &History) -> Vec<(Files, Call, u64)> {
    let disk = Disk::of(history, Device::keeping(), STORE);
    let before = calls(&disk.device);
    disk.try_open().unwrap();
    between(&before, &calls(&disk.device))
}

fn fails_while_opened(history: &History, fault: Fault) {
    let context = format!("{fault:?}");
    let head = {
        let disk = Disk::of(history, Device::keeping(), STORE);
        disk.open(&context).chain.head()
    };
    let disk = Disk::of(history, Device::keeping(), STORE);
    disk.device.fail(fault);
    let opened = disk.try_open();
    assert!(disk.device.met() > 0, "{context}: the fault was not met");
    match (&opened, fault.cause) {
        (Err(error @ StoreError::Io { .. }), Cause::Failed) => {
            assert_eq!(error.disposition(), Disposition::Transient, "{context}: {error}");
        }
        (Err(error), Cause::Full) => assert_full(error, &context),
        (opened, _) => panic!("{context}: {opened:?}"),
    }
    disk.device.mend();
    disk.comes_back(head, &context);
}

type Kind = (Files, Call, u64);

/// Each fault, those of one kind of call after each other.
fn table(history: &History, kinds: Vec<Kind>, faults: fn(Kind) -> Vec<Fault>) {
    thread::scope(|scope| {
        for kind in kinds {
            scope.spawn(move || faults(kind).into_iter().for_each(|fault| fails_while_opened(history, fault)));
        }
    });
}

#[test]
fn a_call_that_fails_while_a_store_is_opened_is_told_and_loses_nothing() {
    let history = History::with_a_log();
    let kinds = calls_of(&history);
    let reads = [Files::Log, Files::Table, Files::List].map(|files| (files, Call::Read));
    let names = [Files::Current, Files::Options].map(|files| (files, Call::Rename));
    for needed in reads.into_iter().chain(names).chain([(Files::List, Call::Write), (Files::Folder, Call::Sync)]) {
        assert!(kinds.iter().any(|(files, call, _)| (*files, *call) == needed), "there is no {needed:?}");
    }
    table(&history, kinds, faults);
}

#[test]
fn a_device_that_fills_up_while_a_store_is_opened_is_told_and_loses_nothing() {
    let history = History::with_a_log();
    table(&history, calls_of(&history), fillings);
}
