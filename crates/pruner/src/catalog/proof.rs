//! What a copy has, read from the copy itself, and that the states it names can be read from it.

use std::{num::NonZeroU64, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use state_store::{Backend as _, Disposition, RocksBackend, RocksConfig, StoreError, View};
use state_tree::{Order, RoochLayout};

use super::{
    CatalogError, CopiedState, Manifest, SnapshotId,
    folder::{self, failed},
    hashing,
};
use crate::{
    control::Control,
    error::PruneError,
    offline::{self, Steering, StoreLayout},
    roots::{RetainedRoots, Retention, Window},
    scratch::Scratch,
    verify::{self, Leaks, VerifyJob, VerifyReport},
};

/// Random paths that a quick proof follows from random roots down.
const PATHS: u64 = 256;
/// Most memory of a whole verification.
const BUDGET: u64 = 1 << 30;
/// Faults that a message lists.
const LISTED: usize = 5;

/// How much of a copy is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Random paths from random roots.
    Sampled,
    /// Every node that a retained root reaches.
    Deep,
}

/// Whether every row of a copy is read, whatever it is: a deep proof does in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Yes,
    No,
}

/// What a verification of a snapshot read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifiedSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// Files hashed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the copy has.
    pub state: CopiedState,
    /// How much of it was read back.
    pub depth: Depth,
    /// Nodes read and hashed again.
    pub nodes_read: u64,
    /// Nodes that the retained roots reach; absent after a sample.
    pub live_nodes: Option<u64>,
    /// Wall time.
    pub seconds: f64,
}

/// A copy that is open for reading.
pub(super) struct OpenCopy {
    backend: Arc<RocksBackend>,
    view: Arc<dyn View>,
    layout: StoreLayout,
}

impl OpenCopy {
    pub(super) fn open(store: &Path, layout: StoreLayout) -> Result<Self, CatalogError> {
        let backend = Arc::new(RocksBackend::open_read_only(store, &RocksConfig::default())?);
        offline::refuse_unreadable(store, layout, &backend)?;
        let view = backend.view()?;
        Ok(Self { backend, view, layout })
    }

    /// The orders that a new copy names: all that a node reads, the last ones of a Rooch store.
    pub(super) fn window(&self, orders: NonZeroU64) -> Window {
        match self.layout {
            StoreLayout::Rooch => Window::Last(orders),
            StoreLayout::Native => Window::From(Order::GENESIS),
        }
    }

    pub(super) fn roots(&self, window: Window) -> Result<RetainedRoots, CatalogError> {
        let retention = Retention { window, pins: self.layout.below(&*self.view)?, allowed_holes: [].into() };
        Ok(RetainedRoots::resolve(&*self.layout.chain(), &*self.view, &retention)?)
    }

    pub(super) fn state(&self, roots: &RetainedRoots) -> Result<CopiedState, CatalogError> {
        let mut hasher = Sha256::new();
        for kept in &roots.roots {
            hasher.update(kept.order.to_key());
            hasher.update(kept.root.hash().as_bytes());
        }
        let below = roots.roots.iter().filter(|kept| kept.order < roots.first);
        Ok(CopiedState {
            sequence: self.view.sequence(),
            head_order: roots.head.order.get(),
            head_root: hex::encode(roots.head.root.hash().as_bytes()),
            first_order: roots.first.get(),
            kept_below: below.count() as u64,
            roots: roots.roots.len() as u64,
            roots_sha256: hex::encode(hasher.finalize()),
            node_table_rows: self.backend.node_files()?.iter().map(|file| file.entries).sum(),
        })
    }

    /// Reads every row there is, as the engine checks it.
    pub(super) fn read_whole(&self, control: &Control) -> Result<(), CatalogError> {
        let read = self.backend.read_whole(&|| control.goes_on());
        read.map(|_| ()).map_err(|error| control.unless_ended(error).into())
    }

