//! The sweep by delete batches: each slice reads from a fresh view and deletes under the commit gate.
//!
//! A commit waits for at most one batch (I12). A fresh view per slice lets compaction drop what was deleted (L4); a
//! node that appears in it and was not in the marked view was created since, and the barrier spares it.

use std::sync::Arc;

use state_store::{Condemned, Flow, Haste, KeyRange, LiveSet, View};
use state_tree::NodeHash;

use super::{Saved, SweepCursor, SweepJob, SweepReport, rest_of_keys};
use crate::{control::Stage, error::PruneError};

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

pub(super) fn sweep(
    job: &SweepJob<'_>,
    cursor: &mut dyn SweepCursor,
    report: &mut SweepReport,
) -> Result<(), PruneError> {
    while let Some(range) = rest_of_keys(cursor) {
        job.admit()?;
        let slice = read(job, job.store.view()?, range)?;
        let next = slice.last.as_deref().map_or_else(Vec::new, after);
        delete(job, cursor, &slice, &next, report)?;
        if let Some(pace) = &job.pace {
            pace.spend(slice.bytes, Haste::Usual);
        }
        job.show(Stage::Sweep, report.deleted, Some(&next));
    }
    Ok(())
}

fn read(job: &SweepJob<'_>, view: Arc<dyn View>, range: KeyRange) -> Result<Slice, PruneError> {
    let (mut slice, mut hint) = (Slice::default(), 0);
    view.scan_nodes(&range, &mut |key, value| {
        slice.rows += 1;
        match NodeHash::try_from(key) {
            Ok(hash) if job.mark.contains(&hash, &mut hint) => slice.kept += 1,
            Ok(hash) if job.barrier.protects(&hash) => slice.spared += 1, // created since
            Ok(hash) => {
                slice.dead.push(hash);
                slice.bytes += value.len() as u64;
            }
            Err(_) => {
                slice.kept += 1; // not a node (I8)
                slice.foreign += 1;
            }
        }
        if slice.dead.len() >= job.delete_batch.get() || slice.rows >= SLICE_ROWS {
            slice.last = Some(key.to_vec());
            Flow::Break(())
        } else {
            Flow::Continue(())
        }
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
