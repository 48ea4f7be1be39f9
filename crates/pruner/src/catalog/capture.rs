//! Making a snapshot: a consistent copy of a store, proved before it is published.
//!
//! The copy is made by the node that has the store open, or by this process from a store that nobody has open for writing;
//! any number of processes may do the second at once, because none takes the engine's lock. Order: copy, open the copy and
//! read what it has, read a sample of nodes back, sync and hash every file, write the manifest, rename.

use std::{num::NonZeroU64, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use state_store::{Backend, CatalogPoint, Copied, RocksBackend, RocksConfig, StoreError, catalog_reached, lock_holder};

use super::{
    Catalog, CatalogError, CatalogRetention, Creator, Failed, LockTimes, Manifest, Removed, STAGING, SnapshotId,
    Through, folder, hashing, keeper_of,
    lock::Access,
    manifest::{CopiedDoubt, CopiedFile, CopiedState, is_name},
    proof::{Depth, OpenCopy},
    staging::{Staging, Swept},
};
use crate::{
    doubt::Doubted,
    error::PruneError,
    offline::{self, Steering, StoreLayout},
    roots::RetainedRoots,
};

/// What to make, and where.
#[derive(Debug, Clone)]
pub struct CreateRequest<'a> {
    /// The folder of the catalog; made if it is absent or empty.
    pub catalog: &'a Path,
    /// The id of the new snapshot.
    pub id: SnapshotId,
    /// Which older ones go afterwards.
    pub retention: CatalogRetention,
}

/// What is copied.
pub enum Source<'a> {
    /// A store that no process has open for writing.
    Rest {
        /// Its folder.
        db: &'a Path,
        /// Whose records it holds.
        layout: StoreLayout,
        /// Of a Rooch store: the last so many orders, whose states the snapshot names.
        orders: NonZeroU64,
    },
    /// The store that this process has open.
    Node {
        /// Its engine.
        backend: &'a dyn Backend,
        /// Its folder.
        db: &'a Path,
        /// Whether its live nodes may be damaged, asked after the copy.
        doubt: &'a dyn Fn() -> Option<Doubted>,
    },
}

/// A snapshot that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Created {
    /// Its id.
    pub id: SnapshotId,
    /// Its folder.
    pub path: String,
    /// What it has.
    pub manifest: Manifest,
    /// What went.
    pub removed: Removed,
    /// Whether the system refused to link files of another owner, so that each was copied.
    #[serde(default)]
    pub links_refused: bool,
    /// The lock of the catalog, as this command held it.
    pub lock: LockTimes,
    /// Wall time.
    pub seconds: f64,
}

/// Makes a snapshot, and removes those that the retention lets go.
///
/// Errors: a store that is in use or cannot be read, a folder that is no catalog, no room. The catalog is then as it was,
/// unless it was the last sync of its folder that failed.
pub fn create(request: &CreateRequest<'_>, source: &Source<'_>, steering: &Steering) -> Result<Created, CatalogError> {
    let ready = source.ready(request.catalog)?; // BEFORE anything is written
    let told = |error: CatalogError| error.told_in(STAGING, request.catalog, "making a snapshot in");
    let made = make(&ready, request, steering).map_err(told).inspect_err(|error| ready.remember(error));
    made.map_err(|error| match (source, error) {
        (Source::Node { .. }, CatalogError::Prune(PruneError::Stopped | PruneError::Cancelled)) => {
            CatalogError::NodeStopped
        }
        (Source::Node { .. } | Source::Rest { .. }, error) => error,
    })
}

