//! How the writer makes its file smaller, a step at a time between two writes.

use std::time::Duration;

use super::Writer;
use crate::{
    clock::millis,
    events::{
        compact::{Compacted, Compaction, Keep, Step},
        event::Event,
        file::{EventFile, Need},
        queue::Sent,
    },
};

/// A compaction that failed is tried again after so long.
const COMPACT_AGAIN: Duration = Duration::from_secs(60);

impl Writer {
    /// A step while events come: they wait in memory for as long as it takes, which is told.
    pub(super) fn compact_beside_events(&mut self) {
        let (begun, was_begun) = (self.parts.clock.monotonic(), self.compaction.is_some());
        self.compact();
        if was_begun || self.compaction.is_some() {
            let took = self.parts.clock.monotonic().saturating_sub(begun);
            let mut told = self.parts.told.lock();
            told.longest_stall = told.longest_stall.max(took);
        }
    }

    /// One step towards a smaller file, where it is too large, too old, or cannot be trusted.
    pub(super) fn compact(&mut self) {
        let Some(file) = &self.parts.file else { return };
        let now = self.parts.clock.monotonic();
        let stepped = match self.compaction.take() {
            Some(mut compaction) => match compaction.step() {
                Ok(Step::More) => {
                    self.compaction = Some(compaction);
                    return;
                }
                Ok(Step::CaughtUp) => compaction.swap(file, &*self.parts.clock),
                Err(error) => Err(error),
            },
            None => {
                let Some(keep) = self.keep(file).filter(|_| now >= self.compact_from) else { return };
                match Compaction::begin(file, keep) {
                    Ok(begun) => {
                        self.compaction = Some(begun);
                        return;
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match stepped {
            Ok(compacted) => self.compacted(compacted),
            Err(error) => {
                self.compact_from = now.saturating_add(COMPACT_AGAIN);
                self.failed(&error);
            }
        }
    }

    /// What is to stay of the file, if something is to go.
    fn keep(&self, file: &EventFile) -> Option<Keep> {
        if self.need == Need::Rewriting {
            return Some(Keep::ALL);
        }
        Keep::of(&self.parts.config, file.bytes(), (self.oldest_ms, self.now_ms()))
    }

    /// The time by which events are old: that of the wall clock, unless it has stepped forward since the writer began.
    fn now_ms(&self) -> u64 {
        let Self { parts, began: (monotonic, unix_ms), .. } = self;
        let here = millis(parts.clock.monotonic().saturating_sub(*monotonic));
        parts.clock.unix_ms().min(unix_ms.saturating_add(here))
    }

    fn compacted(&mut self, compacted: Compacted) {
        let Compacted { dropped, bytes_before, bytes_after, oldest_ms, last, locked } = compacted;
        self.need = Need::Nothing;
        let unsure = std::mem::take(&mut self.unsure) + std::mem::take(&mut self.unsynced);
        // What was written and is not there any more: where a failed sync took it, or damage at the end.
        let lost = last.map_or(unsure, |last| self.written.saturating_sub(last));
        self.written = last.map_or(self.written, |last| last);
        self.lose(lost);
        self.oldest_ms = oldest_ms;
        {
            let mut told = self.parts.told.lock();
            told.compactions += 1;
            told.longest_swap = told.longest_swap.max(locked);
        }
        self.recovered();
        let event = Event::JournalCompacted { dropped, bytes_before, bytes_after };
        if !self.is_over {
            self.record(Sent { at_ms: self.parts.clock.unix_ms(), event });
        }
    }
}
