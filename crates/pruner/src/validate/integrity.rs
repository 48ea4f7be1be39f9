//! Whether everything persisted is what was written: records, rows of the store, the mark of a sweep, the certificate.

use std::path::Path;

use state_store::{RowsChecked, check_all_rows, check_rows, record};

use super::{
    artefacts,
    checks::{LOOKS, MOVED, look_again},
    manager::{ENDED, Place, Reach},
    result::{Check, Checked, Depth, ValidationResult},
};
use crate::{
    certificate::{Certificate, CertificateText},
    error::PruneError,
    files,
    log_cut::Lost,
    mark::{MarkIdentity, SavedWalk, SealedMark},
    outcome::{Ended, Outcome},
    phase::{PhaseRecord, PrunePhase},
    records::{RecordKey, Records},
    snapshot::AtomicSnapshotManager,
};

const NO_PLACE: &str = "nobody said where cycles keep their files";

/// What was seen of one kind of artefact.
#[derive(Debug, Default)]
struct Seen {
    records: usize,
    rows: RowsChecked,
    files: usize,
    /// What is there, or should be, and could not be held against anything.
    unasked: Vec<String>,
    faults: Vec<String>,
    /// How much one has to read so that the faults are over when it passes.
    needs: Depth,
}

impl Seen {
    fn judge(self) -> ValidationResult {
        let Self { records, rows, files, unasked, faults, needs: _ } = self;
        if !faults.is_empty() {
            return ValidationResult::Failed { reasons: faults };
        }
        if (records, rows.rows(), files) == (0, 0, 0) && unasked.is_empty() {
            return ValidationResult::skipped("nothing is persisted yet");
        }
        let cycles = match files {
            0 if unasked.is_empty() => "no mark and no certificate is to be there".to_owned(),
            files => format!("{files} files of cycles"),
        };
        let whole = format!("{records} records; {}; {cycles}", rows.told());
        if unasked.is_empty() {
            return ValidationResult::Passed { evidence: format!("as written: {whole}") };
        }
        ValidationResult::skipped(format!("not all of it could be asked: {}; as written: {whole}", unasked.join("; ")))
    }
}

/// Decodes every artefact there is, and of those of which there are many as many as it reaches.
pub(super) fn check(
    snapshots: &AtomicSnapshotManager,
    place: Option<&Place>,
    reach: &Reach,
    log_cut: Option<&str>,
) -> Checked {
    let (check, mut seen) = (Check::Integrity, Seen::default());
    seen.faults.extend(log_cut.map(str::to_owned));
    let looked = records(&*snapshots.parts().records, &mut seen).and_then(|()| rows(snapshots, reach, &mut seen));
    let is_read = looked.is_ok();
    if let Err(error) = looked {
        seen.needs = Depth::All; // what could not be read may be anything
        seen.faults.push(format!("what is persisted cannot be read: {error}"));
    }
    match files(snapshots, place, &mut seen) {
        Ok(()) => {}
        Err(Moves) => seen.unasked.push(format!("the mark of the cycle: {MOVED}")),
    }
    let depth = match reach {
        Reach::All(_) if is_read && !seen.rows.is_ended() => Depth::All,
        Reach::Newest | Reach::All(_) => Depth::Newest,
    };
    Checked { check, depth, needs: seen.needs, result: seen.judge() }
}

fn rows(snapshots: &AtomicSnapshotManager, reach: &Reach, seen: &mut Seen) -> Result<(), PruneError> {
    let store = &*snapshots.parts().store;
    let checked = match reach {
        Reach::Newest => check_rows(&*store.view()?),
        Reach::All(goes_on) => check_all_rows(store, &**goes_on),
    };
    let mut rows = checked?;
    if !rows.faults.is_empty() {
        seen.needs = Depth::All; // a damaged row is among the newest for a while only
    }
    seen.faults.append(&mut rows.faults);
    if rows.is_ended() {
        seen.unasked.push(format!("the other rows of the store: {ENDED}"));
    }
    seen.rows = rows;
    Ok(())
}

fn records(records: &dyn Records, seen: &mut Seen) -> Result<(), PruneError> {
    for key in RecordKey::ALL {
        let Some(bytes) = records.load(key)? else { continue };
        seen.records += 1;
        seen.faults.extend(artefacts::check_record(key, &bytes).err().map(|error| error.to_string()));
        if key == RecordKey::LogCut
            && let Ok(lost) = record::decode::<Lost>("log_cut", &bytes)
        {
            seen.faults.push(lost.told()); // until an operator has seen to it
        }
    }
    Ok(())
}

/// The cycle ended, or another one began, while its files were looked at.
struct Moves;

fn files(snapshots: &AtomicSnapshotManager, place: Option<&Place>, seen: &mut Seen) -> Result<(), Moves> {
    let records = &*snapshots.parts().records;
    let (Ok(phase), Ok(last)) = (PhaseRecord::load(records), Outcome::load(records)) else {
        // Records that do not decode were told above.
        seen.unasked.push("marks and certificates, for the records that name them cannot be read".to_owned());
        return Ok(());
    };
    if let Some(last) = last {
        certificate(place, &last, seen);
    }
    let Some(record) = phase else { return Ok(()) };
    let look = match record.phase {
        PrunePhase::SweepExpired => mark,
        PrunePhase::BuildReach => walk,
        PrunePhase::Idle | PrunePhase::IncrementalSweep => return Ok(()),
    };
    let Some(place) = place else {
        seen.unasked.push(format!("the mark of cycle {}, for {NO_PLACE}", record.cycle));
        return Ok(());
    };
    match look(&place.state_dir, &record) {
        Ok(files) => seen.files += files,
        Err(error) => {
            still(records, &record)?;
            seen.faults.push(error.to_string());
        }
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

fn mark(dir: &Path, record: &PhaseRecord) -> Result<usize, PruneError> {
    SealedMark::verify(dir, identity(record), record.mark_digest).map(|()| 1)
}

/// What a walk has written down last, if it has; its runs are held against it when the walk goes on with them.
fn walk(dir: &Path, record: &PhaseRecord) -> Result<usize, PruneError> {
    SavedWalk::load(dir, identity(record)).map(|walk| usize::from(walk.is_some()))
}

fn identity(record: &PhaseRecord) -> MarkIdentity {
    MarkIdentity { cycle: record.cycle, roots: record.roots_digest }
}

/// The certificate of the last cycle that finished, held against its digest and against the outcome.
fn certificate(place: Option<&Place>, last: &Outcome, seen: &mut Seen) {
    let Ended::Finished { certificate, deleted, first_order, live_nodes, bytes_after, .. } = &last.ended else {
        return;
    };
    let Some(place) = place else { return seen.unasked.push(format!("certificate {certificate}, for {NO_PLACE}")) };
    let Some(name) = Path::new(certificate).file_name() else {
        return seen.faults.push(format!("the last outcome names no certificate: `{certificate}`"));
    };
    let path = place.state_dir.join(crate::certificate::FOLDER).join(name);
    let read = match files::read(&path) {
        Ok(None) => {
            return seen.unasked.push(format!(
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
        CertificateText::NotCovered => seen.unasked.push(format!(
            "certificate {} is not covered: format {} had no digest, and only what the outcome has too was compared",
            path.display(),
            told.format
        )),
    }
}
