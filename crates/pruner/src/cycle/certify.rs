//! From a finished sweep to its certificate.

use std::time::Duration;

use super::{CycleEnv, CycleOrder, Marked, cursor::RecordCursor};
use crate::{
    certificate::{self, CERTIFICATE_FORMAT, Certificate, FileBytes, PhaseSeconds, Verification},
    error::PruneError,
    snapshot::SnapshotGuard,
    sweep::SweepReport,
};

/// What of the snapshot the certificate repeats.
pub(super) struct AtomicFields {
    pub(super) id: u64,
    pub(super) integrity_hash: String,
    pub(super) view_sequence: u64,
}

impl AtomicFields {
    pub(super) fn of(guard: &SnapshotGuard<'_>) -> Self {
        Self {
            id: guard.snapshot_id,
            integrity_hash: hex::encode(guard.integrity_hash.0),
            view_sequence: guard.snapshot.view_sequence,
        }
    }
}

pub(super) struct Swept<'a> {
    pub(super) report: SweepReport,
    pub(super) verification: Verification,
    pub(super) verify_seconds: Duration,
    pub(super) cursor: RecordCursor<'a>,
    pub(super) snapshot: AtomicFields,
}

/// Nodes deleted by the whole cycle. The count of an interrupted run may lack the range it died in; where nobody writes
/// meanwhile and the mark counted every row, what is left tells exactly.
fn deleted(env: &CycleEnv, marked: &Marked, swept: &Swept<'_>) -> Result<u64, PruneError> {
    let at_rest = env.parts.store.head().is_none();
    let (report, kept) = (marked.report(), swept.report.kept.filter(|_| at_rest));
    match (kept, report.present_nodes, report.foreign_rows) {
        (Some(kept), Some(nodes), Some(foreign)) => {
            let rows = nodes + foreign;
            let more = || PruneError::Invariant(format!("{kept} rows are left where the mark counted {rows}"));
            rows.checked_sub(kept).ok_or_else(more)
        }
        _ => Ok(swept.cursor.deleted_before + swept.report.deleted),
    }
}

/// Puts the certificate together from what each step returned.
pub(super) fn certify(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    marked: &Marked,
    swept: Swept<'_>,
) -> Result<Certificate, PruneError> {
    let deleted = deleted(env, marked, &swept)?;
    let (record, reports) = (&swept.cursor.record, marked.reports.clone());
    Ok(Certificate {
        format: CERTIFICATE_FORMAT,
        cycle: record.cycle,
        trigger: order.trigger,
        finished_at: env.parts.clock.unix_ms(),
        snapshot_id: swept.snapshot.id,
        integrity_hash: swept.snapshot.integrity_hash,
        view_sequence: swept.snapshot.view_sequence,
        config: hex::encode(record.config),
        retained: reports.retained,
        live_nodes: marked.mark.live_nodes(),
        live_digest: hex::encode(marked.mark.live_digest()),
        resumed: marked.resumed,
        deleted,
        seconds: PhaseSeconds {
            snapshot: Some(reports.snapshot_seconds),
            build_reach: Some(reports.mark.seconds),
            sweep_expired: swept.report.seconds,
            verify: swept.verify_seconds.as_secs_f64(),
        },
        mark: Some(reports.mark),
        sweep: swept.report,
        bytes_before: Some(reports.bytes_before),
        bytes_after: FileBytes::from(env.parts.store.backend().space()?),
        verification: swept.verification,
        peak_rss_bytes: certificate::peak_rss_bytes(),
    })
}
