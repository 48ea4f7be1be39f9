//! The low-disk trigger: fires once below its bound, and again only after the disk had room, or has lost much more.

use serde::Serialize;

/// Above the bound by this part of it the disk has room again.
const HYSTERESIS_DIVISOR: u64 = 4;

/// What was measured, and whether the trigger has fired on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LowDisk {
    bound: u64,
    free: Option<u64>,
    /// The free bytes it fired at, until it is armed again.
    fired: Option<u64>,
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
}

impl LowDisk {
    /// A trigger below `bound`, which an earlier process may have left fired.
    pub(crate) fn new(bound: u64, fired: Option<u64>) -> Self {
        Self { bound, free: None, fired }
    }

    fn room_from(&self) -> u64 {
        self.bound.saturating_add(self.bound / HYSTERESIS_DIVISOR)
    }

    /// Takes a measurement over; room on the disk arms the trigger.
    pub(crate) fn measured(&mut self, free: Option<u64>) {
        self.free = free;
        if free.is_some_and(|free| free >= self.room_from()) {
            self.fired = None;
        }
    }

    /// Whether a cycle is wanted: the disk is low, and it was not when the last such cycle began, or has lost more
    /// than half of what it had then. One that freed too little is not repeated until it could help.
    pub(crate) fn is_due(&self) -> bool {
        let Some(free) = self.free.filter(|free| *free < self.bound) else { return false };
        self.fired.is_none_or(|at| free < at / 2)
    }

    /// A cycle begins because of it.
    pub(crate) fn fire(&mut self) {
        self.fired = self.free;
    }

    /// The free bytes it fired at, until it is armed again.
    pub(crate) fn fired(&self) -> Option<u64> {
        self.fired
    }

    /// The cycle it fired for was interrupted: it is armed again.
    pub(crate) fn rearm(&mut self) {
        self.fired = None;
    }

    /// Whether free space is known.
    pub(crate) fn is_measured(&self) -> bool {
        self.free.is_some()
    }

    /// As shown to people.
    pub(crate) fn status(&self) -> DiskStatus {
        let low = self.free.is_some_and(|free| free < self.bound || (self.fired.is_some() && free < self.room_from()));
        DiskStatus { below: self.bound, room_from: self.room_from(), free: self.free, low }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_disk_fires_once_until_there_was_room_or_half_is_lost() {
        let mut disk = LowDisk::new(1000, None);
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
            disk.measured(free);
            assert_eq!((disk.is_due(), disk.status().low), (due, low), "{why}");
            if due {
                disk.fire();
            }
        }
        disk.rearm();
        assert!(disk.is_due(), "an interrupted cycle is owed");
        assert!(!LowDisk::new(1000, Some(500)).is_due(), "nothing is measured yet");
    }
}
