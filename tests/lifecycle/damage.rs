//! I11, S5, S7: live data that is damaged in the store is named with its path, and nothing is deleted.

use std::num::NonZeroU64;

use state_pruner::{
    Doubted, FolderRecords, Freeze, PruneError, RecordKey, Records, SystemClock,
    catalog::{self, CatalogError, CatalogRetention, CreateRequest, SnapshotId, Source},
    mark::{MarkChoice, RehashChoice},
    offline::{Frozen, PruneMode, PruneRequest, StoreLayout, default_state_dir},
};
use state_store::{Backend, ChainView, Flow, KeyRange, RocksBackend, RocksConfig, RoochChain, View, record};
use state_tests::{
    damage, folder,
    offline::{alone, prune, request, verify},
    shared::{RoochStore, Shared},
};
use state_tree::{NodeHash, NodeLayout, RoochLayout};

use crate::refused;

fn view(store: &RoochStore) -> std::sync::Arc<dyn View> {
    RocksBackend::open_read_only(&store.db(), &RocksConfig::default()).unwrap().view().unwrap()
}

/// Some way from the root of the head down to a leaf.
fn path_down(store: &RoochStore) -> Vec<NodeHash> {
    let view = view(store);
    let mut path = vec![RoochChain.head(&*view).unwrap().unwrap().root.node().unwrap()];
    loop {
        let mut children = Vec::new();
        let bytes = view.node(path.last().unwrap()).unwrap().unwrap();
        RoochLayout.children(&bytes, &mut children).unwrap();
        match children.get(path.len() % children.len().max(1)) {
            Some(child) => path.push(*child),
            None => return path,
        }
    }
}

/// Both marks refuse with this code, and name the node and a path from a root to it.
fn both_marks_name(store: &RoochStore, code: &str, node: &NodeHash) {
    for mark in [MarkChoice::Scan, MarkChoice::Walk] {
        let error = refused(&PruneRequest { mark, ..request(&store.db(), 10) }, code);
        let (PruneError::MissingLiveNode { hash, path }
        | PruneError::BadNode { hash, path, .. }
        | PruneError::WrongHash { hash, path, .. }) = &error
        else {
            panic!("{mark:?}: {error}");
        };
        assert_eq!((hash, path.last()), (node, Some(node)), "{mark:?}: {error}");
        let view = view(store);
        for pair in path.windows(2) {
            let mut children = Vec::new();
            RoochLayout.children(&view.node(&pair[0]).unwrap().unwrap(), &mut children).unwrap();
            assert!(children.contains(&pair[1]), "{mark:?}: {} does not lead to {}", pair[0], pair[1]);
        }
        assert!(error.to_string().contains(&node.to_string()), "{error}");
    }
}

#[test]
fn a_missing_live_node_is_refused_at_any_depth() {
    let Some(store) = Shared::Small.copy("missing nodes") else {
        return;
    };
    for node in path_down(&store) {
        let store = Shared::Small.copy("missing nodes").unwrap();
        damage::remove_node(&store.db(), node.as_bytes());
        both_marks_name(&store, "missing_live_node", &node);
        let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
        assert_eq!((report.missing_nodes, report.corrupt_nodes), (1, 0));
        assert_eq!(report.faults[0].hash, node.to_string());
        assert!(!report.is_sound());
    }
}

/// Opened for writing, the engine would cut the log and remove it, and the sweep would go by the orders that are left.
#[test]
fn a_store_whose_log_is_damaged_is_not_swept_by_what_is_left_of_it() {
    let Some(store) = Shared::Small.copy("a damaged log") else {
        return;
    };
    damage::spoil_log(&store.db());
    let error = refused(&request(&store.db(), 10), "log_cut");
    assert!(error.to_string().contains("the write-ahead log is damaged"), "{error}");
}

#[test]
fn a_live_node_that_does_not_decode_is_refused() {
    let Some(store) = Shared::Small.copy("undecodable nodes") else {
        return;
    };
    let path = path_down(&store);
    let whole = view(&store).node(path.last().unwrap()).unwrap().unwrap();
    let cases: [(&str, Vec<u8>); 4] = [
        ("empty", Vec::new()),
        ("an unknown tag", [&[9], &whole[1..]].concat()),
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("followed by a byte", [whole.as_slice(), &[0]].concat()),
    ];
    for (what, bytes) in cases {
        println!("{what}");
        let store = Shared::Small.copy("undecodable nodes").unwrap();
        let node = path.last().unwrap();
        damage::put_node(&store.db(), node.as_bytes(), &bytes);
        both_marks_name(&store, "bad_node", node);
        let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
        assert_eq!((report.missing_nodes, report.corrupt_nodes), (0, 1), "{what}");
    }
}

