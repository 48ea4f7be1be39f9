//! The same small work again and again, beside what is measured: writes far apart in much memory, as a slice does them that
//! judges and deletes. What the machine makes of it, it makes of that, too: a virtual machine counts as time on a processor
//! what its host takes from it, be it the processor or the memory behind a page, so the longest of a hundred thousand figures
//! says more of the host than of the work.
//!
//! Costs: a twentieth of a processor, 256 MiB, and 16 bytes a hundred times a second.

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

/// Writes of one stroke: about half a millisecond.
const WRITES: usize = 4_000;
/// Words of memory that they are spread over, about as many bytes as what a store of a few million objects keeps in memory.
const WORDS: usize = 32 << 20;
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
            let (mut took, mut memory) = (Vec::new(), Memory::new());
            while !stopped.load(Ordering::Relaxed) {
                took.push(memory.stroke().map_err(|error| error.to_string())?);
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

/// What is written to, and where next.
struct Memory {
    words: Vec<u64>,
    state: u64,
}

impl Memory {
    fn new() -> Self {
        Self { words: (0..WORDS as u64).collect(), state: 7 } // written once, so that every page of it is there
    }

    fn stroke(&mut self) -> Result<Duration, Error> {
        let begun = thread_on_processor()?;
        for _ in 0..WRITES {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (self.state >> 32) as usize % self.words.len();
            self.words.get_mut(at).into_iter().for_each(|word| *word ^= self.state);
        }
        black_box(&self.words);
        Ok(thread_on_processor()? - begun)
    }
}
