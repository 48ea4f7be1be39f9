//! Whether everything persisted is what was written: records, rows of the store, the mark of a sweep, the certificate.

use std::path::Path;

use super::{
    artefacts,
    checks::{LOOKS, MOVED, look_again},
    manager::Place,
    result::ValidationResult,
};
use crate::{
    certificate::{Certificate, CertificateText},
    error::PruneError,
    files,
    mark::{MarkIdentity, SealedMark},
    outcome::{Ended, Outcome},
    phase::{PhaseRecord, PrunePhase},
    records::{RecordKey, Records},
    snapshot::AtomicSnapshotManager,
};

/// What was seen of one kind of artefact.
#[derive(Debug, Default)]
struct Seen {
    records: usize,
    rows: u64,
    files: usize,
    /// What had nothing to be held against.
    not_covered: Vec<String>,
    faults: Vec<String>,
}

/// Decodes every artefact there is.
pub(super) fn check(snapshots: &AtomicSnapshotManager, place: Option<&Place>) -> ValidationResult {
    let mut seen = Seen::default();
    let looked = records(&*snapshots.parts().records, &mut seen).and_then(|()| {
        let rows = state_store::check_rows(&*snapshots.parts().store.view()?)?;
        (seen.rows, seen.faults) = (rows.rows, [std::mem::take(&mut seen.faults), rows.faults].concat());
        Ok(())
    });
    if let Err(error) = looked {
        return ValidationResult::failed(format!("what is persisted cannot be read: {error}"));
    }
    if let Some(place) = place {
        match files(snapshots, place, &mut seen) {
            Ok(()) => {}
            Err(Moves) => return ValidationResult::skipped(MOVED),
        }
    }
    let Seen { records, rows, files, not_covered, faults } = seen;
    if (records, rows, files) == (0, 0, 0) && not_covered.is_empty() && faults.is_empty() {
        return ValidationResult::skipped("nothing is persisted yet");
    }
    ValidationResult::unless(faults, || {
        let whole = format!("{records} records, {rows} rows and {files} files are as written");
        [vec![whole], not_covered].concat().join("; ")
    })
}

fn records(records: &dyn Records, seen: &mut Seen) -> Result<(), PruneError> {
    for key in RecordKey::ALL {
        let Some(bytes) = records.load(key)? else { continue };
        seen.records += 1;
        seen.faults.extend(artefacts::check_record(key, &bytes).err().map(|error| error.to_string()));
    }
    Ok(())
}

/// The cycle ended, or another one began, while its files were looked at.
struct Moves;

fn files(snapshots: &AtomicSnapshotManager, place: &Place, seen: &mut Seen) -> Result<(), Moves> {
    let records = &*snapshots.parts().records;
    // Records that do not load were told above.
    let (Ok(phase), Ok(last)) = (PhaseRecord::load(records), Outcome::load(records)) else { return Ok(()) };
    if let Some(record) = phase.filter(|record| record.phase == PrunePhase::SweepExpired) {
        seen.files += 1;
        if let Err(error) = mark(&place.state_dir, &record) {
            still(records, &record)?;
            seen.faults.push(error.to_string());
        }
    }
    if let Some(last) = last {
        certificate(&place.state_dir, &last, seen);
    }
    Ok(())
}

/// A fault of a file counts as long as its cycle is where it was.
fn still(records: &dyn Records, record: &PhaseRecord) -> Result<(), Moves> {
    for _ in 0..LOOKS {
        look_again();
        match PhaseRecord::load(records) {
            Ok(Some(now)) if now.cycle == record.cycle && now.phase == record.phase => {}
            Ok(_) | Err(_) => return Err(Moves),
        }
    }
    Ok(())
}

fn mark(dir: &Path, record: &PhaseRecord) -> Result<(), PruneError> {
    let identity = MarkIdentity { cycle: record.cycle, roots: record.roots_digest };
    SealedMark::verify(dir, identity, record.mark_digest)
}

/// The certificate of the last cycle that finished, held against its digest and against the outcome.
fn certificate(state_dir: &Path, last: &Outcome, seen: &mut Seen) {
    let Ended::Finished { certificate, deleted, first_order, live_nodes, bytes_after, .. } = &last.ended else {
        return;
    };
    let Some(name) = Path::new(certificate).file_name() else {
        return seen.faults.push(format!("the last outcome names no certificate: `{certificate}`"));
    };
    let path = state_dir.join(crate::certificate::FOLDER).join(name);
    let read = match files::read(&path) {
        Ok(None) => {
            return seen.not_covered.push(format!(
                "certificate {} is not there, as in a store that was copied or restored; the next cycle makes one",
                path.display()
            ));
        }
        Ok(Some(text)) => Certificate::decode(&text),
        Err(error) => Err(error),
    };
    let (told, text) = match read {
        Ok(read) => read,
        Err(error) => return seen.faults.push(format!("certificate {}: {error}", path.display())),
    };
    let same = (Some(told.cycle), told.deleted, told.retained.first_order, told.live_nodes, told.bytes_after.total)
        == (last.cycle, *deleted, *first_order, *live_nodes, *bytes_after);
    match text {
        _ if !same => {
            seen.faults.push(format!("certificate {} is not that of the last cycle's outcome", path.display()))
        }
        CertificateText::Covered => seen.files += 1,
        CertificateText::NotCovered => seen.not_covered.push(format!(
            "certificate {} is not covered: format {} had no digest, and only what the outcome has too was compared",
            path.display(),
            told.format
        )),
    }
}
