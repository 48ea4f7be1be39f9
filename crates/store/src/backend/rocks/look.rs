//! Looks: a store opened for a few rows, beside whoever writes it or at rest. Nothing is written into its folder.
//!
//! Rows that are in no table yet are in the write-ahead log only, nearly all of them nodes, and an opening puts each row of the log
//! in its place in memory if the family of the row is open. So a look without nodes opens the other families with the log,
//! and has the list of node files, which does not depend on the log, from another opening that reads none. The records of a store
//! that is not ours lie beside it: of that one no row is read, so all of it is opened once, and its log is only judged.
//!
//! Promises: a look without nodes reads every other row that the log of our own store has, and no node. What the engine refuses of a
//! store at rest for the sake of a node table, it refuses, too; beside a writer that is haste. It does not look again by itself.
//!
//! Rests on: the engine passes over each log that no family needs which is open. Nothing is ever written to the default family, and
//! every opening has it, so the lists of files keep its number of the first log since a writer opened the store, and the log
//! is read from there on also where only nodes still need that part.
//!
//! Costs: the list of files, read by each of the two openings at the same time, the length of each table, and one pass over the log;
//! where that of our own store is damaged or torn and nobody writes the store, one more. The names of the families are those of this
//! version, and are read, too, where the store does not have them all.

use std::{
    collections::BTreeSet,
    fs,
    panic::resume_unwind,
    path::Path,
    sync::Arc,
    thread::{self, Builder, JoinHandle},
};

use rocksdb::{ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, MemtableFactory};

use super::{
    Access, Opened, RocksBackend,
    classify::{classify, classify_io},
    damage::{self, Listed},
    lock::lock_holder,
    log::Opening,
    open::{beside_a_writer, database, inspect, our_families, refuse_other_folders},
    raw::LiveTables,
    space,
};
use crate::{
    backend::{
        Backend, NodeFile,
        options::{RocksConfig, Tuning},
    },
    error::StoreError,
    schema::{NODE_FAMILY, Table},
};

/// Tables that a look keeps open; the engine opens a quarter of them at once.
const LOOK_FILES: i32 = 32;
const LOOK_CACHE: usize = 8 << 20;
/// A folder of the system in which nobody can put a log. Where it is not there, the list of files is read with the log.
const NO_LOGS: &str = "/proc/self/ns";

impl RocksBackend {
    /// Opens any store, in use or not, to read a few rows at one instant: no table is opened before it is read, and only
    /// asked for its length. One that a writer removes meanwhile fails the read: look again then.
    ///
    /// Costs: the list of files, read twice, the length of each, and the log, of which every row is put in its place.
    pub fn open_for_a_look(path: &Path) -> Result<Self, StoreError> {
        let look = Look::at(path);
        let opened = beside_a_writer(path, || look.open(&inspect(path)?, Log::Read))?;
        damage::refuse_cut_tables(path, &opened.db)?;
        Ok(look.assemble(opened, Access::ReadOnly))
    }

    /// As [`RocksBackend::open_for_a_look`], for whoever needs no node and, of a store that is not ours, no row; the node files are
    /// listed. A read of a node of our own store fails. Beside a writer it may fail by haste: look again then.
    pub fn open_without_nodes(path: &Path) -> Result<Arc<dyn Backend>, StoreError> {
        let look = Look::at(path);
        if let Some(ours) = look.by_heart()? {
            return Ok(Arc::new(ours));
        }
        let families = inspect(path)?;
        let is_ours = families.contains(Table::META.name());
        Ok(Arc::new(if is_ours { look.at_ours(&families)? } else { look.at_foreign(&families)? }))
    }
}

/// The files of a node family as they were when it was looked at.
pub(super) struct NodeList {
    tables: LiveTables,
    pub(super) blob_bytes: u64,
    _closing: Option<Closing>,
}

impl NodeList {
    fn of(opened: &RocksBackend) -> Result<Self, StoreError> {
        Ok(Self { tables: LiveTables::of(&opened.db), blob_bytes: opened.node_blob_bytes()?, _closing: None })
    }

    fn checked(self, path: &Path) -> Result<Self, StoreError> {
        damage::refuse_cut(path, &Listed::all(&self.tables)?)?;
        Ok(self)
    }

    pub(super) fn files(&self) -> Result<Vec<NodeFile>, StoreError> {
        space::node_files(&self.tables)
    }
}

