//! What an offline prune answers, in the shape the command line prints.

use serde::{Deserialize, Serialize};

use crate::{
    certificate::RetainedReport,
    cycle::{Finished, Marked},
    mark::MarkReport,
    sweep::SweepReport,
};

/// Bytes of the database folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneBytes {
    /// Before the prune.
    pub before: u64,
    /// After it.
    pub after: u64,
}

/// The answer of an offline prune.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneOutcome {
    /// Whether this is a plan: nothing was deleted, and `sweep` says what a sweep would delete.
    pub dry_run: bool,
    /// What is retained, and why.
    pub retained: RetainedReport,
    /// How marking went.
    pub mark: Option<MarkReport>,
    /// The interrupted cycle that this run went on with, if it did.
    pub resumed_cycle: Option<u64>,
    /// Nodes deleted, those of an earlier run of the same sweep included; in a dry run, those it would delete.
    pub deleted: u64,
    /// How sweeping went in this run; in a dry run how it would go, counted row by row.
    pub sweep: SweepReport,
    /// Bytes on disk; a dry run leaves them as they are.
    pub bytes: PruneBytes,
    /// Path of the certificate; absent in a dry run.
    pub certificate: Option<String>,
}

impl PruneOutcome {
    pub(super) fn planned(marked: &Marked, plan: SweepReport, bytes: u64) -> Self {
        Self {
            dry_run: true,
            retained: marked.retained().clone(),
            mark: Some(marked.report().clone()),
            resumed_cycle: None,
            deleted: plan.deleted,
            sweep: plan,
            bytes: PruneBytes { before: bytes, after: bytes },
            certificate: None,
        }
    }

    pub(super) fn applied(finished: &Finished, bytes: PruneBytes) -> Self {
        let certificate = &finished.certificate;
        Self {
            dry_run: false,
            retained: certificate.retained.clone(),
            mark: certificate.mark.clone(),
            resumed_cycle: certificate.resumed.then_some(certificate.cycle),
            deleted: certificate.deleted,
            sweep: certificate.sweep.clone(),
            bytes,
            certificate: Some(finished.path.display().to_string()),
        }
    }
}
