//! Looking at a journal from outside: while its process runs, and when it does not. Nothing is written.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use state_store::{FileCall, ask};

use super::{
    code::UNKNOWN,
    event::{Entry, Happened},
    file::{FILE, open_to_read, records_begin, refuse_foreign},
    frame::{Frame, Scanner},
    places::{DamagedPlace, told},
};
use crate::{error::PruneError, files};

/// Which events to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Those with a higher number; absent means from the first one.
    pub after: Option<u64>,
    /// Those that did not happen before, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Those of these words; none means of any.
    pub codes: Vec<String>,
    /// At most so many of the oldest of them; absent means all.
    pub first: Option<usize>,
    /// At most so many of the newest of them; absent means all.
    pub last: Option<usize>,
}

impl Filter {
    fn takes(&self, entry: &Entry) -> bool {
        self.after.is_none_or(|after| entry.seq > after)
            && self.since_ms.is_none_or(|since| entry.at_ms >= since)
            && (self.codes.is_empty() || self.codes.contains(&entry.code))
    }

    fn is_full(&self, found: usize) -> bool {
        self.first.is_some_and(|first| found >= first)
    }
}

/// What a reading found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalRead {
    /// The file.
    pub path: PathBuf,
    /// The id of the journal in hex; absent if its header cannot be read.
    pub id: Option<String>,
    /// Whole records.
    pub records: u64,
    /// Records that a newer program wrote and this one does not know.
    pub unknown: u64,
    /// Places with bytes that are neither records nor a torn tail. A header that cannot be read is in the first of them.
    pub damaged: u64,
    /// Bytes behind the last record, which the next opening for writing cuts off: a torn tail, which is the beginning of a
    /// record, or a damaged place.
    pub torn_bytes: u64,
    /// Numbers between two records that no record has.
    pub missing: u64,
    /// The first of the damaged places, at most 8.
    #[serde(default)]
    pub places: Vec<DamagedPlace>,
    /// The numbers of the oldest and of the newest record.
    pub range: Option<(u64, u64)>,
    /// The events asked for, the oldest first.
    pub events: Vec<Entry>,
}

impl JournalRead {
    /// Whether everything in it is what was written. A torn tail is: a process that was killed in the middle of a write
    /// leaves one, and one that writes has one for a moment.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0
    }

    /// What was counted, for people.
    pub fn told(&self) -> String {
        let Self { path, records, unknown, torn_bytes, range, .. } = self;
        let numbers = range.map_or_else(|| "no events".to_owned(), |(first, last)| format!("events {first} to {last}"));
        let tail = match (range, torn_bytes) {
            (_, 0) => String::new(),
            (Some(_), bytes) => format!(", {bytes} bytes behind the last event, which the next start cuts off"),
            (None, bytes) => format!(", {bytes} bytes that are no event, which the next start cuts off"),
        };
        let header = if self.id.is_none() { "; the next start writes it anew, with a header" } else { "" };
        format!(
            "{}: {numbers}, {records} whole, {unknown} of a newer program; {}{tail}{header}",
            path.display(),
            self.lack_told()
        )
    }

    /// What is damaged and missing, and where, in words.
    pub fn lack_told(&self) -> String {
        told(&self.places, self.damaged, self.missing)
    }
}

/// The folder of the journal that belongs to a state folder or to the data folder of a node.
pub fn journal_dir(of: &Path) -> PathBuf {
    of.join("events")
}

/// The folder of the journal of a database: that of a prune at rest, or that of the node whose database it is. One of which
/// the system cannot tell whether it is there is taken for it, so that whoever reads it is told why it cannot be read.
pub fn find_journal(db: &Path) -> Option<PathBuf> {
    journal_dirs(db).into_iter().find(|dir| may_be_there(&dir.join(FILE)))
}

/// Where the journal of a database may be: in the folder that a prune at rest makes beside it, and in the data folder of its node.
pub fn journal_dirs(db: &Path) -> Vec<PathBuf> {
    let at_rest = journal_dir(&crate::offline::default_state_dir(db));
    let of_node = crate::offline::data_dir(db).map(|dir| journal_dir(&dir));
    [Some(at_rest), of_node].into_iter().flatten().collect()
}

fn may_be_there(path: &Path) -> bool {
    let found = ask(FileCall::Open, path).and_then(|()| fs::metadata(path));
    !matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// The file of the journal in its folder.
pub fn journal_file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

fn entry(frame: &Frame) -> Entry {
    match frame.event() {
        Some(event) => Entry::from(&Happened { seq: frame.seq, at_ms: frame.at_ms, event }),
        None => Entry::unknown(frame.seq, frame.at_ms),
    }
}

fn absent(path: &Path) -> PruneError {
    let folder = path.parent().and_then(Path::parent).filter(|folder| !may_be_there(folder));
    let gone = folder.map_or_else(String::new, |folder| format!(" and no folder {}", folder.display()));
    let what = format!(
        "there is no event journal{gone}; the data folder of a node has one, and the folder in which a prune keeps its records"
    );
    files::unread(path)(io::Error::new(io::ErrorKind::NotFound, what))
}

/// Reads the journal in a folder. One that asks for the first few stops there, and counts only up to them.
///
/// Errors: there is none, it is of a newer program or no journal at all, a failed read.
pub fn read_journal(dir: &Path, filter: &Filter) -> Result<JournalRead, PruneError> {
    let path = dir.join(FILE);
    let (file, header) = open_to_read(&path)?.ok_or_else(|| absent(&path))?;
    let mut scanner = Scanner::new(file, records_begin(header));
    let (mut events, mut unknown, mut range) = (VecDeque::new(), 0, None);
    while !filter.is_full(events.len()) {
        let next = ask(FileCall::Read, &path).and_then(|()| scanner.next());
        let Some(frame) = next.map_err(files::unread(&path))? else { break };
        range = Some(range.map_or((frame.seq, frame.seq), |(first, _)| (first, frame.seq)));
        let entry = entry(&frame);
        unknown += u64::from(entry.code == UNKNOWN);
        if filter.takes(&entry) {
            events.push_back(entry);
        }
        if filter.last.is_some_and(|last| events.len() > last) {
            events.pop_front();
        }
    }
    let counts = scanner.counts();
    refuse_foreign(&path, header, &counts)?;
    Ok(JournalRead {
        id: header.map(|header| hex::encode(header.id)),
        records: counts.records,
        unknown,
        damaged: counts.damaged,
        torn_bytes: counts.torn_bytes,
        missing: counts.missing,
        places: counts.places,
        range,
        events: events.into(),
        path,
    })
}

/// Reads every record and tells what is whole and what is not.
///
/// Errors: there is none, it is of a newer program or no journal at all, a failed read.
pub fn verify_journal(dir: &Path) -> Result<JournalRead, PruneError> {
    read_journal(dir, &Filter { last: Some(0), ..Filter::default() })
}
