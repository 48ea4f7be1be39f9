//! The end of the worker: asked for, and waited for as long as whoever asks wants to.
//!
//! Nobody can end a thread that waits for a disk. Whoever has waited long enough is told what it is at, and ends the process:
//! what it holds is on disk as after a kill, and no end is claimed that was none.

use std::{
    convert::Infallible,
    sync::mpsc::{Receiver, RecvTimeoutError, TrySendError},
    thread::JoinHandle,
    time::Duration,
};

use super::{
    Message, Pruner,
    shared::{Life, Shared},
};
use crate::error::PruneError;

/// The thread of the worker.
pub(super) struct Worker {
    thread: Option<JoinHandle<()>>,
    /// Nothing is ever sent: it is closed when the thread has ended.
    ended: Receiver<Infallible>,
    /// Somebody has waited for it in vain, so nobody waits who does not ask to.
    hangs: bool,
}

impl Worker {
    pub(super) fn new(thread: JoinHandle<()>, ended: Receiver<Infallible>) -> Self {
        Self { thread: Some(thread), ended, hangs: false }
    }

    /// Waits until the thread has ended.
    fn join(&mut self) {
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the pruner thread panicked outside a cycle");
        }
    }
}

impl Pruner {
    /// Stops for good: what is at work ends at its next checkpoint and goes on after the next start, waits end at once, locks
    /// are released. Returns when the worker has ended, which a disk that hangs may put off without end. Stopped before, there
    /// is nothing to do. Not for the worker itself.
    pub fn stop(&self) {
        self.tell_to_stop();
        self.worker.lock().join(); // whoever stops it too waits here for the same end
    }

    /// The same, waiting no longer than this.
    ///
    /// Errors: [`PruneError::StillWorking`]: the worker has not ended, holds the store, and may still write what it was at; end
    /// the process. Dropping the pruner then waits for it no more, unless somebody else was waiting for it already.
    pub fn stop_within(&self, patience: Duration) -> Result<(), PruneError> {
        self.tell_to_stop();
        let late = || PruneError::StillWorking { doing: self.at_work().to_owned(), waited: patience };
        let clock = &self.inner.parts.clock;
        let until = clock.monotonic().saturating_add(patience);
        let mut worker = self.worker.try_lock_for(patience).ok_or_else(late)?;
        match worker.ended.recv_timeout(until.saturating_sub(clock.monotonic())) {
            Err(RecvTimeoutError::Timeout) => {
                worker.hangs = true;
                Err(late())
            }
            Err(RecvTimeoutError::Disconnected) => {
                worker.join();
                Ok(())
            }
            Ok(never) => match never {},
        }
    }

    /// What the worker is at. Waits for no disk.
    pub fn at_work(&self) -> &'static str {
        self.inner.shared.lock().at_work()
    }

    fn tell_to_stop(&self) {
        let running = {
            let mut shared = self.inner.shared.lock();
            shared.life = Life::Stopping; // a cycle begins under the same lock, so none can begin unseen
            [shared.running.clone(), shared.steady.control.clone()]
        };
        running.into_iter().flatten().for_each(|control| control.stop());
        self.inner.recovery.stop();
        match self.inbox.try_send(Message::Stop) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {} // it looks anyway, or has ended
        }
    }
}

impl Drop for Pruner {
    fn drop(&mut self) {
        self.tell_to_stop();
        let worker = self.worker.get_mut();
        if worker.hangs {
            tracing::warn!("the worker of the pruner has not ended; it is left to the end of the process");
            return;
        }
        worker.join();
    }
}

impl Shared {
    fn at_work(&self) -> &'static str {
        if let Some(progress) = &self.progress {
            return progress.stage.doing();
        }
        match (&self.running, &self.steady.control) {
            (Some(_), _) => "a cycle, between its stages",
            (None, Some(_)) => "the sweep between cycles",
            (None, None) => "what it does between runs",
        }
    }
}
