//! The file of a journal: made whole, read at its opening, appended to by one process.
//!
//! Its lock is held while records are written and while a compaction swaps the file, never while the disk syncs.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use state_store::{FileCall, Holder, StoreError, ask};

use super::{
    frame::{Beginning, Counts, HEADER, JournalHeader, Scanner},
    medium::{Medium, Mount},
};
use crate::{error::PruneError, files};

/// The name of the file in the folder of a journal.
pub(super) const FILE: &str = "journal.events";
/// Whoever writes holds a lock on this one: the journal itself is exchanged by compaction.
const LOCK: &str = "writer.lock";

/// What lies behind the bytes that were written whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    Nothing,
    /// What a failed write left, and could not be taken back.
    Leftover,
}

/// What the file needs besides records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// To be written anew: its header or its last sync cannot be trusted.
    Rewriting,
}

/// What a compaction exchanges.
pub(super) struct Active {
    pub(super) medium: Arc<dyn Medium>,
    /// Bytes that were written, whole records or a leftover between them that a reader passes over.
    pub(super) bytes: u64,
    pub(super) tail: Tail,
}

impl Active {
    /// A file that ends with its last whole record.
    pub(super) fn new(medium: Arc<dyn Medium>, bytes: u64) -> Self {
        Self { medium, bytes, tail: Tail::Nothing }
    }

    /// What is appended lies behind a leftover, so its end counts from there: a later cut must not reach below it.
    fn pass_leftover(&mut self) -> std::io::Result<()> {
        if self.tail == Tail::Leftover {
            (self.bytes, self.tail) = (self.medium.length()?, Tail::Nothing);
        }
        Ok(())
    }
}

/// A journal that is open for writing.
pub(super) struct EventFile {
    pub(super) path: PathBuf,
    pub(super) header: JournalHeader,
    pub(super) mount: Mount,
    pub(super) active: Mutex<Active>,
    /// Nobody else writes while this is open.
    _lock: File,
}

/// What an opening found.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) counts: Counts,
    pub(super) last_seq: u64,
    /// When the oldest event happened.
    pub(super) oldest_ms: Option<u64>,
    /// Whether the file has to be written anew before anything is appended to it.
    pub(super) headless: bool,
}

/// As messages name it.
fn name(path: &Path) -> String {
    format!("event journal {}", path.display())
}

/// What is wrong with a journal as a whole.
fn refused(path: &Path, why: impl Into<String>) -> PruneError {
    StoreError::Record { name: name(path), why: why.into() }.into()
}

fn newer(path: &Path, version: u32) -> PruneError {
    StoreError::Newer { name: name(path), version, reads: super::frame::VERSION }.into()
}

/// Opens a journal for reading and tells what it says of itself; nothing if there is none.
///
/// Errors: a failed read, a newer version.
pub(super) fn open_to_read(path: &Path) -> Result<Option<(File, Option<JournalHeader>)>, PruneError> {
    let mut file = match ask(FileCall::Open, path).and_then(|()| File::open(path)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(files::unread(path)(error)),
    };
    let mut first = Vec::with_capacity(HEADER);
    let read = ask(FileCall::Read, path).and_then(|()| file.by_ref().take(HEADER as u64).read_to_end(&mut first));
    read.map_err(files::unread(path))?;
    match JournalHeader::decode(&first) {
        Beginning::Newer(version) => Err(newer(path, version)),
        Beginning::Whole(header) => Ok(Some((file, Some(header)))),
        Beginning::Unusable => {
            file.seek(SeekFrom::Start(0)).map_err(files::unread(path))?;
            Ok(Some((file, None)))
        }
    }
}

/// Where the records of a journal begin; one without a header is looked through from its first byte.
pub(super) fn records_begin(header: Option<JournalHeader>) -> u64 {
    header.map_or(0, |_| HEADER as u64)
}

impl EventFile {
    /// Opens the journal of a folder, or makes one. A torn tail is cut off.
    ///
    /// Errors: a newer version or a file that is none, before anything is written; another process that writes to it; a
    /// failed read or write.
    pub(super) fn open(dir: &Path, mount: Mount, now_ms: u64) -> Result<(Self, Found), PruneError> {
        let path = dir.join(FILE);
        open_to_read(&path).map_err(PruneError::of_a_writer)?; // BEFORE any write: a newer program's journal is left as it is (C17)
        files::create_dir(dir)?;
        let lock = lock(dir)?;
        files::remove(&files::aside(&path))?;
        let opened = open_to_read(&path)?;
        let new = JournalHeader { id: new_id(now_ms), created_ms: now_ms };
        let (header, found) = match opened {
            None => {
                files::replace(&path, &new.encode())?;
                (new, Found::default())
            }
            Some((file, header)) => {
                let found = replay(&path, file, header)?;
                (header.map_or(new, |header| header), found)
            }
        };
        let file = append_to(&path)?;
        let bytes = file.metadata().map_err(files::failed(&path))?.len();
        let active = Mutex::new(Active::new(mount(file), bytes));
        let opened = Self { path, header, mount, active, _lock: lock };
        if found.counts.torn_bytes > 0 && !found.headless {
            opened.cut_tail(bytes.saturating_sub(found.counts.torn_bytes))?;
        }
        Ok((opened, found))
    }

