//! A catalog on another device, where nothing can be linked.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use state_store::{Backend as _, RocksBackend};
use state_tests::{
    chain::Chain,
    rig::SMALL,
    skip::{Lack, skipped},
    workload::Profile,
};

/// Copies after which one was caught while it was made.
const ATTEMPTS: usize = 50;

/// What a stop relies on: it cannot be told to the engine, so it takes away the folder that the engine copies into.
#[test]
fn a_copy_whose_folder_is_taken_away_ends_before_it_is_whole() {
    let (shared, dir) = (Path::new("/dev/shm"), tempfile::tempdir().unwrap());
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    if device(shared).map_or(true, |other| other == device(dir.path()).unwrap()) {
        return skipped("a copy to another device", Lack::Other, "there is no other device at /dev/shm");
    }
    let backend = std::sync::Arc::new(RocksBackend::open(&dir.path().join("store"), &SMALL).unwrap());
    let chain = Chain::open(backend.clone());
    chain.grow(Profile::Tables, 7, 150);
    backend.flush().unwrap();
    let base = tempfile::tempdir_in(shared).unwrap();
    for attempt in 0..ATTEMPTS {
        let (place, aside) = (base.path().join(format!("{attempt}")), base.path().join(format!("{attempt}-aside")));
        fs::create_dir(&place).unwrap();
        let (into, done) = (place.join("store"), AtomicBool::new(false));
        let (copied, taken) = thread::scope(|scope| {
            let taker = scope.spawn(|| {
                let begun = place.join("store.tmp");
                while !begun.exists() && !done.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                begun.exists() && fs::rename(&place, &aside).is_ok()
            });
            let copied = backend.copy_into(&into);
            done.store(true, Ordering::SeqCst);
            (copied, taker.join().unwrap())
        });
        let was_whole = aside.join("store").exists(); // taken between its name and the sync of that
        if taken && copied.is_err() && !was_whole {
            assert!(!place.exists(), "nothing that looks whole is left");
            fs::remove_dir_all(&aside).unwrap();
            let whole = backend.copy_into(&base.path().join("whole")).unwrap();
            assert_eq!(whole.linked, 0, "and the next one is made: {whole:?}");
            return;
        }
    }
    panic!("no copy ended early in {ATTEMPTS} attempts");
}
