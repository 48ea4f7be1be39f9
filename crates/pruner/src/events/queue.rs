//! What waits to be written: bounded, first come first served, and it can be closed while producers wait in it. Nobody waits
//! longer than its patience for a writer that makes no progress, and then nobody waits until it does.
//!
//! A channel of the standard library cannot do the last: a producer that waits for a hung disk would hang with it.

use std::{collections::VecDeque, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::{event::Event, status::WriteFailure};

/// Events that wait or are being written, at most.
pub(super) const CAPACITY: usize = 2048;

/// An event and when it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) at_ms: u64,
    pub(super) event: Event,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    /// The end is near: nobody waits for room any more.
    Ending,
    /// Nothing more is taken in; what waits is written.
    Closed,
    /// What waits is given up.
    GivenUp,
    /// The writer has ended.
    Ended,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Sent>,
    /// Events that the writer has in hand.
    in_hand: usize,
    /// Those that it took before and keeps until they are written.
    kept: u64,
    /// Events that found no room in time since the writer made progress last.
    unadmitted: u64,
    /// The same, until the writer takes them over to tell them.
    untold: u64,
    life: Life,
    /// Flushes asked for, and done.
    asked: u64,
    flushed: u64,
    /// Up to which one not everything was written, and why.
    unwritten: Option<(u64, WriteFailure)>,
}

impl State {
    fn is_full(&self) -> bool {
        self.waiting.len() + self.in_hand >= CAPACITY
    }

    /// Events that were taken in and are not written.
    fn unwritten(&self) -> u64 {
        (self.waiting.len() + self.in_hand) as u64 + self.kept
    }
}

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// To write these.
    Events(Vec<Sent>),
    /// Nothing came in time.
    Nothing,
    /// To flush, for whoever waits for it.
    Flush(u64),
    /// To end.
    End,
}

/// Why an event is not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Nothing is any more, or there is no room and nobody is to wait for it.
    Closed,
    /// There was no room in time: the writer makes no progress.
    Stuck,
}

impl Refused {
    /// The word that is logged.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Stuck => "stuck",
        }
    }
}

/// What came of a flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Everything is written.
    Whole,
    /// Not everything is.
    Unwritten(WriteFailure),
    /// Nobody answered in time.
    Late,
}

/// The queue between producers and writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Told when there is room, or none is to be waited for.
    room: Condvar,
    /// Told when there is work.
    work: Condvar,
    /// Told when a flush is done or the writer has ended.
    done: Condvar,
}

impl Default for Queue {
    fn default() -> Self {
        let state = State {
            waiting: VecDeque::new(),
            in_hand: 0,
            kept: 0,
            unadmitted: 0,
            untold: 0,
            life: Life::Open,
            asked: 0,
            flushed: 0,
            unwritten: None,
        };
        Self { state: Mutex::new(state), room: Condvar::new(), work: Condvar::new(), done: Condvar::new() }
    }
}

