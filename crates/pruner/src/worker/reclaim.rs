//! Giving the space of deleted rows back while the chain is idle: where no commits come, nothing else compacts over tombstones.
//!
//! Promises: it begins once no commit has come for [`AFTER`] and nothing else is due; one range at a time, each followed by a
//! rest; a commit ends a range that is at work, without waiting for it (I12), and what is left goes on when the chain is idle
//! again; each range once, then nothing before the next commit.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

use super::{Inner, shared::Shared};
use crate::{
    clock::millis,
    control::Control,
    error::PruneError,
    events::{Event, Reclaimed},
    metrics,
    sweep::{self, Tombstones},
};

/// A chain without commits for so long gives space back.
const AFTER: Duration = Duration::from_secs(30);
/// So many times as long as a range took is rested after it.
const REST: u32 = 3;
/// What failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(300);

/// What deleted rows still take, and what was given back.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReclaimStatus {
    /// Tombstones in the files when the chain was idle last; absent until it was.
    pub found: Option<Tombstones>,
    /// Whether a range is being rewritten, or the next one waits for its rest or for an idle chain.
    pub under_way: bool,
    /// Ranges rewritten since the process began.
    pub ranges_total: u64,
    /// Why the last one failed, if it did.
    pub failure: Option<String>,
}

/// A pass over the keys.
#[derive(Debug, Clone)]
struct Pass {
    /// Nothing at the beginning.
    from: Option<Vec<u8>>,
    found: Tombstones,
    ranges: u64,
    working: Duration,
}

/// What commits and worker share of it.
#[derive(Debug, Default)]
pub(super) struct ReclaimShared {
    last_commit: Duration,
    not_before: Duration,
    stands: Stands,
    pass: Option<Pass>,
    /// Steps in a row that failed.
    failures: u32,
    status: ReclaimStatus,
}

/// How it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stands {
    /// For an idle chain, or for the end of a rest.
    #[default]
    Waits,
    AtWork,
    /// Nothing is left to do before the next commit.
    Done,
}

/// What one step came to.
enum Step {
    /// Nothing is worth a rewrite.
    Nothing(Tombstones),
    /// A range was rewritten, and where the next one begins.
    Range { bytes: u64, next: Option<Vec<u8>> },
    /// No range is left.
    Over(Tombstones),
}

impl ReclaimShared {
    pub(super) fn status(&self) -> ReclaimStatus {
        ReclaimStatus { under_way: self.pass.is_some(), ..self.status.clone() }
    }

    fn committed(&mut self, now: Duration, at_work: Option<&Control>) {
        self.last_commit = now;
        match (self.stands, at_work) {
            (Stands::AtWork, Some(control)) => {
                control.cancel(); // only sets a flag: nothing is called back
            }
            (Stands::AtWork, None) => {}
            (Stands::Waits | Stands::Done, _) => self.stands = Stands::Waits,
        }
    }

    /// When the next step is due, if any.
    fn due(&self) -> Option<Duration> {
        (self.stands != Stands::Done).then(|| self.last_commit.saturating_add(AFTER).max(self.not_before))
    }
}

impl Shared {
    /// A commit came: what is at work ends, and its space counts anew.
    pub(super) fn committed_beside_reclaim(&mut self, now: Duration) {
        self.reclaim.committed(now, self.steady.control.as_deref());
    }

    /// Begins a step, unless none is wanted.
    pub(super) fn begin_reclaim(&mut self, now: Duration) -> Result<Arc<Control>, Option<Duration>> {
        if !self.lets_work_begin() {
            return Err(None);
        }
        match self.reclaim.due() {
            Some(at) if at <= now => {
                self.reclaim.stands = Stands::AtWork;
                Ok(Arc::clone(self.steady.control.insert(Arc::default())))
            }
            at => Err(at),
        }
    }
}

