//! Ending work that no checkpoint reaches, such as a rewrite inside the engine.
//!
//! Ending it may take as long as the work does: the engine waits for what is under way, and that for the disk. So a thread
//! of the work's own does that, and whoever tells the work to end waits for nothing (I12, C20): it may be the thread that makes
//! blocks, or one that holds what a health check asks.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use parking_lot::MutexGuard;
use state_store::StoreError;

use super::Control;
use crate::{error::PruneError, threads};

/// An end may come before what it interrupts has begun: it is tried again after so long.
const AGAIN: Duration = Duration::from_millis(50);

impl Control {
    /// Does `work`. From when it is told to end until it has ended, a thread beside it calls `interrupt` again and again.
    ///
    /// Errors: those of `work`; the system has no thread to give, and nothing was done.
    pub fn interrupting<T, E: From<PruneError>>(
        &self,
        interrupt: impl Fn() + Sync,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            threads::begin(scope, "pruner-end", || self.interrupt_until(&is_over, &interrupt))?;
            let _ends = Ends { control: self, is_over: &is_over };
            work()
        })
    }

    /// Whether nobody has told the work to end, as work of the store asks.
    pub(crate) fn goes_on(&self) -> bool {
        self.ended().is_none()
    }

    /// Work of the store that ended because it was told to end is no failure of it.
    pub(crate) fn unless_ended(&self, error: impl Into<PruneError>) -> PruneError {
        match (error.into(), self.ended()) {
            (PruneError::Store(StoreError::Cancelled), Some(ended)) => ended,
            (error, _) => error,
        }
    }

    fn interrupt_until(&self, is_over: &AtomicBool, interrupt: &(dyn Fn() + Sync)) {
        let mut state = self.state.lock();
        while !is_over.load(Ordering::Acquire) {
            if Self::end_of(state.wish).is_none() {
                self.changed.wait(&mut state);
                continue;
            }
            MutexGuard::unlocked(&mut state, interrupt);
            if !is_over.load(Ordering::Acquire) {
                self.changed.wait_for(&mut state, AGAIN);
            }
        }
    }
}

/// Ends the thread beside the work, also where the work panics.
struct Ends<'a> {
    control: &'a Control,
    is_over: &'a AtomicBool,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let _state = self.control.state.lock(); // so that nobody has looked and does not wait yet
        self.is_over.store(true, Ordering::Release);
        self.control.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::{atomic::AtomicUsize, mpsc},
    };

    use state_store::Disposition;

    use super::*;
    use crate::{control::Told, threads::lack::Lack};

    const LONG: Duration = Duration::from_secs(60);

    /// As in the engine: the interrupt returns when the work has ended, and the work ends later than whoever wants it to.
    #[test]
    fn whoever_ends_the_work_waits_for_nothing_that_interrupts_it() {
        let cancel = |control: &Control| assert_eq!(control.cancel(), Told::InTime);
        for end in [Control::stop, cancel] {
            let control = Control::default();
            let (begun, begins) = mpsc::channel();
            let (told, is_told) = mpsc::channel();
            let (over, is_over) = mpsc::channel::<()>();
            let is_over = parking_lot::Mutex::new(is_over);
            thread::scope(|scope| {
                let control = &control;
                scope.spawn(move || {
                    begins.recv().unwrap();
                    end(control);
                    told.send(()).unwrap();
                });
                let interrupt = || assert!(is_over.lock().recv().is_err()); // until the work lets go of its end
                let worked = control.interrupting(interrupt, move || {
                    begun.send(()).unwrap();
                    let told = is_told.recv_timeout(LONG);
                    drop(over);
                    told.map_err(|error| PruneError::Invariant(error.to_string()))
                });
                worked.unwrap();
            });
        }
    }

    #[test]
    fn an_end_that_came_before_the_work_is_tried_until_it_is_over() {
        let (control, calls) = (Control::default(), AtomicUsize::new(0));
        control.stop();
        let work = || {
            let is_called = (0..10_000_000).any(|_| {
                thread::yield_now();
                calls.load(Ordering::Acquire) > 2
            });
            assert!(is_called);
            Ok::<_, PruneError>(())
        };
        let interrupt = || {
            calls.fetch_add(1, Ordering::AcqRel);
        };
        control.interrupting(interrupt, work).unwrap();
    }

    #[test]
    fn work_without_a_thread_that_would_end_it_is_not_begun() {
        let (control, lack) = (Control::default(), Lack::after(0));
        let never = || panic!("nothing is interrupted");
        let work = || -> Result<(), PruneError> { panic!("it was begun") };
        let error = control.interrupting(never, work).unwrap_err();
        assert!(lack.is_met() && matches!(error, PruneError::NoThread { name: "pruner-end", .. }), "{error}");
        assert_eq!(error.disposition(), Disposition::Resource);
        assert_eq!(control.interrupting(never, || Ok::<_, PruneError>(7)).unwrap(), 7, "it passes");
    }

    #[test]
    fn work_that_nobody_ends_or_that_panics_leaves_no_thread() {
        let control = Control::default();
        let never = || panic!("nothing is interrupted");
        assert_eq!(control.interrupting(never, || Ok::<_, PruneError>(7)).unwrap(), 7);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            control.interrupting(never, || -> Result<(), PruneError> { panic!("work") })
        }));
        assert!(panicked.is_err());
    }
}