fn make(ready: &Ready<'_>, request: &CreateRequest<'_>, steering: &Steering) -> Result<Created, CatalogError> {
    let clock = &*steering.clock;
    let started = clock.monotonic();
    let created_at_ms = clock.unix_ms();
    let catalog = Catalog::open_or_create(request.catalog)?;
    let access = catalog.steered(steering);
    let mut staging = Staging::begin(&access, request.id)?;
    let store = staging.store();
    let copied = staging.copied(&steering.control, || ready.copy_into(&store))?;
    catalog_reached(CatalogPoint::CaptureCopied);
    let (copy, roots, state) = ready.contents(&store).map_err(|error| ready.of_source(error, &store, &copied))?;
    let is_of_another_time =
        state.sequence < copied.at_least || copied.at_most.is_some_and(|most| state.sequence > most);
    if is_of_another_time {
        return Err(PruneError::Changed { marked: copied.at_least, now: state.sequence }.into());
    }
    let read =
        copy.read_back(&roots, Depth::Sampled, steering).map_err(|error| ready.of_source(error, &store, &copied))?;
    read.map_err(|what| ready.unsound(&what, &state))?;
    if request.retention != CatalogRetention::ALL {
        // BEFORE any older one goes: a byte that has changed where no node was looked at is in a table all the same.
        copy.read_whole(&steering.control).map_err(|error| ready.of_source(error, &store, &copied))?;
    }
    drop(copy);
    let files = hashed(&store, steering).map_err(|error| ready.of_source(error, &store, &copied))?;
    let doubt = ready.doubt();
    let manifest = Manifest {
        version: if doubt.is_some() { Manifest::VERSION } else { Manifest::PLAIN_VERSION },
        id: request.id,
        ordinal: Some(staging.ordinal),
        created_at_ms,
        creator: ready.creator(),
        layout: ready.layout,
        state,
        linked_files: copied.linked,
        copied_files: copied.copied,
        total_bytes: files.iter().map(|file| file.bytes).sum(),
        files,
        doubt: doubt.map(|Doubted { code, why }| CopiedDoubt { code: code.to_owned(), why }),
    };
    staging.seal(&manifest)?;
    let swept = std::mem::take(&mut staging.swept);
    let path = staging.publish(&access)?.display().to_string();
    catalog_reached(CatalogPoint::CapturePublished);
    let removed = ready.retain(&access, request, swept);
    let seconds = clock.monotonic().saturating_sub(started).as_secs_f64();
    let links_refused = copied.links_refused;
    Ok(Created { id: request.id, path, manifest, removed, links_refused, lock: access.times(), seconds })
}

/// Every file of the copy, durable and hashed.
fn hashed(store: &Path, steering: &Steering) -> Result<Vec<CopiedFile>, CatalogError> {
    let names = folder::names(store)?;
    if let Some(strange) = names.iter().find(|name| !is_name(name)) {
        return Err(PruneError::Invariant(format!("the engine named a file `{strange}`")).into());
    }
    hashing::each(&names, |name| {
        let found = hashing::sync_and_hash(&store.join(name), &steering.control)?;
        Ok(CopiedFile { name: name.clone(), bytes: found.bytes, sha256: found.sha256 })
    })
}

/// A source that may be copied.
struct Ready<'a> {
    source: &'a Source<'a>,
    layout: StoreLayout,
    orders: NonZeroU64,
    /// Opened for reading, where nobody has it open for writing.
    reading: Option<Arc<RocksBackend>>,
}

impl<'a> Source<'a> {
    fn ready(&'a self, catalog: &Path) -> Result<Ready<'a>, CatalogError> {
        match self {
            Self::Rest { db, layout, orders } => {
                refuse_inside(db, catalog)?;
                refuse_if_held(db)?;
                let reading = Arc::new(RocksBackend::open_read_only(db, &RocksConfig::default())?);
                offline::refuse_unreadable(db, *layout, &reading)?;
                Ok(Ready { source: self, layout: *layout, orders: *orders, reading: Some(reading) })
            }
            Self::Node { db, .. } => {
                if !catalog.is_absolute() {
                    let why = "is no absolute path: the node would look for it in a folder of its own".to_owned();
                    return Err(CatalogError::BadPlace { path: catalog.to_owned(), why });
                }
                refuse_inside(db, catalog)?;
                Ok(Ready { source: self, layout: StoreLayout::Native, orders: NonZeroU64::MIN, reading: None })
            }
        }
    }
}

impl Ready<'_> {
    fn copy_into(&self, store: &Path) -> Result<Copied, CatalogError> {
        match (self.source, &self.reading) {
            (Source::Rest { db, .. }, Some(reading)) => {
                let copied = reading.copy_into(store);
                refuse_if_held(db)?; // a writer that came meanwhile takes files away
                Ok(copied?)
            }
            (Source::Node { backend, .. }, _) => Ok(backend.copy_into(store)?),
            (Source::Rest { .. }, None) => Err(PruneError::Invariant("the store is not open".to_owned()).into()),
        }
    }

