//! Holding captures back: whoever goes back to an older order asks what the cycle at work has captured, and it must not
//! capture anything else before the history has changed (S37).

use parking_lot::MutexGuard;

use super::AtomicSnapshotManager;

/// Nobody takes a snapshot while it is held; what works on the current one goes on.
pub(crate) struct Captures<'a> {
    manager: &'a AtomicSnapshotManager,
    _capturing: MutexGuard<'a, ()>,
}

impl Captures<'_> {
    /// The head of the current snapshot, whoever took it.
    pub(crate) fn newest(&self) -> Option<u64> {
        let state = self.manager.state.lock();
        state.held.as_ref().map(|held| held.snapshot.snapshot.latest_order)
    }

    /// The same as long as its cycle is open: nothing where the next one has not captured yet, nor one that goes on behind a
    /// restart taken it up.
    pub(crate) fn of_open_cycle(&self) -> Option<u64> {
        let is_open = self.manager.state.lock().held.as_ref().is_some_and(|held| held.barrier.is_some());
        self.newest().filter(|_| is_open)
    }
}

impl AtomicSnapshotManager {
    /// Waits for a capture under way, and lets none begin until the returned value is dropped. Do not wait for a cycle with it:
    /// the cycle may wait for it.
    pub(crate) fn hold_captures(&self) -> Captures<'_> {
        Captures { manager: self, _capturing: self.capturing.lock() }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        num::NonZeroU64,
        sync::{Arc, mpsc},
        thread,
    };

    use parking_lot::Mutex;
    use state_store::{Durability, MemoryBackend, NativeChain, Store, StoreConfig};

    use super::*;
    use crate::{
        clock::ManualClock,
        error::PruneError,
        events::NoEvents,
        phase::PrunePhase,
        policy::LiveWindow,
        records::StoreRecords,
        roots::Retention,
        snapshot::{RetentionPolicy, SnapshotManagerConfig, SnapshotParts},
    };

    /// Is asked in the midst of a capture, and answers when it is told to.
    struct Asked {
        inner: LiveWindow,
        asked: mpsc::Sender<()>,
        answers: Mutex<mpsc::Receiver<()>>,
    }

    impl RetentionPolicy for Asked {
        fn advance(&self) -> Result<(), PruneError> {
            self.inner.advance()
        }

        fn retention(&self) -> Result<Retention, PruneError> {
            self.asked.send(()).unwrap();
            self.answers.lock().recv().unwrap();
            self.inner.retention()
        }
    }

    /// S37: so that it is known what is captured, or nothing is.
    #[test]
    fn whoever_holds_captures_waits_for_the_one_under_way() {
        let backend = Arc::new(MemoryBackend::new());
        let store = Arc::new(Store::open(backend, StoreConfig::new(Durability::Logged)).unwrap());
        let inner = LiveWindow { store: Arc::clone(&store), keep_last: NonZeroU64::MIN, floor_rows: None };
        let ((asked, is_asked), (answer, answers)) = (mpsc::channel(), mpsc::channel());
        let parts = SnapshotParts {
            store: Arc::clone(&store),
            chain: Arc::new(NativeChain),
            records: Arc::new(StoreRecords(store)),
            policy: Arc::new(Asked { inner, asked, answers: Mutex::new(answers) }),
            facts: None,
            clock: Arc::new(ManualClock::default()),
            events: Arc::new(NoEvents),
        };
        let manager = &AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
        thread::scope(|scope| {
            let capture = scope.spawn(|| manager.create_snapshot(PrunePhase::BuildReach));
            is_asked.recv().unwrap();
            let is_held = manager.capturing.is_locked();
            answer.send(()).unwrap();
            assert!(capture.join().unwrap().is_err(), "there is no state");
            assert!(is_held);
        });
        let captures = manager.hold_captures();
        assert_eq!((captures.newest(), captures.of_open_cycle()), (None, None));
    }
}
