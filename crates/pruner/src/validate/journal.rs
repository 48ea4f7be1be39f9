//! Whether the journal of events is what was written: every record of it, while its writer works or not.

use std::{fs, io, path::Path};

use state_store::{FileCall, ask};

use super::{
    checks::{LOOKS, look_again},
    manager::{ENDED, Reach},
    result::ValidationResult,
};
use crate::{
    error::iec,
    events::{JournalRead, journal_file, verify_journal},
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
            ValidationResult::skipped(format!("there is no journal of events at {}", path.display()))
        }
        Err(error) => ValidationResult::failed(files::failed(&path)(error).to_string()),
    }
}

fn too_long(bytes: u64) -> ValidationResult {
    let (bytes, most) = (iec(bytes), iec(LONGEST));
    ValidationResult::skipped(format!("it has {bytes}, a check reads {most}: `journal verify` or a deep one reads it"))
}

/// A record that is being written is torn for a moment; what stays torn is none.
fn look(dir: &Path) -> ValidationResult {
    let mut before: Option<JournalRead> = None;
    for _ in 0..LOOKS {
        let read = match verify_journal(dir) {
            Ok(read) => read,
            Err(error) => return ValidationResult::failed(error.to_string()),
        };
        let moves = before.is_some_and(|before| (before.records, before.torn_bytes) != (read.records, read.torn_bytes));
        if read.torn_bytes == 0 || read.damaged > 0 || moves {
            return judge(&JournalRead { torn_bytes: if moves { 0 } else { read.torn_bytes }, ..read });
        }
        before = Some(read);
        look_again();
    }
    before.as_ref().map_or_else(|| ValidationResult::skipped("it was not looked at"), judge)
}

fn judge(read: &JournalRead) -> ValidationResult {
    let JournalRead { path, records, damaged, torn_bytes, .. } = read;
    let mut wrong = Vec::new();
    if *damaged > 0 {
        wrong.push(format!("{} has {damaged} damaged places beside {records} whole events", path.display()));
    }
    if *torn_bytes > 0 {
        let path = path.display();
        wrong.push(format!(
            "{path} ends in {torn_bytes} bytes of no event; a crash left them, or the last one is damaged"
        ));
    }
    ValidationResult::unless(wrong, || format!("{records} events are as written"))
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
        assert_eq!(
            check(Some(dir.path()), &Reach::Newest),
            ValidationResult::Passed { evidence: "4 events are as written".to_owned() }
        );
        let path = journal_file(dir.path());
        let bytes = fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            let read = verify_journal(dir.path()).unwrap();
            assert_eq!(judge(&read).word(), "failed", "bit {bit}: {read:?}");
        }
        for bit in [0, bytes.len() * 4, bytes.len() * 8 - 1] {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            assert_eq!(check(Some(dir.path()), &Reach::Newest).word(), "failed", "bit {bit}, as it is asked");
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
