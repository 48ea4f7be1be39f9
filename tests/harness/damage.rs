//! Damage to a copy of a Rooch store, done with the engine itself and options that a Rooch node would use.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rocksdb::{ColumnFamilyDescriptor, DB, Options};

use crate::folder;

const NODES: &str = "state_node";

/// Opens every family of a store, past everything that guards it.
pub fn open(db: &Path) -> DB {
    let mut options = Options::default();
    options.set_disable_auto_compactions(true);
    let families = DB::list_cf(&options, db).unwrap();
    let family = |name: &String| {
        let mut options = Options::default();
        options.set_disable_auto_compactions(true);
        options.set_enable_blob_files(true);
        options.set_min_blob_size(1024);
        ColumnFamilyDescriptor::new(name, options)
    };
    DB::open_cf_descriptors(&options, db, families.iter().map(family)).unwrap()
}

/// Puts a row into the node family, whatever it is.
pub fn put_node(db: &Path, key: &[u8], value: &[u8]) {
    put(db, NODES, key, value);
}

/// Puts a row into any family.
pub fn put(db: &Path, family: &str, key: &[u8], value: &[u8]) {
    let store = open(db);
    store.put_cf(store.cf_handle(family).unwrap(), key, value).unwrap();
    store.flush_cf(store.cf_handle(family).unwrap()).unwrap();
}

/// Removes a row of any family.
pub fn remove(db: &Path, family: &str, key: &[u8]) {
    let store = open(db);
    store.delete_cf(store.cf_handle(family).unwrap(), key).unwrap();
    store.flush_cf(store.cf_handle(family).unwrap()).unwrap();
}

/// Removes a node.
pub fn remove_node(db: &Path, key: &[u8]) {
    remove(db, NODES, key);
}

/// Damages the write-ahead log within: the first of some rows that are in it only, as a process left them that was killed.
pub fn spoil_log(db: &Path) {
    {
        let store = open(db);
        let nodes = store.cf_handle(NODES).unwrap();
        (0..9u8).for_each(|n| store.put_cf(nodes, [n; 32], [n; 999]).unwrap());
    }
    let log = folder::with_ending(db, "log").into_iter().max_by_key(size).unwrap();
    let mut bytes = fs::read(&log).unwrap();
    bytes[500] ^= 1;
    fs::write(log, bytes).unwrap();
}

fn size(path: &PathBuf) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// The largest table file.
pub fn largest_table(db: &Path) -> PathBuf {
    folder::with_ending(db, "sst").into_iter().max_by_key(size).unwrap()
}

/// Cuts the largest table file to half.
pub fn truncate_largest_table(db: &Path) {
    let largest = largest_table(db);
    let half = size(&largest) / 2;
    fs::File::options().write(true).open(&largest).unwrap().set_len(half).unwrap();
}
