//! Many at once, how long it takes, and what it holds.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};

use super::{
    checks::{NO_STATE, faults_of},
    manager::Place,
    result::ValidationResult,
};
use crate::{
    clock::Clock,
    error::{PruneError, iec},
    health::Room,
    records::RecordKey,
    snapshot::{AtomicSnapshotManager, NotNow},
    sweep, threads,
};

/// Threads that ask at once, and how often each does.
const ASKERS: usize = 4;
const TIMES: usize = 25;

/// How often what is timed is done: the best counts, because a busy machine only makes it slower.
const TRIES: usize = 3;

/// For one snapshot, from its capture to its integrity hash.
const CAPTURE_WITHIN: Duration = Duration::from_secs(5);
/// For taking the lock and giving it back, which may wait for one commit.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
/// For reading every small record.
const RECORDS_WITHIN: Duration = Duration::from_secs(2);

/// What helps where a phase has the lock.
const LATER: &str = "ask again when no phase works";

/// Lets several ask for the lock, and capture, at once.
pub(super) fn concurrency(snapshots: &AtomicSnapshotManager) -> ValidationResult {
    if let Err(not_now) = snapshots.probe() {
        return ValidationResult::skipped(not_now.to_string());
    }
    let crowd = Crowd::default();
    match crowd.gather(snapshots) {
        Ok(()) => crowd.seen().judge(),
        Err(error) => ValidationResult::skipped(error.to_string()),
    }
}

/// Whether those who wait for the start begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Given,
    /// Not all of them are there.
    CalledOff,
}

/// Counts of those who ask.
#[derive(Default)]
struct Crowd {
    inside: AtomicU64,
    most: AtomicU64,
    taken: AtomicU64,
    turned_away: AtomicU64,
    by_phases: AtomicU64,
    captured: Mutex<Captured>,
}

/// What came of the capture meanwhile.
#[derive(Debug, Clone, Default)]
enum Captured {
    /// There is nothing to capture.
    #[default]
    NoState,
    /// Something, with what is wrong with it.
    Something(Vec<String>),
}

impl Crowd {
    /// Lets all of them begin at once, or none.
    ///
    /// Errors: the system has not as many threads to give.
    fn gather(&self, snapshots: &AtomicSnapshotManager) -> Result<(), PruneError> {
        let start = RwLock::new(Start::CalledOff);
        let is_given = || *start.read() == Start::Given;
        let asks = || {
            if is_given() {
                (0..TIMES).for_each(|_| self.ask(snapshots));
            }
        };
        let captures = || {
            if is_given() {
                self.capture(snapshots);
            }
        };
        thread::scope(|scope| {
            let mut told = start.write(); // they wait until it is dropped, however this ends
            for _ in 0..ASKERS {
                threads::begin(scope, "pruner-ask", asks)?;
            }
            threads::begin(scope, "pruner-ask", captures)?;
            *told = Start::Given;
            Ok(())
        })
    }

