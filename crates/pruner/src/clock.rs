//! Time as a parameter: decisions use the monotonic reading, the wall clock is shown, and tells a new process how long
//! ago the last run began (C16).

#[cfg(any(test, feature = "test-util"))]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where a process reads time.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Time since some fixed point of this process; never goes back.
    fn monotonic(&self) -> Duration;

    /// Milliseconds since 1970 by the wall clock, which may step: for people, and for what must survive a restart (the time
    /// that a pin or a consumer was given, the last trigger).
    fn unix_ms(&self) -> u64;
}

/// The clocks of the machine.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic reading starts at zero.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that is injected")]
    pub fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock that is injected")]
    fn unix_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // Before 1970 there is nothing to show, and whatever was recorded seems to have just happened.
        since.map_or(0, |since| u64::try_from(since.as_millis()).map_or(u64::MAX, |ms| ms))
    }
}

/// A clock that moves when a test says so; both readings apart.
#[cfg(any(test, feature = "test-util"))]
#[derive(Debug, Default)]
pub struct ManualClock {
    monotonic_ms: AtomicU64,
    unix_ms: AtomicU64,
}

#[cfg(any(test, feature = "test-util"))]
impl ManualClock {
    /// Moves the monotonic reading forward.
    pub fn advance(&self, by: Duration) {
        self.monotonic_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// Sets the wall clock, in either direction.
    pub fn set_unix_ms(&self, to: u64) {
        self.unix_ms.store(to, Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::SeqCst))
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::SeqCst)
    }
}
