//! Pause, resume and cancel for work in progress, and what the work tells whoever watches.
//!
//! Every loop over data passes `Control::checkpoint` once per batch: it waits there while paused and ends there when
//! cancelled. Waiting is on a condition, so a stop interrupts it at once (P21), but for what is seen to each second while the work
//! holds, which may wait for the disk. Work that has an end passes
//! `Control::last_checkpoint` before it: a pause or a cancel that comes later is refused, and one that was taken is obeyed.

mod interrupting;

use std::{sync::OnceLock, time::Duration};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::{error::PruneError, phase::PhaseEvent};

/// How often whoever holds sees to what goes on around it.
const BEAT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Pause,
    Cancel,
    Stop,
}

/// How far a pause has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// Nobody asked for one.
    No,
    /// Asked for; the batch or range at work is finished first.
    Asked,
    /// The work holds; where it has several threads the others follow at their next batch.
    Holding,
}

/// Whether what an operator asks of the work comes in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The work does it at its next checkpoint, unless it fails before.
    InTime,
    /// The work ends first: it is past its last checkpoint, or was told to end.
    TooLate,
}

/// Where the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// A checkpoint is still to come.
    Work,
    /// It waits at one.
    Checkpoint,
    /// It is past the last one.
    End,
}

#[derive(Debug, Clone, Copy)]
struct State {
    wish: Wish,
    at: At,
    /// A cancel came too late for what is at work.
    late: bool,
}

/// What the operator wants of the running work. A cancel and a stop are final.
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes what waits elsewhere.
    interrupt: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
    /// Done again and again while the work holds.
    upkeep: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Ends what awaits.
    ended: CancellationToken,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("state", &*self.state.lock()).finish_non_exhaustive()
    }
}

impl Default for Control {
    fn default() -> Self {
        let state = Mutex::new(State { wish: Wish::Run, at: At::Work, late: false });
        let (changed, interrupt, ended) = (Condvar::new(), Mutex::new(None), CancellationToken::new());
        Self { state, changed, interrupt, upkeep: OnceLock::new(), ended }
    }
}

impl Control {
    /// Holds the work at its next checkpoint: before the next batch, or the next range of a sweep by filter.
    pub fn pause(&self) -> Told {
        self.set(Wish::Pause)
    }

    /// Lets paused work go on.
    pub fn resume(&self) {
        self.set(Wish::Run);
    }

    /// Ends the work for good: its cycle is abandoned.
    pub fn cancel(&self) -> Told {
        let told = self.set(Wish::Cancel);
        if told == Told::InTime {
            self.interrupt();
        }
        told
    }

    /// Ends the work because the process ends, or deletes were frozen: its cycle goes on after the next start, or the freeze.
    pub fn stop(&self) {
        self.set(Wish::Stop);
        self.interrupt();
    }

    /// Sets what a cancel or a stop calls at once, and at once if it came before. It wakes somebody and waits for nothing: what
    /// may take longer is for [`Control::interrupting`].
    pub fn on_end(&self, interrupt: Box<dyn Fn() + Send + Sync>) {
        *self.interrupt.lock() = Some(interrupt);
        if self.ended().is_some() {
            self.interrupt();
        }
    }

    /// Takes back what [`Control::on_end`] set: what it would end is over.
    pub fn forget_end(&self) {
        *self.interrupt.lock() = None;
    }

    /// Sets what is done each second while the work holds, on its own thread; of two the first stays.
    pub(crate) fn while_held(&self, upkeep: Box<dyn Fn() + Send + Sync>) {
        self.upkeep.get_or_init(|| upkeep);
    }

    fn interrupt(&self) {
        if let Some(interrupt) = &*self.interrupt.lock() {
            interrupt();
        }
    }

    /// Why the work must end, once it must.
    pub fn ended(&self) -> Option<PruneError> {
        Self::end_of(self.state.lock().wish)
    }

    fn end_of(wish: Wish) -> Option<PruneError> {
        match wish {
            Wish::Run | Wish::Pause => None,
            Wish::Cancel => Some(PruneError::Cancelled),
            Wish::Stop => Some(PruneError::Stopped),
        }
    }