#[test]
fn a_live_node_that_hashes_to_something_else_is_refused() {
    let Some(store) = Shared::Small.copy("wrong hashes") else {
        return;
    };
    let path = path_down(&store);
    let (node, other) = (path[path.len() - 1], path[path.len() - 2]);
    let bytes = view(&store).node(&other).unwrap().unwrap();
    damage::put_node(&store.db(), node.as_bytes(), &bytes);
    both_marks_name(&store, "wrong_hash", &node);
    let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
    assert_eq!((report.missing_nodes, report.corrupt_nodes), (0, 1));
}

/// Damage below roots that expire is nobody's loss.
#[test]
fn a_damaged_node_that_no_retained_root_reaches_stops_a_walk_by_nothing() {
    let Some(store) = Shared::Small.copy("dead damage") else {
        return;
    };
    let expected = store.windows().into_iter().find(|expected| expected.keep_last == 1).unwrap();
    let dead = {
        let kept = prune_copy_and_list(&store);
        let mut dead = None;
        view(&store)
            .scan_nodes(&KeyRange::ALL, &mut |key, _| match kept.binary_search(&key.to_vec()) {
                Ok(_) => Flow::Continue(()),
                Err(_) => {
                    dead = Some(key.to_vec());
                    Flow::Break(())
                }
            })
            .unwrap();
        dead.unwrap()
    };
    damage::put_node(&store.db(), &dead, b"rubbish");
    let outcome = prune(&PruneRequest { mark: MarkChoice::Walk, ..request(&store.db(), 1) }).unwrap();
    assert_eq!(outcome.mark.unwrap().live_nodes, expected.live_nodes);
    let report = verify(&store.db(), StoreLayout::Rooch, 1).unwrap();
    assert!(report.is_sound());
    assert_eq!(report.present_sha256, Some(expected.live_sha256));
}

/// The keys that a prune of a copy to one order leaves, sorted.
fn prune_copy_and_list(of: &RoochStore) -> Vec<Vec<u8>> {
    let copy = of.dir().join("copy");
    state_tests::folder::copy(&of.db(), &copy);
    prune(&request(&copy, 1)).unwrap();
    let mut keys = Vec::new();
    let view = RocksBackend::open_read_only(&copy, &RocksConfig::default()).unwrap().view().unwrap();
    view.scan_nodes(&KeyRange::ALL, &mut |key, _| {
        keys.push(key.to_vec());
        Flow::Continue(())
    })
    .unwrap();
    keys
}

#[test]
fn a_truncated_table_file_is_refused() {
    let Some(store) = Shared::Small.copy("truncated table") else {
        return;
    };
    damage::truncate_largest_table(&store.db());
    for mark in [MarkChoice::Scan, MarkChoice::Walk] {
        let error = refused(&PruneRequest { mark, ..request(&store.db(), 10) }, "corrupt");
        assert!(error.to_string().contains(".sst"), "the file is named: {error}");
    }
}

/// The engine takes such a list for that of a younger database, whose table files it would remove on opening.
#[test]
fn a_list_of_files_that_was_cut_is_damage_and_no_store_without_a_state() {
    let Some(store) = Shared::Small.copy("cut list") else {
        return;
    };
    let list = std::fs::read_to_string(store.db().join("CURRENT")).unwrap();
    for length in [200, 0] {
        std::fs::File::options().write(true).open(store.db().join(list.trim())).unwrap().set_len(length).unwrap();
        let error = refused(&request(&store.db(), 10), "corrupt").to_string();
        assert!(error.contains(list.trim()) && !error.contains(".."), "{length}: {error}");
        assert_eq!(verify(&store.db(), StoreLayout::Rooch, 10).unwrap_err().code(), "corrupt");
    }
}

#[test]
fn keys_that_are_no_hashes_are_kept_and_counted() {
    let Some(store) = Shared::Small.copy("foreign keys") else {
        return;
    };
    let expected = store.windows().into_iter().find(|expected| expected.keep_last == 10).unwrap();
    let text = [&[0x42][..], b"0x", "ab".repeat(32).as_bytes()].concat();
    assert_eq!(text.len(), 67, "the form that a restore of Rooch's recycle bin leaves");
    let foreign: [&[u8]; 4] = [&text, b"", b"k", &[7; 33]];
    for key in &foreign[..1] {
        damage::put_node(&store.db(), key, b"a row of somebody else");
    }
    for key in &foreign[2..] {
        damage::put_node(&store.db(), key, b"a row of somebody else");
    }
    let outcome = prune(&PruneRequest { mark: MarkChoice::Scan, ..request(&store.db(), 10) }).unwrap();
    assert_eq!(outcome.mark.unwrap().foreign_rows, Some(3));
    let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
    assert_eq!((report.foreign_rows, report.present_sha256), (Some(3), Some(expected.live_sha256)));
    let reading = damage::open(&store.db());
    let nodes = reading.cf_handle("state_node").unwrap();
    for key in [&text[..], b"k", &[7; 33]] {
        assert_eq!(reading.get_cf(nodes, key).unwrap().as_deref(), Some(&b"a row of somebody else"[..]));
    }
}