impl Queue {
    /// Puts an event at the end; waits while the queue is full, but not longer than this for the writer to make progress.
    /// Once somebody has waited so long in vain nobody waits before it has.
    ///
    /// Errors: the queue was closed, it is full and nobody is to wait any more, or there was no room in time.
    pub(super) fn send(&self, sent: Sent, patience: Duration) -> Result<(), Refused> {
        let mut state = self.state.lock();
        while state.life == Life::Open && state.is_full() {
            if state.unadmitted > 0 || self.room.wait_for(&mut state, patience).timed_out() && state.is_full() {
                (state.unadmitted, state.untold) = (state.unadmitted + 1, state.untold + 1);
                drop(state);
                self.room.notify_all(); // whoever waits beside it waits in vain
                return Err(Refused::Stuck);
            }
        }
        match state.life {
            Life::Open | Life::Ending if !state.is_full() => {}
            Life::Open | Life::Ending | Life::Closed | Life::GivenUp | Life::Ended => return Err(Refused::Closed),
        }
        state.waiting.push_back(sent);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// The next work of the writer, which has dealt with what it took before, but for so many that it keeps; waits for `patience`,
    /// or for good.
    pub(super) fn take(&self, most: usize, kept: u64, patience: Option<Duration>) -> Taken {
        let mut state = self.state.lock();
        state.kept = kept;
        if state.in_hand > 0 {
            (state.in_hand, state.unadmitted) = (0, 0);
            self.room.notify_all();
        }
        loop {
            match state.life {
                Life::GivenUp | Life::Ended => return Taken::End,
                Life::Closed if state.waiting.is_empty() => return Taken::End,
                Life::Open | Life::Ending | Life::Closed => {}
            }
            if !state.waiting.is_empty() {
                let count = most.min(state.waiting.len());
                state.in_hand = count;
                return Taken::Events(state.waiting.drain(..count).collect());
            }
            if state.asked > state.flushed {
                return Taken::Flush(state.asked);
            }
            match patience {
                None => self.work.wait(&mut state),
                Some(patience) if self.work.wait_for(&mut state, patience).timed_out() => return Taken::Nothing,
                Some(_) => {}
            }
        }
    }

    /// The writer keeps nothing any more: it is written, or counted as lost.
    pub(super) fn none_is_kept(&self) {
        self.state.lock().kept = 0;
    }

    /// Waits until everything that was sent before is flushed, or cannot be.
    pub(super) fn flush(&self, patience: Duration) -> Flushed {
        let mut state = self.state.lock();
        state.asked += 1;
        let ticket = state.asked;
        self.work.notify_one();
        while state.flushed < ticket && state.life != Life::Ended {
            if self.done.wait_for(&mut state, patience).timed_out() {
                return Flushed::Late;
            }
        }
        match &state.unwritten {
            // A later flush may have failed since: whoever wakes after it cannot tell, and is told the worse.
            Some((up_to, failure)) if *up_to >= ticket => Flushed::Unwritten(failure.clone()),
            Some(_) | None => Flushed::Whole,
        }
    }

    /// Tells what came of everything up to this ticket.
    pub(super) fn flushed(&self, ticket: u64, outcome: Result<(), WriteFailure>) {
        let mut state = self.state.lock();
        state.flushed = state.flushed.max(ticket);
        if let Err(failure) = outcome {
            state.unwritten = Some((ticket, failure));
        }
        drop(state);
        self.done.notify_all();
    }

    /// From now on nobody waits for room.
    pub(super) fn let_go(&self) {
        let mut state = self.state.lock();
        if state.life == Life::Open {
            state.life = Life::Ending;
        }
        drop(state);
        self.room.notify_all();
    }

    /// Takes nothing more in, but for the last words; producers that wait are told so.
    pub(super) fn close(&self, last_words: Option<Sent>) {
        let mut state = self.state.lock();
        if matches!(state.life, Life::Open | Life::Ending) {
            state.life = Life::Closed;
            state.waiting.extend(last_words);
        }
        drop(state);
        self.room.notify_all();
        self.work.notify_one();
    }

    /// Waits until the writer has ended; else what waits is given up, and told.
    pub(super) fn wait_for_end(&self, patience: Duration) -> Result<(), u64> {
        let mut state = self.state.lock();
        while state.life != Life::Ended {
            if self.done.wait_for(&mut state, patience).timed_out() {
                state.life = Life::GivenUp;
                let left = state.unwritten();
                state.waiting.clear();
                drop(state);
                self.work.notify_one();
                return Err(left);
            }
        }
        Ok(())
    }

    /// The writer has ended, by itself or because it was told to; what still waits is given back as a number.
    pub(super) fn ended(&self, outcome: Result<(), WriteFailure>) -> u64 {
        let mut state = self.state.lock();
        state.life = Life::Ended;
        if let Err(failure) = outcome {
            state.unwritten = Some((u64::MAX, failure)); // whatever is asked for from now on
        }
        (state.in_hand, state.kept, state.flushed) = (0, 0, state.asked);
        let left = state.waiting.len() as u64;
        state.waiting.clear();
        drop(state);
        self.room.notify_all();
        self.done.notify_all();
        left
    }

    /// The writer panicked. What waited, was in its hand or was kept is given back as a number.
    pub(super) fn died(&self, failure: WriteFailure) -> u64 {
        let with_it = {
            let mut state = self.state.lock();
            state.unadmitted = 0; // why nothing is written is told
            state.in_hand as u64 + state.kept
        };
        with_it.saturating_add(self.ended(Err(failure)))
    }

    /// Events that found no room in time since the writer made progress last.
    pub(super) fn unadmitted(&self) -> u64 {
        self.state.lock().unadmitted
    }

    /// Events that found no room in time and were not told in the journal yet; the caller does.
    pub(super) fn take_untold(&self) -> u64 {
        std::mem::take(&mut self.state.lock().untold)
    }

    /// Events that were taken in and are not written.
    pub(super) fn waiting(&self) -> u64 {
        self.state.lock().unwritten()
    }
}