    fn ask(&self, snapshots: &AtomicSnapshotManager) {
        match snapshots.probe() {
            Ok(probe) => {
                let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
                // A probe that a phase took over is no holder any more.
                if probe.permit().is_current() {
                    self.most.fetch_max(inside, Ordering::SeqCst);
                }
                thread::yield_now();
                self.inside.fetch_sub(1, Ordering::SeqCst);
                let kept = probe.permit().is_current();
                let counter = if kept { &self.taken } else { &self.by_phases };
                counter.fetch_add(1, Ordering::SeqCst);
            }
            Err(NotNow::Probe) => {
                self.turned_away.fetch_add(1, Ordering::SeqCst);
            }
            Err(NotNow::Phase(_)) => {
                self.by_phases.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn capture(&self, snapshots: &AtomicSnapshotManager) {
        let captured = match snapshots.rehearse() {
            Ok(captured) => Captured::Something(faults_of(&captured)),
            Err(PruneError::NoHead) => Captured::NoState,
            Err(error) => Captured::Something(vec![format!("no snapshot can be taken meanwhile: {error}")]),
        };
        *self.captured.lock() = captured;
    }

    fn seen(self) -> Seen {
        Seen {
            most: self.most.into_inner(),
            taken: self.taken.into_inner(),
            turned_away: self.turned_away.into_inner(),
            by_phases: self.by_phases.into_inner(),
            captured: self.captured.into_inner(),
        }
    }
}

/// What became of those who asked.
#[derive(Debug, Clone)]
struct Seen {
    most: u64,
    taken: u64,
    turned_away: u64,
    by_phases: u64,
    captured: Captured,
}

impl Seen {
    fn judge(self) -> ValidationResult {
        let Self { most, taken, turned_away, by_phases, captured } = self;
        let (mut wrong, nothing) = match captured {
            Captured::Something(faults) => (faults, None),
            Captured::NoState => (Vec::new(), Some(NO_STATE)),
        };
        // A phase that takes the lock over leaves its probe inside for a moment, with a dead permit.
        if most > 1 && by_phases == 0 {
            wrong.push(format!("{most} had the lock at once"));
        }
        if taken + turned_away + by_phases != (ASKERS * TIMES) as u64 {
            wrong.push("somebody who asked got no answer".to_owned());
        }
        if wrong.is_empty() && by_phases > 0 {
            return ValidationResult::skipped(format!("a phase took the lock meanwhile: {LATER}"));
        }
        if taken == 0 {
            wrong.push("nobody got a lock that nobody had".to_owned());
        }
        let locked = format!("{taken} had the lock one by one, {turned_away} were turned away");
        match nothing {
            Some(why) if wrong.is_empty() => ValidationResult::skipped(format!("nobody captured, for {why}; {locked}")),
            Some(_) | None => ValidationResult::unless(wrong, || locked),
        }
    }
}

/// Times what every phase does: the best of three, against what only a fault takes longer than.
pub(super) fn performance(snapshots: &AtomicSnapshotManager) -> ValidationResult {
    let parts = snapshots.parts();
    let timed = |work: &mut dyn FnMut() -> Result<(), PruneError>| best(&*parts.clock, work);
    let capture = match timed(&mut || snapshots.rehearse().map(|_| ())) {
        Ok(took) => took,
        Err(PruneError::NoHead) => return ValidationResult::skipped(NO_STATE),
        Err(error) => return ValidationResult::skipped(format!("there is nothing to time: {error}")),
    };
    let read = timed(&mut || RecordKey::ALL.into_iter().try_for_each(|key| parts.records.load(key).map(|_| ())));
    let records = match read {
        Ok(took) => took,
        Err(error) => return ValidationResult::skipped(format!("there is nothing to time: {error}")),
    };
    let lock = time_lock(snapshots);
    judge_times(&[
        ("a capture", Some(capture), CAPTURE_WITHIN),
        ("the records", Some(records), RECORDS_WITHIN),
        ("the lock", lock, LOCK_WITHIN),
    ])
}

/// Nothing while somebody holds it.
fn time_lock(snapshots: &AtomicSnapshotManager) -> Option<Duration> {
    let clock = &*snapshots.parts().clock;
    let mut best = None;
    for _ in 0..TRIES {
        let start = clock.monotonic();
        if snapshots.probe().map(drop).is_err() {
            return None;
        }
        let took = clock.monotonic().saturating_sub(start);
        best = Some(best.map_or(took, |best: Duration| best.min(took)));
    }
    best
}

fn best(clock: &dyn Clock, work: &mut dyn FnMut() -> Result<(), PruneError>) -> Result<Duration, PruneError> {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let start = clock.monotonic();
        work()?;
        best = best.min(clock.monotonic().saturating_sub(start));
    }
    Ok(best)
}

fn judge_times(rows: &[(&str, Option<Duration>, Duration)]) -> ValidationResult {
    let (mut told, mut untimed, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for (what, took, most) in rows {
        match took {
            Some(took) if took > most => wrong.push(format!("{what} took {took:?} at best, {most:?} are allowed")),
            Some(took) => told.push(format!("{what} {took:?} of {most:?}")),
            None => untimed.push(format!("{what} was held and not timed")),
        }
    }
    if wrong.is_empty() && !untimed.is_empty() {
        return ValidationResult::skipped(format!("{}; {}; {LATER}", untimed.join(", "), told.join(", ")));
    }
    ValidationResult::unless(wrong, || told.join(", "))
}

/// Looks at free space, the barrier and the view.
pub(super) fn resources(snapshots: &AtomicSnapshotManager, place: Option<&Place>) -> ValidationResult {
    let store = &*snapshots.parts().store;
    let room = place.map(|place| {
        let kept = sweep::reserve_kept(store).max(place.reserve_kept); // a store open for writing knows its own
        sweep::room(store.backend(), kept)
    });
    let space = match room.transpose() {
        Ok(None) => Ok(Space::NotSaid),
        Ok(Some(room)) => Ok(room.map_or(Space::NoDevice, Space::Known)),
        Err(error) => Err(error),
    };
    match space {
        Ok(space) => {
            Held { space, view: snapshots.view_age(), full: snapshots.is_barrier_full() }.judge(snapshots.longest_age())
        }
        Err(error) => ValidationResult::failed(format!("the files of the store cannot be listed: {error}")),
    }
}

/// What is known of the room for the next cycle.
#[derive(Debug, Clone, Copy)]
enum Space {
    Known(Room),
    /// The engine tells of no device.
    NoDevice,
    /// Nobody said how cycles sweep.
    NotSaid,
}

/// What is there, and what is held.
#[derive(Debug, Clone, Copy)]
struct Held {
    space: Space,
    /// How long the view of the current snapshot is held without progress.
    view: Option<Duration>,
    /// Whether its barrier remembers no more.
    full: bool,
}

impl Held {
    fn judge(self, longest: Duration) -> ValidationResult {
        let mut wrong = Vec::new();
        let room = match self.space {
            Space::Known(Room { free, need }) => {
                if free < need {
                    wrong.push(format!("the next cycle needs {} and {} are free", iec(need), iec(free)));
                }
                Ok(format!("{} are needed, {} are free", iec(need), iec(free)))
            }
            Space::NoDevice => Err("the engine tells of no device, so its room is not known"),
            Space::NotSaid => Err("nobody said how cycles sweep, so what they need is not known"),
        };
        if let Some(age) = self.view.filter(|age| *age > longest) {
            wrong.push(format!("a view that nobody works on is held for {age:?} and keeps bytes on disk"));
        }
        if self.full {
            wrong.push("the barrier of the cycle under way is full, so it can only be abandoned".to_owned());
        }
        let view = self.view.map_or("no view is held".to_owned(), |age| format!("a view is held for {age:?}"));
        match room {
            Err(unknown) if wrong.is_empty() => {
                ValidationResult::skipped(format!("{unknown}; no barrier is full, {view}"))
            }
            Err(_) => ValidationResult::Failed { reasons: wrong },
            Ok(room) => ValidationResult::unless(wrong, || format!("{room}, no barrier is full, {view}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, sync::Arc};

    use state_store::{Durability, MemoryBackend, NativeChain, Store, StoreConfig};

    use super::*;
    use crate::{
        clock::ManualClock,
        events::NoEvents,
        policy::LiveWindow,
        records::StoreRecords,
        snapshot::{SnapshotManagerConfig, SnapshotParts},
        threads::lack::Lack,
    };

    #[test]
    fn a_crowd_that_does_not_get_its_threads_is_sent_home_and_nothing_is_said_of_the_lock() {
        let config = StoreConfig { barrier_limit: 1_000, ..StoreConfig::new(Durability::Logged) };
        let store = Arc::new(Store::open(Arc::new(MemoryBackend::new()), config).unwrap());
        let parts = SnapshotParts {
            store: Arc::clone(&store),
            chain: Arc::new(NativeChain),
            records: Arc::new(StoreRecords(Arc::clone(&store))),
            policy: Arc::new(LiveWindow { store, keep_last: NonZeroU64::MIN, floor_rows: None }),
            facts: None,
            clock: Arc::new(ManualClock::default()),
            events: Arc::new(NoEvents),
        };
        let snapshots = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
        let reason_of = |result| match result {
            ValidationResult::Skipped { reason } => reason,
            ValidationResult::Passed { .. } | ValidationResult::Failed { .. } => panic!("{result:?}"),
        };
        for passing in 0..=ASKERS {
            let lack = Lack::after(passing);
            let reason = reason_of(concurrency(&snapshots));
            assert!(lack.is_met() && reason.starts_with("the system has no thread to give"), "{passing}: {reason}");
        }
        let reason = reason_of(concurrency(&snapshots));
        assert!(reason.starts_with("nobody captured, for") && reason.contains("had the lock one by one"), "{reason}");
    }

    #[test]
    fn two_who_had_the_lock_at_once_are_found() {
        let all = (ASKERS * TIMES) as u64;
        let rows = [
            (1, all, 0, 0, "passed"),
            (1, 3, all - 3, 0, "passed"),
            (2, 3, all - 3, 0, "failed"),
            (1, 3, all - 4, 0, "failed"),  // somebody got no answer
            (0, 0, all, 0, "failed"),      // nobody was let in
            (2, 3, all - 4, 1, "skipped"), // a phase took it over: the counts mean nothing
        ];
        for (most, taken, turned_away, by_phases, expected) in rows {
            let captured = Captured::Something(Vec::new());
            let seen = Seen { most, taken, turned_away, by_phases, captured };
            assert_eq!(seen.clone().judge().word(), expected, "{seen:?}");
            let without_state = Seen { captured: Captured::NoState, ..seen.clone() };
            let unasked = if expected == "failed" { "failed" } else { "skipped" };
            assert_eq!(without_state.judge().word(), unasked, "nothing was captured: {seen:?}");
            let broken = Seen { captured: Captured::Something(vec!["no snapshot".to_owned()]), ..seen };
            assert_eq!(broken.judge().word(), "failed");
        }
    }

    #[test]
    fn only_what_took_longer_than_it_may_at_best_is_found() {
        let second = Duration::from_secs(1);
        let (in_time, late) = (("it", Some(second), second), ("it", Some(second + Duration::from_nanos(1)), second));
        let untimed = ("that", None, second);
        assert_eq!(judge_times(&[in_time]).word(), "passed");
        assert_eq!(judge_times(&[late]).word(), "failed");
        assert_eq!(judge_times(&[late, untimed]).word(), "failed");
        let reason = format!("that was held and not timed; it 1s of 1s; {LATER}");
        assert_eq!(judge_times(&[in_time, untimed]), ValidationResult::Skipped { reason });
    }

    #[test]
    fn a_full_disk_a_full_barrier_and_a_forgotten_view_are_found() {
        let hour = Duration::from_secs(3600);
        let room = |free| Space::Known(Room { free, need: 100 });
        let rows = [
            (Space::NoDevice, None, false, "skipped"),
            (Space::NotSaid, None, false, "skipped"),
            (room(100), None, false, "passed"),
            (room(100), Some(hour), false, "passed"),
            (Space::NoDevice, Some(hour), false, "skipped"), // a view that is held says nothing of the room
            (Space::NotSaid, Some(hour), false, "skipped"),
            (room(99), None, false, "failed"),
            (room(100), Some(hour + hour), false, "failed"),
            (Space::NoDevice, Some(hour + hour), false, "failed"),
            (Space::NoDevice, None, true, "failed"),
        ];
        for (space, view, full, expected) in rows {
            let held = Held { space, view, full };
            assert_eq!(held.judge(hour).word(), expected, "{held:?}");
        }
    }
}
