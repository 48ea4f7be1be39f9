//! The low-disk trigger: below its bound it wants a run, and a run that begins meanwhile fires it, whoever set that run off.
//! It is armed again by room on the disk, by a run that was interrupted, and a while after the end of one that did not
//! succeed; one that succeeded is not repeated until much less is free.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HeldBy, Moment};

/// Above the bound by this part of it the disk has room again.
const HYSTERESIS_DIVISOR: u64 = 4;

/// So long after its end, at least, a run that did not succeed is followed by another one for the same low disk: the cooldown
/// may be shorter, and no order has to come meanwhile where no commit finds room.
const LEAST_WAIT: Duration = Duration::from_secs(60);

/// How it fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fired {
    /// Its bound: under another one it has not fired.
    pub(super) below: u64,
    /// Bytes that were free.
    pub(super) at: u64,
    /// Milliseconds since 1970 when a run that it fired for ended without success.
    pub(super) failed_at: Option<u64>,
}

impl Fired {
    /// It fires again below so many free bytes.
    fn again_below(self) -> u64 {
        self.at / 2
    }
}

/// What was measured, and whether the trigger has fired on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LowDisk {
    bound: u64,
    /// So long after the end of a run that did not succeed it is armed again.
    wait: Duration,
    free: Option<u64>,
    /// How it fired, until it is armed again.
    fired: Option<Fired>,
    /// When a run that it fired for ended without success.
    failed: Option<Moment>,
}

/// The low-disk trigger as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DiskStatus {
    /// It fires below so many free bytes.
    pub below: u64,
    /// It is armed again from so many free bytes on.
    pub room_from: u64,
    /// Bytes that are free; absent where there is no device, or it does not tell.
    pub free: Option<u64>,
    /// Whether the disk was low and has not had room since.
    pub low: bool,
    /// Bytes that were free when a run last began on a low disk; absent while it is armed.
    pub fired_at: Option<u64>,
    /// It fires again below so many free bytes, also without room before; absent while it is armed.
    pub again_below: Option<u64>,
}

/// Whether a measurement armed the trigger.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rearmed {
    /// It did.
    Now,
    /// It was armed, or is not.
    No,
}

impl LowDisk {
    /// A trigger below `bound`.
    pub(crate) fn new(bound: u64, cooldown: Duration) -> Self {
        Self { bound, wait: cooldown.max(LEAST_WAIT), free: None, fired: None, failed: None }
    }

    /// The same, as an earlier process may have left it fired, under this bound.
    pub(crate) fn recalled(self, fired: Option<Fired>, moment: impl Fn(u64) -> Moment) -> Self {
        let fired = fired.filter(|fired| fired.below == self.bound);
        Self { failed: fired.and_then(|fired| fired.failed_at).map(moment), fired, ..self }
    }

    fn room_from(&self) -> u64 {
        self.bound.saturating_add(self.bound / HYSTERESIS_DIVISOR)
    }

    /// Takes a measurement over; room on the disk arms the trigger, and so does time.
    pub(crate) fn measured(&mut self, now: Duration, free: Option<u64>) -> Rearmed {
        self.free = free;
        let has_room = free.is_some_and(|free| free >= self.room_from());
        let waited = self.armed_from().is_some_and(|at| now >= at);
        if self.fired.is_some() && (has_room || waited) {
            self.rearm();
            return Rearmed::Now;
        }
        Rearmed::No
    }

    /// Whether the disk is low, or was and has not had room since.
    pub(crate) fn is_low(&self) -> bool {
        self.free.is_some_and(|free| free < self.bound || (self.fired.is_some() && free < self.room_from()))
    }

    /// What holds a cycle back while it is low: one has begun since it was not, and it has not lost more than half of what it
    /// had then. One that freed too little is not repeated until it could help.
    pub(crate) fn held(&self) -> Option<HeldBy> {
        let fired = self.fired?;
        let is_lost = self.free.is_some_and(|free| free < fired.again_below());
        (!is_lost).then_some(if self.failed.is_some() { HeldBy::Cooldown } else { HeldBy::Fired })
    }

    /// When time arms it again, after a run that did not succeed.
    pub(crate) fn armed_from(&self) -> Option<Duration> {
        Some(self.failed?.after(self.wait))
    }

    /// A run begins: where the disk is low, it is the one that is wanted.
    pub(crate) fn run_begins(&mut self) {
        if let Some(at) = self.free.filter(|free| *free < self.bound) {
            (self.fired, self.failed) = (Some(Fired { below: self.bound, at, failed_at: None }), None);
        }
    }

