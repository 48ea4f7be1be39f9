//! Which snapshots go, and how they go: renamed to the trash under the lock, removed outside of it.
//!
//! Which one is newer is told by ordinals and never by the clock, which may have been wrong (C16). The newest snapshot always
//! stays, and so does one that cannot be read or is damaged: nothing is known about it, and while there is one no other goes by
//! its age (I8). One that somebody reads is passed, and goes
//! the next time.

use std::{io, num::NonZeroU64, time::Duration};

use serde::{Deserialize, Serialize};
use state_store::{CatalogPoint, catalog_reached};

use super::{
    Catalog, CatalogError, LockTimes, SnapshotId,
    folder::{self, failed},
    listing::{Begun, Listed, Unusable},
    lock::{Access, Patience},
    staging::{self, Swept},
};
use crate::{clock::Clock, error::PruneError, offline::StoreLayout};

/// Which snapshots stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogRetention {
    /// The newest so many; without it all.
    pub keep: Option<NonZeroU64>,
    /// Those that are not older by the wall clock, or whose age is not known; without it all.
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
    /// Snapshots that could not be read, so that it neither counted them nor let them go.
    pub unreadable: Vec<Unusable>,
    /// Unfinished snapshots of processes that have died.
    pub unfinished: Vec<String>,
    /// Why others that should go did not, or not for good.
    pub failures: Vec<Failed>,
    /// Why files of what went are still there, in the trash. Whoever makes or removes a snapshot next removes them.
    pub left: Vec<Failed>,
}

/// Something that failed beside what was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// The code of the error.
    pub code: String,
    /// What failed, with the file.
    pub message: String,
}

impl From<&CatalogError> for Failed {
    fn from(error: &CatalogError) -> Self {
        Self { code: error.code().to_owned(), message: error.to_string() }
    }
}

/// What a command that removes snapshots did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tidied {
    /// What went.
    pub removed: Removed,
    /// The lock of the catalog, as this command held it.
    pub lock: LockTimes,
}

impl From<Swept> for Removed {
    fn from(Swept { unfinished, failures, left }: Swept) -> Self {
        Self { unfinished, failures: told(&failures), left: told(&left), ..Self::default() }
    }
}

fn told(errors: &[CatalogError]) -> Vec<Failed> {
    errors.iter().map(Failed::from).collect()
}

/// Why no snapshot goes by its age.
fn held_back(damaged: &Unusable) -> Failed {
    let Unusable { id, code, message } = damaged;
    let message = format!("no snapshot goes by its age while {id} is in the catalog: {message}");
    Failed { code: code.clone(), message }
}

impl CatalogRetention {
    /// Everything stays.
    pub const ALL: Self = Self { keep: None, max_age: None };

    /// The same as far as it counts. Whose date is not known may date those after it: by their own they could be too old (I8).
    fn without_dates(self) -> Self {
        Self { max_age: None, ..self }
    }

    /// Which go, of each layout by itself: those of a node's store say nothing of a store of Rooch.
    fn doomed_of_each(self, snapshots: &[Listed], now_ms: u64) -> Vec<SnapshotId> {
        let mut layouts: Vec<StoreLayout> = Vec::new();
        for listed in snapshots {
            if !layouts.contains(&listed.layout) {
                layouts.push(listed.layout);
            }
        }
        let begun = |layout| snapshots.iter().filter(move |listed| listed.layout == layout).map(Listed::begun);
        layouts.into_iter().flat_map(|of| self.doomed(&begun(of).collect::<Vec<_>>(), now_ms)).collect()
    }

    /// Which of these snapshots go.
    fn doomed(self, snapshots: &[Begun], now_ms: u64) -> Vec<SnapshotId> {
        let mut oldest_first = snapshots.to_vec();
        oldest_first.sort_unstable();
        let mut dated = dates(&oldest_first, now_ms);
        dated.reverse();
        let keep = self.keep.map_or(u64::MAX, NonZeroU64::get);
        let max_age_ms = self.max_age.map_or(u128::MAX, |age| age.as_millis());
        let is_old = |begun_ms: u64| u128::from(now_ms.saturating_sub(begun_ms)) > max_age_ms;
        let goes = |(place, (begun_ms, _)): &(u64, (Option<u64>, SnapshotId))| {
            *place > 0 && (*place >= keep || begun_ms.is_some_and(is_old))
        };
        (0..).zip(dated).filter(goes).map(|(_, (_, id))| id).collect()
    }
}