    /// Whether the work is to stop at its next checkpoint, to go on later.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(*self.state.lock(), State { wish: Wish::Stop, at: At::Work | At::Checkpoint, .. })
    }

    /// Whether the work was told to wait.
    pub fn is_paused(&self) -> bool {
        self.pause_state() != Pause::No
    }

    /// How far a pause has got.
    pub fn pause_state(&self) -> Pause {
        match *self.state.lock() {
            State { wish: Wish::Pause, at: At::Checkpoint, .. } => Pause::Holding,
            State { wish: Wish::Pause, at: At::Work, .. } => Pause::Asked,
            State { wish: Wish::Pause, at: At::End, .. }
            | State { wish: Wish::Run | Wish::Cancel | Wish::Stop, .. } => Pause::No,
        }
    }

    /// Decided under the lock under which the work passes its last checkpoint.
    fn set(&self, to: Wish) -> Told {
        let mut state = self.state.lock();
        let is_told_to_end = Self::end_of(state.wish).is_some() && state.wish != to;
        if is_told_to_end || (state.at == At::End && to != Wish::Stop) {
            state.late |= to == Wish::Cancel;
            return Told::TooLate;
        }
        state.wish = to;
        if Self::end_of(to).is_some() {
            self.ended.cancel();
        }
        self.changed.notify_all();
        Told::InTime
    }

    /// Completes when the work must end, with the reason.
    pub async fn end(&self) -> PruneError {
        self.ended.cancelled().await;
        self.ended().map_or(PruneError::Stopped, |why| why)
    }

    /// Waits while paused.
    ///
    /// Errors: [`PruneError::Cancelled`] or [`PruneError::Stopped`] once told so.
    pub fn checkpoint(&self) -> Result<(), PruneError> {
        self.pass(At::Work)
    }

    /// The same, where nothing is left that a pause could hold or a cancel spare: both come too late from here on.
    ///
    /// Errors: as above.
    pub(crate) fn last_checkpoint(&self) -> Result<(), PruneError> {
        self.pass(At::End)
    }

    /// The work failed after its last checkpoint, and may be tried again, unless a cancel came too late for what has failed.
    pub(crate) fn work_goes_on(&self) {
        let mut state = self.state.lock();
        state.at = At::Work;
        if std::mem::take(&mut state.late) && Self::end_of(state.wish).is_none() {
            state.wish = Wish::Cancel;
            self.ended.cancel();
            self.changed.notify_all();
        }
    }

    /// The work has come to its end, however it did.
    pub(crate) fn work_is_over(&self) {
        self.state.lock().at = At::End;
    }

    fn pass(&self, to: At) -> Result<(), PruneError> {
        let mut state = self.state.lock();
        while state.wish == Wish::Pause {
            state.at = At::Checkpoint;
            if self.changed.wait_for(&mut state, BEAT).timed_out() {
                MutexGuard::unlocked(&mut state, || self.upkeep.get().into_iter().for_each(|upkeep| upkeep()));
            }
        }
        let ended = Self::end_of(state.wish);
        state.at = if ended.is_none() { to } else { At::Work };
        ended.map_or(Ok(()), Err)
    }

    /// Waits for `time`, or until told to end.
    pub fn rest(&self, time: Duration) -> Result<(), PruneError> {
        let mut state = self.state.lock();
        while Self::end_of(state.wish).is_none() {
            // A pause or resume in between starts the wait again: a brake may be too long, never too short.
            if self.changed.wait_for(&mut state, time).timed_out() {
                break;
            }
        }
        Self::end_of(state.wish).map_or(Ok(()), Err)
    }
}

/// A step of work that has a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading every node in key order.
    Scan,
    /// Marking what the roots reach.
    Mark,
    /// Rewriting ranges, or deleting in batches.
    Sweep,
    /// Giving back the space of deleted rows.
    Reclaim,
    /// Reading live nodes back.
    Verify,
    /// Holding every present node against those that are reached.
    Count,
}

impl Stage {
    /// The word shown for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Mark => "mark",
            Self::Sweep => "sweep",
            Self::Reclaim => "reclaim",
            Self::Verify => "verify",
            Self::Count => "count",
        }
    }

    /// The same in words.
    pub(crate) fn doing(self) -> &'static str {
        match self {
            Self::Scan => "a cycle that scans",
            Self::Mark => "a cycle that marks",
            Self::Sweep => "a cycle that sweeps",
            Self::Reclaim => "a cycle that gives space back",
            Self::Verify => "a cycle that reads a sample back",
            Self::Count => "a verification that counts the nodes",
        }
    }
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// Items handled so far: nodes, or bytes where a stage moves files.
    pub done: u64,
    /// The share of the key space behind the work, from 0 to 1, where the stage follows keys (they are uniform, so
    /// this is an honest basis for an ETA); absent where it does not.
    pub share: Option<f64>,
}

