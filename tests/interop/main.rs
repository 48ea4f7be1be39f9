//! Stores that Rooch's own code wrote: read exactly, pruned to exactly what expected.json says, and still theirs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use state_pruner::{
    SweepChoice,
    mark::{MarkChoice, MarkStrategy},
    offline::{PruneMode, PruneRequest, StoreLayout},
    sweep::SweepStrategy,
    verify::VerifyReport,
};
use state_store::{
    Backend, Batch, ChainView, Durability, Flow, KeyRange, MemoryBackend, RocksBackend, RocksConfig, RoochChain,
    RootAt, Table, View, space_of,
};
use state_tests::{
    folder,
    offline::{prune, request, verify},
    rig::WAYS,
    shared::{Expected, RoochStore, Shared},
};
use state_tree::{NodeHash, NodeLayout, Order, RoochLayout};

fn ways(mark: MarkChoice, sweep: SweepChoice, db: &Path, keep_last: u64) -> PruneRequest {
    PruneRequest { mark, sweep, ..request(db, keep_last) }
}

fn view(db: &Path) -> std::sync::Arc<dyn View> {
    let backend = RocksBackend::open_read_only(db, &RocksConfig::default()).unwrap();
    backend.view().unwrap()
}

fn options_file(db: &Path) -> PathBuf {
    let entries = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let options = entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("OPTIONS-"));
    options.max().unwrap()
}

/// The magic number at the end of a block-based table.
const TABLE_MAGIC: u64 = 0x88e2_41b7_85f4_cff7;

/// The newest table format that RocksDB 9.9.3 reads.
const NEWEST_FORMAT: u32 = 6;

/// Every table is one that Rooch's engine reads: its footer ends with the version of its format and a magic number.
fn assert_old_table_formats(db: &Path, context: &str) {
    let tables = folder::with_ending(db, "sst");
    assert!(!tables.is_empty(), "{context}");
    for table in tables {
        let bytes = fs::read(&table).unwrap();
        let (version, magic) = bytes[bytes.len() - 12..].split_at(4);
        assert_eq!(u64::from_le_bytes(magic.try_into().unwrap()), TABLE_MAGIC, "{context}: {}", table.display());
        let version = u32::from_le_bytes(version.try_into().unwrap());
        assert!(version <= NEWEST_FORMAT, "{context}: {} has format {version}", table.display());
    }
}

fn families(db: &Path) -> Vec<String> {
    let mut names = rocksdb::DB::list_cf(&rocksdb::Options::default(), db).unwrap();
    names.sort();
    names
}

/// After a prune exactly the expected nodes are there, and every one of them is whole.
fn assert_pruned(report: &VerifyReport, expected: &Expected, context: &str) {
    assert!(report.is_sound(), "{context}: {report:?}");
    assert_eq!(report.leaked_nodes, Some(0), "{context}");
    assert_eq!((report.live_nodes, report.present_nodes), (Some(expected.live_nodes), Some(expected.live_nodes)));
    assert_eq!(report.live_sha256.as_ref(), Some(&expected.live_sha256), "{context}");
    assert_eq!(report.present_sha256.as_ref(), Some(&expected.live_sha256), "{context}");
}

fn prune_to(store: &RoochStore, expected: &Expected, mark: MarkChoice, sweep: SweepChoice) {
    let (db, total) = (store.db(), store.number("total_nodes"));
    let context = format!("keep {} {mark:?} {sweep:?}", expected.keep_last);
    let (options, names) = (fs::read(options_file(&db)).unwrap(), families(&db));
    let before = verify(&db, StoreLayout::Rooch, expected.keep_last).unwrap();
    assert_eq!(before.live_sha256.as_ref(), Some(&expected.live_sha256), "{context}: before");
    assert_eq!(before.present_nodes, Some(total), "{context}: before");
    assert_eq!(before.leaked_nodes, Some(total - expected.live_nodes), "{context}: before");

    let request = ways(mark, sweep, &db, expected.keep_last);
    let plan = prune(&PruneRequest { mode: PruneMode::Plan, ..request.clone() }).unwrap();
    let done = prune(&request).unwrap();
    let marked = done.mark.as_ref().unwrap();
    assert_eq!(marked.live_nodes, expected.live_nodes, "{context}");
    assert_eq!(Some(marked.strategy), strategy(mark), "{context}: {}", marked.why);
    let (planned, swept) = (&plan.sweep, &done.sweep);
    assert_eq!(swept.deleted, total - expected.live_nodes, "{context}");
    assert_eq!((planned.deleted, planned.kept), (swept.deleted, swept.kept), "{context}: the dry run said otherwise");
    assert_eq!((planned.strategy, &planned.why), (swept.strategy, &swept.why), "{context}");
    assert!(swept.strategy == swept_by(sweep) || swept.strategy == SweepStrategy::Nothing, "{context}: {}", swept.why);

    assert_pruned(&verify(&db, StoreLayout::Rooch, expected.keep_last).unwrap(), expected, &context);
    assert_eq!(families(&db), names, "{context}: no family is added or lost");
    assert_old_table_formats(&db, &context);
    assert_eq!(fs::read(options_file(&db)).unwrap(), options, "{context}: the newest OPTIONS file is theirs");
    let again = prune(&request).unwrap();
    assert_eq!(again.sweep.deleted, 0, "{context}: a second prune finds nothing");
}

