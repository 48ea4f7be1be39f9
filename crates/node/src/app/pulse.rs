//! The heartbeat of a node, each second, on a thread that nobody waits for, as long as its store is open: also while it ends.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use state_pruner::Heart;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::caretaker::Caretaker;

const BETWEEN_BEATS: Duration = Duration::from_secs(1);

/// Lets the heart beat until the store is closed. One beat at a time, however long the disk takes. A failure is told once, until
/// one was written again.
pub(super) async fn keep(heart: Arc<Heart>, caretaker: Weak<Caretaker>) {
    let (mut timer, mut fails) = (interval(BETWEEN_BEATS), false);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !heart.is_over() {
        timer.tick().await;
        let (heart, caretaker) = (Arc::clone(&heart), caretaker.clone());
        let failure = match spawn_blocking(move || heart.beat(|| need(&caretaker))).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => {
                return tracing::error!("the heartbeat panicked, which is a bug of ours; restart to have one again");
            }
        };
        if let Some(error) = failure.as_ref().filter(|_| !fails) {
            tracing::warn!(
                code = error.code(),
                "no heartbeat can be written; `health-check --db` reads the store: {error}"
            );
        }
        fails = failure.is_some();
    }
}

/// Bytes that the next cycle needs, as health knows them.
fn need(caretaker: &Weak<Caretaker>) -> Option<u64> {
    caretaker.upgrade()?.facts().room.map(|room| room.need)
}
