//! Calls that fail while a store is opened: the engine reads its list of files and its logs, and writes both anew.

use state_powerloss::{Call, Device, Fault, Files};
use state_store::{Disposition, StoreError};
use state_tests::chain::STORE;

use crate::support::{Disk, History, calls, faults};

/// Calls of each kind when nothing fails.
fn calls_of(history: &History) -> Vec<(Files, Call, u64)> {
    let disk = Disk::of(history, Device::keeping(), STORE);
    disk.try_open().unwrap();
    calls(&disk.device).into_iter().filter(|(_, _, calls)| *calls > 0).collect()
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
    let Err(error @ StoreError::Io { .. }) = &opened else { panic!("{context}: {opened:?}") };
    assert_eq!(error.disposition(), Disposition::Transient, "{context}: {error}");
    disk.device.mend();
    disk.comes_back(head, &context);
}

#[test]
fn a_call_that_fails_while_a_store_is_opened_is_told_and_loses_nothing() {
    let history = History::with_a_log();
    let kinds = calls_of(&history);
    for of in [Files::Log, Files::Table, Files::List] {
        assert!(kinds.iter().any(|(files, call, _)| (*files, *call) == (of, Call::Read)), "{of:?} is not read");
    }
    kinds.into_iter().flat_map(faults).for_each(|fault| fails_while_opened(&history, fault));
}