/// An engine that is being closed by a thread of its own. It is closed when this is dropped.
struct Closing(Option<JoinHandle<()>>);

impl Closing {
    /// Closes what was opened for a list of files: of very many an engine has as much to give back as it had to take.
    fn begin(path: &Path, opened: RocksBackend) -> Result<Self, StoreError> {
        let thread = Builder::new().spawn(|| drop(opened));
        thread
            .map(|thread| Self(Some(thread)))
            .map_err(|e| classify_io(path, "starting a thread that closes the engine", e))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(Err(panic)) = self.0.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

/// What an opening does with the write-ahead log.
#[derive(Clone, Copy)]
enum Log<'a> {
    /// Its rows can be read.
    Read,
    /// The engine judges it, and nobody asks for a row of it.
    Judged,
    /// Nothing: it is looked for in this folder.
    Left(&'a Path),
}

struct Look<'a> {
    path: &'a Path,
    config: RocksConfig,
}

impl<'a> Look<'a> {
    fn at(path: &'a Path) -> Self {
        let config =
            RocksConfig { max_open_files: LOOK_FILES, block_cache_bytes: LOOK_CACHE, ..RocksConfig::default() };
        Self { path, config }
    }

    fn open(&self, families: &BTreeSet<String>, of_log: Log<'_>) -> Result<Opened, StoreError> {
        let tuning = Tuning::new(&self.config);
        let (log, mut options) = match of_log {
            Log::Read | Log::Judged => database(&tuning, Opening::Reader),
            // An engine that tells somebody what it does lists and sorts the folder for that, and nobody asks this one.
            Log::Left(_) => (Arc::default(), tuning.database()),
        };
        options.set_skip_stats_update_on_db_open(true);
        match of_log {
            Log::Left(folder) if fs::read_dir(folder).is_ok() => options.set_wal_dir(folder),
            Log::Left(_) | Log::Read | Log::Judged => {}
        }
        let family = |name: &String| {
            let mut rows = tuning.rows();
            if matches!(of_log, Log::Judged) {
                rows.set_memtable_factory(MemtableFactory::Vector); // in the order of the log, which takes no search
            }
            ColumnFamilyDescriptor::new(name.as_str(), rows)
        };
        let db = DB::open_cf_descriptors_read_only(&options, self.path, families.iter().map(family), false)
            .map_err(|e| classify(self.path, "opening for a look", &e))?;
        Ok(Opened { db, families: families.clone(), log })
    }

    /// As [`Look::at_ours`], of a store that has every family of this version: their names are not read. Nothing where it has not.
    fn by_heart(&self) -> Result<Option<RocksBackend>, StoreError> {
        let families = our_families();
        if !damage::list_mentions(self.path, families.iter().filter(|name| *name != DEFAULT_COLUMN_FAMILY_NAME)) {
            return Ok(None);
        }
        refuse_other_folders(self.path)?;
        match self.at_ours(&families) {
            Err(StoreError::MissingFamily { .. }) => Ok(None), // what looked like its name is something else
            opened => opened.map(Some),
        }
    }

    /// The rows and the list of node files. Both openings read the list of files and then wait for the disk, so neither waits
    /// for the other.
    fn at_ours(&self, families: &BTreeSet<String>) -> Result<RocksBackend, StoreError> {
        let (rows, nodes) = thread::scope(|scope| {
            let nodes = Builder::new()
                .spawn_scoped(scope, || self.list_alone())
                .map_err(|error| classify_io(self.path, "starting a thread for the list of node files", error))?;
            let rows = self.open_rows(families);
            Ok((rows, nodes.join().unwrap_or_else(|panic| resume_unwind(panic))))
        })?;
        let rows = rows?;
        damage::refuse_cut_tables(self.path, &rows.db)?;
        Ok(self.assemble(rows, Access::WithoutNodes(nodes?)))
    }

    /// Every family of a store of our own but that of the nodes.
    fn open_rows(&self, families: &BTreeSet<String>) -> Result<Opened, StoreError> {
        let mut rows = families.clone();
        rows.remove(NODE_FAMILY);
        let rows = self.open(&rows, Log::Read)?;
        if rows.log.damage().is_some() && lock_holder(self.path)?.is_none() {
            // A node table may have what comes after the damage: only an opening of its family finds that out.
            let families = &inspect(self.path)?; // there may be more than are known by heart
            self.open(families, Log::Judged)?;
        }
        Ok(rows)
    }

