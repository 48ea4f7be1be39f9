//! The certificate of a cycle: one JSON file that says what was kept, why, what was deleted, and what was checked.
//!
//! Its second line is a digest over all of the text but that line, so that a flipped bit anywhere is found. Those of formats
//! before 3 have none, and are read all the same.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use state_store::{FileCall, Point, Space, StoreError, ask, reached};

use crate::{
    error::PruneError,
    files,
    mark::MarkReport,
    roots::{KeptBy, RetainedRoot, RetainedRoots},
    snapshot::{AtomicSnapshot, KeptOrders},
    sweep::SweepReport,
    verify::SampleReport,
};

/// What set a cycle off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Enough orders were committed.
    Orders,
    /// An operator asked.
    Operator,
    /// An interrupted cycle went on after a restart.
    Resumed,
    /// Commits are not counted exactly, so that nothing is deleted between cycles until one has finished.
    Counts,
    /// Enough of the nodes present were put since the last run.
    Garbage,
    /// The disk was low.
    LowDisk,
    /// The schedule.
    Schedule,
    /// A rollback: what its branch had created is in no list.
    Rollback,
}

impl Trigger {
    /// Each of them.
    pub const ALL: [Self; 8] = [
        Self::Orders,
        Self::Operator,
        Self::Resumed,
        Self::Counts,
        Self::Garbage,
        Self::LowDisk,
        Self::Schedule,
        Self::Rollback,
    ];

    /// The word shown for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Operator => "operator",
            Self::Resumed => "resumed",
            Self::Counts => "counts",
            Self::Garbage => "garbage",
            Self::LowDisk => "low_disk",
            Self::Schedule => "schedule",
            Self::Rollback => "rollback",
        }
    }
}

/// One retained root with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootReport {
    /// The order it belongs to.
    pub order: u64,
    /// The root, in hex.
    pub root: String,
    /// Why it is kept.
    pub kept_by: KeptBy,
}

/// Roots listed one by one, at most; a longer list is told by its runs and its digest.
const LISTED_ROOTS: usize = 1024;

/// The retained roots as the certificate states them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedReport {
    /// Number of retained roots, pins included.
    pub roots: u64,
    /// Oldest order of the window.
    pub first_order: u64,
    /// Newest order: the head.
    pub last_order: u64,
    /// Orders of the window without a root; each was named by the operator.
    pub holes: Vec<u64>,
    /// Every retained order with its reason, in runs.
    pub kept_by: Vec<KeptOrders>,
    /// Every retained root with its reason, where there are not more than 1,024.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<RootReport>,
    /// Digest of the roots of the window, pins below it not included: docs/formats.md says over what.
    pub digest: String,
    /// Root of the head.
    pub head_root: String,
    /// Orders accepted but not executed, which is normal after a crash.
    pub unexecuted: u64,
    /// Whether history held fewer orders than asked for, so that all were kept.
    pub shorter_than_asked: bool,
}

impl RetainedReport {
    pub(crate) fn of(snapshot: &AtomicSnapshot, roots: &RetainedRoots) -> Self {
        let it = &snapshot.snapshot;
        Self {
            roots: it.roots,
            first_order: it.first_order,
            last_order: it.latest_order,
            holes: it.holes.clone(),
            kept_by: it.retained.clone(),
            listed: listed(roots),
            digest: hex::encode(it.roots_digest.0),
            head_root: hex::encode(it.state_root.0),
            unexecuted: roots.unexecuted,
            shorter_than_asked: roots.shorter_than_asked,
        }
    }
}

fn listed(roots: &RetainedRoots) -> Vec<RootReport> {
    if roots.roots.len() > LISTED_ROOTS {
        return Vec::new();
    }
    let report = |kept: &RetainedRoot| RootReport {
        order: kept.order.get(),
        root: kept.root.to_string(),
        kept_by: kept.kept_by.clone(),
    };
    roots.roots.iter().map(report).collect()
}

/// Bytes on disk by kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBytes {
    /// Table files.
    pub tables: u64,
    /// Blob files.
    pub blobs: u64,
    /// Write-ahead logs.
    pub logs: u64,
    /// Everything else.
    pub other: u64,
    /// The sum.
    pub total: u64,
}

impl From<Space> for FileBytes {
    fn from(space: Space) -> Self {
        let Space { tables, blobs, logs, other } = space;
        Self { tables, blobs, logs, other, total: space.total() }
    }
}

/// Wall time by phase, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeconds {
    /// Moving the floor and taking the snapshot.
    pub snapshot: Option<f64>,
    /// Marking.
    pub build_reach: Option<f64>,
    /// Sweeping; of a resumed cycle only since it was resumed.
    pub sweep_expired: f64,
    /// Reading live nodes back.
    pub verify: f64,
}

/// What came of reading live nodes back after a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Verification {
    /// Every node was there and intact, and had its children.
    Passed(SampleReport),
    /// A node was missing or damaged: deletes are frozen.
    Failed {
        /// What was found.
        why: String,
    },
}

