//! The sweep by delete batches: each slice reads from a fresh view and deletes under the commit gate.
//!
//! A commit waits for at most one batch (I12). A fresh view per slice lets compaction drop what was deleted (L4); a
//! node that appears in it and was not in the marked view was created since, and the barrier spares it.

use std::sync::Arc;

use state_store::{Condemned, Flow, Haste, KeyRange, View};
use state_tree::NodeHash;

use super::{Saved, SweepCursor, SweepJob, SweepReport, rest_of_keys, visit_nodes};
use crate::{control::Stage, error::PruneError, mark::MarkReader};

/// Rows read per slice, at most: the bound on a view's life.
const SLICE_ROWS: usize = 100_000;

#[derive(Default)]
struct Slice {
    dead: Vec<NodeHash>,
    rows: usize,
    kept: u64,
    spared: u64,
    foreign: u64,
    bytes: u64,
    /// The last key read; nothing when the keys are used up.
    last: Option<Vec<u8>>,
}

impl Slice {
    /// Takes the next row in.
    fn judge(
        &mut self,
        job: &SweepJob<'_>,
        live: &mut MarkReader,
        (key, value): (&[u8], &[u8]),
    ) -> Result<(), PruneError> {
        self.rows += 1;
        let Ok(hash) = NodeHash::try_from(key) else {
            self.kept += 1; // not a node (I8)
            self.foreign += 1;
            return Ok(());
        };
        if live.holds(&hash)? {
            self.kept += 1;
        } else if job.barrier.protects(&hash) {
            self.spared += 1; // created since
        } else {
            self.dead.push(hash);
            self.bytes += value.len() as u64;
        }
        Ok(())
    }
}

pub(super) fn sweep(
    job: &SweepJob<'_>,
    cursor: &mut dyn SweepCursor,
    report: &mut SweepReport,
) -> Result<(), PruneError> {
    let mut live = job.mark.reader();
    while let Some(range) = rest_of_keys(cursor) {
        job.admit()?;
        let slice = read(job, job.store.view()?, range, &mut live)?;
        let next = slice.last.as_deref().map_or_else(Vec::new, after);
        delete(job, cursor, &slice, &next, report)?;
        if let Some(pace) = &job.pace {
            pace.spend(slice.bytes, Haste::Usual);
        }
        job.show(Stage::Sweep, report.deleted, Some(&next));
    }
    Ok(())
}

fn read(job: &SweepJob<'_>, view: Arc<dyn View>, range: KeyRange, live: &mut MarkReader) -> Result<Slice, PruneError> {
    let mut slice = Slice::default();
    visit_nodes(&*view, &range, |key, value| {
        slice.judge(job, live, (key, value))?;
        if slice.dead.len() < job.delete_batch.get() && slice.rows < SLICE_ROWS {
            return Ok(Flow::Continue(()));
        }
        slice.last = Some(key.to_vec());
        Ok(Flow::Break(()))
    })?;
    Ok(slice)
}

fn delete(
    job: &SweepJob<'_>,
    cursor: &mut dyn SweepCursor,
    slice: &Slice,
    next: &[u8],
    report: &mut SweepReport,
) -> Result<(), PruneError> {
    let planned = report.deleted + slice.dead.len() as u64;
    let rows = cursor.batch(next, planned)?;
    let saved = if rows.is_some() { Saved::WithTheWork } else { Saved::NotYet };
    let condemned = Condemned { hashes: &slice.dead, cursor: rows.unwrap_or_else(state_store::Batch::new) };
    let deleted = job.store.delete(job.permit, job.barrier, condemned)?;
    let saved = if deleted.spared > 0 { Saved::NotYet } else { saved }; // what was written told of more (I13)
    let (bytes, spared) = (report.bytes_so_far(), slice.spared + deleted.spared);
    // whose bytes were spared nobody saw
    report.deleted_bytes = bytes.map(|bytes| bytes + slice.bytes).filter(|_| deleted.spared == 0);
    report.deleted += deleted.nodes;
    report.spared += spared;
    report.kept = report.kept.map(|kept| kept + slice.kept + spared);
    (report.foreign, report.ranges) = (report.foreign + slice.foreign, report.ranges + 1);
    cursor.advance(next, report.deleted, saved)
}

/// The smallest key behind `key`.
fn after(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}
