//! A store of somebody else: swept, and given back as it was found.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use rocksdb::{DB, Options};
use state_store::{
    Backend, Capture, ChainView as _, KeyRange, RocksBackend, RocksConfig, RoochChain, RootAt, Store, StoreError, Table,
};
use state_tree::{NodeHash, Order};

use crate::support::{CONFIG, SMALL, contents, copy_folder, hash, present, sixteenth, sweep, value};

const FAMILIES: [&str; 4] = ["state_node", "config_startup_info", "transaction", "smt_stale"];

/// A store with a node family, rows, and a family that no version of ours knows.
pub(crate) struct Foreign {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Foreign {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf(&options, &path, FAMILIES).unwrap();
        let family = |name: &str| db.cf_handle(name).unwrap();
        for n in 0..4_000u64 {
            let bytes = if n % 10 == 0 { 2_500 } else { 200 };
            db.put_cf(family("state_node"), hash(n).as_bytes(), value(n, bytes)).unwrap();
        }
        db.put_cf(family("state_node"), [b'x'; 67], b"a key of another length").unwrap();
        db.put_cf(family("config_startup_info"), b"key", b"row").unwrap();
        db.put_cf(family("smt_stale"), b"old", b"row").unwrap();
        drop(db); // the rows are in the log only
        Self { dir, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn newest_options(path: &Path) -> Vec<u8> {
        let files = contents(path);
        let newest = files.into_iter().filter(|(name, _)| name.starts_with("OPTIONS-")).max();
        newest.unwrap().1
    }
}

fn mentions_us(path: &Path) -> Vec<String> {
    let ours = b"state-pruner";
    let files = contents(path).into_iter();
    files
        .filter(|(name, bytes)| name.starts_with("OPTIONS") && bytes.windows(ours.len()).any(|window| window == ours))
        .map(|(name, _)| name)
        .collect()
}

fn logs(path: &Path) -> Vec<(String, Vec<u8>)> {
    contents(path).into_iter().filter(|(name, _)| name.starts_with("LOG")).collect()
}

fn live() -> BTreeSet<NodeHash> {
    (0..1_000).map(hash).collect()
}

fn sweep_all(backend: &Arc<RocksBackend>) {
    let store = Store::foreign(backend.clone(), CONFIG);
    let capture: Capture = store.capture().unwrap();
    let active = sweep(&store, &capture, live());
    let tally = active.rewrite(&KeyRange::ALL).unwrap();
    assert_eq!((tally.dropped, tally.live, tally.foreign), (3_000, 1_000, 1));
}

#[test]
fn a_swept_foreign_store_is_given_back_with_its_own_options_and_families() {
    let foreign = Foreign::new();
    let (found, log) = (Foreign::newest_options(foreign.path()), logs(foreign.path()));
    let backend = Arc::new(RocksBackend::open_rooch(foreign.path(), &SMALL).unwrap());
    sweep_all(&backend);
    Arc::into_inner(backend).unwrap().close_foreign().unwrap();
    assert_eq!(Foreign::newest_options(foreign.path()), found);
    assert_eq!(mentions_us(foreign.path()), Vec::<String>::new());
    assert_eq!(logs(foreign.path()), log, "its LOG is neither written nor moved");

    let mut families = DB::list_cf(&Options::default(), foreign.path()).unwrap();
    families.retain(|name| name != "default");
    assert_eq!(families, FAMILIES, "none was added");
    let db = DB::open_cf(&Options::default(), foreign.path(), &families).unwrap();
    let row = |family: &str, key: &[u8]| db.get_cf(db.cf_handle(family).unwrap(), key).unwrap();
    assert_eq!(row("smt_stale", b"old").as_deref(), Some(&b"row"[..]));
    assert!(row("state_node", &[b'x'; 67]).is_some(), "a foreign key is kept");
    for n in 0..4_000u64 {
        assert_eq!(row("state_node", hash(n).as_bytes()).is_some(), n < 1_000, "{n}");
    }
    drop(foreign.dir);
}

#[test]
fn a_foreign_store_whose_sweep_was_killed_has_its_own_options() {
    let foreign = Foreign::new();
    let found = Foreign::newest_options(foreign.path());
    let killed = foreign.dir.path().join("killed");
    for round in 0..3 {
        let backend = Arc::new(RocksBackend::open_rooch(foreign.path(), &SMALL).unwrap());
        sweep_or_resweep(&backend, round);
        copy_folder(foreign.path(), &killed); // as the process would leave it now
        assert_eq!(Foreign::newest_options(&killed), found, "round {round}");
        assert_eq!(mentions_us(&killed), Vec::<String>::new());
        drop(backend); // neither is it closed properly
        assert_eq!(Foreign::newest_options(foreign.path()), found);
        std::fs::remove_dir_all(&killed).unwrap();
    }
    let store = Store::foreign(Arc::new(RocksBackend::open_read_only(foreign.path(), &SMALL).unwrap()), CONFIG);
    assert_eq!(nodes_of(&store), live());
}

fn sweep_or_resweep(backend: &Arc<RocksBackend>, round: u32) {
    if round == 0 {
        sweep_all(backend);
    }
}

/// Nodes only: the family also holds a key that is not one.
fn nodes_of(store: &Store) -> BTreeSet<NodeHash> {
    let mut found = BTreeSet::new();
    let view = store.view().unwrap();
    view.scan_nodes(&KeyRange::ALL, &mut |key, _| {
        found.extend(NodeHash::try_from(key));
        state_store::Flow::Continue(())
    })
    .unwrap();
    found
}

/// Cut where files begin, ranges share no file: rewriting one leaves the others as they are.
#[test]
fn a_rewrite_of_one_files_range_leaves_its_neighbours_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_target_file_size_base(64 << 10);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    let db = DB::open_cf_with_opts(&options, dir.path(), [("state_node", options.clone())]).unwrap();
    let family = db.cf_handle("state_node").unwrap();
    for half in [0..1_500, 1_500..3_000] {
        half.for_each(|n| db.put_cf(family, hash(n).as_bytes(), value(n, 200)).unwrap());
        db.flush_cf(family).unwrap(); // two files of one level: merging them cuts at the target size
    }
    db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    drop(db);
    let backend = RocksBackend::open_rooch(dir.path(), &SMALL).unwrap();
    let files = || {
        let mut files = backend.node_files().unwrap();
        files.sort_by(|a, b| a.first.cmp(&b.first));
        files
    };
    let before = files();
    assert!(before.len() >= 6 && before.iter().all(|file| file.level > 0), "{before:?}");
    let range = KeyRange { start: Some(before[2].first.clone()), end: Some(before[4].first.clone()) };
    backend.rewrite_nodes(&range).unwrap();
    let numbers: BTreeSet<u64> = files().iter().map(|file| file.number).collect();
    for (index, file) in before.iter().enumerate() {
        let rewritten = !numbers.contains(&file.number);
        assert_eq!(rewritten, index == 2 || index == 3, "file {index}");
    }
}

#[test]
fn a_foreign_store_is_not_closed_under_an_open_view() {
    let foreign = Foreign::new();
    let backend = RocksBackend::open_rooch(foreign.path(), &SMALL).unwrap();
    let view = backend.view().unwrap();
    let error = backend.close_foreign().unwrap_err();
    assert!(matches!(error, StoreError::Invariant(_)), "{error}");
    assert!(view.node(&hash(1)).unwrap().is_some(), "the view still reads");
    drop(view);
    let store = Store::foreign(Arc::new(RocksBackend::open_rooch(foreign.path(), &SMALL).unwrap()), CONFIG);
    assert_eq!(nodes_of(&store).len(), 4_000);
}

/// Stores written by Rooch's own code, in the folder that this variable names; each with its `expected.json`.
const ROOCH_STORES: &str = "STATE_PRUNER_ROOCH_STORES";

#[test]
fn every_order_of_a_real_rooch_store_has_the_root_that_rooch_gave_it() {
    let Some(folder) = std::env::var_os(ROOCH_STORES) else {
        println!("SKIPPED: {ROOCH_STORES} names no folder");
        return;
    };
    for entry in std::fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&folder.join("store"), copy.path());
        let before = contents(copy.path());
        let backend = RocksBackend::open_read_only(copy.path(), &RocksConfig::default()).unwrap();
        let view = backend.view().unwrap();
        let head = RoochChain.head(&*view).unwrap().unwrap();
        let last = expected["last_order"].as_u64().unwrap();
        assert_eq!(head.order, Order::new(last));
        assert_eq!(head.root.to_string(), expected["head_root"].as_str().unwrap());
        println!("{folder:?}: {head:?}");
        let roots = RoochChain.roots(&*view, Order::GENESIS, head.order).unwrap();
        let texts = roots.iter().map(|(_, root)| match root {
            RootAt::Root(root) => root.to_string(),
            RootAt::Hole(hole) => panic!("{hole:?}"),
        });
        let wanted = expected["roots_by_order"].as_array().unwrap();
        assert!(texts.eq(wanted.iter().map(|root| root.as_str().unwrap().to_owned())));
        drop(view);
        let without_change_sets = by_transactions_only(&backend, head.order);
        assert_eq!(without_change_sets, wanted.len(), "route B knows every order as well");
        let store = Store::foreign(Arc::new(backend), CONFIG);
        assert_eq!(present(&store).len() as u64, expected["total_nodes"].as_u64().unwrap());
        drop(store);
        assert_eq!(contents(copy.path()), before);
    }
}

