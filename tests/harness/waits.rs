//! Waiting for what the worker of a pruner does by itself, while the time of its rig goes on.
//!
//! The worker sleeps by the clock of the machine and looks at the time of the rig when it wakes, so that time goes with the
//! machine's, only faster. Did it go with the looks of whoever waits, then a worker that is kept from a processor for a moment
//! would be hours late, and lose its lock.

use std::{thread, time::Duration};

use state_pruner::{Clock as _, Pruner, SystemClock};

use crate::rig::Rig;

/// So many times as fast as the machine's: of the shortest lock, half an hour, that leaves 18 seconds.
const FAST: u32 = 100;
/// The most between two looks: nothing grows old while the whole process stands still.
const STEP: Duration = Duration::from_millis(10);

impl Rig {
    /// Waits until it is so.
    pub fn until(&self, reached: impl Fn() -> bool) {
        let (clock, mut seen) = (SystemClock::new(), Duration::ZERO);
        while !reached() {
            let now = clock.monotonic();
            self.clock.advance((FAST * (now - seen)).min(STEP));
            seen = now;
            thread::yield_now();
        }
    }
}

/// Waits until a pruner is as it should be.
pub fn until(rig: &Rig, pruner: &Pruner, reached: impl Fn(&Pruner) -> bool) {
    rig.until(|| reached(pruner));
}

/// The same, and commits come, so that the worker looks at the time as they do.
pub fn until_beside_commits(rig: &Rig, pruner: &Pruner, reached: impl Fn(&Pruner) -> bool) {
    rig.until(|| {
        pruner.committed(rig.chain.head());
        reached(pruner)
    });
}

/// Lets other threads go first until it is so, or so often that it does not come to be so while this one is where it is.
pub fn give_turns(reached: impl Fn() -> bool) {
    const TURNS: usize = 100_000;
    (0..TURNS).take_while(|_| !reached()).for_each(|_| thread::yield_now());
}
