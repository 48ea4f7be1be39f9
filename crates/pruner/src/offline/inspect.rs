//! Looking at a store without writing to it, beside a running node or at rest.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use state_store::{Holder, RocksBackend, RocksConfig, Store, StoreError, lock_holder};
use state_tree::RoochLayout;

use super::{
    AT_REST, Steering, VerifyRequest,
    folder::{self, Folder, canonical, default_state_dir},
};
use crate::{
    error::PruneError,
    health::{self, Begun, Facts, Health, Unfinished},
    outcome::{Freeze, Outcome, RestFloor},
    phase::PhaseRecord,
    policy::RestWindow,
    records::{FolderRecords, Records, StoreRecords},
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
        .and_then(|backend| verify_view(request, steering, &Store::foreign(Arc::new(backend), AT_REST)?, dir));
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

fn verify_view(
    request: &VerifyRequest,
    steering: &Steering,
    store: &Store,
    dir: PathBuf,
) -> Result<VerifyReport, PruneError> {
    let (view, chain) = (store.view()?, request.layout.chain());
    let policy = RestWindow { keep_last: request.keep_last, allowed_holes: request.allowed_holes.clone() };
    let roots = RetainedRoots::resolve(&*chain, &*view, &policy.retention()?)?;
    verify::verify(&VerifyJob {
        view: &*view,
        layout: &RoochLayout,
        roots: &roots,
        dir,
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
    let kept = state_dir.map_or_else(|| default_state_dir(db), Path::to_owned);
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
    // A floor without any outcome: a prune had begun to delete, and a refused run gave its cycle up.
    let given_up = begun.is_none() && last.is_none() && RestFloor::load(&*records)?.is_some();
    let unfinished = match (begun, holder) {
        (None, Some(by)) if !own => Some(Unfinished::Running { begun: None, by }), // it has not marked anything yet
        (Some(begun), Some(by)) => Some(Unfinished::Running { begun: Some(begun), by }),
        (Some(begun), None) if own => Some(Unfinished::WithItsNode { begun }),
        (Some(begun), None) => Some(Unfinished::AtRest { begun: Some(begun) }),
        (None, _) => given_up.then_some(Unfinished::AtRest { begun: None }),
    };
    if !own && freeze.is_none() && last.is_none() && unfinished.is_none() {
        return Err(PruneError::NothingKnown { db: db.clone() }); // silence is not health (I13)
    }
    Ok(health::assess(&Facts { freeze, last, unfinished, ..Facts::default() }))
}
