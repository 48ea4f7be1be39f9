//! One at a time asks a device, because one that hangs lets nobody go (C20).

use std::time::Duration;

use parking_lot::Mutex;

use crate::{
    clock::{Clock, millis},
    when::Span,
};

/// Whoever asked so long ago without an answer is waited for no longer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// Lets one ask at a time; whoever comes meanwhile waits a second at most.
#[derive(Default)]
pub(crate) struct Alone<T> {
    /// Held by the one who asks.
    asking: Mutex<T>,
    /// Since when somebody asks.
    since: Mutex<Option<Duration>>,
}

impl<T> Alone<T> {
    /// Asks with what is kept for whoever asks.
    ///
    /// Errors: for how long somebody else has not been answered.
    pub(crate) fn ask<R>(&self, clock: &dyn Clock, ask: impl FnOnce(&mut T) -> R) -> Result<R, Span> {
        let patience = ANSWERS_WITHIN.saturating_sub(self.waits(clock));
        let Some(mut kept) = self.asking.try_lock_for(patience) else {
            return Err(Span(millis(self.waits(clock))));
        };
        *self.since.lock() = Some(clock.monotonic());
        let answer = ask(&mut kept);
        *self.since.lock() = None;
        Ok(answer)
    }

    fn waits(&self, clock: &dyn Clock) -> Duration {
        let since = *self.since.lock();
        since.map_or(Duration::ZERO, |since| clock.monotonic().saturating_sub(since))
    }
}
