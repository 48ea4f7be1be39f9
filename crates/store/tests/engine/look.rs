//! Looks without nodes: what they read beside a long log, and what they refuse.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rocksdb::{DB, Options};
use state_store::{Backend, Batch, ChainView as _, NativeChain, RocksBackend, Store, StoreError, Table};

use crate::{
    foreign::Foreign,
    support::{CONFIG, Rig, SMALL, commit, contents, copy_folder, hash, nodes},
};

#[test]
fn a_look_without_nodes_has_the_rows_of_the_log_and_the_list_of_node_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let backend = Arc::new(RocksBackend::open(&path, &SMALL).unwrap());
    let store = Store::open(Arc::clone(&backend) as _, CONFIG).unwrap();
    let row = |value: &[u8]| {
        let mut batch = Batch::new();
        batch.put(Table::META, *b"a record", value);
        backend.write(&batch, CONFIG.durability).unwrap();
    };
    commit(&store, nodes(0, 100, 2_500)).unwrap();
    row(b"the first");
    backend.flush().unwrap();
    commit(&store, nodes(1_000, 1_000, 100)).unwrap();
    row(b"the last"); // and that is in the log only
    drop((store, backend));
    let before = contents(&path);
    let look = RocksBackend::open_without_nodes(&path).unwrap();
    let view = look.view().unwrap();
    assert_eq!(view.row(&Table::META, b"a record").unwrap().unwrap(), b"the last");
    let (files, blobs) = (look.node_files().unwrap(), look.node_blob_bytes().unwrap());
    let whole = RocksBackend::open_for_a_look(&path).unwrap();
    assert_eq!((&files, blobs), (&whole.node_files().unwrap(), whole.node_blob_bytes().unwrap()));
    assert!(!files.is_empty() && blobs > 0, "{files:?} {blobs}");
    for node in [0, 1_500] {
        assert!(matches!(view.node(&hash(node)), Err(StoreError::NoTable(_))));
    }
    let copy = dir.path().join("copy");
    assert!(matches!(look.copy_into(&copy), Err(StoreError::Unsupported(_))), "it would lack the nodes");
    assert!(!copy.exists());
    drop((view, look, whole));
    assert_eq!(contents(&path), before, "nothing is written into the folder");
}

#[test]
fn a_look_without_nodes_at_somebody_elses_store_lists_its_node_files_and_judges_its_log() {
    let foreign = Foreign::new();
    let db = reopened(foreign.path());
    for n in 0..200 {
        db.put_cf(db.cf_handle("state_node").unwrap(), hash(n).as_bytes(), [7; 100]).unwrap();
    }
    drop(db);
    damage(&longest_log(foreign.path()));
    let whole = RocksBackend::open_for_a_look(foreign.path()).unwrap();
    let look = RocksBackend::open_without_nodes(foreign.path()).unwrap();
    assert!(whole.log_cut().is_some());
    assert_eq!(look.log_cut(), whole.log_cut());
    assert!(!whole.node_files().unwrap().is_empty());
    assert_eq!(look.node_files().unwrap(), whole.node_files().unwrap());
    assert_eq!(look.node_blob_bytes().unwrap(), whole.node_blob_bytes().unwrap());
    assert!(!look.view().unwrap().has_table(&Table::META));
}

/// Open for writing with every family; what was in the log only lies in tables now.
fn reopened(store: &Path) -> DB {
    let families = DB::list_cf(&Options::default(), store).unwrap();
    DB::open_cf(&Options::default(), store, &families).unwrap()
}

fn longest_log(store: &Path) -> PathBuf {
    let files = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
    logs.max_by_key(|log| fs::metadata(log).unwrap().len()).unwrap()
}

