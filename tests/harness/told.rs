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

impl Told {
    /// How cycles ended: their number and what they came to.
    pub fn ends(&self) -> Vec<(u64, String)> {
        let end = |event: &Event| match event {
            Event::CycleEnded(end) => Some((end.cycle, end.outcome.clone())),
            _ => None,
        };
        self.0.lock().iter().filter_map(end).collect()
    }
}
