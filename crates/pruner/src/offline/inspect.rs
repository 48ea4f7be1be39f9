//! Looking at a store without writing to it, beside a running node or at rest.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use state_store::{Backend as _, Holder, RocksBackend, RocksConfig, Store, StoreError, View, lock_holder};
use state_tree::RoochLayout;

use super::{
    AT_REST, Steering, StoreLayout, VerifyRequest,
    folder::{Folder, canonical, kept_dir},
};
use crate::{
    error::PruneError,
    log_cut,
    outcome::RestFloor,
    policy::RestWindow,
    records::FolderRecords,
    roots::RetainedRoots,
    snapshot::RetentionPolicy,
    verify::{self, VerifyJob, VerifyReport},
};

/// Verifies a store without writing to it.
///
/// Errors: the store cannot be opened or read, holes that were not named. Missing and corrupt nodes are no errors here:
/// they are counted in the report.
pub fn verify(request: &VerifyRequest, steering: &Steering) -> Result<VerifyReport, PruneError> {
    let request = &VerifyRequest { db: canonical(&request.db), ..request.clone() };
    let folder = Folder::temporary(&request.db, request.state_dir.as_deref())?;
    let dir = folder.path().to_owned();
    let holder = lock_holder(&request.db)?;
    let verified = open_beside(&request.db, holder.as_ref(), &dir)
        .and_then(|backend| verify_opened(request, steering, Arc::new(backend), dir));
    let Err(PruneError::Store(StoreError::Corrupt(_) | StoreError::Io { .. })) = &verified else { return verified };
    // A running node removes files; what looks like damage then may only be haste. It may have come meanwhile.
    match holder.map_or_else(|| lock_holder(&request.db), |holder| Ok(Some(holder)))? {
        Some(holder) => Err(PruneError::Moving { holder }),
        None => verified,
    }
}

/// Beside a running node its deleted files must stay readable, which the secondary opening sees to.
fn open_beside(db: &Path, holder: Option<&Holder>, dir: &Path) -> Result<RocksBackend, PruneError> {
    let config = RocksConfig::default();
    Ok(match holder {
        Some(_) => RocksBackend::open_secondary(db, &dir.join("secondary"), &config)?,
        None => RocksBackend::open_read_only(db, &config)?,
    })
}

fn verify_opened(
    request: &VerifyRequest,
    steering: &Steering,
    backend: Arc<RocksBackend>,
    dir: PathBuf,
) -> Result<VerifyReport, PruneError> {
    refuse_unreadable(&request.db, request.layout, &backend)?;
    let store = Arc::new(Store::foreign(backend, AT_REST)?);
    let log_cut = log_cut::known(&store)?;
    let (view, chain) = (store.view()?, request.layout.chain());
    let policy = RestWindow {
        keep_last: request.keep_last,
        allowed_holes: request.allowed_holes.clone(),
        below: request.layout.below(&*view)?,
    };
    let roots = RetainedRoots::resolve(&*chain, &*view, &policy.retention()?)?;
    let floor = pruned_floor(request, chain.floor(&*view)?.get())?;
    let report = verify_view(request, steering, &Window { view: &*view, roots: &roots, dir })?;
    let below = floor > 0 && (report.shorter_than_asked || report.first_order < floor);
    let older = floor < report.first_order && report.leaked_nodes.is_some();
    let retained_from = older.then_some(floor);
    Ok(VerifyReport { pruned_below: below.then_some(floor), retained_from, log_cut, ..report })
}

/// Below this order states are gone on purpose: by the chain's own word, or by the record of an earlier prune.
fn pruned_floor(request: &VerifyRequest, of_chain: u64) -> Result<u64, PruneError> {
    let records = FolderRecords(kept_dir(&request.db, request.state_dir.as_deref()));
    Ok(RestFloor::load(&records)?.map_or(of_chain, |floor| floor.order.max(of_chain)))
}

/// Refuses a store of another layout, and one that lost its list of files or never had a state.
pub(crate) fn refuse_unreadable(db: &Path, layout: StoreLayout, backend: &RocksBackend) -> Result<(), PruneError> {
    let view = backend.view()?;
    let fits = layout.require(db, &*view);
    // What fails to be read is told, and recorded, by the work itself.
    let stateless = fits.is_ok() && matches!(layout.chain().head(&*view), Ok(None));
    if fits.is_err() || stateless {
        backend.refuse_lost_list()?;
    }
    fits?;
    if stateless {
        return Err(PruneError::NoHead);
    }
    Ok(())
}

/// What is verified, and where spilled work goes.
struct Window<'a> {
    view: &'a dyn View,
    roots: &'a RetainedRoots,
    dir: PathBuf,
}

fn verify_view(request: &VerifyRequest, steering: &Steering, window: &Window<'_>) -> Result<VerifyReport, PruneError> {
    verify::verify(&VerifyJob {
        view: window.view,
        layout: &RoochLayout,
        roots: window.roots,
        dir: window.dir.clone(),
        leaks: request.leaks,
        sample: request.sample,
        seed: steering.clock.unix_ms(),
        memory_budget: request.memory_budget,
        clock: &*steering.clock,
        control: &steering.control,
        observer: &*steering.observer,
    })
}
