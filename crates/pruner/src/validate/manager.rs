//! Which checks run, in which order, on what.

use std::{fmt, path::PathBuf, sync::Arc};

use super::{
    checks, integrity, journal,
    result::{Check, Checked, ValidationReport, ValidationResult},
    timing,
};
use state_store::Holder;

use crate::{config::CycleConfig, outcome::Freeze, recovery::ErrorRecoveryManager, snapshot::AtomicSnapshotManager};

/// Where cycles keep their files.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) state_dir: PathBuf,
    /// Bytes that the reserve keeps of a store that is looked at from outside.
    pub(super) reserve_kept: u64,
}

/// Why a check that was told to end is skipped.
pub(super) const ENDED: &str = "it was told to end before all of it was read";

/// How much is read of what there is many of.
#[derive(Clone, Default)]
pub(super) enum Reach {
    /// What costs the same however large a store is.
    #[default]
    Newest,
    /// All of it, as long as somebody wants it.
    All(Arc<dyn Fn() -> bool + Send + Sync>),
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Newest => "Newest",
            Self::All(_) => "All",
        })
    }
}

/// Tells the freeze in force, which is not on record where it could not be saved.
struct InForce(Box<dyn Fn() -> Option<Freeze> + Send + Sync>);

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InForce")
    }
}

/// Checks the snapshots of a store, and what is built on them.
#[derive(Debug)]
pub struct SnapshotValidator {
    snapshots: Arc<AtomicSnapshotManager>,
    recovery: Option<Arc<ErrorRecoveryManager>>,
    /// Without it only the record tells of a freeze.
    freeze: Option<InForce>,
    place: Option<Place>,
    events: Option<PathBuf>,
    reach: Reach,
    /// Who has the store open, where that is not this process.
    elsewhere: Option<Holder>,
    /// What is known of a damaged write-ahead log, beside what is on record.
    log_cut: Option<String>,
}

impl SnapshotValidator {
    /// Over these snapshots, and over the recovery of their phases where there is one.
    pub fn new(
        snapshot_manager: Arc<AtomicSnapshotManager>,
        recovery_manager: Option<Arc<ErrorRecoveryManager>>,
    ) -> Self {
        Self {
            snapshots: snapshot_manager,
            recovery: recovery_manager,
            freeze: None,
            place: None,
            events: None,
            reach: Reach::Newest,
            elsewhere: None,
            log_cut: None,
        }
    }

    /// The same, asking the pruner that works which freeze is in force.
    pub(crate) fn with_freeze(self, in_force: impl Fn() -> Option<Freeze> + Send + Sync + 'static) -> Self {
        Self { freeze: Some(InForce(Box::new(in_force))), ..self }
    }

    /// The same, knowing where cycles keep marks and certificates; without that, `integrity` is skipped where there are any.
    pub fn with_cycles(self, config: &CycleConfig) -> Self {
        let place = Place { state_dir: config.state_dir.clone(), reserve_kept: 0 };
        Self { place: Some(place), ..self }
    }

    /// The same, knowing cycles and how many bytes the reserve keeps of a store that is not open for writing here.
    pub(crate) fn with_reserve_kept(self, reserve_kept: u64) -> Self {
        let place = self.place.map(|place| Place { reserve_kept, ..place });
        Self { place, ..self }
    }

    /// The same, of a store that another process has open: its lock cannot be tried from here.
    pub(crate) fn beside(self, holder: Option<Holder>) -> Self {
        Self { elsewhere: holder, ..self }
    }

    /// The same, knowing what the write-ahead log of a store at rest has lost.
    pub(crate) fn with_log_cut(self, told: Option<String>) -> Self {
        Self { log_cut: told, ..self }
    }

    /// The same, knowing the folder of the journal of events; without that, it is not looked at.
    pub fn with_events(self, dir: PathBuf) -> Self {
        Self { events: Some(dir), ..self }
    }

    /// The same, reading every row of the commit journal, root of an order, kept order, mark of a shared node and event, which
    /// takes as long as there are many: no lock is held meanwhile, and what is read when `goes_on` says no is the last.
    pub fn deep(self, goes_on: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { reach: Reach::All(Arc::new(goes_on)), ..self }
    }

    /// Runs every check. A poll of it reads the disk and may wait for a commit: poll it where that is allowed.
    pub async fn run_comprehensive_validation(&self) -> ValidationReport {
        let mut checks = Vec::new();
        for check in Check::ALL {
            checks.push(self.run(check));
            std::future::ready(()).await;
        }
        ValidationReport { at: self.snapshots.parts().clock.unix_ms(), checks }
    }

    fn run(&self, check: Check) -> Checked {
        let snapshots = &*self.snapshots;
        if let (Check::Locking | Check::Concurrency | Check::Performance, Some(by)) = (check, &self.elsewhere) {
            return Checked::whole(check, ValidationResult::skipped(format!("the lock is in {by}: ask that one")));
        }
        let result = match check {
            Check::Creation => checks::creation(snapshots),
            Check::Reload => checks::reload(snapshots),
            Check::Locking => checks::locking(snapshots),
            Check::Phases => checks::phases(snapshots),
            Check::Recovery => {
                let in_force = self.freeze.as_ref().and_then(|freeze| freeze.0()); // BEFORE the record, which is lifted first
                checks::recovery(snapshots, self.recovery.as_deref(), in_force)
            }
            Check::Integrity => {
                return integrity::check(snapshots, self.place.as_ref(), &self.reach, self.log_cut.as_deref());
            }
            Check::Events => journal::check(self.events.as_deref(), &self.reach),
            Check::Concurrency => timing::concurrency(snapshots),
            Check::Performance => timing::performance(snapshots),
            Check::Resources => timing::resources(snapshots, self.place.as_ref()),
        };
        Checked::whole(check, result)
    }
}

/// Whether the current snapshot is whole and is the one that a restart would find. Takes no lock and captures nothing.
pub async fn quick_health_check(snapshot_manager: &AtomicSnapshotManager) -> ValidationResult {
    checks::reload(snapshot_manager)
}
