//! Opening: what is checked before the engine may touch anything, and the ways to open.

use std::{collections::BTreeSet, fs, io, path::Path, sync::Arc};

use rocksdb::{ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, Env, Options};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    Access, Opened, RocksBackend,
    aside::LogsAside,
    classify::{classify, classify_io, classify_write},
    damage::{self, CURRENT_FILE},
    folder::{beside, sync_above},
    handover::Handover,
    lock::lock_holder,
    log::{EngineLog, Opening},
};
use crate::{
    backend::options::{RocksConfig, Tuning},
    error::StoreError,
    filter::SweepSlot,
    schema::{NODE_FAMILY, Table},
};

const LOCK_FILE: &str = "LOCK";
const CREATING_SUFFIX: &str = ".creating";
/// The store in the data folder of the reference node, which is often given in its place.
const STORE_FOLDER: &str = "store";

impl RocksBackend {
    /// Opens a store of our own for reading and writing; creates it where there is nothing, and tables that an older
    /// version did not have.
    ///
    /// Errors: another database, no permission, a store in use, a full disk, damage.
    pub fn open(path: &Path, config: &RocksConfig) -> Result<Self, StoreError> {
        // The engine names its files as the store was named to it: a node's answers are read in other folders.
        let absolute = std::path::absolute(path).map_err(|source| classify_write(path, "opening", source))?;
        open_own(&absolute, config).map_err(StoreError::of_a_writer)
    }

    /// As [`RocksBackend::open`] on a store that exists, with its files behind an environment of the test's making.
    #[cfg(feature = "test-util")]
    pub fn open_through(path: &Path, config: &RocksConfig, env: &Env) -> Result<Self, StoreError> {
        open_native(path, config, inspect(path)?, Some(env))
    }

    /// Opens any store for reading, at one instant, beside whoever writes it. Nothing is written into its folder.
    pub fn open_read_only(path: &Path, config: &RocksConfig) -> Result<Self, StoreError> {
        let families = inspect(path)?;
        let tuning = Tuning::new(config);
        let (log, mut options) = database(&tuning, Opening::Reader);
        if lock_holder(path)?.is_some() {
            hold_every_file(&mut options);
        }
        let rows = |name: &String| ColumnFamilyDescriptor::new(name.as_str(), tuning.rows());
        let db = beside_a_writer(path, || {
            DB::open_cf_descriptors_read_only(&options, path, families.iter().map(rows), false)
                .map_err(|e| classify(path, "opening for reading", &e))
        })?;
        Ok(Self::assemble(Opened { db, families, log }, path, Access::ReadOnly, config))
    }

    /// Opens any store for reading beside a running node, and follows it by [`RocksBackend::catch_up`]. `scratch` is
    /// a folder of our own, outside the store.
    pub fn open_secondary(path: &Path, scratch: &Path, config: &RocksConfig) -> Result<Self, StoreError> {
        let families = inspect(path)?;
        let tuning = Tuning::new(config);
        let (log, mut options) = database(&tuning, Opening::Reader);
        hold_every_file(&mut options);
        let rows = |name: &String| ColumnFamilyDescriptor::new(name.as_str(), tuning.rows());
        let db = beside_a_writer(path, || {
            DB::open_cf_descriptors_as_secondary(&options, path, scratch, families.iter().map(rows))
                .map_err(|e| classify(path, "opening beside a running node", &e))
        })?;
        Ok(Self::assemble(Opened { db, families, log }, path, Access::Secondary, config))
    }

    /// Opens a Rooch store for a sweep: every family there is, with Rooch's own options, none added. End with
    /// [`RocksBackend::close_foreign`]; if the process dies instead, nothing is lost and Rooch can still open it.
    ///
    /// Errors: another kind of database, no permission, a store in use, a full disk, damage.
    pub fn open_rooch(path: &Path, config: &RocksConfig) -> Result<Self, StoreError> {
        let families = inspect(path).map_err(StoreError::of_a_writer)?;
        refuse_if_not_writable(path)?;
        let handover = Handover::remember(path)?;
        handover.clear_ours()?;
        let tuning = Tuning::new(config);
        let slot = Arc::new(SweepSlot::default());
        let (log, options) = database(&tuning, Opening::Writer);
        let family = |name: &String| {
            let options = if name == NODE_FAMILY { tuning.rooch_nodes(&slot) } else { tuning.rooch_rows() };
            ColumnFamilyDescriptor::new(name.as_str(), options)
        };
        let db = DB::open_cf_descriptors(&options, path, families.iter().map(family));
        let db = db.map_err(|e| not_opened(path, &log, "opening for a sweep", &e))?;
        damage::refuse_cut_tables(path, &db)?;
        handover.give_back()?;
        let access = Access::Foreign(Arc::clone(&slot), handover);
        Ok(Self::assemble(Opened { db, families, log }, path, access, config))
    }
}