    /// Every family of a store that is not ours.
    fn at_foreign(&self, families: &BTreeSet<String>) -> Result<RocksBackend, StoreError> {
        let mut whole = self.assemble(self.open(families, Log::Judged)?, Access::ReadOnly);
        whole.access = Access::WithoutNodes(self.list(&whole)?);
        Ok(whole)
    }

    fn list_alone(&self) -> Result<NodeList, StoreError> {
        let nodes = self.open(&only(&[DEFAULT_COLUMN_FAMILY_NAME, NODE_FAMILY]), Log::Left(NO_LOGS.as_ref()))?;
        let nodes = self.assemble(nodes, Access::ReadOnly);
        let list = NodeList::of(&nodes)?;
        let closing = Closing::begin(self.path, nodes)?;
        NodeList { _closing: Some(closing), ..list }.checked(self.path)
    }

    fn list(&self, opened: &RocksBackend) -> Result<NodeList, StoreError> {
        NodeList::of(opened)?.checked(self.path)
    }

    fn assemble(&self, opened: Opened, access: Access) -> RocksBackend {
        RocksBackend::assemble(opened, self.path, access, &self.config)
    }
}

fn only(families: &[&str]) -> BTreeSet<String> {
    families.iter().map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use rocksdb::{Options, properties::NUM_ENTRIES_ACTIVE_MEM_TABLE};
    use state_tree::NodeHash;

    use super::*;
    use crate::backend::{Batch, Durability};

    const NODES: u64 = 5_000;

    /// A store at rest with nodes in a table, and as many and a record in its log only.
    fn store(path: &Path) {
        let backend = RocksBackend::open(path, &RocksConfig::default()).unwrap();
        for of_log in [0, 1] {
            backend.flush().unwrap();
            let mut batch = Batch::new();
            for n in 0..NODES {
                let mut key = [of_log; 32];
                key[..8].copy_from_slice(&n.to_be_bytes());
                batch.put_node(NodeHash::new(key), vec![7; 50]);
            }
            batch.put(Table::META, *b"a record", *b"a row");
            backend.write(&batch, Durability::Logged).unwrap();
        }
    }

    fn in_memory(opened: &Opened, family: &str) -> Option<u64> {
        let family = opened.db.cf_handle(family)?;
        opened.db.property_int_value_cf(family, NUM_ENTRIES_ACTIVE_MEM_TABLE).unwrap()
    }

    #[test]
    fn a_look_without_nodes_puts_the_rows_of_the_log_in_their_place_and_no_node() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path());
        let look = Look::at(dir.path());
        let whole = look.open(&our_families(), Log::Read).unwrap();
        assert_eq!((in_memory(&whole, NODE_FAMILY), in_memory(&whole, Table::META.name())), (Some(NODES), Some(1)));
        let rows = look.open_rows(&our_families()).unwrap();
        assert_eq!((in_memory(&rows, NODE_FAMILY), in_memory(&rows, Table::META.name())), (None, Some(1)));
    }

    #[test]
    fn where_the_system_has_no_folder_without_logs_the_list_of_node_files_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path());
        let look = Look::at(dir.path());
        let listed = |no_logs: &Path| {
            let opened = look.open(&our_families(), Log::Left(no_logs)).unwrap();
            let replayed = in_memory(&opened, NODE_FAMILY);
            let list = look.list(&look.assemble(opened, Access::ReadOnly)).unwrap();
            (replayed, list.files().unwrap(), list.blob_bytes)
        };
        let ((none, files, blobs), (all, same, of_same)) = (listed(NO_LOGS.as_ref()), listed(&dir.path().join("none")));
        assert_eq!((none, all, files.len()), (Some(0), Some(NODES), 1));
        assert_eq!((files, blobs), (same, of_same));
    }

    /// Reading the names takes as long as an opening on a store with very many tables.
    #[test]
    fn a_look_without_nodes_opens_a_store_of_this_version_without_reading_the_names_of_its_families() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path());
        let look = Look::at(dir.path());
        assert!(look.by_heart().unwrap().is_some());
        let mut db = DB::open_cf(&Options::default(), dir.path(), our_families()).unwrap();
        db.drop_cf(Table::SNAPSHOT.name()).unwrap();
        drop(db);
        assert!(look.by_heart().unwrap().is_none());
    }
}