/// What one cycle did, and the evidence that it was right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Version of this format.
    pub format: u32,
    /// The cycle.
    pub cycle: u64,
    /// What set it off.
    pub trigger: Trigger,
    /// Milliseconds since 1970 at its end.
    pub finished_at: u64,
    /// The snapshot it worked on.
    pub snapshot_id: u64,
    /// Integrity hash of that snapshot.
    pub integrity_hash: String,
    /// The engine's sequence number of the view.
    pub view_sequence: u64,
    /// Fingerprint of the configuration.
    pub config: String,
    /// What was retained, and why.
    pub retained: RetainedReport,
    /// Nodes in the sealed mark.
    pub live_nodes: u64,
    /// Digest of the live set: SHA-256 over the sorted 64-bit fingerprints in the sealed mark.
    pub live_digest: String,
    /// How marking went.
    pub mark: Option<MarkReport>,
    /// How sweeping went.
    pub sweep: SweepReport,
    /// Whether an earlier process had begun it, and a later one went on with its sweep or with its walk.
    pub resumed: bool,
    /// Nodes deleted by the whole cycle, before and after a restart. Of a resumed cycle that could not count every row
    /// before (a walk, or a node that committed meanwhile), what was deleted of the range it died in may be missing. By a filter
    /// what was deleted before is counted again where its tombstone lies in a newer file than the node.
    pub deleted: u64,
    /// Bytes on disk before the cycle.
    pub bytes_before: Option<FileBytes>,
    /// Bytes on disk afterwards.
    pub bytes_after: FileBytes,
    /// Wall time by phase.
    pub seconds: PhaseSeconds,
    /// What came of reading live nodes back after the sweep.
    pub verification: Verification,
    /// Most memory the process ever used, in bytes, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// The version of the certificate format.
pub(crate) const CERTIFICATE_FORMAT: u32 = 4; // 3 had a run for each order that stands alone
/// The first version with a digest.
const WITH_DIGEST: u32 = 3;
/// What stands around the digest.
const OPENING: &[u8] = b"{\n";
const BEFORE_DIGEST: &[u8] = b"  \"digest\": \"";
const BEHIND_DIGEST: &[u8] = b"\",\n";
/// Hex digits of it.
const DIGITS: usize = 64;

/// What the text of a certificate was held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateText {
    /// Its digest, which covers every bit.
    Covered,
    /// Nothing: it is of a format that had no digest.
    NotCovered,
}

/// Their folder inside the state folder.
pub(crate) const FOLDER: &str = "certificates";

impl Certificate {
    /// Writes the certificate beside the store and returns where.
    pub fn write(&self, state_dir: &Path) -> Result<PathBuf, PruneError> {
        let folder = state_dir.join(FOLDER);
        files::create_dir(&folder)?;
        let path = folder.join(file_name(self.cycle));
        files::replace(&path, &self.encode()?)?;
        reached(Point::Certified);
        if let Err(error) = remove_old(&folder) {
            tracing::warn!(%error, "an old certificate could not be removed; the next cycle tries again");
        }
        Ok(path)
    }

    fn encode(&self) -> Result<Vec<u8>, PruneError> {
        let broken = |why: String| PruneError::Invariant(format!("a certificate does not encode: {why}"));
        let plain = serde_json::to_vec_pretty(self).map_err(|error| broken(error.to_string()))?;
        let fields = plain.strip_prefix(OPENING).ok_or_else(|| broken("it does not begin with a line".to_owned()))?;
        let digest = digest_around(fields);
        Ok([OPENING, BEFORE_DIGEST, digest.as_bytes(), BEHIND_DIGEST, fields].concat())
    }

    /// Reads the text of a certificate, and holds it against its digest.
    ///
    /// Errors: a text that is none, or differs by one bit from what was written.
    pub fn decode(text: &[u8]) -> Result<(Self, CertificateText), PruneError> {
        let refuse = |why: String| StoreError::Record { name: "certificate".to_owned(), why };
        let told: Self = serde_json::from_slice(text).map_err(|error| refuse(error.to_string()))?;
        match split_digest(text) {
            Some((digest, fields)) if digest == digest_around(fields).as_bytes() => {
                Ok((told, CertificateText::Covered))
            }
            Some(_) => Err(refuse("it is not the text that its digest stands for".to_owned()).into()),
            None if told.format < WITH_DIGEST => Ok((told, CertificateText::NotCovered)),
            None => Err(refuse(format!("it has format {} and no digest", told.format)).into()),
        }
    }
}

/// The digest of a text without the line of its digest; `fields` are the lines behind that.
fn digest_around(fields: &[u8]) -> String {
    hex::encode(Sha256::new().chain_update(OPENING).chain_update(fields).finalize())
}

/// The digest that a text has, and what follows it.
fn split_digest(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digest, rest) = text.strip_prefix(OPENING)?.strip_prefix(BEFORE_DIGEST)?.split_at_checked(DIGITS)?;
    Some((digest, rest.strip_prefix(BEHIND_DIGEST)?))
}

/// Cycles that failed left no certificate, so the newest are counted, not numbered.
fn remove_old(folder: &Path) -> Result<(), PruneError> {
    let mut names = Vec::new();
    let entries = ask(FileCall::List, folder).and_then(|()| std::fs::read_dir(folder));
    for entry in entries.map_err(files::failed(folder))? {
        let name = entry.map_err(files::failed(folder))?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("cycle-") && name.ends_with(".json")) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let old = names.len().saturating_sub(KEPT_CERTIFICATES);
    names.iter().take(old).try_for_each(|name| files::remove(&folder.join(name)))
}

/// Certificates kept; the oldest goes when a new one is written.
const KEPT_CERTIFICATES: usize = 1000;

fn file_name(cycle: u64) -> String {
    format!("cycle-{cycle:08}.json")
}

/// The peak resident memory of this process.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return None };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let Ok(kib) = line.trim().trim_end_matches("kB").trim().parse::<u64>() else { return None };
    Some(kib * 1024)
}