/// Files that a writer deletes meanwhile stay readable through open handles.
fn hold_every_file(options: &mut Options) {
    options.set_max_open_files(-1);
}

/// Asks the system for as many open files as this process is allowed, and returns how many it may have; nothing where there
/// is no limit. A process usually begins with fewer, and an engine that may not open a file stops for good.
pub fn allow_every_file() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let (current, maximum) = (limit.current, limit.maximum);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, ..limit }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            current
        }
    }
}

/// How often an opening is tried again while a writer replaces files under it.
const OPENINGS: usize = 100;

/// Opens beside whoever writes the store. The engine reads the list of files, then opens them; a writer may remove one
/// in between, and then the list is read again. What nobody writes, or what stays absent, is damaged.
pub(super) fn beside_a_writer<T>(path: &Path, open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for _ in 1..OPENINGS {
        match open() {
            Err(StoreError::Corrupt(_) | StoreError::Io { .. }) if lock_holder(path)?.is_some() => {}
            opened => return opened,
        }
    }
    open()
}

pub(super) fn database(tuning: &Tuning<'_>, of: Opening) -> (Arc<EngineLog>, Options) {
    allow_every_file();
    let (log, logger) = EngineLog::install(of);
    let mut options = tuning.database();
    options.set_info_logger(logger);
    (log, options)
}

/// Compactions run in the engine's pool of low priority; where processors are scarce, commits and flushes get them
/// first (I12).
fn yield_to_commits(path: &Path) -> Result<(), StoreError> {
    let mut env = Env::new().map_err(|e| classify(path, "opening", &e))?;
    env.lower_thread_pool_cpu_priority();
    Ok(())
}

fn open_own(path: &Path, config: &RocksConfig) -> Result<RocksBackend, StoreError> {
    if is_vacant(path)? {
        create(path, config)?;
    }
    let families = inspect(path)?;
    require(path, Table::CHAIN.name(), &families)?; // never adds our tables to somebody else's store
    refuse_if_not_writable(path)?;
    open_native(path, config, families, None)
}

fn open_native(
    path: &Path,
    config: &RocksConfig,
    present: BTreeSet<String>,
    env: Option<&Env>,
) -> Result<RocksBackend, StoreError> {
    let tuning = Tuning::new(config);
    let slot = Arc::new(SweepSlot::default());
    let (log, mut options) = database(&tuning, Opening::Writer);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    env.into_iter().for_each(|env| options.set_env(env));
    yield_to_commits(path)?;
    let families: BTreeSet<String> = present.into_iter().chain(our_families()).collect();
    let family = |name: &String| {
        let options = if name == NODE_FAMILY { tuning.nodes(&slot) } else { tuning.rows() };
        ColumnFamilyDescriptor::new(name.as_str(), options)
    };
    log.opening(LogsAside::begin(path)); // BEFORE the engine may remove one
    let db = DB::open_cf_descriptors(&options, path, families.iter().map(family));
    let db = db.map_err(|e| not_opened(path, &log, "opening", &e))?;
    damage::refuse_cut_tables(path, &db)?;
    let access = Access::Owned(Arc::clone(&slot));
    Ok(RocksBackend::assemble(Opened { db, families, log }, path, access, config))
}

/// An engine that failed to open may have written to the list of files all the same.
fn not_opened(path: &Path, log: &EngineLog, what: &str, error: &rocksdb::Error) -> StoreError {
    damage::mend_failed_list(path, log);
    classify(path, what, error)
}

