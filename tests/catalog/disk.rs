//! O10, C12: each call on a file of the catalog fails with the system's error of input and output, or of a full device, once
//! and until the disk is whole again. The command ends with an error that names the file; the catalog before or the catalog
//! after is there, with whole snapshots; and the commands that come next work and sweep what is left.

use std::collections::BTreeSet;

use state_pruner::catalog::SnapshotId;
use state_store::{Disposition, FaultyDisk, FileCall, Lasting};
use state_tests::folder::Digests;

use crate::ground::{Act, Did, Ground};

/// An error of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Io(Lasting),
    Full,
}

impl Fault {
    /// Those that may happen to a call.
    fn of(call: FileCall) -> Vec<Self> {
        let takes_room = matches!(call, FileCall::Create | FileCall::Write | FileCall::Sync | FileCall::Rename);
        let io = [Self::Io(Lasting::Once), Self::Io(Lasting::UntilHealed)];
        io.into_iter().chain(takes_room.then_some(Self::Full)).collect()
    }
}

/// Where a command only tidies up, which may wait for the next one.
fn may_wait(act: Act, kind: &str, call: FileCall) -> bool {
    let tidies = matches!(call, FileCall::Remove | FileCall::List) && !matches!(act, Act::List | Act::Verify);
    // The retention, after a snapshot was made: told as `removed.failure`.
    tidies || (act == Act::Replace) || kind.starts_with(".trash")
}

fn fails(base: &Ground, act: Act, (kind, call, passing): (&str, FileCall, u64), fault: Fault, digests: &Digests) {
    let context = format!("{act:?}: {call:?} of {kind} after {passing}, {fault:?}");
    let ground = base.twin(act);
    let disk = FaultyDisk::under(ground.path());
    match fault {
        Fault::Io(lasting) => disk.inject(kind, call, passing, lasting),
        Fault::Full => disk.fill(kind, call, passing, Lasting::UntilHealed),
    }
    let ended = ground.run(act);
    disk.heal();
    assert!(disk.met() > 0, "{context}: not met, {ended:?}");
    drop(disk);
    let there = ground.sound(&context);
    match &ended {
        Ok(did) => assert!(may_wait(act, kind, call) && is_true(&ground, did, &there), "{context}: {ended:?}"),
        Err(error) => {
            let expected = if fault == Fault::Full { Disposition::Resource } else { Disposition::Transient };
            assert_eq!(error.disposition(), expected, "{context}: {error}");
            let place = ground.path().display().to_string();
            assert!(error.to_string().contains(&place), "{context}: names no file: {error}");
        }
    }
    let goes = matches!(act, Act::Delete | Act::Replace | Act::Found);
    assert!(goes || there.contains(&ground.first), "{context}: a snapshot is lost");
    assert!(!there.is_empty() || matches!(act, Act::Delete | Act::Found), "{context}: every snapshot is lost");
    ground.is_restored(digests, &context);
    ground.goes_on(digests, &context);
}

fn is_true(ground: &Ground, did: &Did, there: &[SnapshotId]) -> bool {
    match did {
        Did::Made(id) => there.contains(id),
        Did::Removed => !there.contains(&ground.first),
        Did::Restored => ground.target().exists(),
        Did::Looked => false, // what was looked for has not been seen
    }
}

fn every_call_fails(act: Act) -> BTreeSet<(String, FileCall)> {
    let base = Ground::new();
    let digests = base.digests();
    let whole = base.twin(act);
    let disk = FaultyDisk::under(whole.path());
    whole.run(act).unwrap();
    let calls = disk.calls();
    drop(disk);
    println!("{act:?}: {calls:?}");
    for ((kind, call), count) in &calls {
        for fault in Fault::of(*call) {
            fails(&base, act, (kind, *call, 0), fault, &digests);
        }
        if *count > 1 {
            fails(&base, act, (kind, *call, count - 1), Fault::Io(Lasting::Once), &digests);
        }
    }
    calls.into_keys().collect()
}

fn met(act: Act, expected: &[(&str, FileCall)]) {
    let met = every_call_fails(act);
    for (kind, call) in expected {
        assert!(met.contains(&((*kind).to_owned(), *call)), "{act:?}: nothing asks for {call:?} of {kind}: {met:?}");
    }
}

#[test]
fn a_disk_that_fails_while_a_snapshot_is_made_leaves_the_old_or_the_new_catalog() {
    use FileCall::{Create, List, Open, Read, Rename, Sync, Write};
    let files = [(".staging-*", Create), ("lock", Create), ("store", Create), ("store", List), ("*.log", Read)];
    let store = [("*.sst", Open), ("*.sst", Sync), ("*.sst", Read), ("*.log", Sync), ("store", Sync)];
    let last = [("manifest.json", Create), ("manifest.json", Write), ("manifest.json", Sync), (".staging-*", Sync)];
    let names = [("*", Rename), ("catalog", Sync), ("catalog.lock", Read), ("catalog.lock", Write)];
    met(Act::Create, &[&files[..], &store, &last, &names].concat());
}

#[test]
fn a_disk_that_fails_while_a_catalog_begins_leaves_room_for_one() {
    met(Act::Found, &[("catalog", FileCall::Create), ("kept", FileCall::Sync), ("catalog.lock", FileCall::Create)]);
}

#[test]
fn a_disk_that_fails_while_a_snapshot_takes_the_place_of_another_loses_neither_before_its_time() {
    met(Act::Replace, &[("lock", FileCall::Create), (".trash-*", FileCall::Rename), (".trash-*", FileCall::Remove)]);
}

#[test]
fn a_disk_that_fails_under_a_reader_is_told_and_damages_nothing() {
    use FileCall::{List, Open, Read};
    met(Act::List, &[("catalog", List), ("manifest.json", Open), ("manifest.json", Read), ("*.sst", Open)]);
    met(Act::Verify, &[("lock", Open), ("manifest.json", Read), ("*.sst", Open), ("*.sst", Read), ("store", List)]);
}

#[test]
fn a_disk_that_fails_while_a_snapshot_is_deleted_leaves_the_old_or_the_new_catalog() {
    use FileCall::{Create, Remove, Rename, Sync};
    met(Act::Delete, &[("lock", Create), (".trash-*", Rename), ("catalog", Sync), (".trash-*", Remove)]);
}

#[test]
fn a_disk_that_fails_while_a_snapshot_is_restored_leaves_a_whole_store_or_none() {
    use FileCall::{Create, Open, Read, Remove, Rename, Sync, Write};
    let copied = [("*.sst", Open), ("*.sst", Read), ("*.sst", Create), ("*.sst", Write), ("*.sst", Sync)];
    let folders = [(".restored.restoring-*", Create), ("store", Create), ("store", Sync), ("restored", Rename)];
    let above = [("kept", Sync), (".restored.restoring-*", Remove)];
    met(Act::Restore, &[&copied[..], &folders, &above].concat());
}