    /// Reads nodes back; the inner text says what is missing or corrupt.
    pub(super) fn read_back(
        &self,
        roots: &RetainedRoots,
        depth: Depth,
        steering: &Steering,
    ) -> Result<Result<VerifyReport, String>, CatalogError> {
        let within = std::env::temp_dir();
        let spilled = Scratch::within(&within).map_err(|error| {
            if folder::is_absence(&error) { no_temporary_folder(&within) } else { failed(&within)(error) }
        })?;
        let report = verify::verify(&VerifyJob {
            view: &*self.view,
            layout: &RoochLayout,
            roots,
            dir: spilled.path().to_owned(),
            leaks: Leaks::Ignore,
            sample: (depth == Depth::Sampled).then_some(PATHS),
            seed: rand::random(),
            memory_budget: BUDGET,
            clock: &*steering.clock,
            control: &steering.control,
            observer: &*steering.observer,
        })?;
        if report.is_sound() {
            return Ok(Ok(report));
        }
        let faults: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
        let (missing, corrupt) = (report.missing_nodes, report.corrupt_nodes);
        Ok(Err(format!("{missing} of its nodes are missing, {corrupt} corrupt: {}", faults.join("; "))))
    }
}

/// Proves that the store in a folder is what the manifest says: the state that it names, and nodes below its roots. AFTER its
/// files were compared: what is damaged in files that are what was written was so when they were.
pub(super) fn prove(
    manifest: &Manifest,
    store: &Path,
    (depth, whole): (Depth, Whole),
    steering: &Steering,
) -> Result<VerifyReport, CatalogError> {
    prove_opened(manifest, store, (depth, whole), steering).map_err(|error| told_as_damage((manifest.id, store), error))
}

fn prove_opened(
    manifest: &Manifest,
    store: &Path,
    (depth, whole): (Depth, Whole),
    steering: &Steering,
) -> Result<VerifyReport, CatalogError> {
    let id = manifest.id;
    let copy = OpenCopy::open(store, manifest.layout)?;
    let roots = copy.roots(Window::From(Order::new(manifest.state.first_order)))?;
    let state = copy.state(&roots)?;
    if state != manifest.state {
        let (head, named) = (state.head_order, manifest.state.head_order);
        let what =
            format!("{} holds another state, with head {head}, than its manifest, with {named}", store.display());
        return Err(CatalogError::DamagedSnapshot { id, what });
    }
    let damaged = |what| CatalogError::DamagedSource { id, what: located(store, what) };
    let read = copy.read_back(&roots, depth, steering)?.map_err(damaged)?;
    if whole == Whole::Yes || depth == Depth::Deep {
        copy.read_whole(&steering.control)?;
    }
    Ok(read)
}

/// A copy whose files are what was written and hold damage has that of its store; one that is another kind of store than its
/// manifest says is not what was made. A folder that this user may not use, and a copy of a newer program, say nothing against it.
fn told_as_damage((id, store): (SnapshotId, &Path), error: CatalogError) -> CatalogError {
    let CatalogError::Prune(error) = error else { return error };
    if matches!(error, PruneError::Store(StoreError::Permission { .. } | StoreError::Newer { .. })) {
        return error.into();
    }
    let what = || located(store, fault_of(&error));
    match error.disposition() {
        Disposition::Corrupt => CatalogError::DamagedSource { id, what: what() },
        Disposition::Input => CatalogError::DamagedSnapshot { id, what: what() },
        Disposition::Transient | Disposition::Resource | Disposition::Bug => error.into(),
    }
}

/// The words with the folder that they are about, if they do not name it.
fn located(store: &Path, what: String) -> String {
    let store = store.display().to_string();
    if what.contains(&store) { what } else { format!("{store}: {what}") }
}

/// What is wrong with a copy, without what would have to be done about a store.
fn fault_of(error: &PruneError) -> String {
    if let PruneError::Store(StoreError::Corrupt(what)) = error {
        what.clone()
    } else if let PruneError::Store(StoreError::NotADatabase { path, why }) = error {
        format!("{} is not a database: {why}", path.display())
    } else {
        error.to_string()
    }
}