impl Inner {
    /// One step: a look at the files, and a range if that is worth it.
    pub(super) fn reclaim(&self, control: &Control) {
        let began = self.parts.clock.monotonic();
        let pass = self.shared.lock().reclaim.pass.clone();
        let stepped = catch_unwind(AssertUnwindSafe(|| self.watched(control, || self.step(control, pass.as_ref()))));
        let panicked = stepped.is_err().then(|| "giving space back panicked; see the log".to_owned());
        let step = stepped.unwrap_or_else(|_| Err(PruneError::Invariant("giving space back panicked".to_owned())));
        let now = self.parts.clock.monotonic();
        if panicked.is_some() {
            tracing::error!("giving space back panicked; the node serves, pruning has ended");
        }
        let retried = self.judge(&step);
        let news = {
            let mut shared = self.shared.lock();
            shared.steady.control = None;
            shared.poisoned = panicked.clone().or(shared.poisoned.take()); // P14
            let io_limit = self.config.cycle.io_limit.map(|limit| limit.get());
            let over = shared.reclaim.ended(step, (began, now), io_limit);
            let retried = retried.filter(|_| panicked.is_none());
            [retried, panicked.map(|why| Event::WorkerPanicked { why }), over]
        };
        self.rested.notify_all();
        news.into_iter().flatten().for_each(|event| self.parts.events.emit(event));
    }

    /// Tells recovery how a step ended, and freezes deletes where it met damage (I11). Gives what is to be told of a retry.
    fn judge(&self, step: &Result<Step, PruneError>) -> Option<Event> {
        let failures = {
            let failures = &mut self.shared.lock().reclaim.failures;
            match step {
                Ok(_) => std::mem::take(failures),
                Err(PruneError::Cancelled | PruneError::Stopped) => return None,
                Err(_) => {
                    *failures += 1;
                    *failures
                }
            }
        };
        let Err(error) = step else {
            (failures > 0).then(|| self.recovery.outside_succeeded(failures));
            return None;
        };
        self.freeze_by(error, None);
        Some(self.recovery.outside_failed(failures, error, AGAIN))
    }

    /// A rewrite ends when the control says so; whoever says so does not wait for it.
    fn watched<T>(&self, control: &Control, work: impl FnOnce() -> Result<T, PruneError>) -> Result<T, PruneError> {
        let backend = self.parts.store.backend();
        control.interrupting(|| backend.cancel_rewrite(), work).map_err(|error| control.unless_ended(error))
    }

    fn step(&self, control: &Control, pass: Option<&Pass>) -> Result<Step, PruneError> {
        let backend = self.parts.store.backend();
        let found = Tombstones::measure(backend)?;
        if pass.is_none() && !found.are_many() {
            return Ok(Step::Nothing(found));
        }
        let from = pass.and_then(|pass| pass.from.clone());
        let Some(range) = sweep::next_range(backend, from, self.config.cycle.range_bytes.get())? else {
            return Ok(Step::Over(found));
        };
        if pass.is_none() {
            self.shared.lock().reclaim.pass = Some(Pass { from: None, found, ranges: 0, working: Duration::ZERO });
        }
        control.checkpoint()?; // whoever ended it before the rewrite began is not waited for by it
        let bytes = sweep::rewrite(backend, &range)?;
        Ok(Step::Range { bytes, next: range.end })
    }
}

