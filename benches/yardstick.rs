//! The same small work again and again, beside what is measured: what the machine makes of it, it makes of that, too. A virtual
//! machine counts as time on a processor what its host takes from it, so the longest of a hundred thousand figures says more
//! of the host than of the work.
//!
//! Costs: a fiftieth of a processor, and 16 bytes of memory a hundred times a second.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use state_pruner::incremental::SlicePace;

use crate::{Error, system::thread_on_processor};

/// Steps of one stroke: about two tenths of a millisecond.
const STEPS: u64 = 200_000;
const REST: Duration = Duration::from_millis(10);

/// A thread that measures its own work, until it is dropped.
#[derive(Debug)]
pub struct Yardstick {
    stop: Arc<AtomicBool>,
    /// Nothing once it has ended.
    thread: Option<JoinHandle<Result<Vec<Duration>, String>>>,
}

/// How long the strokes took on a processor.
#[derive(Debug, Clone, Copy)]
pub struct Strokes {
    /// Half of them took no longer.
    pub usual: Duration,
    /// The longest.
    pub longest: Duration,
    /// How many there were.
    pub all: u64,
    /// How many took longer than a slice may.
    pub over: u64,
}

impl Yardstick {
    /// Begins.
    ///
    /// Errors: the system has no thread to give.
    pub fn begin() -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("yardstick".to_owned()).spawn(move || {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                took.push(stroke().map_err(|error| error.to_string())?);
                thread::park_timeout(REST);
            }
            Ok(took)
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends, and tells.
    ///
    /// Errors: the system does not tell the time, or there was no stroke.
    pub fn end(mut self) -> Result<Strokes, Error> {
        let mut took = self.join().ok_or("it has ended before")??;
        took.sort_unstable();
        let longest = *took.last().ok_or("no stroke of the yardstick")?;
        let usual = took.get(took.len() / 2).copied().unwrap_or(longest);
        let over = took.iter().filter(|took| **took > SlicePace::MOST_TAKING).count() as u64;
        Ok(Strokes { usual, longest, all: took.len() as u64, over })
    }

    fn join(&mut self) -> Option<Result<Vec<Duration>, String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().unwrap_or_else(|_| Err("the yardstick panicked".to_owned())))
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        self.join();
    }
}

fn stroke() -> Result<Duration, Error> {
    let begun = thread_on_processor()?;
    let work = (0..STEPS).fold(1_u64, |state, step| black_box(state.wrapping_mul(6_364_136_223_846_793_005) ^ step));
    black_box(work);
    Ok(thread_on_processor()? - begun)
}