/// The record of a cycle that is not at work: nothing is deleted between cycles before somebody takes it up.
#[derive(Debug)]
pub enum Left {
    /// An interrupted cycle waits until an operator lets deletes go on; [`crate::cycle::resume`] takes it up then.
    Frozen,
    /// A cycle ended by this event, and its record could not be removed.
    Unended {
        /// How it ended.
        event: PhaseEvent,
        /// What stood in the way.
        error: PruneError,
    },
}

/// Who freezes deletes by what a cycle met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrozenBy {
    /// The cycle, on record.
    Cycle,
    /// Whoever watches it; it is done.
    Observer,
}

/// What the end of a cycle meant for the doubt on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// There was one, and it is gone.
    Now,
    /// There was none, or it stays.
    No,
}

/// Watches work in progress. Called at batch boundaries; must return quickly.
pub trait Observer: Send + Sync {
    /// A cycle of this id begins, or goes on after a restart.
    fn began(&self, _cycle: u64) {}

    /// Its snapshot has this head: what is committed later is not part of it.
    fn captured(&self, _head: u64) {}

    /// The work is over, and left the record of a cycle.
    fn left(&self, _left: &Left) {}

    /// A cycle met a fault that may lie in live data, and deletes freeze: by whoever watches, in memory, on record and in
    /// what is told; where nobody does, by the cycle.
    fn met(&self, _cycle: Option<u64>, _error: &PruneError) -> FrozenBy {
        FrozenBy::Cycle
    }

    /// A cycle settles the doubt on record, which others may change too: one at a time.
    fn settles(&self, settle: &mut dyn FnMut() -> Settled) {
        settle();
    }

    /// What so many states below the floor hold is read, up to that of an order, and no slice is taken meanwhile.
    fn walks(&self, _states: u64, _newest: u64) {}

    /// A cycle is about to go on with a walk, which may take hours.
    fn walks_on(&self) {}

    /// So many nodes more were deleted by a cycle.
    fn deleted(&self, _nodes: u64) {}

    /// The stage got this far.
    fn progress(&self, progress: Progress);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&self, _progress: Progress) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_cancel_ends_paused_work_and_is_final() {
        let control = Arc::new(Control::default());
        control.pause();
        assert_eq!(control.pause_state(), Pause::Asked, "nothing has got to a checkpoint");
        let worker = {
            let control = Arc::clone(&control);
            std::thread::Builder::new().spawn(move || control.checkpoint()).unwrap()
        };
        while control.pause_state() != Pause::Holding {
            std::thread::yield_now();
        }
        control.cancel();
        assert!(matches!(worker.join().unwrap(), Err(PruneError::Cancelled)));
        control.resume();
        assert!(control.checkpoint().is_err());
        assert_eq!(control.pause_state(), Pause::No);
        assert_eq!((control.pause(), control.cancel()), (Told::TooLate, Told::InTime), "it ends already");
    }

    #[test]
    fn past_the_last_checkpoint_nothing_is_held_or_cancelled_until_the_work_goes_on() {
        let control = Control::default();
        control.checkpoint().unwrap();
        assert_eq!(control.pause(), Told::InTime);
        control.resume();
        control.last_checkpoint().unwrap();
        assert_eq!((control.pause(), control.pause_state()), (Told::TooLate, Pause::No));
        control.work_goes_on();
        assert_eq!((control.pause(), control.pause_state()), (Told::InTime, Pause::Asked));
        control.work_is_over();
        assert_eq!(control.pause_state(), Pause::No, "it failed before it got to a checkpoint");
        control.stop();
        assert!(control.ended().is_some(), "a stop is never refused");
    }

    #[test]
    fn a_cancel_that_came_too_late_ends_what_would_be_tried_again() {
        let control = Control::default();
        control.last_checkpoint().unwrap();
        assert_eq!(control.cancel(), Told::TooLate);
        assert!(control.ended().is_none(), "it ends as it would have");
        control.work_goes_on();
        assert!(matches!(control.checkpoint(), Err(PruneError::Cancelled)));
    }
}
