//! Whether everything persisted is what was written: records, rows of the store, the mark of a sweep, the certificate.

use std::{fs, path::Path};

use super::{
    artefacts,
    checks::{LOOKS, MOVED, look_again},
    manager::Place,
    result::ValidationResult,
};
use crate::{
    certificate::Certificate,
    error::PruneError,
    mark::{MarkIdentity, SealedMark},
    outcome::{Ended, Outcome},
    phase::{PhaseRecord, PrunePhase},
    records::{RecordKey, Records},
    snapshot::AtomicSnapshotManager,
};

/// A mark up to this size is read whole, of a larger one the header.
const WHOLE_MARK: u64 = 64 << 20;

/// What was seen of one kind of artefact.
#[derive(Debug, Default)]
struct Seen {
    records: usize,
    rows: u64,
    files: usize,
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
    let Seen { records, rows, files, faults } = seen;
    if (records, rows, files) == (0, 0, 0) && faults.is_empty() {
        return ValidationResult::skipped("nothing is persisted yet");
    }
    ValidationResult::unless(faults, || format!("{records} records, {rows} rows and {files} files are as written"))
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
    if let Some(last) = last
        && let Some(fault) = certificate(&place.state_dir, &last, &mut seen.files)
    {
        seen.faults.push(fault);
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
    if SealedMark::check_header(dir, identity)? > WHOLE_MARK {
        return Ok(());
    }
    let sealed = SealedMark::open(dir, identity)?;
    if Some(sealed.live_digest()) == record.mark_digest {
        return Ok(());
    }
    let why = "it is not the one that its cycle sealed".to_owned();
    Err(PruneError::BadMark { path: sealed.path().to_owned(), why })
}

/// The certificate of the last cycle that finished, held against its outcome.
fn certificate(state_dir: &Path, last: &Outcome, files: &mut usize) -> Option<String> {
    let Ended::Finished { certificate, deleted, first_order, live_nodes, bytes_after, .. } = &last.ended else {
        return None;
    };
    *files += 1;
    let name = Path::new(certificate).file_name()?;
    let path = state_dir.join(crate::certificate::FOLDER).join(name);
    let read = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Certificate>(&bytes).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let told = match read {
        Ok(told) => told,
        Err(error) => return Some(format!("certificate {}: {error}", path.display())),
    };
    let same = (Some(told.cycle), told.deleted, told.retained.first_order, told.live_nodes, told.bytes_after.total)
        == (last.cycle, *deleted, *first_order, *live_nodes, *bytes_after);
    (!same).then(|| format!("certificate {} is not that of the last cycle's outcome", path.display()))
}
