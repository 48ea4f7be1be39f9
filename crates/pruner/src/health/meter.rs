//! What health asks the engine and the device for, in a process that has the store open.
//!
//! Promises: no table is read but for one row, until it could be. One at a time asks, because a device that hangs lets nobody go (C20): whoever
//! comes meanwhile waits a second at most, and is told what was measured last, and for how long nobody has been answered. What
//! cannot be measured is told, and never passes for well (I13).

use std::{fmt::Display, sync::Arc, time::Duration};

use parking_lot::Mutex;
use state_store::Store;

use super::{Facts, Reason, Room, Verdict, reason};
use crate::{alone::Alone, clock::Clock, error::PruneError, sweep};

/// What the next cycle needs is measured again after so long: listing many files holds the engine's own lock.
const NEED_HOLDS: Duration = Duration::from_secs(60);

/// Measures one store.
pub(crate) struct Meter {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    /// For the one who asks: what the next cycle needs, and when that was measured.
    asking: Alone<Option<(Duration, u64)>>,
    /// Taken for as long as it takes to copy.
    known: Mutex<Known>,
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Failures that the engine met in the background.
    pub(crate) background_errors: Option<u64>,
    /// What is free, beside what the next cycle needs.
    pub(crate) room: Option<Room>,
    /// Whether every order there is lies within the bounds: nothing is behind then. Absent where the policy does not know.
    pub(crate) filling: Option<bool>,
    /// What could not be measured, and why.
    pub(crate) unmeasured: Vec<String>,
}

#[derive(Default)]
struct Known {
    measured: Measured,
    /// Why the low-disk trigger does not know what is free.
    trigger: Option<String>,
}

impl Meter {
    pub(crate) fn new(store: Arc<Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, asking: Alone::default(), known: Mutex::default() }
    }

    /// Measures, or tells what somebody else measured last who is not answered. `is_filling` may read a row.
    pub(crate) fn look(&self, is_filling: &dyn Fn() -> Result<bool, PruneError>) -> Measured {
        let asked = self.asking.ask(&*self.clock, |need| {
            let measured = self.measure(need, is_filling);
            self.known.lock().measured = measured;
        });
        let mut told = self.known.lock().told();
        if let Err(waits) = asked {
            told.unmeasured.push(format!("neither the engine nor the device has answered for {waits}"));
        }
        told
    }

    fn measure(
        &self,
        need: &mut Option<(Duration, u64)>,
        is_filling: &dyn Fn() -> Result<bool, PruneError>,
    ) -> Measured {
        let mut unmeasured = Vec::new();
        let background_errors = kept(self.store.backend().background_errors(), &mut unmeasured);
        let room = kept(self.room(need), &mut unmeasured).flatten();
        let filling = is_filling().map_err(|error| format!("whether the window of time is full is not known: {error}"));
        let filling = kept(filling, &mut unmeasured);
        Measured { background_errors, room, filling, unmeasured }
    }

    /// What is free now, beside a need that was measured not long ago.
    fn room(&self, known: &mut Option<(Duration, u64)>) -> Result<Option<Room>, PruneError> {
        let backend = self.store.backend();
        let Some(free) = sweep::free(backend, sweep::reserve_kept(&self.store))? else { return Ok(None) };
        let now = self.clock.monotonic();
        if let Some((_, need)) = known.filter(|(at, _)| now.saturating_sub(*at) < NEED_HOLDS) {
            return Ok(Some(Room { free, need }));
        }
        let need = sweep::least_need(backend)?;
        *known = Some((now, need));
        Ok(Some(Room { free, need }))
    }

    /// Bytes that are free, for the low-disk trigger. It waits while that cannot be told, and health tells so.
    pub(crate) fn free_for_trigger(&self) -> Option<u64> {
        let measured = self.store.backend().free_bytes();
        let why = measured.as_ref().err().map(|error| format!("the low-disk trigger waits: {error}"));
        let before = std::mem::replace(&mut self.known.lock().trigger, why.clone());
        if let Some(why) = why.filter(|why| before.as_ref() != Some(why)) {
            tracing::warn!(why, "the free space of the device cannot be told");
        }
        measured.map_or(None, |free| free) // the failure is told above, and by health
    }
}

