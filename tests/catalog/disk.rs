//! O10, C12: each call on a file of the catalog fails with the system's error of input and output, or of a full device, once
//! and until the disk is whole again. The command ends with an error that names the file; the catalog before or the catalog
//! after is there, with whole snapshots; and the commands that come next work and sweep what is left.

use std::collections::BTreeSet;

use state_pruner::catalog::{Removed, SnapshotId};
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
    /// Those of the n-th of so many calls of a kind. One that lasts is much the same after a few of many, as is a full device.
    fn of(call: FileCall, passing: u64, count: u64) -> Vec<Self> {
        let is_telling = passing < 2 || passing + 1 == count;
        let takes_room = matches!(call, FileCall::Create | FileCall::Write | FileCall::Sync | FileCall::Rename);
        let lasting = is_telling.then_some(Self::Io(Lasting::UntilHealed));
        let full = (is_telling && takes_room).then_some(Self::Full);
        [Self::Io(Lasting::Once)].into_iter().chain(lasting).chain(full).collect()
    }
}

/// Whether a command may go on past such a failure: it tells of it beside what it did, or has overcome it, or can do without
/// what it asked for.
fn may_go_on(ground: &Ground, act: Act, (kind, call): (&str, FileCall), did: &Did) -> bool {
    // A retention looks for trash before it removes anything, and once more afterwards.
    let looks_twice = matches!(act, Act::Replace | Act::Prune) && matches!(call, FileCall::List | FileCall::Sync);
    let is_of_trash = kind.starts_with(".trash-") || (looks_twice && kind == "catalog");
    let is_overcome = || is_of_trash && ground.leftovers().is_empty();
    match act {
        Act::Verify => false,
        Act::List => did.tells(),
        Act::Delete | Act::Prune => did.tells() || is_overcome(),
        Act::Restore => matches!(call, FileCall::Remove | FileCall::List), // of what it leaves, which the next one removes
        Act::Create | Act::Found | Act::Replace => {
            let is_of_ordinals = kind == "manifest.json" && matches!(call, FileCall::Open | FileCall::Read);
            did.tells() || is_overcome() || is_of_ordinals
        }
    }
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
        Ok(did) => {
            assert!(is_true(&ground, did, &there), "{context}: {ended:?}, and {there:?} is there");
            assert!(may_go_on(&ground, act, (kind, call), did), "{context}: {ended:?}");
        }
        Err(error) => {
            let expected = if fault == Fault::Full { Disposition::Resource } else { Disposition::Transient };
            assert_eq!(error.disposition(), expected, "{context}: {error}");
            let removes = matches!(act, Act::Delete | Act::Prune);
            let is_undone = there.contains(&ground.first) || (kind, call) == ("catalog", FileCall::Sync);
            assert!(!removes || is_undone, "{context}: {error}, and it is done");
            let place = ground.path().display().to_string();
            assert!(error.to_string().contains(&place), "{context}: names no file: {error}");
        }
    }
    assert!(base.stays(act).is_none_or(|stays| there.contains(&stays)), "{context}: a snapshot is lost");
    assert!(!there.is_empty() || matches!(act, Act::Delete | Act::Found), "{context}: every snapshot is lost");
    ground.is_restored(digests, &context);
    ground.goes_on(digests, &context);
}

fn is_true(ground: &Ground, did: &Did, there: &[SnapshotId]) -> bool {
    let are_gone = |removed: &Removed| !removed.snapshots.iter().any(|id| there.contains(id));
    match did {
        Did::Made(id, removed) => there.contains(id) && are_gone(removed),
        Did::Removed(removed) => are_gone(removed),
        Did::Restored => ground.target().exists(),
        Did::Listed(_) | Did::Verified => true,
    }
}