impl ReclaimShared {
    /// Takes the end of a step over; returns what a pass that is over came to.
    fn ended(
        &mut self,
        step: Result<Step, PruneError>,
        (began, now): (Duration, Duration),
        io_limit: Option<u64>,
    ) -> Option<Event> {
        self.stands = Stands::Waits;
        let took = now.saturating_sub(began);
        match step {
            Ok(Step::Nothing(found)) => {
                self.found(found, began);
                None
            }
            Ok(Step::Over(found)) => {
                self.found(found, began);
                self.over(found)
            }
            Ok(Step::Range { bytes, next }) => {
                metrics::range_reclaimed();
                self.status.ranges_total += 1;
                self.status.failure = None;
                self.not_before = now.saturating_add(rest(took, bytes, io_limit));
                let pass = self.pass.as_mut()?;
                (pass.ranges, pass.working) = (pass.ranges + 1, pass.working + took);
                // The end of the keys has no successor: the next step finds that nothing is left.
                pass.from = Some(next.unwrap_or_else(|| vec![0xff; 128]));
                None
            }
            Err(PruneError::Cancelled | PruneError::Stopped) => None, // it goes on when the chain is idle again
            Err(error) => {
                tracing::warn!(%error, "the space of deleted rows could not be given back; it is tried again");
                self.not_before = now.saturating_add(AGAIN);
                self.status.failure = Some(error.to_string());
                None
            }
        }
    }

    /// Nothing is left, unless a commit came while the files were looked at.
    fn found(&mut self, found: Tombstones, began: Duration) {
        (self.status.found, self.status.failure) = (Some(found), None);
        if self.last_commit <= began {
            self.stands = Stands::Done;
        }
    }

    fn over(&mut self, found: Tombstones) -> Option<Event> {
        let Pass { found: before, ranges, working, .. } = self.pass.take()?;
        Some(Event::SpaceReclaimed(Reclaimed {
            ranges,
            deletes_before: before.deletes,
            deletes_after: found.deletes,
            bytes_before: before.bytes,
            bytes_after: found.bytes,
            working_ms: millis(working),
        }))
    }
}

/// How long is rested after a range: most of the time, and as long as the brake asks.
fn rest(took: Duration, bytes: u64, io_limit: Option<u64>) -> Duration {
    let braked = io_limit.map_or(Duration::ZERO, |limit| Duration::from_secs_f64(bytes as f64 / limit.max(1) as f64));
    braked.max(took.saturating_mul(REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_range_is_followed_by_a_rest_that_obeys_duty_and_brake() {
        assert_eq!(rest(2 * SECOND, 1 << 30, None), 6 * SECOND);
        assert_eq!(rest(SECOND, 600, Some(60)), 10 * SECOND);
        assert_eq!(rest(SECOND, 60, Some(60)), 3 * SECOND);
    }

    #[test]
    fn a_commit_ends_a_range_at_work_and_the_pass_goes_on_where_it_was() {
        let pass = Pass { from: Some(vec![7]), found: Tombstones::default(), ranges: 1, working: SECOND };
        let mut reclaim = ReclaimShared { stands: Stands::AtWork, pass: Some(pass), ..ReclaimShared::default() };
        let control = Control::default();
        reclaim.committed(90 * SECOND, Some(&control));
        let ended = control.ended().unwrap();
        assert!(matches!(ended, PruneError::Cancelled));
        assert_eq!(reclaim.ended(Err(ended), (80 * SECOND, 91 * SECOND), None), None);
        assert_eq!(reclaim.due(), Some(90 * SECOND + AFTER));
        assert_eq!(reclaim.pass.and_then(|pass| pass.from), Some(vec![7]));
    }

    #[test]
    fn a_commit_puts_the_next_step_off_and_a_finished_pass_waits_for_one() {
        let mut reclaim = ReclaimShared { last_commit: SECOND, ..ReclaimShared::default() };
        assert_eq!(reclaim.due(), Some(SECOND + AFTER));
        let nothing = Tombstones::default();
        assert_eq!(reclaim.ended(Ok(Step::Nothing(nothing)), (SECOND, SECOND), None), None);
        assert_eq!((reclaim.due(), reclaim.status().found), (None, Some(nothing)));
        reclaim.stands = Stands::Waits;
        let error = PruneError::NoRoom { free: 1, need: 2 };
        reclaim.ended(Err(error), (SECOND, 90 * SECOND), None);
        assert_eq!(reclaim.due(), Some(90 * SECOND + AGAIN));
        assert!(reclaim.status().failure.is_some());
    }
}