impl Known {
    fn told(&self) -> Measured {
        let mut measured = self.measured.clone();
        measured.unmeasured.extend(self.trigger.clone());
        measured
    }
}

/// What was measured; where that failed, why is noted.
pub(super) fn kept<T>(measured: Result<T, impl Display>, unmeasured: &mut Vec<String>) -> Option<T> {
    measured.map_or_else(
        |error| {
            unmeasured.push(error.to_string());
            None
        },
        Some,
    )
}

/// What is not known may be bad.
pub(super) fn unmeasured(facts: &Facts) -> Option<Reason> {
    let what = facts.unmeasured.join("; ");
    let message = format!(
        "not everything that health is judged by could be measured, so it may be worse than told: {what}. Look at the disk; \
         it ends when all of it can be"
    );
    (!facts.unmeasured.is_empty()).then(|| reason(Verdict::Degraded, "unmeasured", message))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use state_store::{Durability, Fault, FaultyBackend, Lasting, MemoryBackend, Operation, StoreConfig};

    use super::*;
    use crate::clock::ManualClock;

    fn meter(backend: &FaultyBackend) -> (Meter, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        let config = StoreConfig { barrier_limit: 1_000, ..StoreConfig::new(Durability::Logged) };
        let store = Arc::new(Store::open(Arc::new(backend.clone()), config).unwrap());
        (Meter::new(store, Arc::clone(&clock) as _), clock)
    }

    #[test]
    fn each_thing_that_cannot_be_measured_is_told_until_it_can_be() {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        faulty.say_free(7);
        let (meter, clock) = meter(&faulty);
        for operation in [Operation::BackgroundErrors, Operation::FreeBytes, Operation::ListFiles, Operation::BlobBytes]
        {
            clock.advance(NEED_HOLDS);
            faulty.inject(operation, 0, Fault::Transient, Lasting::UntilHealed);
            let told = meter.look(&|| Ok(false));
            assert_eq!(told.unmeasured.len(), 1, "{operation:?}: {told:?}");
            let facts = Facts { unmeasured: told.unmeasured, ..Facts::default() };
            let reason = unmeasured(&facts).unwrap();
            assert!(reason.verdict == Verdict::Degraded && reason.message.contains("injected"), "{reason:?}");
            faulty.heal();
            let told = meter.look(&|| Ok(false));
            assert_eq!((told.unmeasured.len(), told.background_errors), (0, Some(0)), "{operation:?}");
            assert_eq!(told.room.map(|room| room.free), Some(7), "{operation:?}");
        }
        faulty.inject(Operation::FreeBytes, 0, Fault::Transient, Lasting::Once);
        assert_eq!(meter.free_for_trigger(), None);
        let told = meter.look(&|| Ok(false)).unmeasured;
        assert!(told.len() == 1 && told[0].starts_with("the low-disk trigger waits"), "{told:?}");
        assert_eq!((meter.free_for_trigger(), meter.look(&|| Ok(false)).unmeasured.len()), (Some(7), 0));
    }

    /// C20: as many as ask, one waits for a device that hangs.
    #[test]
    fn one_waits_for_a_device_that_hangs_and_the_others_are_told_what_was_known() {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        faulty.say_free(7);
        let (meter, clock) = meter(&faulty);
        assert_eq!(meter.look(&|| Ok(false)).room.map(|room| room.free), Some(7));
        let (hangs, release) = (mpsc::channel(), mpsc::channel::<()>());
        thread::scope(|scope| {
            let (told, released) = (hangs.0, release.1);
            let meter = &meter;
            scope.spawn(move || {
                meter.look(&|| {
                    told.send(()).unwrap();
                    assert!(released.recv().is_err(), "it hangs until the other end is dropped");
                    Ok(true)
                })
            });
            hangs.1.recv().unwrap();
            clock.advance(Duration::from_secs(90));
            for _ in 0..3 {
                let told = meter.look(&|| panic!("somebody asks"));
                assert_eq!((told.room.map(|room| room.free), told.filling), (Some(7), Some(false)), "the last figures");
                let waits = told.unmeasured.join("");
                assert!(waits.contains("has answered for 1m 30s"), "{waits}");
            }
            drop(release.0);
        });
        assert_eq!(meter.look(&|| Ok(false)).unmeasured, [""; 0], "it answers again");
    }
}