/// A prune that meets damage while it marks freezes nothing, for it deletes nothing, and so does a copy; older snapshots may be
/// the last without it.
#[test]
fn older_snapshots_stay_until_a_prune_has_proved_that_what_another_one_met_is_gone() {
    let Some(store) = Shared::Small.copy("a store in doubt") else {
        return;
    };
    let catalog = store.dir().join("catalog");
    let create = |orders| {
        let clock = SystemClock::new();
        let retention = CatalogRetention { keep: Some(NonZeroU64::MIN), max_age: None };
        let request = CreateRequest { catalog: &catalog, id: SnapshotId::draw(&clock), retention };
        let source =
            Source::Rest { db: &store.db(), layout: StoreLayout::Rooch, orders: NonZeroU64::new(orders).unwrap() };
        let made = catalog::create(&request, &source, &alone())?;
        let codes: Vec<String> = made.removed.failures.into_iter().map(|failed| failed.code).collect();
        Ok::<_, CatalogError>((made.removed.snapshots.len(), codes))
    };
    let order = store.roots().len() - 5;
    let lost = NodeHash::from_hex(&store.roots()[order]).unwrap();
    let bytes = view(&store).node(&lost).unwrap().unwrap();
    assert_eq!(create(1).unwrap(), (0, vec![]));
    damage::remove_node(&store.db(), lost.as_bytes());
    assert_eq!(create(10).unwrap_err().code(), "corrupt");
    let held = (0, vec!["unproven".to_owned()]);
    assert_eq!(create(1).unwrap(), held, "another copy has found it");
    assert_eq!(prune(&request(&store.db(), 10)).unwrap_err().code(), "missing_live_node");
    assert_eq!(create(1).unwrap(), held, "its one state has no damage, and who knows");
    damage::put_node(&store.db(), lost.as_bytes(), &bytes);
    assert_eq!(create(1).unwrap(), held, "nobody has looked since");
    prune(&request(&store.db(), 10)).unwrap();
    assert_eq!(create(1).unwrap(), (4, vec![]));

    FolderRecords(default_state_dir(&store.db())).save(RecordKey::Doubt, b"torn").unwrap();
    for what in ["nobody knows what it told", "it may have been found behind the mark of the one prune since"] {
        assert_eq!(create(1).unwrap(), held, "{what}");
        prune(&request(&store.db(), 10)).unwrap();
    }
    assert_eq!(create(1).unwrap(), (3, vec![]), "the second prune has hashed every node");
}

/// Its mark would believe the node, and delete the children that the true one has.
#[test]
fn a_prune_hashes_every_node_while_one_may_hash_to_another_key() {
    let Some(store) = Shared::Small.copy("a doubt of a hash") else {
        return;
    };
    let path = path_down(&store);
    let unsampled = |hash: &&NodeHash| hash.fingerprint() & 0x3f != 0;
    let node = path[1..].iter().rev().find(unsampled).unwrap();
    let (bytes, other) = (view(&store).node(node).unwrap().unwrap(), view(&store).node(&path[0]).unwrap().unwrap());
    let sampling = PruneRequest { mark: MarkChoice::Scan, rehash: RehashChoice::Sample, ..request(&store.db(), 10) };
    damage::put_node(&store.db(), node.as_bytes(), &other);
    let planned = prune(&PruneRequest { mode: PruneMode::Plan, ..sampling.clone() });
    assert!(planned.is_ok(), "a sample may miss it: {planned:?}");

    let (folder, hash) = (default_state_dir(&store.db()), *node);
    std::fs::create_dir(&folder).unwrap();
    let records = FolderRecords(folder);
    Doubted::remember(&PruneError::WrongHash { hash, actual: path[0], path: Vec::new() }, &records).unwrap();
    let error = refused(&sampling, "wrong_hash");
    assert!(error.to_string().contains(&hash.to_string()), "{error}");
    damage::put_node(&store.db(), node.as_bytes(), &bytes);
    prune(&sampling).unwrap();
    assert_eq!(Doubted::recorded(&records), None, "every node was hashed");
}

#[test]
fn a_frozen_store_at_rest_is_pruned_again_once_an_operator_has_lifted_the_freeze() {
    let Some(store) = Shared::Small.copy("a frozen store") else {
        return;
    };
    let folder = default_state_dir(&store.db());
    std::fs::create_dir(&folder).unwrap();
    let freeze = Freeze { cycle: 3, at: 0, why: "a live node was missing".to_owned() };
    FolderRecords(folder).save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
    let before = folder::digests(&store.db());
    let error = prune(&request(&store.db(), 10)).unwrap_err();
    assert!(error.code() == "frozen" && error.to_string().contains("a live node was missing"), "{error}");
    assert_eq!(folder::digests(&store.db()), before);
    prune(&PruneRequest { frozen: Frozen::Lift, ..request(&store.db(), 10) }).unwrap();
    prune(&request(&store.db(), 10)).unwrap();
}