fn strategy(mark: MarkChoice) -> Option<MarkStrategy> {
    match mark {
        MarkChoice::Scan => Some(MarkStrategy::Scan),
        MarkChoice::Walk => Some(MarkStrategy::Walk),
        MarkChoice::Auto => None,
    }
}

fn swept_by(sweep: SweepChoice) -> SweepStrategy {
    match sweep {
        SweepChoice::Filter | SweepChoice::Auto => SweepStrategy::Filter,
        SweepChoice::Delete => SweepStrategy::Delete,
    }
}

/// Windows that expected.json has of each store: 1, 10, 100 and all orders.
const WINDOWS: usize = 4;

#[test]
fn the_small_store_is_pruned_to_exactly_what_was_expected_by_every_way() {
    for (mark, sweep) in WAYS {
        let Some(first) = Shared::Small.copy("small store") else {
            return;
        };
        assert_eq!(first.windows().len(), WINDOWS);
        for expected in first.windows() {
            let store = Shared::Small.copy("small store").unwrap();
            prune_to(&store, &expected, mark, sweep);
        }
    }
}

#[test]
fn the_medium_store_is_pruned_to_exactly_what_was_expected() {
    let Some(first) = Shared::Medium.copy("medium store") else {
        return;
    };
    assert_eq!(first.windows().len(), WINDOWS);
    for expected in first.windows() {
        for (mark, sweep) in WAYS {
            let store = Shared::Medium.copy("medium store").unwrap();
            prune_to(&store, &expected, mark, sweep);
        }
    }
}

/// A store that was pruned once is pruned again to a shorter window.
#[test]
fn a_window_is_narrowed_step_by_step() {
    let Some(store) = Shared::Small.copy("narrowing") else {
        return;
    };
    let mut windows = store.windows();
    windows.sort_by_key(|expected| std::cmp::Reverse(expected.keep_last));
    for (expected, (mark, sweep)) in windows.iter().zip(WAYS) {
        prune(&ways(mark, sweep, &store.db(), expected.keep_last)).unwrap();
        let report = verify(&store.db(), StoreLayout::Rooch, expected.keep_last).unwrap();
        assert_pruned(&report, expected, &format!("then keep {}", expected.keep_last));
    }
}

#[test]
fn every_order_leads_to_the_root_that_rooch_recorded() {
    for which in [Shared::Small, Shared::Medium] {
        let Some(store) = which.copy("roots by order") else {
            return;
        };
        let view = view(&store.db());
        let roots = store.roots();
        let head = RoochChain.head(&*view).unwrap().unwrap();
        assert_eq!(head.order.get(), store.number("last_order"));
        assert_eq!(head.root.to_string(), store.expected["head_root"].as_str().unwrap());
        let found = RoochChain.roots(&*view, Order::GENESIS, head.order).unwrap();
        assert_eq!(found.len(), roots.len());
        for ((order, at), expected) in found.into_iter().zip(roots) {
            let RootAt::Root(root) = at else { panic!("order {order}: {at:?}") };
            assert_eq!(root.to_string(), expected, "order {order}");
            assert_eq!(RoochChain.root(&*view, order).unwrap(), RootAt::Root(root), "order {order} by itself");
        }
    }
}

