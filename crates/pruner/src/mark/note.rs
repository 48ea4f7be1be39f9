//! A walk written down while it goes on, so that a later process goes on with it (C6).
//!
//! Between two batches each node that was handed out has its children on the list: a walk from what waits then comes to the
//! same set as if it had never ended. That is a fact of hashes, which no commit changes; that every node is still stored follows
//! from the cycle: nothing is deleted while its record says that it marks, but for a record that a sweep went back to, which
//! names no snapshot to go on with; and the roots are the same.
//!
//! Promises: the record takes the place of the one before only when the files it names are durable, and the files of that one go
//! after. A record or a file in which a bit has changed is refused (I6), and marking begins anew. A disk that takes no record
//! costs that record: it is told, and tried again when the next one is due. A sync that failed may seem to work then: whoever
//! goes on checks every block (C4).

use std::{
    collections::BTreeSet,
    io::ErrorKind::{InvalidData, NotFound, UnexpectedEof},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use state_store::{
    Point, reached,
    record::{self, Record},
};
use state_tree::{NodeHash, StateRoot, TreeError, WorkList};

use crate::{
    clock::millis,
    control::{Progress, Stage},
    error::PruneError,
    files,
    mark::{
        MarkIdentity, Marking,
        blocks::refused,
        disk::walk_path,
        overflow::Overflow,
        work::{Noted, SpillingWork},
    },
};

/// How a walk is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notes {
    /// Time between two records.
    pub every: Duration,
    /// What whoever goes on with it needs to know besides.
    pub beside: Vec<u8>,
}

/// Which roots are on the list, with what was noted of the nodes that the traced one shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reached {
    /// The traced one; its walk goes on, and fingerprints of nodes it has met twice are these.
    Traced(Vec<u64>),
    /// All of them, and of the traced one, if there is one, everything is known.
    All(Option<Vec<u64>>),
}

/// The record of a walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Walk {
    cycle: u64,
    roots: [u8; 32],
    traced: Option<[u8; 32]>,
    reached: Reached,
    /// The visited set: files by number, each with its length in hashes.
    runs: Vec<(u64, u64)>,
    /// What waits: the number of its file, and the lengths of its blocks in hashes.
    waiting: (u64, Vec<u64>),
    /// Time that was spent on it.
    millis: u64,
    beside: Vec<u8>,
}

impl Record for Walk {
    const KIND: [u8; 4] = *b"WALK";
    const VERSION: u16 = 1;
}

impl Walk {
    fn files(&self) -> BTreeSet<u64> {
        self.runs.iter().map(|(number, _)| *number).chain([self.waiting.0]).collect()
    }
}

/// A walk that an earlier process has written down.
#[derive(Debug, Clone)]
pub struct SavedWalk(Walk);

impl SavedWalk {
    /// Reads the record of a walk for this mark; nothing where none was written.
    ///
    /// Errors: a failed read; a record that is damaged, or of another mark.
    pub(crate) fn load(dir: &Path, identity: MarkIdentity) -> Result<Option<Self>, PruneError> {
        let path = walk_path(dir, identity.cycle);
        let Some(bytes) = files::read(&path)? else { return Ok(None) };
        let walk: Walk = record::decode(&path.display().to_string(), &bytes)?;
        if (walk.cycle, walk.roots) != (identity.cycle, identity.roots) {
            return Err(refused(&path, "it is the walk of another cycle"));
        }
        Ok(Some(Self(walk)))
    }

    /// What was written beside it.
    pub(crate) fn beside(&self) -> &[u8] {
        &self.0.beside
    }

    /// The state whose shared nodes it notes.
    pub(crate) fn traced(&self) -> Option<StateRoot> {
        self.0.traced.map(|root| StateRoot::new(NodeHash::new(root)))
    }

    /// Time that was spent on it.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_millis(self.0.millis)
    }

    fn visited(&self) -> u64 {
        self.0.runs.iter().map(|(_, count)| count).sum()
    }

    /// The files that it needs, by number.
    pub(super) fn files(&self) -> BTreeSet<u64> {
        self.0.files()
    }

    /// Fills an empty list, and says which roots are on it. Where nothing is traced any more, what was noted is forgotten.
    ///
    /// Errors: a file that is gone, or not as it was written.
    pub(super) fn take_up(
        &self,
        work: &mut SpillingWork,
        marking: &Marking<'_>,
    ) -> Result<Option<Reached>, PruneError> {
        let (number, blocks) = &self.0.waiting;
        let waiting = Overflow::of(marking.scratch.take_up(*number).map_err(unlike_written)?, blocks);
        work.take_up(&self.0.runs, &waiting, &|| alive(marking, self.visited())).map_err(unlike_written)?;
        Ok(match (&self.0.reached, marking.traced) {
            (Reached::Traced(_), None) => None, // the others are not on it
            (Reached::All(_), None) => Some(Reached::All(None)),
            (reached, Some(_)) => Some(reached.clone()),
        })
    }
}