fn every_call_fails(act: Act) -> BTreeSet<(String, FileCall)> {
    let base = Ground::of(act);
    let digests = base.digests();
    let whole = base.twin(act);
    let disk = FaultyDisk::under(whole.path());
    whole.run(act).unwrap();
    let calls = disk.calls();
    drop(disk);
    let mut failures = 0;
    for ((kind, call), count) in &calls {
        for passing in 0..*count {
            for fault in Fault::of(*call, passing, *count) {
                fails(&base, act, (kind, *call, passing), fault, &digests);
                failures += 1;
            }
        }
    }
    println!("{act:?}: {failures} failures");
    calls.into_keys().collect()
}

fn met(act: Act, expected: &[(&str, FileCall)]) {
    let met = every_call_fails(act);
    for (kind, call) in expected {
        assert!(met.contains(&((*kind).to_owned(), *call)), "{act:?}: nothing asks for {call:?} of {kind}: {met:?}");
    }
}

/// A staging folder is gone when its error is read.
#[test]
fn what_fails_while_a_snapshot_is_made_is_told_of_the_store_and_what_has_no_room_of_the_catalog() {
    let base = Ground::of(Act::Create);
    for (within, kind, call) in [
        ("store", "*.log", FileCall::Read),
        ("kept", "*.sst", FileCall::Open),
        ("kept", "*.sst", FileCall::Read),
        ("kept", "*.sst", FileCall::Sync),
    ] {
        let ground = base.twin(Act::Create);
        let disk = FaultyDisk::under(&ground.path().join(within));
        disk.inject(kind, call, 0, Lasting::UntilHealed);
        let told = ground.run(Act::Create).unwrap_err().to_string();
        drop(disk);
        let file = format!("{}/", ground.db().display());
        assert!(told.contains(&file) && !told.contains(".staging-"), "{call:?} of {kind}: {told}");
    }
    for (act, kind, place) in [
        (Act::Create, "*.log", "making a snapshot in CATALOG"),
        (Act::Create, "manifest.json", "making a snapshot in CATALOG"),
        (Act::Restore, "*.sst", "restoring into TARGET"),
    ] {
        let ground = base.twin(act);
        let disk = FaultyDisk::under(&ground.kept());
        disk.fill(kind, FileCall::Write, 0, Lasting::UntilHealed);
        let told = ground.run(act).unwrap_err().to_string();
        drop(disk);
        let place = place.replace("CATALOG", &ground.catalog_dir().display().to_string());
        let place = place.replace("TARGET", &ground.target().display().to_string());
        assert_eq!(told, format!("the disk is full: {place}. Free space on the device"), "{kind}");
    }
}

/// What no sync has reached is told neither as gone nor as kept.
#[test]
fn a_removal_that_could_not_be_made_durable_is_told_as_such() {
    for act in [Act::Delete, Act::Prune] {
        let base = Ground::of(act);
        let is_told = |passing: u64| {
            let ground = base.twin(act);
            let disk = FaultyDisk::under(ground.path());
            disk.inject("catalog", FileCall::Sync, passing, Lasting::Once);
            let ended = ground.run(act);
            drop(disk);
            let is_named = |message: &str| message.contains(&ground.first.to_string());
            match ended {
                Err(error) => error.code() == "unsettled" && is_named(&error.to_string()),
                Ok(Did::Removed(Removed { snapshots, failures, .. })) => {
                    let told = failures.iter().any(|failed| failed.code == "unsettled" && is_named(&failed.message));
                    told && !snapshots.contains(&ground.first)
                }
                Ok(Did::Made(..) | Did::Restored | Did::Listed(_) | Did::Verified) => false,
            }
        };
        assert!((0..10).any(is_told), "{act:?}");
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

#[test]
fn a_disk_that_fails_while_a_retention_is_carried_out_loses_nothing_that_stays() {
    use FileCall::{Create, List, Open, Read, Remove, Rename, Sync};
    let looks = [("catalog", List), ("manifest.json", Open), ("manifest.json", Read), ("*.sst", Open)];
    met(
        Act::Prune,
        &[&looks[..], &[("lock", Create), (".trash-*", Rename), ("catalog", Sync), (".trash-*", Remove)]].concat(),
    );
}