/// When each was begun, given the oldest first. A date that is still to come is not known (I8); one that is before that of
/// an older snapshot was given by a clock that was behind, and is taken to be no earlier than that one.
fn dates(oldest_first: &[Begun], now_ms: u64) -> Vec<(Option<u64>, SnapshotId)> {
    let mut latest = 0;
    let date = |(_, begun_ms, id): &Begun| {
        let known = (*begun_ms <= now_ms).then(|| {
            latest = latest.max(*begun_ms);
            latest
        });
        (known, *id)
    };
    oldest_first.iter().map(date).collect()
}

impl Catalog {
    /// Removes one snapshot, and what processes that died have left. Once the snapshot is gone for good this does not fail: what
    /// could not be done then is told beside it.
    ///
    /// Errors: no such snapshot, somebody reads it, the folder cannot be changed, [`CatalogError::Unsettled`].
    pub fn delete(&self, id: SnapshotId, clock: &dyn Clock) -> Result<Tidied, CatalogError> {
        let access = self.access(clock);
        access.remove(id, Patience::Some)?;
        access.settle(&[id])?;
        let left = |error| Swept { failures: vec![error], left: staging::empty_trash(self), ..Swept::default() };
        let removed = Removed { snapshots: vec![id], ..staging::sweep(&access).unwrap_or_else(left).into() };
        Ok(Tidied { removed, lock: access.times() })
    }

    /// Removes what the retention lets go, and what processes that died have left. What fails is told beside what went.
    ///
    /// Errors: the folder cannot be read.
    pub fn prune(&self, retention: CatalogRetention, clock: &dyn Clock) -> Result<Tidied, CatalogError> {
        let access = self.access(clock);
        let mut removed = staging::sweep(&access)?.into();
        access.retain(retention, None, &mut removed)?;
        Ok(Tidied { removed, lock: access.times() })
    }
}