/// Where the swept copies of the next test are left for the interop proof, if anywhere.
const KEEP_SWEPT: &str = "STATE_PRUNER_KEEP_SWEPT";

#[test]
fn half_of_a_real_rooch_store_is_swept_and_the_rest_reads_the_same() {
    let Some(folder) = std::env::var_os(ROOCH_STORES) else {
        println!("SKIPPED: {ROOCH_STORES} names no folder");
        return;
    };
    for entry in std::fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&folder.join("store"), copy.path());
        let options = Foreign::newest_options(copy.path());
        let backend = Arc::new(RocksBackend::open_rooch(copy.path(), &RocksConfig::default()).unwrap());
        let store = Store::foreign(backend.clone(), CONFIG);
        let before = store.backend().space().unwrap();
        let (kept, gone): (BTreeSet<_>, BTreeSet<_>) =
            nodes_of(&store).into_iter().partition(|hash| hash.as_bytes()[31] % 2 == 0);
        let capture = store.capture().unwrap();
        let active = sweep(&store, &capture, kept.iter().copied());
        let dropped: u64 = (0..16).map(|part| active.rewrite(&sixteenth(part)).unwrap().dropped).sum();
        drop((active, capture));
        assert_eq!((dropped, nodes_of(&store)), (gone.len() as u64, kept));
        println!("{folder:?}: {before:?} became {:?}", store.backend().space().unwrap());
        drop(store);
        Arc::into_inner(backend).unwrap().close_foreign().unwrap();
        assert_eq!(Foreign::newest_options(copy.path()), options);
        if let Some(out) = std::env::var_os(KEEP_SWEPT) {
            copy_folder(copy.path(), &Path::new(&out).join(folder.file_name().unwrap()));
        }
    }
}

/// Copies the rows of route B alone into a store in memory and counts the orders whose root agrees with route A.
fn by_transactions_only(backend: &RocksBackend, head: Order) -> usize {
    let families = ["tx_sequence_info_mapping", "transaction_execution_info"].map(|name| Table::foreign(name).unwrap());
    let memory = state_store::MemoryBackend::with_tables(families.clone());
    let view = backend.view().unwrap();
    let mut batch = state_store::Batch::new();
    for table in families {
        view.scan(&table, &KeyRange::ALL, &mut |key, value| {
            batch.put(table.clone(), key, value);
            state_store::Flow::Continue(())
        })
        .unwrap();
    }
    memory.write(&batch, state_store::Durability::Logged).unwrap();
    let by_change_set = RoochChain.roots(&*view, Order::GENESIS, head).unwrap();
    let by_transaction = RoochChain.roots(&*memory.view().unwrap(), Order::GENESIS, head).unwrap();
    by_change_set.iter().zip(&by_transaction).filter(|(a, b)| a == b).count()
}