/// Creates an empty store beside the path and moves it there whole: a crash never leaves one without its families.
fn create(path: &Path, config: &RocksConfig) -> Result<(), StoreError> {
    let failed = |source| classify_write(path, "creating the store", source);
    path.file_name().ok_or_else(|| not_a_database(path, "it has no name"))?;
    let building = beside(path, CREATING_SUFFIX);
    fs::create_dir_all(&building).map_err(failed)?;
    let made = open_native(&building, config, BTreeSet::from([DEFAULT_COLUMN_FAMILY_NAME.to_owned()]), None)?;
    drop(made);
    fs::rename(&building, path).map_err(failed)?;
    sync_above(path).map_err(failed)
}

/// Whether nothing is there yet: no folder, or an empty one.
fn is_vacant(path: &Path) -> Result<bool, StoreError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(classify_io(path, "looking into the folder", error)),
    }
}

/// The families of a store of our own.
pub(super) fn our_families() -> BTreeSet<String> {
    let tables = Table::ALL.iter().map(|table| table.name());
    tables.chain([NODE_FAMILY, DEFAULT_COLUMN_FAMILY_NAME]).map(str::to_owned).collect()
}

/// Checks, without touching anything, that the path is a folder with a database in it.
pub(super) fn refuse_other_folders(path: &Path) -> Result<(), StoreError> {
    let folder = fs::metadata(path).map_err(|error| missing(path, "it does not exist", error))?;
    if !folder.is_dir() {
        return Err(not_a_database(path, "it is not a folder"));
    }
    if let Err(error) = fs::read(path.join(CURRENT_FILE)) {
        if error.kind() == io::ErrorKind::NotFound {
            damage::refuse_lost_current(path)?;
        }
        let why = match path.join(STORE_FOLDER).join(CURRENT_FILE).exists() {
            true => "it has no file CURRENT, and its folder `store` has one, as in the data folder of a node",
            false => "it has no file CURRENT",
        };
        return Err(missing(path, why, error));
    }
    if lock_holder(path)?.is_none() {
        damage::refuse_cut_list(path)?; // BEFORE the engine may write; a writer's list is cut whenever it is read
    }
    Ok(())
}

/// As [`refuse_other_folders`], that it has a node family, and lists its families.
pub(super) fn inspect(path: &Path) -> Result<BTreeSet<String>, StoreError> {
    refuse_other_folders(path)?;
    let mut options = Options::default();
    let (_log, logger) = EngineLog::install(Opening::Reader);
    options.set_info_logger(logger);
    let families: BTreeSet<String> = DB::list_cf(&options, path)
        .map_err(|e| classify(path, "listing the column families", &e))?
        .into_iter()
        .collect();
    if families.iter().eq([DEFAULT_COLUMN_FAMILY_NAME]) {
        damage::refuse_lost_families(path)?; // a list that lost its beginning looks like another kind of database
    }
    require(path, NODE_FAMILY, &families)?;
    Ok(families)
}

fn require(path: &Path, family: &str, families: &BTreeSet<String>) -> Result<(), StoreError> {
    if families.contains(family) {
        return Ok(());
    }
    let present: Vec<&str> = families.iter().map(String::as_str).collect();
    Err(StoreError::MissingFamily { path: path.to_owned(), family: family.to_owned(), present: present.join(", ") })
}

/// Refuses the folder of a store that we may not write or that another process writes, before the engine creates any file in it.
///
/// Errors: no permission, a device that is read-only, another process that has it open for writing.
pub fn refuse_if_not_writable(path: &Path) -> Result<(), StoreError> {
    use rustix::fs::Access;
    let may_write = |path: &Path| rustix::fs::access(path, Access::WRITE_OK);
    let lock = path.join(LOCK_FILE);
    let allowed = may_write(path).and_then(|()| match may_write(&lock) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        other => other,
    });
    allowed.map_err(|errno| classify_write(path, "opening for writing", errno.into()))?;
    match lock_holder(path)? {
        Some(holder) => Err(StoreError::Locked { path: path.to_owned(), holder }),
        None => Ok(()),
    }
}

fn missing(path: &Path, why: &str, error: io::Error) -> StoreError {
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        not_a_database(path, why)
    } else {
        classify_io(path, "looking for a database", error)
    }
}

fn not_a_database(path: &Path, why: &str) -> StoreError {
    StoreError::NotADatabase { path: path.to_owned(), why: why.to_owned() }
}
