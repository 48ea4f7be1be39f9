//! Killed at any moment, a command leaves the old catalog or the new one, and nothing that is not swept.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use state_pruner::{Clock as _, SystemClock};
use state_tests::{folder, node};

use crate::support::{Place, id, staging};

const KILLS: usize = 24;
/// Longer than a snapshot of these stores takes.
const LONGEST: Duration = Duration::from_millis(600);

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A creator that is held while it works, where it does not hold the lock of the catalog.
fn held(place: &Place) -> Child {
    let works = || {
        let dir = staging(&place.catalog_dir());
        dir.is_some_and(|dir| dir.join("store").exists() && !dir.join("manifest.json").exists())
    };
    loop {
        let mut child = place.begin(&[]);
        while !works() && child.try_wait().unwrap().is_none() {
            thread::yield_now();
        }
        if child.try_wait().unwrap().is_some() {
            continue; // it was faster
        }
        signal(&child, Signal::STOP);
        if works() && child.try_wait().unwrap().is_none() {
            return child;
        }
        signal(&child, Signal::CONT);
        child.wait().unwrap();
    }
}

#[test]
fn killed_at_any_moment_a_creator_leaves_the_old_catalog_or_the_new_one() {
    let place = Place::native();
    let mut known = vec![id(&place.create(&[]))];
    let (mut rng, mut unfinished) = (ChaCha8Rng::seed_from_u64(11), 0);
    for kill in 0..KILLS {
        let (clock, mut child) = (SystemClock::new(), place.begin(&[]));
        let at = LONGEST.mul_f64(rng.random());
        while clock.monotonic() < at && child.try_wait().unwrap().is_none() {
            thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let listing = place.catalog().list().unwrap();
        assert!(listing.damaged.is_empty() && listing.unreadable.is_empty(), "kill {kill} at {at:?}: {listing:?}");
        let now: Vec<String> = listing.snapshots.iter().map(|listed| listed.id.to_string()).collect();
        assert!(now.starts_with(&known) && now.len() <= known.len() + 1, "kill {kill} at {at:?}: {known:?}, {now:?}");
        unfinished += usize::from(staging(&place.catalog_dir()).is_some());
        for new in &now[known.len()..] {
            let (code, verified) = place.ask(&["verify", new, "--deep"]);
            assert_eq!(code, 0, "kill {kill} at {at:?}: {verified:#}");
        }
        known = now;
    }
    println!("{unfinished} of {KILLS} were unfinished, {} whole", known.len() - 1);
    assert_eq!(place.ask(&["prune", "--keep", "1000"]).0, 0);
    assert_eq!(place.leftovers(), Vec::<String>::new(), "what the dead have left is swept");
}

#[test]
fn a_partial_snapshot_has_no_name_and_its_living_owner_keeps_it() {
    let place = Place::native();
    place.create(&[]);
    let mut child = held(&place);
    let partial = staging(&place.catalog_dir()).unwrap();
    let name = partial.file_name().unwrap().to_str().unwrap().trim_start_matches(".staging-").to_owned();
    let to = place.path("restored").display().to_string();
    assert_eq!(place.refusal(&["show", &name]).0, "unknown_snapshot");
    assert_eq!(place.refusal(&["restore", &name, "--to", &to]).0, "unknown_snapshot");
    // Others work beside it, and sweep nothing that lives.
    place.create(&[]);
    assert_eq!(place.ask(&["prune", "--keep", "1000"]).0, 0);
    assert!(partial.exists(), "its owner lives");
    signal(&child, Signal::CONT);
    assert!(child.wait().unwrap().success(), "and goes on");
    assert_eq!(place.ask(&["verify", &name, "--deep"]).0, 0);
}

#[test]
fn a_dead_owner_is_swept_by_the_next_creator() {
    let place = Place::native();
    place.create(&[]);
    let mut child = held(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(place.leftovers().len(), 1);
    let before = place.catalog().list().unwrap().snapshots.len();
    place.create(&[]);
    assert_eq!(place.leftovers(), Vec::<String>::new());
    assert_eq!(place.catalog().list().unwrap().snapshots.len(), before + 1);
}

/// What a restore that was killed has left beside its place.
fn partial_restores(place: &Place) -> usize {
    let names = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().starts_with(".restored.restoring-")).count()
}

#[test]
fn a_partial_restore_is_never_reused_by_another_run() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let (to, catalog) = (place.path("restored"), place.catalog_dir());
    let words = ["snapshot", "restore", &id, "--to", to.to_str().unwrap(), "--catalog", catalog.to_str().unwrap()];
    let mut child;
    loop {
        child = Command::new(node::binary()).args(words).stdin(Stdio::null()).spawn().unwrap();
        while partial_restores(&place) == 0 && child.try_wait().unwrap().is_none() {
            thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if !to.exists() && partial_restores(&place) > 0 {
            break;
        }
        fs::remove_dir_all(&to).unwrap(); // it was faster
    }
    let to = to.display().to_string();
    let (code, restored) = place.ask(&["restore", &id, "--to", &to]);
    assert_eq!(code, 0, "{restored:#}");
    assert_eq!(partial_restores(&place), 0, "what the dead one left is swept");
    assert_eq!(folder::digests(to.as_ref()), folder::digests(&place.entry(&id).join("store")));
    let (code, message) = place.refusal(&["restore", &id, "--to", &to]);
    assert_eq!(code, "bad_place", "{message}");
}