    /// Removes what the retention lets go, but nothing while live nodes may be damaged: the new snapshot may have that, and an
    /// older one be the last without it (I11).
    fn retain(&self, access: &Access<'_>, request: &CreateRequest<'_>, swept: Swept) -> Removed {
        let takes = request.retention != CatalogRetention::ALL;
        let Some(Doubted { code, why }) = takes.then(|| self.doubt()).flatten() else {
            return access.retain_after(request.id, request.retention, swept);
        };
        let mut removed = access.retain_after(request.id, CatalogRetention::ALL, swept);
        let message =
            format!("no older snapshot was removed, since this one may have damage that they have not: {why}");
        removed.failures.push(Failed { code: code.to_owned(), message });
        removed
    }

    /// Whether live nodes may be damaged: in a running node also since the copy began.
    fn doubt(&self) -> Option<Doubted> {
        match (self.source, &self.reading) {
            (Source::Node { doubt, .. }, _) => doubt(),
            (Source::Rest { db, .. }, Some(reading)) => offline::doubt_of(db, reading),
            (Source::Rest { .. }, None) => None,
        }
    }

    /// What was found holds older snapshots back from now on: another sample may miss it. A node is told by whoever asked.
    fn remember(&self, error: &CatalogError) {
        if let (Source::Rest { db, layout, .. }, CatalogError::Prune(error)) = (self.source, error) {
            offline::remember_damage(db, *layout, error);
        }
    }

    fn creator(&self) -> Creator {
        let through = match self.source {
            Source::Rest { .. } => Through::Rest,
            Source::Node { .. } => Through::Node,
        };
        Creator { pid: std::process::id(), through, version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// Opens the copy and reads what it has.
    fn contents(&self, copy: &Path) -> Result<(OpenCopy, RetainedRoots, CopiedState), CatalogError> {
        let copy = OpenCopy::open(copy, self.layout)?;
        let roots = copy.roots(copy.window(self.orders))?;
        let state = copy.state(&roots)?;
        Ok((copy, roots, state))
    }

    /// What is damaged in the copy, or cannot be read, is so in the store, whose file has the same name: they share its bytes,
    /// unless tables could not be linked.
    fn of_source(&self, error: CatalogError, copy: &Path, copied: &Copied) -> CatalogError {
        let (Source::Rest { db, .. } | Source::Node { db, .. }) = self.source;
        if copied.linked > 0 {
            return error.told_of(copy, db);
        }
        let CatalogError::Prune(PruneError::Store(StoreError::Corrupt(text))) = error else { return error };
        let of_store = text.replace(&copy.display().to_string(), &db.display().to_string());
        let what = format!("{of_store}, or only its copy, which was read in {} and is gone", copy.display());
        PruneError::from(StoreError::Corrupt(what)).into()
    }

    /// The copy is what the store is, so the store is damaged, unless an earlier prune of it took what is missing (S54).
    fn unsound(&self, what: &str, state: &CopiedState) -> CatalogError {
        let error = |db: &Path| StoreError::Corrupt(format!("{}: {what}", db.display()));
        match self.source {
            Source::Rest { db, .. } => {
                offline::explained(db, (state.first_order, state.head_order), error(db).into()).into()
            }
            Source::Node { db, .. } => error(db).into(), // it moves its floor, and the window begins there
        }
    }
}

fn refuse_if_held(db: &Path) -> Result<(), CatalogError> {
    match lock_holder(db)? {
        Some(holder) => Err(CatalogError::InUse { db: db.to_owned(), holder }),
        None => Ok(()),
    }
}

/// A folder of ours inside the engine's would be taken for one of its files, and inside a snapshot it would be damage of that.
fn refuse_inside(db: &Path, catalog: &Path) -> Result<(), CatalogError> {
    let resolved = offline::resolved(catalog);
    let bad = |what: String| {
        let why = format!("lies inside {what}: give a folder outside of it");
        Err(CatalogError::BadPlace { path: catalog.to_owned(), why })
    };
    if resolved.starts_with(offline::resolved(db)) {
        return bad("the database".to_owned());
    }
    match keeper_of(&resolved)? {
        Some((what, above)) => bad(format!("the {what} {}", above.display())),
        None => Ok(()),
    }
}
