//! A store of somebody else: swept, and given back as it was found.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use rocksdb::{DB, Options};
use state_store::{Backend, Capture, KeyRange, RocksBackend, Store, StoreError};
use state_tree::NodeHash;

use crate::support::{CONFIG, SMALL, contents, copy_folder, hash, sweep, value};

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
    let store = Store::foreign(backend.clone(), CONFIG).unwrap();
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
    let store =
        Store::foreign(Arc::new(RocksBackend::open_read_only(foreign.path(), &SMALL).unwrap()), CONFIG).unwrap();
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
    let store = Store::foreign(Arc::new(RocksBackend::open_rooch(foreign.path(), &SMALL).unwrap()), CONFIG).unwrap();
    assert_eq!(nodes_of(&store).len(), 4_000);
}
