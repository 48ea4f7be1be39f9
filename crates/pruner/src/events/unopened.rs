//! A journal that could not be opened: it is tried again at growing distances, and what happens meanwhile waits in memory, up to a
//! bound. Numbers are given when it is open: it may have events of earlier processes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    event::Happened,
    file::{EventFile, Found},
    medium::Mount,
    queue::CAPACITY,
};
use crate::{clock::Clock, error::PruneError};

/// A device that is full, or the lock of a process that is just dying, may be over soon.
const FIRST: Duration = Duration::from_secs(1);
/// An operator who has mended it does not wait long.
const MOST: Duration = Duration::from_secs(60);

/// What is known of it until then.
pub(super) struct Unopened {
    dir: PathBuf,
    mount: Mount,
    /// When to try again, by the monotonic clock.
    at: Duration,
    wait: Duration,
    held: Vec<Arc<Happened>>,
}

impl Unopened {
    pub(super) fn new(dir: PathBuf, mount: Mount, clock: &dyn Clock) -> Self {
        Self { dir, mount, at: clock.monotonic().saturating_add(FIRST), wait: FIRST, held: Vec::new() }
    }

    /// How long until it is tried again.
    pub(super) fn due_in(&self, clock: &dyn Clock) -> Duration {
        self.at.saturating_sub(clock.monotonic())
    }

    /// There is no later time.
    pub(super) fn last_time(&mut self) {
        self.at = Duration::ZERO;
    }

    /// Tries again, if it is time.
    pub(super) fn open(&mut self, clock: &dyn Clock) -> Option<Result<(EventFile, Found), PruneError>> {
        if !self.due_in(clock).is_zero() {
            return None;
        }
        let opened = EventFile::open(&self.dir, Arc::clone(&self.mount), clock.unix_ms());
        self.wait = self.wait.saturating_mul(2).min(MOST);
        self.at = clock.monotonic().saturating_add(self.wait);
        Some(opened)
    }

    /// Keeps an event. False where there is no room for it.
    pub(super) fn hold(&mut self, happened: &Arc<Happened>) -> bool {
        let has_room = self.held.len() < CAPACITY;
        if has_room {
            self.held.push(Arc::clone(happened));
        }
        has_room
    }

    /// What was kept, in order.
    pub(super) fn into_held(self) -> Vec<Arc<Happened>> {
        self.held
    }
}