/// Hashes every file of a snapshot and compares.
///
/// Errors: a file that is missing, changed or not named; a failed read.
pub(super) fn compare_files(manifest: &Manifest, store: &Path, control: &Control) -> Result<(), CatalogError> {
    let id = manifest.id;
    if !folder::is_folder(store)? {
        return Err(CatalogError::DamagedSnapshot { id, what: format!("{} is no folder", store.display()) });
    }
    let wrong = hashing::each(&manifest.files, |file| {
        let path = store.join(&file.name);
        match hashing::hash(&path, file.bytes, control) {
            Ok(found) => Ok(file.difference(&path, &found)),
            Err(CatalogError::File { source, .. }) if folder::tells_what_is_there(&source) => {
                Ok(Some(format!("{}: {source}", path.display())))
            }
            Err(error) => Err(error),
        }
    })?;
    let mut wrong: Vec<String> = wrong.into_iter().flatten().collect();
    let named = |name: &String| manifest.files.iter().any(|file| file.name == *name);
    let strange = folder::names(store)?.into_iter().filter(|name| !named(name));
    wrong.extend(strange.map(|name| format!("{}: no file of it", store.join(name).display())));
    refuse_wrong(id, wrong)
}

/// Errors: a snapshot with files that are not what was written, if there are such, and what is wrong with the first of them.
pub(super) fn refuse_wrong(id: SnapshotId, mut wrong: Vec<String>) -> Result<(), CatalogError> {
    if wrong.is_empty() {
        return Ok(());
    }
    let more = wrong.len().saturating_sub(LISTED);
    wrong.truncate(LISTED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(CatalogError::DamagedSnapshot { id, what: format!("{}{rest}", wrong.join("; ")) })
}

/// The folder for temporary files is asked for by nobody who reads what this says.
fn no_temporary_folder(within: &Path) -> CatalogError {
    let why = "is to have temporary files, and is no folder: set TMPDIR to one that this user may write";
    CatalogError::BadPlace { path: within.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use state_store::Need;

    use super::*;

    #[test]
    fn only_what_was_read_of_a_copy_makes_it_a_damaged_one() {
        let id = SnapshotId::draw(&crate::ManualClock::default());
        let told = |error: StoreError| told_as_damage((id, Path::new("/there")), PruneError::from(error).into());
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let refused = StoreError::Permission { path: "/tmp".into(), need: Need::Read, source };
        let newer = StoreError::Newer { name: "head".to_owned(), version: 3, reads: 2 };
        let other = StoreError::NotADatabase { path: "/there".into(), why: "no file CURRENT".to_owned() };
        for (error, code) in [
            (refused, "permission"),
            (newer, "newer"),
            (StoreError::Corrupt("a block".to_owned()), "damaged_source"),
            (other, "damaged_snapshot"),
        ] {
            assert_eq!(told(error).code(), code);
        }
        let told = told(StoreError::Corrupt("a block".to_owned())).to_string();
        assert!(told.contains("/there: a block"), "{told}");
    }

    #[test]
    fn a_damaged_snapshot_is_told_with_one_advice() {
        let id = SnapshotId::draw(&crate::ManualClock::default());
        let why = "no file CURRENT".to_owned();
        for error in [StoreError::Corrupt("a block".to_owned()), StoreError::NotADatabase { path: "/s".into(), why }] {
            let fault = fault_of(&PruneError::from(error));
            let damaged = CatalogError::DamagedSnapshot { id, what: fault.clone() };
            assert_eq!(
                damaged.to_string(),
                format!(
                    "snapshot {id} was damaged after it was made: {fault}. Do not use it; delete it and make another one"
                )
            );
            assert!(!fault.contains("Restore") && !fault.contains("Give"), "{fault}");
            let unknown =
                CatalogError::OrdinalUnknown { id, lock: "catalog.lock".into(), source: Box::new(damaged) }.to_string();
            assert_eq!(unknown.matches("delete").count(), 1, "{unknown}");
        }
    }
}