    fn cut_tail(&self, bytes: u64) -> Result<(), PruneError> {
        let mut active = self.active.lock();
        active.medium.cut(bytes).map_err(files::failed(&self.path))?;
        active.bytes = bytes;
        Ok(())
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.active.lock().bytes
    }

    /// Writes records at the end. After an error none of them is there, or a reader passes over what is.
    ///
    /// Errors: a failed write.
    pub(super) fn append(&self, records: &[u8]) -> Result<(), PruneError> {
        let mut active = self.active.lock();
        active.pass_leftover().map_err(files::failed(&self.path))?;
        if let Err(error) = active.medium.append(records) {
            if let Err(left) = active.medium.cut(active.bytes) {
                tracing::debug!(%left, "what a failed write left in the event journal stays, and is passed over");
                active.tail = Tail::Leftover;
            }
            return Err(files::failed(&self.path)(error));
        }
        active.bytes += records.len() as u64;
        Ok(())
    }

    /// The same: a file that cannot be made smaller must not fill the disk either.
    ///
    /// Errors: a failed write, a file of twice so many bytes.
    pub(super) fn append_below(&self, max_bytes: u64, records: &[u8]) -> Result<(), PruneError> {
        if self.bytes() > max_bytes.saturating_mul(2) {
            let what = format!("{} has twice its size and cannot be made smaller", self.path.display());
            return Err(StoreError::DiskFull { what }.into());
        }
        self.append(records)
    }

    /// Whether a failed write left something that could not be taken back.
    pub(super) fn has_leftover(&self) -> bool {
        self.active.lock().tail == Tail::Leftover
    }

    /// Makes what was appended durable.
    ///
    /// Errors: a failed sync; what was appended since the last one may be gone, so the file has to be written anew.
    pub(super) fn sync(&self) -> Result<(), PruneError> {
        let medium = Arc::clone(&self.active.lock().medium);
        medium.sync().map_err(files::failed(&self.path))
    }
}

/// Opens a file of ours at its end.
pub(super) fn append_to(path: &Path) -> Result<File, PruneError> {
    OpenOptions::new().append(true).open(path).map_err(files::failed(path))
}

/// Reads every record once.
fn replay(path: &Path, file: File, header: Option<JournalHeader>) -> Result<Found, PruneError> {
    let mut scanner = Scanner::new(file, records_begin(header));
    let mut found = Found { headless: header.is_none(), ..Found::default() };
    while let Some(frame) = scanner.next().map_err(files::failed(path))? {
        found.last_seq = frame.seq;
        found.oldest_ms = Some(found.oldest_ms.map_or(frame.at_ms, |oldest| oldest.min(frame.at_ms)));
    }
    found.counts = scanner.counts();
    refuse_foreign(path, header, &found.counts)?;
    Ok(found)
}

/// Refuses a file that may be anything: it has more bytes than a header that was being written, and neither header nor event.
pub(super) fn refuse_foreign(path: &Path, header: Option<JournalHeader>, counts: &Counts) -> Result<(), PruneError> {
    let Counts { records, torn_bytes, .. } = counts;
    if header.is_some() || *records > 0 || *torn_bytes <= HEADER as u64 {
        return Ok(());
    }
    let why = format!(
        "it is no event journal, or nothing of one is left: {torn_bytes} bytes without a header and without an event. Nothing is \
         written to it: move it away, and a new one is made"
    );
    Err(refused(path, why))
}

/// Different for each journal of each process; chance is not needed for that.
fn new_id(now_ms: u64) -> [u8; 16] {
    use std::hash::{BuildHasher as _, RandomState};
    let chance = RandomState::new().hash_one((now_ms, std::process::id()));
    let mut id = [0; 16];
    let parts = now_ms.to_be_bytes().into_iter().chain(chance.to_be_bytes());
    id.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    id
}

/// One process writes at a time; the lock goes with it.
fn lock(dir: &Path) -> Result<File, PruneError> {
    let path = dir.join(LOCK);
    let options = OpenOptions::new().create(true).truncate(false).write(true).clone();
    let file = options.open(&path).map_err(files::failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Locked { path, holder: Holder { pid: None, command: None } }.into())
        }
        Err(TryLockError::Error(error)) => Err(files::failed(&path)(error)),
    }
}