/// Where it ends: what follows may be room that was taken for it.
fn written(log: &[u8]) -> usize {
    log.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// Changes a bit in the middle.
fn damage(log: &Path) {
    let mut bytes = fs::read(log).unwrap();
    let at = written(&bytes) / 2;
    *bytes.get_mut(at).unwrap() ^= 1;
    fs::write(log, bytes).unwrap();
}

/// Writes rows and nodes into one log, flushes some of the families, and goes on in another log.
fn write_ahead(db: &DB, rows: &[&str], flushed: &[&str]) {
    let put = |family: &str, n| db.put_cf(db.cf_handle(family).unwrap(), hash(n).as_bytes(), [7; 100]).unwrap();
    for n in 0..200 {
        rows.iter().for_each(|family| put(family, n));
        put("state_node", n);
    }
    flushed.iter().for_each(|family| db.flush_cf(db.cf_handle(family).unwrap()).unwrap());
    put("state_node", 200);
}

/// What both looks say of a copy whose longest log is damaged, at rest: the engine refuses it for the sake of the family.
fn refused_at_rest(store: &Path, family: &str) {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(store, copy.path());
    damage(&longest_log(copy.path()));
    let whole = RocksBackend::open_for_a_look(copy.path()).unwrap_err();
    assert!(matches!(&whole, StoreError::Corrupt(why) if why.contains(family)), "{whole}");
    let without = RocksBackend::open_without_nodes(copy.path()).err().unwrap();
    assert_eq!(without.to_string(), whole.to_string());
}

/// A store of our own that the engine has open, past everything that guards it.
fn ours() -> (tempfile::TempDir, PathBuf, DB) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(RocksBackend::open(&path, &SMALL).unwrap());
    let db = reopened(&path);
    (dir, path, db)
}

/// The engine refuses such a store, because of a family that the look does not open.
#[test]
fn a_node_table_that_is_ahead_of_a_damaged_log_is_refused_by_a_look_without_nodes_as_by_any_other() {
    let (_dir, path, db) = ours();
    write_ahead(&db, &[Table::META.name()], &["state_node"]);
    refused_at_rest(&path, "state_node");
}

#[test]
fn a_node_table_of_somebody_elses_store_that_is_ahead_of_a_damaged_log_is_refused_by_a_look_without_nodes() {
    let foreign = Foreign::new();
    let db = reopened(foreign.path());
    write_ahead(&db, &["transaction"], &["state_node"]);
    refused_at_rest(foreign.path(), "state_node");
}

/// As a writer leaves it that was killed after it had flushed every family but the last.
#[test]
fn a_damaged_log_that_only_nodes_still_need_is_refused_by_a_look_without_nodes_as_by_any_other() {
    let (_dir, path, db) = ours();
    let rows: Vec<&str> = Table::ALL.iter().map(|table| table.name()).collect();
    write_ahead(&db, &rows, &rows);
    refused_at_rest(&path, "beyond the point of corruption");
}

/// The log that its writer has open may look damaged because it was read too early.
#[test]
fn beside_a_writer_a_damaged_log_is_not_judged_for_its_nodes() {
    let (_dir, path, db) = ours();
    write_ahead(&db, &[Table::META.name()], &["state_node"]);
    damage(&longest_log(&path));
    let look = RocksBackend::open_without_nodes(&path).unwrap();
    assert_eq!(look.log_cut(), None, "at rest only");
    drop(look);
    drop(db);
}

/// As the log of a store that nobody writes is cut, and as that of a killed writer ends.
#[test]
fn a_look_without_nodes_tells_damage_of_the_log_as_any_other() {
    let rig = Rig::new();
    for n in 0..20 {
        rig.commit(nodes(10 * n, 10, 200));
    }
    for is_cut in [true, false] {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&rig.path(), copy.path());
        let log = longest_log(copy.path());
        if is_cut {
            damage(&log);
        } else {
            let bytes = fs::read(&log).unwrap();
            fs::write(&log, &bytes[..written(&bytes) - 100]).unwrap();
        }
        let whole = RocksBackend::open_for_a_look(copy.path()).unwrap();
        let look = RocksBackend::open_without_nodes(copy.path()).unwrap();
        assert_eq!((look.log_cut(), look.log_cut().is_some()), (whole.log_cut(), is_cut));
        let head = |backend: &dyn Backend| NativeChain.head(&*backend.view().unwrap()).unwrap();
        assert_eq!(head(&*look), head(&whole));
        assert!(head(&whole).is_some_and(|head| head.order.get() < 19));
    }
}

