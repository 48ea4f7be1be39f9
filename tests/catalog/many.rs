//! Many processes on one catalog: all of them succeed, and whoever looks finds it whole.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    num::NonZeroU64,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;
use state_pruner::{Clock as _, SystemClock, catalog::CatalogRetention};
use state_tests::shared::Shared;

use crate::support::{Place, id};

/// The longest that the lock of a catalog may be held, in microseconds, on a machine that stands still for nobody.
const MOST_HELD_US: u64 = 200_000;

/// A command tells how long it held the lock of its catalog; what is done under it may stand as long as this machine stood.
fn held_shortly(told: &Value, stood_us: u64) {
    let held = told["lock"]["longest_held_us"].as_u64().unwrap();
    assert!(held < MOST_HELD_US + stood_us, "the lock was held for {held} us, {stood_us} are the machine's: {told:#}");
}

/// How long the machine took at most, in microseconds, for a folder made, renamed and removed beside the others, until it is over.
fn longest_stand(place: &Place, is_over: &AtomicBool) -> u64 {
    let (clock, folder) = (SystemClock::new(), [place.path("made"), place.path("renamed")]);
    let mut longest = Duration::ZERO;
    while !is_over.load(Ordering::SeqCst) {
        let begun = clock.monotonic();
        fs::create_dir(&folder[0]).unwrap();
        fs::rename(&folder[0], &folder[1]).unwrap();
        fs::remove_dir(&folder[1]).unwrap();
        longest = longest.max(clock.monotonic() - begun);
        thread::park_timeout(Duration::from_millis(1)); // it takes nothing from the others
    }
    u64::try_from(longest.as_micros()).unwrap()
}

/// Some make snapshots while others list, verify and delete.
fn together(place: &Place, creators: usize) {
    let kept: Vec<String> = (0..2).map(|_| id(&place.create(&[]))).collect();
    let doomed: Vec<String> = (0..2).map(|_| id(&place.create(&[]))).collect();
    let (done, catalog) = (AtomicBool::new(false), place.catalog());
    let looks = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::SeqCst) {
                let listing = catalog.list().unwrap();
                assert!(listing.damaged.is_empty() && listing.unreadable.is_empty(), "{listing:?}");
                assert!(listing.snapshots.len() >= kept.len());
                looks += 1;
            }
            looks
        });
        let standing = scope.spawn(|| longest_stand(place, &done));
        let listing = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let (code, listed) = place.ask(&["list"]);
                let of = |kind: &str| listed[kind].as_array().unwrap().len();
                assert_eq!((code, of("damaged"), of("unreadable")), (0, 0, 0), "{listed:#}");
            }
        });
        let others = scope.spawn(|| {
            let pairs = kept.iter().zip(&doomed);
            pairs
                .map(|(kept, doomed)| [place.ask(&["verify", kept]), place.ask(&["delete", doomed])])
                .collect::<Vec<_>>()
        });
        let children: Vec<_> = (0..creators).map(|_| place.begin(&[])).collect();
        let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let others = others.join().unwrap();
        done.store(true, Ordering::SeqCst);
        listing.join().unwrap();
        let stood_us = standing.join().unwrap();
        for [(verified, _), (deleted, told)] in others {
            assert_eq!((verified, deleted), (0, 0), "{told:#}");
            held_shortly(&told, stood_us);
        }
        for output in outputs {
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(output.status.success(), "{told:#}");
            held_shortly(&told, stood_us);
        }
        looking.join().unwrap()
    });
    assert!(looks > 0);
    let listed = catalog.list().unwrap().snapshots;
    assert_eq!(listed.len(), creators + kept.len());
    let ordinals: BTreeSet<_> = listed.iter().map(|listed| listed.ordinal.unwrap()).collect();
    assert_eq!(ordinals.len(), listed.len(), "each has its own: {ordinals:?}");
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn five_processes_make_snapshots_while_others_list_verify_and_delete() {
    together(&Place::native(), 5);
}

#[test]
fn twenty_processes_make_snapshots_while_others_list_verify_and_delete() {
    together(&Place::native(), 20);
}

