//! Time as a parameter: decisions use the monotonic reading, the wall clock is shown, and tells a new process how long
//! ago the last run began (C16).

#[cfg(any(test, feature = "test-util"))]
use std::sync::atomic::{AtomicU64, Ordering};
use std::{pin::Pin, time::Duration};

use crate::{control::Control, error::PruneError};

/// A wait; dropping it ends it.
pub type Sleep<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Where a process reads time.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Time since some fixed point of this process; never goes back.
    fn monotonic(&self) -> Duration;

    /// Milliseconds since 1970 by the wall clock, which may step: for people, and for what must survive a restart (the time
    /// that a pin or a consumer was given, the last trigger).
    fn unix_ms(&self) -> u64;

    /// Waits for a time by the monotonic reading, or until the work is told to end.
    ///
    /// Errors: what the work was told.
    fn rest(&self, control: &Control, time: Duration) -> Result<(), PruneError> {
        control.rest(time)
    }

    /// Completes after a time by the monotonic reading. Await it inside a runtime of tokio.
    fn sleep(&self, time: Duration) -> Sleep<'_> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// A duration in the unit of records, reports and configurations.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).map_or(u64::MAX, |millis| millis)
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
        since.map_or(0, millis)
    }
}

/// A clock that moves when a test says so; both readings apart. Whoever sleeps or rests by it moves it on and goes on at once,
/// unless the test holds sleepers.
#[cfg(any(test, feature = "test-util"))]
#[derive(Debug, Default)]
pub struct ManualClock {
    monotonic_us: AtomicU64,
    unix_ms: AtomicU64,
    sleepers: parking_lot::Mutex<Sleepers>,
    asleep: parking_lot::Condvar,
}

/// Who has slept, and whether sleepers are held.
#[cfg(any(test, feature = "test-util"))]
#[derive(Debug, Default)]
struct Sleepers {
    slept: Vec<Duration>,
    are_held: bool,
}

#[cfg(any(test, feature = "test-util"))]
impl ManualClock {
    /// Moves the monotonic reading forward.
    pub fn advance(&self, by: Duration) {
        self.monotonic_us.fetch_add(by.as_micros() as u64, Ordering::SeqCst);
    }

    /// From now on nobody who sleeps wakes by himself.
    pub fn hold_sleepers(&self) {
        self.sleepers.lock().are_held = true;
    }

    /// How long each sleeper wanted to sleep, in order.
    pub fn slept(&self) -> Vec<Duration> {
        self.sleepers.lock().slept.clone()
    }

    /// Returns once so many have begun to sleep.
    pub fn await_sleepers(&self, count: usize) {
        let mut sleepers = self.sleepers.lock();
        while sleepers.slept.len() < count {
            self.asleep.wait(&mut sleepers);
        }
    }

    /// Sets the wall clock, in either direction.
    pub fn set_unix_ms(&self, to: u64) {
        self.unix_ms.store(to, Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.monotonic_us.load(Ordering::SeqCst))
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::SeqCst)
    }

    fn rest(&self, control: &Control, time: Duration) -> Result<(), PruneError> {
        self.advance(time);
        control.ended().map_or(Ok(()), Err)
    }

    fn sleep(&self, time: Duration) -> Sleep<'_> {
        let mut sleepers = self.sleepers.lock();
        sleepers.slept.push(time);
        self.asleep.notify_all();
        if sleepers.are_held {
            return Box::pin(std::future::pending());
        }
        self.advance(time);
        Box::pin(std::future::ready(()))
    }
}
