//! What is logged as a warning or worse.
//!
//! One subscriber for the whole process: with one for each test the engine of the log may remember that nobody listens to a
//! line, by a thread that came to it first and has none.

use std::{cell::RefCell, sync::Once};

thread_local! {
    /// Of a thread that listens.
    static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static LISTENING: Once = Once::new();

/// Does some work and returns the lines that it logged on this thread.
pub fn warnings(work: impl FnOnce()) -> Vec<String> {
    LISTENING.call_once(|| tracing::subscriber::set_global_default(Listener).unwrap());
    HEARD.replace(Some(Vec::new()));
    work();
    HEARD.take().unwrap()
}

struct Listener;

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        if HEARD.with_borrow(Option::is_none) {
            return;
        }
        let mut line = String::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            line.push_str(&format!("{}={value:?} ", field.name()));
        });
        HEARD.with_borrow_mut(|heard| {
            if let Some(heard) = heard {
                heard.push(line);
            }
        });
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
