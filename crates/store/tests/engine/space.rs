//! Bytes: what the folder holds, what a sweep gives back, and what the engine says of its files.

use std::collections::BTreeSet;

use state_store::{Backend, KeyRange};
use state_tree::NodeHash;

use crate::support::{Rig, files, hash, nodes, sixteenth, sweep};

#[test]
fn reclaim_returns_the_space_held_in_blob_files() {
    let rig = Rig::new();
    for part in 0..10 {
        rig.commit(nodes(part * 200, 200, 4_000));
        rig.backend.flush().unwrap();
    }
    let before = rig.backend.space().unwrap();
    assert!(before.blobs > 7_000_000, "values of this size live in blob files: {before:?}");
    let capture = rig.store.capture().unwrap();
    let live: BTreeSet<NodeHash> = (0..200).map(hash).collect();
    let active = sweep(&rig.store, &capture, live.clone());
    for part in 0..16 {
        active.rewrite(&sixteenth(part)).unwrap();
    }
    let after = rig.backend.space().unwrap();
    assert_eq!(rig.present(), live);
    assert!(
        after.blobs < before.blobs / 5,
        "a tenth is live, but of {} bytes in blob files {} are left",
        before.blobs,
        after.blobs
    );
}

#[test]
fn the_space_of_swept_nodes_is_back_when_the_rewrite_returns() {
    let rig = Rig::new();
    rig.commit(nodes(0, 20_000, 300));
    rig.backend.rewrite_nodes(&KeyRange::ALL).unwrap();
    let before = rig.backend.space().unwrap();
    let capture = rig.store.capture().unwrap();
    let active = sweep(&rig.store, &capture, (0..2_000).map(hash));
    let tally = active.rewrite(&KeyRange::ALL).unwrap();
    let after = rig.backend.space().unwrap();
    assert_eq!((tally.dropped, tally.live), (18_000, 2_000));
    assert!(after.tables * 5 < before.tables, "{before:?} became {after:?}");
    assert_eq!(after.total(), after.tables + after.blobs + after.logs + after.other);
}

#[test]
fn the_list_of_files_counts_every_stored_row_of_the_node_family() {
    let rig = Rig::new();
    assert!(rig.backend.node_files().unwrap().is_empty());
    rig.commit(nodes(0, 2_000, 300));
    rig.commit(nodes(0, 10, 3_000)); // ten again, in blob files
    rig.store.catch_up().unwrap();
    rig.backend.flush().unwrap();
    let listed = rig.backend.node_files().unwrap();
    assert_eq!(files(&*rig.backend), 2_000, "a flush keeps the newest version of a key");
    assert!(listed.iter().all(|file| file.first <= file.last && file.number > 0 && file.bytes > 0));
    let sizes: u64 = listed.iter().map(|file| file.bytes).sum();
    let space = rig.backend.space().unwrap();
    assert!(sizes <= space.tables && space.blobs >= 30_000, "blob bytes are not in the list: {sizes} {space:?}");
    assert_eq!(rig.backend.node_rows_hint().unwrap(), 2_000);
    assert!(rig.backend.free_bytes().unwrap().is_some_and(|free| free > 0));
}