impl Access<'_> {
    /// Removes what the retention lets go now that a snapshot was made, which it was also if this fails.
    pub(super) fn retain_after(&self, made: SnapshotId, retention: CatalogRetention, swept: Swept) -> Removed {
        let mut removed = swept.into();
        if let Err(error) = self.retain(retention, Some(made), &mut removed) {
            removed.failures.push(Failed::from(&error));
        }
        for Failed { message, .. } in removed.failures.iter().chain(&removed.left) {
            tracing::warn!(error = message, "not all that should go from the catalog is gone for good");
        }
        removed
    }

    /// Removes what the retention lets go, but not `spared`. One snapshot that cannot be removed holds back no other.
    ///
    /// Errors: it is not known what there is; nothing was removed.
    fn retain(
        &self,
        retention: CatalogRetention,
        spared: Option<SnapshotId>,
        removed: &mut Removed,
    ) -> Result<(), CatalogError> {
        if retention == CatalogRetention::ALL {
            return Ok(());
        }
        let listing = self.catalog.list()?;
        let is_whole = listing.unreadable.is_empty() && listing.damaged.is_empty();
        if retention.max_age.is_some() {
            removed.failures.extend(listing.damaged.iter().map(held_back));
        }
        removed.unreadable = listing.unreadable;
        let retention = if is_whole { retention } else { retention.without_dates() };
        let (doomed, mut gone) = (retention.doomed_of_each(&listing.snapshots, self.clock.unix_ms()), Vec::new());
        for id in doomed.into_iter().filter(|id| Some(*id) != spared) {
            match self.remove(id, Patience::None) {
                Ok(()) => gone.push(id),
                Err(CatalogError::SnapshotInUse { .. }) => removed.in_use.push(id),
                Err(CatalogError::UnknownSnapshot { .. }) => {} // another process was faster
                Err(error) => {
                    removed.failures.push(Failed::from(&error));
                    let was_ended = matches!(error, CatalogError::Prune(PruneError::Stopped | PruneError::Cancelled));
                    if was_ended || matches!(error, CatalogError::CatalogBusy { .. }) {
                        break; // it was waited for once
                    }
                }
            }
        }
        match self.settle(&gone) {
            Ok(()) => (removed.snapshots, removed.left) = (gone, told(&staging::empty_trash(self.catalog))),
            Err(error) => removed.failures.push(Failed::from(&error)),
        }
        Ok(())
    }

    /// Takes a snapshot out of the catalog. Its files are in the trash then.
    fn remove(&self, id: SnapshotId, patience: Patience) -> Result<(), CatalogError> {
        let (entry, trash) = (self.catalog.entry(id), self.catalog.trash(&id.to_string()));
        let alone = self.removing(id, patience)?;
        catalog_reached(CatalogPoint::RemovalBegun);
        self.locked(|_| match folder::rename(&entry, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.unknown(id)),
            renamed => renamed.map_err(failed(&entry)),
        })?;
        catalog_reached(CatalogPoint::RemovalNamed);
        drop(alone);
        Ok(())
    }

    /// Makes durable what was taken out, BEFORE its files go: a snapshot that is told to be gone does not come back, and none
    /// comes back without its files.
    fn settle(&self, gone: &[SnapshotId]) -> Result<(), CatalogError> {
        if gone.is_empty() {
            return Ok(());
        }
        let unsettled = |error| CatalogError::Unsettled { ids: gone.to_vec(), source: Box::new(error) };
        folder::sync(self.catalog.dir()).map_err(unsettled)?;
        catalog_reached(CatalogPoint::RemovalSynced);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::manifest::{self, Manifest},
        clock::ManualClock,
    };

    const HOUR: u64 = 3_600_000;

    fn keep(n: u64) -> CatalogRetention {
        CatalogRetention { keep: NonZeroU64::new(n), max_age: None }
    }

    fn age(ms: u64) -> CatalogRetention {
        CatalogRetention { keep: None, max_age: Some(Duration::from_millis(ms)) }
    }

    /// Snapshots with these ordinals and dates; which of them go, as places in that list.
    fn doomed(begun: &[(Option<u64>, u64)], retention: CatalogRetention, now: u64) -> Vec<usize> {
        let clock = ManualClock::default();
        let begun =
            begun.iter().map(|(ordinal, ms)| (ordinal.and_then(NonZeroU64::new), *ms, SnapshotId::draw(&clock)));
        let begun: Vec<Begun> = begun.collect();
        let place = |id| begun.iter().position(|(_, _, known)| *known == id).unwrap();
        retention.doomed(&begun, now).into_iter().map(place).collect()
    }

    #[test]
    fn retention_counts_from_the_newest_and_never_takes_it() {
        let begun = [(Some(1), 100), (Some(4), 400), (Some(3), 300), (Some(2), 200)];
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
            assert_eq!(doomed(&begun, retention, now), expected, "{why}");
        }
    }

    #[test]
    fn what_is_kept_of_one_layout_says_nothing_of_the_other() {
        let made = |(ordinal, layout)| {
            let ordinal = NonZeroU64::new(ordinal);
            Listed::from(Manifest { ordinal, created_at_ms: 1, layout, ..manifest::tests::sample() })
        };
        let of = [(1, StoreLayout::Rooch), (2, StoreLayout::Rooch), (3, StoreLayout::Native), (4, StoreLayout::Native)];
        let listed: Vec<Listed> = of.into_iter().map(made).collect();
        for retention in [keep(1), age(1)] {
            let gone = retention.doomed_of_each(&listed, HOUR);
            assert_eq!(gone, [listed[0].id, listed[2].id], "the newest of each stays: {retention:?}");
        }
    }

    #[test]
    fn no_step_of_the_clock_makes_an_older_snapshot_the_newer_one() {
        let ahead = [(Some(1), 90 * HOUR), (Some(2), 91 * HOUR), (Some(3), HOUR), (Some(4), 2 * HOUR)];
        let behind = [(Some(1), 50 * HOUR), (Some(2), 1), (Some(3), 51 * HOUR)];
        let unnumbered = [(None, 90 * HOUR), (None, HOUR), (Some(1), 2 * HOUR), (Some(2), 3 * HOUR)];
        type Row<'a> = (&'a [(Option<u64>, u64)], CatalogRetention, u64, &'a [usize], &'a str);
        let table: [Row<'_>; 8] = [
            (&ahead, keep(2), 2 * HOUR, &[1, 0], "made while the clock was ahead, they are the older ones"),
            (&ahead, age(0), 2 * HOUR, &[2], "a date that is to come has no age"),
            (&ahead, age(HOUR), 93 * HOUR, &[2, 1, 0], "once it has come it counts, also for what was begun later"),
            (
                &behind,
                age(2 * HOUR),
                51 * HOUR,
                &[],
                "made while the clock was behind, it is as young as the one before",
            ),
            (&behind, age(HOUR), 53 * HOUR, &[1, 0], "and as old"),
            (&behind, keep(2), 51 * HOUR, &[0], "it is the newer one"),
            (&unnumbered, keep(2), 3 * HOUR, &[0, 1], "those without an ordinal are the older ones"),
            (&unnumbered, age(0), 3 * HOUR, &[2, 1], "and have only their dates"),
        ];
        for (begun, retention, now, expected, why) in table {
            assert_eq!(doomed(begun, retention, now), expected, "{why}");
        }
    }
}
