//! Which snapshots go, and how they go: renamed to the trash under the lock, removed outside of it.
//!
//! The newest snapshot always stays, and so does one that cannot be read: nothing is known about it (I8). One that
//! somebody reads is passed, and goes the next time.

use std::{fs, io, num::NonZeroU64, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Catalog, CatalogError, LockTimes, SnapshotId,
    folder::{self, failed},
    lock::{Access, Patience},
    staging,
};
use crate::clock::Clock;

/// Which snapshots stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogRetention {
    /// The newest so many; without it all.
    pub keep: Option<NonZeroU64>,
    /// Those that are not older, by the wall clock; without it all.
    pub max_age: Option<Duration>,
}

/// What went from a catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removed {
    /// Snapshots that the retention let go.
    pub snapshots: Vec<SnapshotId>,
    /// Snapshots that it would have let go, had nobody been reading them.
    pub in_use: Vec<SnapshotId>,
    /// Unfinished snapshots of processes that have died.
    pub unfinished: Vec<String>,
    /// Why the others that should go did not, if something failed after a snapshot was made.
    pub failure: Option<String>,
}

/// What a command that removes snapshots did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tidied {
    /// What went.
    pub removed: Removed,
    /// The lock of the catalog, as this command held it.
    pub lock: LockTimes,
}

impl CatalogRetention {
    /// Everything stays.
    pub const ALL: Self = Self { keep: None, max_age: None };

    /// Which of these snapshots go, given when each was begun.
    fn doomed(self, snapshots: &[(u64, SnapshotId)], now_ms: u64) -> Vec<SnapshotId> {
        let mut newest_first = snapshots.to_vec();
        newest_first.sort_unstable_by(|one, other| other.cmp(one));
        let keep = self.keep.map_or(u64::MAX, NonZeroU64::get);
        let max_age_ms = self.max_age.map_or(u128::MAX, |age| age.as_millis());
        let goes = |(place, (begun_ms, _)): &(u64, (u64, SnapshotId))| {
            *place > 0 && (*place >= keep || u128::from(now_ms.saturating_sub(*begun_ms)) > max_age_ms)
        };
        (0..).zip(newest_first).filter(goes).map(|(_, (_, id))| id).collect()
    }
}

impl Catalog {
    /// Removes one snapshot.
    ///
    /// Errors: no such snapshot, somebody reads it.
    pub fn delete(&self, id: SnapshotId, clock: &dyn Clock) -> Result<Tidied, CatalogError> {
        let access = self.access(clock);
        access.remove(id, Patience::Some)?;
        let unfinished = staging::sweep(&access)?;
        let removed = Removed { snapshots: vec![id], unfinished, ..Removed::default() };
        Ok(Tidied { removed, lock: access.times() })
    }

    /// Removes what the retention lets go, and what processes that died have left.
    ///
    /// Errors: the folder cannot be read or changed.
    pub fn prune(&self, retention: CatalogRetention, clock: &dyn Clock) -> Result<Tidied, CatalogError> {
        let access = self.access(clock);
        let unfinished = staging::sweep(&access)?;
        let removed = Removed { unfinished, ..access.retain(retention, None)? };
        Ok(Tidied { removed, lock: access.times() })
    }
}

impl Access<'_> {
    /// Removes what the retention lets go now that a snapshot was made, which it was also if this fails.
    pub(super) fn retain_after(&self, made: SnapshotId, retention: CatalogRetention) -> Removed {
        self.retain(retention, Some(made)).unwrap_or_else(|error| {
            tracing::warn!(%error, "snapshots that should go stay until the next one is made");
            Removed { failure: Some(error.to_string()), ..Removed::default() }
        })
    }

    /// Removes what the retention lets go, but not `spared`.
    fn retain(&self, retention: CatalogRetention, spared: Option<SnapshotId>) -> Result<Removed, CatalogError> {
        let mut removed = Removed::default();
        if retention == CatalogRetention::ALL {
            return Ok(removed);
        }
        let listed = self.catalog.list()?.snapshots;
        let snapshots: Vec<(u64, SnapshotId)> = listed.iter().map(|listed| (listed.created_at_ms, listed.id)).collect();
        let doomed = retention.doomed(&snapshots, self.clock.unix_ms());
        for id in doomed.into_iter().filter(|id| Some(*id) != spared) {
            match self.remove(id, Patience::None) {
                Ok(()) => removed.snapshots.push(id),
                Err(CatalogError::SnapshotInUse { .. }) => removed.in_use.push(id),
                Err(CatalogError::UnknownSnapshot { .. }) => {} // another process was faster
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn remove(&self, id: SnapshotId, patience: Patience) -> Result<(), CatalogError> {
        let (entry, trash) = (self.catalog.entry(id), self.catalog.trash(&id.to_string()));
        let alone = self.removing(id, patience)?;
        self.locked(|| match fs::rename(&entry, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.unknown(id)),
            renamed => renamed.map_err(failed(&entry)),
        })?;
        drop(alone);
        folder::sync(self.catalog.dir())?; // a snapshot that is told to be gone does not come back
        folder::remove_all(&trash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn retention_counts_from_the_newest_and_never_takes_it() {
        let clock = ManualClock::default();
        let ids: Vec<SnapshotId> = (0..4).map(|_| SnapshotId::draw(&clock)).collect();
        let begun: Vec<(u64, SnapshotId)> = [100, 400, 300, 200].into_iter().zip(ids.iter().copied()).collect();
        let keep = |n: u64| CatalogRetention { keep: NonZeroU64::new(n), max_age: None };
        let age = |ms: u64| CatalogRetention { keep: None, max_age: Some(Duration::from_millis(ms)) };
        let both = CatalogRetention { max_age: age(150).max_age, ..keep(3) };
        let table: [(CatalogRetention, u64, &[usize], &str); 8] = [
            (CatalogRetention::ALL, u64::MAX, &[], "no bound, nothing goes"),
            (keep(4), 500, &[], "as many as may stay"),
            (keep(2), 500, &[3, 0], "the two oldest"),
            (keep(1), 500, &[2, 3, 0], "all but the newest"),
            (age(200), 500, &[3, 0], "a snapshot of exactly that age stays"),
            (age(1), u64::MAX, &[2, 3, 0], "the newest stays however old it is"),
            (age(1), 0, &[], "a clock that was set back makes nothing old"),
            (both, 500, &[2, 3, 0], "each bound takes"),
        ];
        for (retention, now, expected, why) in table {
            let expected: Vec<SnapshotId> = expected.iter().map(|at| ids[*at]).collect();
            assert_eq!(retention.doomed(&begun, now), expected, "{why}");
        }
    }
}
