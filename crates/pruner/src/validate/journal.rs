//! Whether the journal of events is what was written: every record of it, while its writer works or not.

use std::{fs, io, path::Path};

use state_store::{FileCall, ask};

use super::{
    manager::{ENDED, Reach},
    result::ValidationResult,
};
use crate::{
    error::iec,
    events::{journal_file, verify_journal},
    files,
};

/// A larger journal is not read, unless all of it was asked for.
const LONGEST: u64 = 64 << 20;

/// Reads the journal in a folder; `None` means that nobody said where it is.
pub(super) fn check(dir: Option<&Path>, reach: &Reach) -> ValidationResult {
    let Some(dir) = dir else { return ValidationResult::skipped("nobody said where the journal of events is") };
    let path = journal_file(dir);
    match ask(FileCall::Open, &path).and_then(|()| fs::metadata(&path)) {
        Ok(file) => match reach {
            Reach::Newest if file.len() > LONGEST => too_long(file.len()),
            Reach::All(goes_on) if !goes_on() => ValidationResult::skipped(ENDED),
            Reach::Newest | Reach::All(_) => look(dir),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let none = format!("there is no journal of events at {}", path.display());
            ValidationResult::skipped(format!("{none}, as beside a store that was copied, restored or never pruned"))
        }
        Err(error) => ValidationResult::failed(files::failed(&path)(error).to_string()),
    }
}

fn too_long(bytes: u64) -> ValidationResult {
    let (bytes, most) = (iec(bytes), iec(LONGEST));
    ValidationResult::skipped(format!("it has {bytes}, a check reads {most}: `journal verify` or a deep one reads it"))
}

/// The verdict and the counts are those of `journal verify`.
fn look(dir: &Path) -> ValidationResult {
    match verify_journal(dir) {
        Ok(read) if read.is_sound() => ValidationResult::Passed { evidence: read.told() },
        Ok(read) => ValidationResult::failed(read.told()),
        Err(error) => ValidationResult::failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        clock::SystemClock,
        events::{Event, EventJournal, EventSink as _, EventsConfig, Stopping},
        phase::PrunePhase,
    };

    #[test]
    fn every_single_flipped_bit_of_the_journal_of_events_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(None, &Reach::Newest).word(), "skipped");
        assert_eq!(check(Some(dir.path()), &Reach::Newest).word(), "skipped");
        let journal = EventJournal::open(dir.path(), EventsConfig::default(), Arc::new(SystemClock::new())).unwrap();
        journal.emit(Event::PhaseEntered { cycle: 1, phase: PrunePhase::BuildReach });
        journal.emit(Event::DeletesUnfrozen);
        assert_eq!(journal.stop(Duration::from_secs(60)), Stopping::Whole);
        drop(journal);
        let evidence = verify_journal(dir.path()).unwrap().told();
        assert!(evidence.contains("events 1 to 4, 4 whole, "), "{evidence}");
        assert_eq!(check(Some(dir.path()), &Reach::Newest), ValidationResult::Passed { evidence });
        let path = journal_file(dir.path());
        let bytes = fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            assert_eq!(check(Some(dir.path()), &Reach::Newest).word(), "failed", "bit {bit}");
        }
    }

    #[test]
    fn a_long_journal_of_events_is_read_when_all_of_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(journal_file(dir.path())).unwrap();
        file.set_len(LONGEST + 1).unwrap(); // no journal: whoever reads it finds that
        let all = |goes_on: bool| Reach::All(Arc::new(move || goes_on));
        let reason = |reach: &Reach| match check(Some(dir.path()), reach) {
            ValidationResult::Skipped { reason } => reason,
            other @ (ValidationResult::Passed { .. } | ValidationResult::Failed { .. }) => panic!("{other:?}"),
        };
        assert!(reason(&Reach::Newest).contains("a check reads"), "{}", reason(&Reach::Newest));
        assert_eq!(reason(&all(false)), ENDED);
        assert_eq!(check(Some(dir.path()), &all(true)).word(), "failed");
    }
}