#[test]
fn a_node_table_that_was_cut_or_removed_is_refused_by_a_look_without_nodes() {
    let rig = Rig::new();
    rig.commit(nodes(0, 100, 2_000));
    rig.backend.flush().unwrap();
    let name = format!("{:06}.sst", rig.backend.node_files().unwrap()[0].number);
    for left in [Some(100), None] {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&rig.path(), copy.path());
        let table = copy.path().join(&name);
        let bytes = fs::read(&table).unwrap();
        match left {
            Some(length) => fs::write(&table, &bytes[..length]).unwrap(),
            None => fs::remove_file(&table).unwrap(),
        }
        let refused = RocksBackend::open_without_nodes(copy.path()).err().unwrap();
        assert!(matches!(&refused, StoreError::Corrupt(why) if why.contains(&name)), "{refused}");
    }
}

#[test]
fn a_list_of_files_that_ends_within_a_record_is_refused_by_a_look_without_nodes_as_by_any_other() {
    let rig = Rig::new();
    rig.commit(nodes(0, 100, 2_000));
    rig.backend.flush().unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&rig.path(), copy.path());
    let list = copy.path().join(fs::read_to_string(copy.path().join("CURRENT")).unwrap().trim());
    let whole = fs::read(&list).unwrap();
    fs::write(&list, &whole[..whole.len() - 1]).unwrap();
    let whole = RocksBackend::open_for_a_look(copy.path()).unwrap_err();
    assert!(matches!(&whole, StoreError::Corrupt(why) if why.contains("ends within a record")), "{whole}");
    let without = RocksBackend::open_without_nodes(copy.path()).err().unwrap();
    assert_eq!(without.to_string(), whole.to_string());
}

/// The list of files goes on naming a family that was dropped.
#[test]
fn a_look_without_nodes_at_a_store_that_lacks_a_table_has_the_others() {
    let (_dir, path, mut db) = ours();
    for table in [Table::META, Table::SNAPSHOT] {
        db.put_cf(db.cf_handle(table.name()).unwrap(), b"a record", b"a row").unwrap();
    }
    db.drop_cf(Table::SNAPSHOT.name()).unwrap();
    drop(db);
    let look = RocksBackend::open_without_nodes(&path).unwrap();
    let view = look.view().unwrap();
    assert_eq!(view.row(&Table::META, b"a record").unwrap().unwrap(), b"a row");
    assert_eq!((view.has_table(&Table::META), view.has_table(&Table::SNAPSHOT)), (true, false));
}

#[test]
fn a_look_without_nodes_at_a_store_without_a_node_family_says_so() {
    let (_dir, path, mut db) = ours();
    db.drop_cf("state_node").unwrap();
    drop(db);
    let refused = RocksBackend::open_without_nodes(&path).err().unwrap();
    assert!(matches!(&refused, StoreError::MissingFamily { family, .. } if family == "state_node"), "{refused}");
    assert!(refused.to_string().contains(Table::META.name()), "it names those that are there: {refused}");
}

/// As a later version has it, which knows more tables.
#[test]
fn a_table_that_nobody_here_knows_and_that_is_ahead_of_a_damaged_log_is_refused_as_by_any_other() {
    let (_dir, path, mut db) = ours();
    db.create_cf("of_a_later_version", &Options::default()).unwrap();
    write_ahead(&db, &["of_a_later_version"], &["of_a_later_version"]);
    refused_at_rest(&path, "of_a_later_version");
}
