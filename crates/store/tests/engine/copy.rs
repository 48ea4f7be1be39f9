//! Copies of a store: whole, of one instant, and sharing nothing that anybody still writes.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use state_store::{
    Backend as _, ChainView as _, FaultyBackend, Head, MemoryBackend, NativeChain, RocksBackend, Store, StoreError,
};

use crate::support::{CONFIG, Rig, SMALL, commit, contents, copy_folder, nodes, present};

fn read_only(path: &Path) -> Store {
    Store::foreign(Arc::new(RocksBackend::open_read_only(path, &SMALL).unwrap()), CONFIG).unwrap()
}

fn newest(store: &Store) -> Option<Head> {
    NativeChain.head(&*store.view().unwrap()).unwrap()
}

#[test]
fn a_copy_of_an_open_store_has_what_was_committed_and_goes_on_alone() {
    let rig = Rig::new();
    rig.commit(nodes(0, 200, 100));
    rig.backend.flush().unwrap();
    rig.commit(nodes(200, 100, 100)); // in the log only
    let into = rig.path().with_file_name("copy");
    let copied = rig.backend.copy_into(&into).unwrap();
    assert!(copied.linked > 0 && copied.copied > 0, "{copied:?}");
    let (head, had) = (newest(&rig.store), rig.present());
    rig.commit(nodes(300, 100, 100));

    let copy = read_only(&into);
    assert!((newest(&copy), present(&copy)) == (head, had), "the copy has another state");
    assert_eq!(copy.view().unwrap().sequence(), copied.at_least);
    assert_eq!(copied.at_most, None, "somebody may write meanwhile");
    drop(copy);

    let is_shared = |name: &String| fs::metadata(into.join(name)).unwrap().nlink() > 1;
    let (shared, own): (BTreeSet<String>, BTreeSet<String>) = contents(&into).into_keys().partition(is_shared);
    assert!(shared.iter().all(|name| name.ends_with(".sst") || name.ends_with(".blob")), "{shared:?}, alone {own:?}");
    let before = contents(&rig.path());
    let alone = Store::open(Arc::new(RocksBackend::open(&into, &SMALL).unwrap()), CONFIG).unwrap();
    commit(&alone, nodes(1_000, 100, 100)).unwrap();
    drop(alone);
    let after = contents(&rig.path());
    // The store is open and works on its own files: it may remove what is shared, and nobody may change it.
    let differs = |(name, bytes): &(&String, &Vec<u8>)| after.get(*name).is_some_and(|now| now != *bytes);
    let changed: Vec<&String> =
        before.iter().filter(|(name, _)| shared.contains(*name)).filter(differs).map(|(name, _)| name).collect();
    assert!(changed.is_empty(), "what is written into the copy reaches the store: {changed:?}");
}

#[test]
fn copies_of_a_store_at_rest_have_what_no_flush_has_reached_and_need_no_lock() {
    let rig = Rig::new();
    rig.commit(nodes(0, 200, 100));
    rig.backend.flush().unwrap();
    rig.commit(nodes(200, 100, 100));
    let killed = rig.path().with_file_name("killed");
    copy_folder(&rig.path(), &killed); // as a process leaves it that dies
    let (head, had, before) = (newest(&rig.store), rig.present(), contents(&killed));

    let readers: Vec<RocksBackend> = (0..3).map(|_| RocksBackend::open_read_only(&killed, &SMALL).unwrap()).collect();
    for (number, reader) in readers.iter().enumerate() {
        let into = rig.path().with_file_name(format!("copy-{number}"));
        let copied = reader.copy_into(&into).unwrap();
        let copy = read_only(&into);
        assert!((newest(&copy), present(&copy)) == (head, had.clone()), "copy {number} has another state");
        assert_eq!(copy.view().unwrap().sequence(), copied.at_least);
        assert_eq!(copied.at_most, Some(copied.at_least));
    }
    assert!(contents(&killed) == before, "nothing is written into the store");
}

#[test]
fn a_copy_into_a_folder_that_exists_is_refused_and_changes_nothing_there() {
    let rig = Rig::new();
    rig.commit(nodes(0, 10, 100));
    let into = rig.path().with_file_name("taken");
    fs::create_dir(&into).unwrap();
    fs::write(into.join("notes.txt"), b"mine").unwrap();
    assert!(rig.backend.copy_into(&into).is_err());
    assert_eq!(contents(&into).len(), 1);
}

#[test]
fn an_engine_without_files_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryBackend::new();
    let faulty = FaultyBackend::around(Arc::new(memory.clone()));
    for copied in [memory.copy_into(&dir.path().join("a")), faulty.copy_into(&dir.path().join("b"))] {
        assert!(matches!(copied, Err(StoreError::Unsupported(_))), "{copied:?}");
    }
}