/// Route B: without any change set, by the rows of transactions alone.
#[test]
fn every_order_leads_to_the_same_root_by_its_transaction() {
    for which in [Shared::Small, Shared::Medium] {
        let Some(store) = which.copy("roots by transaction") else {
            return;
        };
        let families = ["tx_sequence_info_mapping", "transaction_execution_info", "transaction"]
            .map(|name| Table::foreign(name).unwrap());
        let memory = MemoryBackend::with_tables(families.clone());
        let (view, mut batch) = (view(&store.db()), Batch::new());
        for table in families {
            view.scan(&table, &KeyRange::ALL, &mut |key, value| {
                batch.put(table.clone(), key, value);
                Flow::Continue(())
            })
            .unwrap();
        }
        memory.write(&batch, Durability::Logged).unwrap();
        let last = Order::new(store.number("last_order"));
        let found = RoochChain.roots(&*memory.view().unwrap(), Order::GENESIS, last).unwrap();
        assert_eq!(found.len(), store.roots().len());
        for ((order, at), expected) in found.into_iter().zip(store.roots()) {
            let RootAt::Root(root) = at else { panic!("order {order}: {at:?}") };
            assert_eq!(root.to_string(), expected, "order {order}");
        }
    }
}

#[test]
fn nodes_written_by_rooch_decode_and_rehash_to_their_key() {
    for which in [Shared::Small, Shared::Medium] {
        let Some(store) = which.copy("node bytes") else { return };
        let (view, mut nodes, mut bytes) = (view(&store.db()), 0, 0);
        view.scan_nodes(&KeyRange::ALL, &mut |key, value| {
            let hash = NodeHash::try_from(key).unwrap();
            assert_eq!(RoochLayout.hash(value).unwrap(), hash);
            let mut children = Vec::new();
            RoochLayout.children(value, &mut children).unwrap();
            (nodes, bytes) = (nodes + 1, bytes + value.len() as u64);
            Flow::Continue(())
        })
        .unwrap();
        assert_eq!((nodes, bytes), (store.number("total_nodes"), store.number("total_value_bytes")));
    }
}

#[test]
fn a_dry_run_plan_equals_the_run_that_follows() {
    let Some(store) = Shared::Small.copy("dry run") else {
        return;
    };
    let before = folder::digests(&store.db());
    for (mark, sweep) in WAYS {
        let request = PruneRequest { mode: PruneMode::Plan, ..ways(mark, sweep, &store.db(), 10) };
        let outcome = prune(&request).unwrap();
        assert!(outcome.dry_run && outcome.certificate.is_none() && outcome.bytes.before == outcome.bytes.after);
        assert_eq!(folder::digests(&store.db()), before, "a dry run writes nothing into the store");
    }
    let request = ways(MarkChoice::Auto, SweepChoice::Auto, &store.db(), 10);
    let plan = prune(&PruneRequest { mode: PruneMode::Plan, ..request.clone() }).unwrap();
    let run = prune(&request).unwrap();
    let (planned, swept) = (plan.sweep, run.sweep);
    assert_eq!((planned.deleted, planned.kept), (swept.deleted, swept.kept));
    assert_eq!((planned.strategy, planned.deleted_bytes), (swept.strategy, swept.deleted_bytes));
    assert_eq!(plan.retained, run.retained);
    assert_eq!(plan.mark.unwrap().live_digest, run.mark.unwrap().live_digest);
}

/// Bytes of the nodes that are large enough for a blob file.
fn large_bytes(db: &Path) -> u64 {
    let mut bytes = 0;
    let count = &mut |_: &[u8], value: &[u8]| {
        bytes += if value.len() >= 1024 { value.len() as u64 } else { 0 };
        Flow::Continue(())
    };
    view(db).scan_nodes(&KeyRange::ALL, count).unwrap();
    bytes
}

#[test]
fn a_prune_returns_the_space_of_large_nodes() {
    for (mark, sweep) in WAYS {
        let Some(store) = Shared::Medium.copy("blob files") else {
            return;
        };
        let (before, large) = (space_of(&store.db()).unwrap(), large_bytes(&store.db()));
        assert!(before.blobs > 0 && large > 0, "the store has large nodes");
        let outcome = prune(&ways(mark, sweep, &store.db(), 1)).unwrap();
        let after = space_of(&store.db()).unwrap();
        println!(
            "{mark:?} {sweep:?}: tables {} to {}, blobs {} to {}",
            before.tables, after.tables, before.blobs, after.blobs
        );
        let due = before.blobs as f64 * large_bytes(&store.db()) as f64 / large as f64;
        assert!(
            after.blobs as f64 <= due * 1.1,
            "{mark:?} {sweep:?}: {} blob bytes are left, {due} are due",
            after.blobs
        );
        assert!(after.tables * 2 < before.tables, "{mark:?} {sweep:?}");
        assert_eq!(outcome.bytes.after, after.total(), "and the report says what the files say");
    }
}
