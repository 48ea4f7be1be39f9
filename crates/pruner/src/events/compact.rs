//! Keeping a journal small: the newest records are copied aside, a few at a time between two writes, and the copy takes the
//! place of the file.
//!
//! A crash at any point leaves the old file or the new one: the copy is whole and synced BEFORE it is renamed. What waits
//! for the lock meanwhile waits for a rename and two assignments. Damage that took events stays damage: it goes as they would
//! have, with the oldest.

use std::{fs::File, path::PathBuf, sync::Arc, time::Duration};

use super::{
    file::{Active, EventFile, append_to, open_to_read, records_begin},
    frame::{DAMAGED, Scanner},
    medium::Medium,
    status::EventsConfig,
};
use crate::{
    clock::{Clock, millis},
    error::PruneError,
    files,
};

/// Bytes that one step copies, about.
const STEP: usize = 256 << 10;
/// This part of the most bytes, the newest, goes by no age: a wall clock that is wrong takes no more (C16).
const SPARED: u64 = 8;

/// Which records stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keep {
    /// Those that begin here or later in the file.
    pub(super) from: u64,
    /// Of these, those that are not older.
    pub(super) since_ms: u64,
    /// Those that begin here or later stay, however old they are.
    pub(super) spared_from: u64,
}

impl Keep {
    /// All.
    pub(super) const ALL: Self = Self { from: 0, since_ms: 0, spared_from: 0 };

    /// What is to stay of so many bytes, of which the oldest and now are these, if something is to go.
    pub(super) fn of(config: &EventsConfig, bytes: u64, (oldest_ms, now_ms): (Option<u64>, u64)) -> Option<Self> {
        let (max_bytes, keep_ms) = (config.max_bytes.get(), millis(config.keep));
        let since_ms = now_ms.saturating_sub(keep_ms);
        let spared_from = bytes.saturating_sub(max_bytes / SPARED);
        if bytes > max_bytes {
            return Some(Self { from: bytes.saturating_sub(max_bytes / 2), since_ms, spared_from });
        }
        // An eighth later, and of twice what is spared, so that this is rare.
        let old = oldest_ms.is_some_and(|oldest| oldest < since_ms.saturating_sub(keep_ms / 8));
        (old && bytes > max_bytes / SPARED * 2).then_some(Self { from: 0, since_ms, spared_from })
    }

    fn fate(self, at: u64, at_ms: u64) -> Fate {
        let stays = at >= self.from && (at_ms >= self.since_ms || at >= self.spared_from);
        if stays { Fate::Stays } else { Fate::Goes }
    }
}

/// How far a compaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is more to copy.
    More,
    /// Everything that is in the file has been looked at.
    CaughtUp,
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compacted {
    pub(super) dropped: u64,
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    /// When the oldest record that stays happened.
    pub(super) oldest_ms: Option<u64>,
    /// The number of the last record that was read.
    pub(super) last: Option<u64>,
    /// How long the lock of the file was held.
    pub(super) locked: Duration,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
}

/// A compaction under way. Dropped before its end it leaves the file as it was.
pub(super) struct Compaction {
    from: Scanner<File>,
    into: Arc<dyn Medium>,
    aside: PathBuf,
    keep: Keep,
    bytes: u64,
    dropped: u64,
    /// What became of the last record that was read.
    fate: Fate,
    oldest_ms: Option<u64>,
    taken: bool,
}

impl Compaction {
    /// Begins to copy.
    ///
    /// Errors: a failed read or write.
    pub(super) fn begin(file: &EventFile, keep: Keep) -> Result<Self, PruneError> {
        let gone = || PruneError::Invariant(format!("{} is gone", file.path.display()));
        let (from, header) = open_to_read(&file.path)?.ok_or_else(gone)?;
        let aside = files::aside(&file.path);
        files::remove(&aside)?;
        File::create(&aside).map_err(files::failed(&aside))?;
        let into = (file.mount)(append_to(&aside)?);
        let first = file.header.encode();
        let begun = Self {
            from: Scanner::new(from, records_begin(header)),
            into,
            aside,
            keep,
            bytes: first.len() as u64,
            dropped: 0,
            fate: if keep == Keep::ALL { Fate::Stays } else { Fate::Goes },
            oldest_ms: None,
            taken: false,
        };
        begun.into.append(&first).map_err(files::failed(&begun.aside))?;
        Ok(begun)
    }

    /// Copies a little.
    ///
    /// Errors: a failed read or write; then this compaction is to be dropped.
    pub(super) fn step(&mut self) -> Result<Step, PruneError> {
        let mut copied = Vec::with_capacity(STEP);
        let mut read = 0;
        let mut end = Step::More;
        while read < STEP {
            let Some(frame) = self.from.next().map_err(files::failed(&self.aside))? else {
                end = Step::CaughtUp;
                break;
            };
            read += frame.bytes.len();
            let before = std::mem::replace(&mut self.fate, self.keep.fate(frame.at, frame.at_ms));
            match self.fate {
                Fate::Stays => {
                    if frame.follows_loss && before == Fate::Stays {
                        copied.push(DAMAGED);
                    }
                    self.oldest_ms = Some(self.oldest_ms.map_or(frame.at_ms, |oldest| oldest.min(frame.at_ms)));
                    copied.extend_from_slice(&frame.bytes);
                }
                Fate::Goes => self.dropped += 1,
            }
        }
        self.into.append(&copied).map_err(files::failed(&self.aside))?;
        self.bytes += copied.len() as u64;
        Ok(end)
    }

    /// Puts the copy in the place of the file. Only for a copy that has caught up, before anything more is appended.
    ///
    /// Errors: a failed sync or rename; the file is what it was.
    pub(super) fn swap(mut self, file: &EventFile, clock: &dyn Clock) -> Result<Compacted, PruneError> {
        self.into.sync().map_err(files::failed(&self.aside))?; // BEFORE the rename: what is named is whole
        let (locked, bytes_before) = self.exchange(file, clock)?;
        self.taken = true;
        if let Some(folder) = file.path.parent() {
            files::sync_folder(folder)?;
        }
        let last = self.from.last();
        let Self { bytes: bytes_after, dropped, oldest_ms, .. } = self;
        Ok(Compacted { dropped, bytes_before, bytes_after, oldest_ms, last, locked })
    }

    /// The only thing that is done under the lock: nothing here writes or waits for the disk to sync.
    fn exchange(&self, file: &EventFile, clock: &dyn Clock) -> Result<(Duration, u64), PruneError> {
        let new = Active::new(Arc::clone(&self.into), self.bytes);
        let mut active = file.active.lock();
        let begun = clock.monotonic();
        std::fs::rename(&self.aside, &file.path).map_err(files::failed(&file.path))?;
        let old = std::mem::replace(&mut *active, new);
        let locked = clock.monotonic().saturating_sub(begun);
        drop(active);
        Ok((locked, old.bytes)) // the old file is closed here, AFTER the lock
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        if !self.taken
            && let Err(left) = files::remove(&self.aside)
        {
            tracing::debug!(%left, "an unfinished copy of the event journal stays until the next start");
        }
    }
}