#[test]
fn snapshots_of_a_rooch_store_are_made_by_many_and_restore_what_a_prune_must_find() {
    let Some(store) = Shared::Small.copy("snapshots of a Rooch store") else { return };
    let place = Place::of(store.db(), "rooch");
    let expected = store.windows().into_iter().find(|expected| expected.keep_last == 10).unwrap();
    let children: Vec<_> = (0..5).map(|_| place.begin(&["--orders", "10"])).collect();
    let told: Vec<Value> = children
        .into_iter()
        .map(|child| serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap())
        .collect();
    for told in &told {
        assert_eq!(told["manifest"]["state"]["roots"], 10, "{told:#}");
    }
    let (code, verified) = place.ask(&["verify", &id(&told[0]), "--deep"]);
    assert_eq!((code, verified["live_nodes"].as_u64()), (0, Some(expected.live_nodes)), "{verified:#}");

    let to = place.path("restored").display().to_string();
    let (code, restored) = place.ask(&["restore", &id(&told[4]), "--to", &to]);
    assert_eq!(code, 0, "{restored:#}");
    let words = ["verify", "--db", &to, "--layout", "rooch", "--keep-last", "10"];
    let (code, report) = state_tests::node::json(&words);
    assert_eq!((code, report["live_sha256"].as_str()), (0, Some(expected.live_sha256.as_str())), "{report:#}");
}

#[test]
fn what_somebody_reads_is_not_removed_and_who_reads_it_is_told() {
    let place = Place::native();
    let (old, new) = (id(&place.create(&[])), id(&place.create(&[])));
    let reader = File::open(place.entry(&old).join("lock")).unwrap();
    reader.lock_shared().unwrap();
    let (code, message) = place.refusal(&["delete", &old]);
    assert_eq!(code, "snapshot_in_use");
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    let keep = CatalogRetention { keep: NonZeroU64::new(1), max_age: None };
    let tidied = place.catalog().prune(keep, &SystemClock::new()).unwrap();
    assert_eq!((tidied.removed.snapshots.len(), tidied.removed.in_use.len()), (0, 1));
    assert_eq!(place.ask(&["verify", &old]).0, 0, "readers do not keep each other out");
    reader.unlock().unwrap(); // also of a child of another test that has just inherited it
    let (_, tidied) = place.ask(&["prune", "--keep", "1"]);
    assert_eq!(tidied["removed"]["snapshots"][0].as_str(), Some(old.as_str()));
    assert_eq!(place.refusal(&["show", &old]).0, "unknown_snapshot");
    assert_eq!(place.ask(&["show", &new]).0, 0);
}

#[test]
fn retention_is_applied_when_a_snapshot_is_made() {
    let place = Place::native();
    let first = id(&place.create(&[]));
    place.create(&[]);
    let third = place.create(&["--keep", "2"]);
    assert_eq!(third["removed"]["snapshots"][0].as_str(), Some(first.as_str()), "{third:#}");
    assert_eq!(place.catalog().list().unwrap().snapshots.len(), 2);
    let tidied = place.catalog();
    let keep = CatalogRetention { keep: None, max_age: Some(Duration::ZERO) };
    let later = SystemClock::new();
    tidied.prune(keep, &later).unwrap();
    let left = tidied.list().unwrap().snapshots;
    assert_eq!(left.iter().map(|listed| listed.id.to_string()).collect::<Vec<_>>(), [id(&third)], "the newest stays");
}

#[test]
fn a_lock_that_nobody_lets_go_is_told_with_its_holder() {
    let place = Place::native();
    place.create(&[]);
    let lock = File::open(place.catalog_dir().join("catalog.lock")).unwrap();
    // Whoever has it in any way has it alone.
    for take in [File::lock_shared, File::lock] {
        take(&lock).unwrap();
        assert_eq!(place.ask(&["list"]).0, 0, "whoever only reads needs no lock");
        let told = place.catalog().prune(CatalogRetention::ALL, &Hasty::default()).unwrap_err();
        assert_eq!(told.code(), "catalog_busy");
        assert!(told.to_string().contains(&format!("process {}", std::process::id())), "{told}");
        lock.unlock().unwrap();
    }
}

/// A clock on which every look takes ten seconds.
#[derive(Debug, Default)]
struct Hasty(std::sync::atomic::AtomicU64);

impl state_pruner::Clock for Hasty {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(10 * self.0.fetch_add(1, Ordering::SeqCst))
    }

    fn unix_ms(&self) -> u64 {
        0
    }
}
