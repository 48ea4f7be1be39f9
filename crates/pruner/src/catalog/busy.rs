//! One capture at a time in a node: a second one is told about the first, and does not wait for it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{CatalogError, SnapshotId};
use crate::{clock::Clock, control::Control};

#[derive(Debug, Clone, Copy)]
struct Running {
    id: SnapshotId,
    since_ms: u64,
}

/// The captures of one process.
#[derive(Debug, Default)]
pub struct Captures {
    running: Mutex<Option<Running>>,
    control: Arc<Control>,
}

/// The one capture that is at work; it ends with this value.
#[derive(Debug)]
pub struct Capture<'a> {
    captures: &'a Captures,
    id: SnapshotId,
}

impl Captures {
    /// Begins a capture.
    ///
    /// Errors: [`CatalogError::CaptureBusy`] while another one is at work.
    pub fn begin(&self, clock: &dyn Clock) -> Result<Capture<'_>, CatalogError> {
        let mut running = self.running.lock();
        if let Some(Running { id, since_ms }) = *running {
            return Err(CatalogError::CaptureBusy { id, pid: std::process::id(), since_ms });
        }
        let id = SnapshotId::draw(clock);
        *running = Some(Running { id, since_ms: clock.unix_ms() });
        Ok(Capture { captures: self, id })
    }

    /// What ends the captures of this process.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }
}

impl Capture<'_> {
    /// The id of the snapshot that it makes.
    pub fn id(&self) -> SnapshotId {
        self.id
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        *self.captures.running.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_second_capture_is_told_about_the_first_and_the_next_one_begins() {
        let (captures, clock) = (Captures::default(), ManualClock::default());
        clock.set_unix_ms(1_764_162_097_123);
        let first = captures.begin(&clock).unwrap();
        let told = captures.begin(&clock).unwrap_err();
        let expected = format!(
            "busy: capture {} by process {} since 2025-11-26T13:01:37.123Z. A node",
            first.id(),
            std::process::id()
        );
        let told_what_to_do = told.to_string().contains("ask again when that one is done");
        assert!(told.to_string().starts_with(&expected) && told_what_to_do, "{told}");
        assert_eq!(told.code(), "capture_busy");
        drop(first);
        assert!(captures.begin(&clock).is_ok());
    }
}