    /// A run ended without success, at a time by both clocks.
    pub(crate) fn run_failed(&mut self, now: Duration, unix_ms: u64) {
        if let Some(fired) = self.fired.as_mut() {
            (fired.failed_at, self.failed) = (Some(unix_ms), Some(Moment::now(now)));
        }
    }

    /// How it fired, until it is armed again.
    pub(crate) fn fired(&self) -> Option<Fired> {
        self.fired
    }

    /// It is armed again: there is room, or the run that it fired for was interrupted.
    pub(crate) fn rearm(&mut self) {
        (self.fired, self.failed) = (None, None);
    }

    /// Bytes that are free, where that is known.
    pub(crate) fn free(&self) -> Option<u64> {
        self.free
    }

    /// As shown to people.
    pub(crate) fn status(&self) -> DiskStatus {
        DiskStatus {
            below: self.bound,
            room_from: self.room_from(),
            free: self.free,
            low: self.is_low(),
            fired_at: self.fired.map(|fired| fired.at),
            again_below: self.fired.map(Fired::again_below),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> LowDisk {
        LowDisk::new(1000, Duration::ZERO)
    }

    #[test]
    fn low_disk_fires_once_until_there_was_room_or_half_is_lost() {
        let mut disk = disk();
        // Free bytes, whether it is due, whether it is low.
        let rows = [
            (Some(1000), false, false, "the bound itself is enough"),
            (Some(999), true, true, "below the bound"),
            (Some(998), false, true, "it has fired"),
            (Some(1200), false, true, "above the bound, and not above the hysteresis"),
            (Some(900), false, true, "still the same"),
            (Some(499), false, true, "half of what it fired at is left"),
            (Some(498), true, true, "more than half of what it fired at is lost"),
            (Some(300), false, true, "less than half of that is lost"),
            (Some(0), true, true, "all of it is lost"),
            (Some(0), false, true, "and more than that cannot be"),
            (None, false, false, "no device, no trigger"),
            (Some(1250), false, false, "room again"),
            (Some(999), true, true, "armed by the room"),
        ];
        for (free, due, low, why) in rows {
            let rearmed = disk.measured(Duration::ZERO, free);
            assert_eq!(rearmed == Rearmed::Now, free == Some(1250), "{why}");
            assert_eq!((disk.is_low() && disk.held().is_none(), disk.is_low()), (due, low), "{why}");
            if due {
                disk.run_begins();
            }
        }
        disk.rearm();
        assert!(disk.is_low() && disk.held().is_none(), "an interrupted cycle is owed");
    }

    #[test]
    fn a_run_that_does_not_succeed_arms_low_disk_again_a_while_after_its_end() {
        let second = Duration::from_secs(1);
        for (cooldown, wait) in [(second, LEAST_WAIT), (3600 * second, 3600 * second)] {
            let mut disk = LowDisk::new(1000, cooldown);
            let is_due = |disk: &mut LowDisk, now, free| {
                let rearmed = disk.measured(now, Some(free));
                (disk.is_low() && disk.held().is_none(), rearmed)
            };
            assert_eq!(is_due(&mut disk, second, 999), (true, Rearmed::No));
            disk.run_begins();
            disk.run_failed(9 * second, 90_000);
            let at = 9 * second + wait;
            assert_eq!(is_due(&mut disk, at - second, 999), (false, Rearmed::No), "too early");
            assert_eq!((disk.held(), disk.armed_from()), (Some(HeldBy::Cooldown), Some(at)));
            assert_eq!(is_due(&mut disk, at - second, 498), (true, Rearmed::No), "half of it is lost meanwhile");
            // Another process finds what it left, as long after by the wall clock.
            let moment = |unix_ms| Moment::recalled(7 * second, unix_ms + 5000, unix_ms);
            let left = LowDisk::new(1000, cooldown).recalled(disk.fired(), moment);
            assert_eq!(left.armed_from(), Some(7 * second + wait - 5 * second));
            assert_eq!(is_due(&mut disk, at, 999), (true, Rearmed::Now), "time arms it");
            assert_eq!(is_due(&mut disk, at, 999), (true, Rearmed::No));
            disk.run_begins();
            assert_eq!((disk.held(), disk.armed_from()), (Some(HeldBy::Fired), None), "the next one may succeed");
        }
    }

    #[test]
    fn low_disk_has_not_fired_under_another_bound() {
        let mut disk = disk();
        assert_eq!(disk.measured(Duration::ZERO, Some(999)), Rearmed::No);
        disk.run_begins();
        for (bound, held) in [(1000, Some(HeldBy::Fired)), (2000, None), (999, None)] {
            let again = LowDisk::new(bound, Duration::ZERO).recalled(disk.fired(), |_| Moment::now(Duration::ZERO));
            assert_eq!(again.held(), held, "{bound}");
        }
    }
}
