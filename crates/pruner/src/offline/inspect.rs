//! Looking at a store without writing to it, beside a running node or at rest.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use state_store::{Backend as _, Holder, RocksBackend, RocksConfig, Store, StoreError, View, lock_holder};
use state_tree::RoochLayout;

use super::{
    AT_REST, Steering, StoreLayout, VerifyRequest,
    folder::{self, Folder, canonical, kept_dir},
};
use crate::{
    error::PruneError,
    health::{self, Begun, Facts, Health, Unfinished},
    outcome::{Ended, Freeze, Outcome, RestFloor},
    phase::PhaseRecord,
    policy::RestWindow,
    records::{FolderRecords, Records, StoreRecords},
    roots::RetainedRoots,
    snapshot::RetentionPolicy,
    verify::{self, VerifyJob, VerifyReport},
    worker::SwitchedOff,
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
    let store = Store::foreign(backend, AT_REST)?;
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
    Ok(VerifyReport { pruned_below: below.then_some(floor), ..report })
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

/// The health of a store from its records, read from outside while a node or a prune runs, or nobody does. `state_dir`
/// is where its prunes keep theirs, if that is not the folder beside it.
///
/// Errors: the store cannot be opened or its records cannot be read: health cannot be told then.
pub fn health_of_store(db: &Path, state_dir: Option<&Path>) -> Result<Health, PruneError> {
    let db = &canonical(db);
    let kept = kept_dir(db, state_dir);
    let store =
        Arc::new(Store::foreign(Arc::new(RocksBackend::open_read_only(db, &RocksConfig::default())?), AT_REST)?);
    let own = store.view()?.has_table(&state_store::Table::META);
    let (records, holder): (Box<dyn Records>, _) = if own {
        (Box::new(StoreRecords(store)), lock_holder(db)?)
    } else {
        let holder = folder::holder(&kept)?;
        (Box::new(FolderRecords(kept)), holder)
    };
    let (freeze, last) = (Freeze::load(&*records)?, Outcome::load(&*records)?);
    let begun = PhaseRecord::load(&*records)?.map(|record| Begun { cycle: record.cycle, phase: record.phase });
    let given_up = begun.is_none() && is_given_up(RestFloor::load(&*records)?, last.as_ref());
    let unfinished = match (begun, holder) {
        (None, Some(by)) if !own => Some(Unfinished::Running { begun: None, by }), // it has not marked anything yet
        (Some(begun), Some(by)) if own => Some(Unfinished::HeldByNode { begun, by }),
        (Some(begun), Some(by)) => Some(Unfinished::Running { begun: Some(begun), by }),
        (Some(begun), None) if own => Some(Unfinished::WithItsNode { begun }),
        (Some(begun), None) => Some(Unfinished::AtRest { begun: Some(begun) }),
        (None, _) => given_up.then_some(Unfinished::AtRest { begun: None }),
    };
    if !own && freeze.is_none() && last.is_none() && unfinished.is_none() {
        return Err(PruneError::NothingKnown { db: db.clone() }); // silence is not health (I13)
    }
    let off = SwitchedOff::load(&*records)?;
    Ok(health::assess(&Facts { freeze, last, unfinished, off, ..Facts::default() }))
}

/// A prune had begun to delete below its floor, and a run that was refused since gave its cycle up.
fn is_given_up(floor: Option<RestFloor>, last: Option<&Outcome>) -> bool {
    match (floor, last.map(|last| &last.ended)) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(floor), Some(Ended::Finished { first_order, .. })) => floor.order > *first_order,
        (Some(_), Some(Ended::Failed { .. } | Ended::Cancelled)) => false, // that is a reason, or nothing to mend
    }
}
