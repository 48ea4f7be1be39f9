//! A sink that keeps what it is told.

use parking_lot::Mutex;
use state_pruner::events::{Event, EventSink};

/// What was told, in order.
#[derive(Debug, Default)]
pub struct Told(pub Mutex<Vec<Event>>);

impl EventSink for Told {
    fn emit(&self, event: Event) {
        self.0.lock().push(event);
    }
}