/// A file that is gone, or not as it was written, says nothing of the disk.
fn unlike_written(error: PruneError) -> PruneError {
    if let PruneError::File { path, source } = &error
        && matches!(source.kind(), InvalidData | NotFound | UnexpectedEof)
    {
        return refused(path, &source.to_string());
    }
    error
}

/// The lock is renewed, a pause holds, and an end ends it.
fn alive(marking: &Marking<'_>, visited: u64) -> Result<(), PruneError> {
    marking.job.observer.progress(Progress { stage: Stage::Mark, done: visited, share: None });
    marking.job.control.checkpoint()
}

/// Writes a walk down as it goes on.
pub(super) struct Noting<'a> {
    marking: &'a Marking<'a>,
    /// What was known of the traced state before all roots were on the list.
    pub(super) shared: Option<Vec<u64>>,
    begun: Duration,
    due: Option<Duration>,
    /// The files that the last record names.
    named: BTreeSet<u64>,
}

impl<'a> Noting<'a> {
    pub(super) fn of(marking: &'a Marking<'a>) -> Self {
        let begun = marking.job.clock.monotonic();
        let due = marking.job.notes.as_ref().map(|notes| begun.saturating_add(notes.every));
        let named = marking.job.from.map_or_else(BTreeSet::new, SavedWalk::files);
        Self { marking, shared: None, begun, due, named }
    }

    /// Call where each node that was handed out has its children on the list.
    fn note_if_due(&mut self, work: &mut SpillingWork) {
        let job = self.marking.job;
        let Some(notes) = job.notes.as_ref().filter(|_| self.due.is_some_and(|due| job.clock.monotonic() >= due))
        else {
            return;
        };
        let visited = work.handed_out();
        let noted = work.note_down(&|| alive(self.marking, visited)).and_then(|noted| self.write(noted, notes));
        if let Err(error) = noted {
            tracing::warn!(%error, "how far marking is could not be written down; a restart begins it anew, or where it was before");
        }
        self.due = Some(job.clock.monotonic().saturating_add(notes.every));
    }

    fn write(&mut self, noted: Noted, notes: &Notes) -> Result<(), PruneError> {
        let Marking { job, scratch, traced, .. } = self.marking;
        let Noted { runs, waiting, shared } = noted;
        let before = job.from.map_or(Duration::ZERO, SavedWalk::spent);
        let spent = job.clock.monotonic().saturating_sub(self.begun).saturating_add(before);
        let walk = Walk {
            cycle: job.cycle,
            roots: job.roots.digest,
            traced: traced.map(|root| *root.hash().as_bytes()),
            reached: shared.map_or_else(|| Reached::All(self.shared.clone()), Reached::Traced),
            runs,
            waiting: (waiting.file().number, waiting.blocks()),
            millis: millis(spent),
            beside: notes.beside.clone(),
        };
        let named = walk.files();
        scratch.keep_only(self.named.union(&named).copied().collect())?; // BEFORE the record names them
        files::sync_folder(&job.dir)?;
        files::replace(&walk_path(&job.dir, job.cycle), &record::encode(&walk)?)?;
        reached(Point::WalkNoted);
        self.named = named.clone();
        if let Err(error) = scratch.keep_only(named) {
            // AFTER the record that named them is gone
            tracing::warn!(%error, "files of an earlier note could not be removed; the end of the cycle does it");
        }
        Ok(())
    }
}

/// A work list that is written down at times.
pub(super) struct NotedWork<'a, 'b> {
    pub(super) work: &'a mut SpillingWork,
    pub(super) noting: &'a mut Noting<'b>,
}

impl WorkList for NotedWork<'_, '_> {
    fn push(&mut self, hash: NodeHash) -> Result<(), TreeError> {
        self.work.push(hash)
    }

    fn take(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), TreeError> {
        self.noting.note_if_due(self.work);
        self.work.take(batch)
    }
}
