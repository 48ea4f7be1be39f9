//! Commits whose sync fails, and a device that takes no write any more.

use state_powerloss::{Call, Cause, Device, Fault, Files, Lasting, Loss};
use state_pruner::{Freeze, PruneError};
use state_store::{Disposition, Durability, StoreConfig, StoreError};
use state_tests::{chain::STORE, check, hooks::Hooks, rig::Rig};

use crate::support::{Disk, History, changes, commit, plan, stopped_commit};

/// What the system has of what it could not sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsynced {
    /// All of it, if nothing else happens.
    Kept,
    /// Nothing: it takes the pages for written.
    Dropped,
}

/// The engine has stopped: a cycle ends with that, freezes nothing, for no node is damaged, and reads go on.
fn no_cycle_begins(rig: &Rig, context: &str) {
    let plan = plan(rig);
    let env = rig.env(&plan, &Hooks::none());
    let ended = plan.run(&env);
    assert!(matches!(ended, Err(PruneError::Store(StoreError::Poisoned { .. }))), "{context}: {ended:?}");
    assert!(Freeze::load(&*env.parts.records).unwrap().is_none(), "{context}");
    check::complete(&rig.chain, context);
}

#[test]
fn a_commit_whose_sync_fails_is_whole_or_gone_and_none_follows_it() {
    let history = History::new();
    for unsynced in [Unsynced::Kept, Unsynced::Dropped] {
        let context = format!("{unsynced:?}");
        let device = if unsynced == Unsynced::Kept { Device::keeping() } else { Device::new() };
        let disk = Disk::of(&history, device, StoreConfig { durability: Durability::Synced, ..STORE });
        let (rig, mut workload) = (disk.open(&context), changes(0));
        commit(&rig.chain, &mut workload).unwrap();
        let acknowledged = commit(&rig.chain, &mut workload).unwrap();
        disk.device.fail(Fault::first(Files::Log, Call::Sync, Lasting::Times(1)));
        let error = commit(&rig.chain, &mut workload).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{context}: {error:?}");
        assert_eq!((error.disposition(), disk.device.met()), (Disposition::Transient, 1), "{context}");
        // The device syncs again; what it did not sync before it would not tell.
        for _ in 0..2 {
            let error = commit(&rig.chain, &mut workload).unwrap_err();
            assert!(matches!(error, StoreError::Poisoned { .. }), "{context}: {error:?}");
            assert_eq!(error.disposition(), Disposition::Corrupt, "{context}");
        }
        no_cycle_begins(&rig, &format!("{context}: poisoned"));
        drop(rig);
        let expected = match unsynced {
            Unsynced::Kept => acknowledged.next().unwrap(),
            Unsynced::Dropped => {
                disk.device.restore(&disk.store(), Loss::All);
                acknowledged
            }
        };
        disk.comes_back(expected, &context);
    }
}

/// Also where nothing is synced: the engine has stopped, and takes no write before it is opened again.
#[test]
fn a_commit_that_cannot_be_written_is_not_there_and_none_follows_it() {
    let (history, context) = (History::new(), "logged");
    let disk = Disk::of(&history, Device::keeping(), STORE);
    let (rig, mut workload) = (disk.open(context), changes(0));
    let acknowledged = commit(&rig.chain, &mut workload).unwrap();
    disk.device.fail(Fault::first(Files::Log, Call::Write, Lasting::Times(1)));
    let error = commit(&rig.chain, &mut workload).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    let error = commit(&rig.chain, &mut workload).unwrap_err();
    assert!(matches!(error, StoreError::Poisoned { .. }), "{error:?}");
    check::complete(&rig.chain, context);
    drop(rig);
    disk.comes_back(acknowledged, context);
}

/// The memtables are full, and the flush that would make room fails for good.
#[test]
fn a_commit_that_waits_for_a_flush_that_fails_ends() {
    let (history, context) = (History::new(), "a flush that fails");
    let disk = Disk::of(&history, Device::keeping(), STORE);
    let (rig, engine) = disk.open_with_engine(context);
    let fault = Fault::first(Files::Table, Call::Write, Lasting::UntilMended);
    let error = stopped_commit(&disk, (&rig, &engine), fault);
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    assert!(disk.device.met() > 0);
    disk.device.mend();
    let acknowledged = rig.chain.head();
    drop((rig, engine));
    disk.comes_back(acknowledged, context);
}

/// It says so once; then the engine has stopped, whatever becomes of the device.
#[test]
fn a_device_that_turns_read_only_refuses_writes_and_serves_reads() {
    let history = History::new();
    for (call, durability) in [(Call::Write, Durability::Logged), (Call::Sync, Durability::Synced)] {
        let context = format!("read-only at {call:?}");
        let disk = Disk::of(&history, Device::keeping(), StoreConfig { durability, ..STORE });
        let (rig, mut workload) = (disk.open(&context), changes(0));
        let before = rig.chain.head();
        disk.device.fail(Fault::first(Files::Log, call, Lasting::UntilMended).by(Cause::ReadOnly));
        let error = commit(&rig.chain, &mut workload).unwrap_err();
        assert!(matches!(error, StoreError::Permission { .. }), "{context}: {error:?}");
        assert_eq!(error.disposition(), Disposition::Input, "{context}: {error}");
        no_cycle_begins(&rig, &context);
        disk.device.mend();
        let error = commit(&rig.chain, &mut workload).unwrap_err();
        assert!(matches!(error, StoreError::Poisoned { .. }), "{context}: {error:?}");
        drop(rig);
        // What was to be synced was written before: nobody could tell whoever asked for it.
        let expected = if call == Call::Sync { before.next().unwrap() } else { before };
        disk.comes_back(expected, &context);
    }
}
