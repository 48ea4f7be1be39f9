//! Damage that the engine reports without its place, or that it does not notice: which file it is, and whether the list
//! of files was cut off. One that ends within a record because the engine itself failed to write it is mended here.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, Builder},
};

use rocksdb::{DB, Options};
use rustix::{
    fs::{AtFlags, statat},
    io::Errno,
};

use super::{
    RocksBackend,
    classify::{classify, classify_io},
    log::{EngineLog, Opening},
    raw::LiveTables,
};
use crate::error::StoreError;

pub(super) const CURRENT_FILE: &str = "CURRENT";

/// What the engine adds to any error that it meets while it reads the list of files, whichever file is damaged.
const BLAMES_THE_LIST: &str = "  The file ";
/// The first four bytes of a blob file, and of the footer at its end.
const BLOB_MAGIC: [u8; 4] = 2_395_959_u32.to_le_bytes();
const BLOB_FOOTER: u64 = 32;

/// The engine's words about damage, with the files it may lie in where they name none.
pub(super) fn described(path: &Path, text: &str) -> String {
    let named = |text: &str| text.contains(".sst") || text.contains(".blob");
    let text = match text.split_once(BLAMES_THE_LIST) {
        Some((cause, _)) if named(cause) => cause,
        Some(_) | None => text,
    };
    // The class of the error and its causes are the engine's own habit; ours says "damaged" itself.
    let text = text.trim_start_matches("Corruption: ").trim_end_matches(['.', ' ', '\n']);
    let text = &text.replace(BLAMES_THE_LIST, ". The file ");
    if text.contains(CURRENT_FILE) && !text.contains(&path.display().to_string()) {
        return format!("{text}, in {}", path.join(CURRENT_FILE).display());
    }
    if named(text) || !text.contains("blob") {
        return text.to_owned();
    }
    match damaged_blobs(path) {
        Ok(files) if !files.is_empty() => {
            let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            format!("{text}, in {}", files.join(" or "))
        }
        Ok(_) | Err(_) => format!("{text}, in a blob file of {}", path.display()),
    }
}

/// The blob files that do not begin and end as one that was finished does. The only one there is needs no look.
fn damaged_blobs(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = with_ending(path, "blob")?;
    if files.len() > 1 {
        files.retain(|file| !is_finished_blob(file).is_ok_and(|finished| finished));
    }
    Ok(files)
}

fn is_finished_blob(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let (mut first, mut last) = ([0; 4], [0; 4]);
    file.read_exact(&mut first)?;
    let footer = file.metadata()?.len().checked_sub(BLOB_FOOTER).ok_or(io::ErrorKind::UnexpectedEof)?;
    file.seek(SeekFrom::Start(footer))?;
    file.read_exact(&mut last)?;
    Ok((first, last) == (BLOB_MAGIC, BLOB_MAGIC))
}

fn with_ending(path: &Path, ending: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == ending) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Refuses a store whose list of files names no table although tables lie beside it. The engine takes a list that was
/// cut off for a younger one.
fn refuse_lost_list(path: &Path, db: &DB) -> Result<(), StoreError> {
    let listed = LiveTables::of(db).iter().len();
    let tables = with_ending(path, "sst").map_err(|e| classify_io(path, "listing the files", e))?;
    if listed > 0 || tables.is_empty() {
        return Ok(());
    }
    let current = fs::read_to_string(path.join(CURRENT_FILE));
    let list = current.map_or_else(|_| "the MANIFEST".to_owned(), |name| name.trim().to_owned());
    let (count, path) = (tables.len(), path.display());
    Err(StoreError::Corrupt(format!("{list} names none of the {count} table files in {path}: it was cut or replaced")))
}

/// Refuses a folder without CURRENT in which tables lie: it was a database.
pub(super) fn refuse_lost_current(path: &Path) -> Result<(), StoreError> {
    let tables = with_ending(path, "sst").map_err(|e| classify_io(path, "listing the files", e))?;
    if tables.is_empty() {
        return Ok(());
    }
    let (count, path) = (tables.len(), path.display());
    Err(StoreError::Corrupt(format!(
        "{path} has {count} table files and no {CURRENT_FILE}, which names the list of them"
    )))
}

/// Refuses a store of which a table is not there, or has another length than the engine's list says. One that the engine
/// itself removes meanwhile is not in its list any more.
pub(super) fn refuse_cut_tables(path: &Path, db: &DB) -> Result<(), StoreError> {
    let folder = Folder::open(path)?;
    for listed in Listed::all(&LiveTables::of(db))? {
        let Some(fault) = folder.fault_of(listed)? else { continue };
        if Listed::all(&LiveTables::of(db))?.contains(&listed) {
            return Err(StoreError::Corrupt(fault));
        }
    }
    Ok(())
}

/// As [`refuse_cut_tables`], of a list that nobody changes any more. Another thread asks for half of it: what the system knows of
/// very many files lies far apart, in memory or on the disk.
pub(super) fn refuse_cut(path: &Path, listed: &[Listed]) -> Result<(), StoreError> {
    let folder = Folder::open(path)?;
    let (one, other) = listed.split_at(listed.len() / 2);
    let (one, other) = thread::scope(|scope| {
        let other = Builder::new()
            .spawn_scoped(scope, || folder.fault_among(other))
            .map_err(|error| classify_io(path, "starting a thread for the lengths of tables", error))?;
        let one = folder.fault_among(one);
        Ok((one, other.join().unwrap_or_else(|panic| resume_unwind(panic))))
    })?;
    match (one, other) {
        (Ok(Some(fault)), _) | (_, Ok(Some(fault))) => Err(StoreError::Corrupt(fault)), // whatever the other half met
        (Err(error), _) | (_, Err(error)) => Err(error),
        (Ok(None), Ok(None)) => Ok(()),
    }
}

/// A table as the engine's list has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) number: u64,
    pub(super) bytes: u64,
}

impl Listed {
    /// Those of every family.
    pub(super) fn all(tables: &LiveTables) -> Result<Vec<Self>, StoreError> {
        tables.iter().map(|table| Ok(Self { number: table.number()?, bytes: table.bytes() })).collect()
    }
}

/// The folder of a store. It is open, so that the system does not look for it anew for each of very many tables.
struct Folder<'a> {
    path: &'a Path,
    open: File,
}

impl<'a> Folder<'a> {
    fn open(path: &'a Path) -> Result<Self, StoreError> {
        let open = File::open(path).map_err(|error| classify_io(path, "opening the folder", error))?;
        Ok(Self { path, open })
    }

    /// What is wrong with the first file that has a fault.
    fn fault_among(&self, listed: &[Listed]) -> Result<Option<String>, StoreError> {
        listed.iter().find_map(|listed| self.fault_of(*listed).transpose()).transpose()
    }

    /// What is wrong with the file of a table.
    fn fault_of(&self, Listed { number, bytes }: Listed) -> Result<Option<String>, StoreError> {
        let name = format!("{number:06}.sst");
        let file = || self.path.join(&name);
        match statat(&self.open, &name, AtFlags::empty()).map(|there| there.st_size as u64) {
            Ok(length) if length == bytes => Ok(None),
            Ok(length) => {
                let file = file();
                Ok(Some(format!("{} has {length} bytes, and the list of files says {bytes}", file.display())))
            }
            Err(Errno::NOENT) => Ok(Some(format!("{} is not there, and the list of files names it", file().display()))),
            Err(errno) => {
                let what = "looking for a table that the list of files names";
                Err(classify_io(&file(), what, errno.into()))
            }
        }
    }
}

/// The engine writes its list of files in blocks of so many bytes; no record begins in the last bytes of one.
const BLOCK: usize = 32 * 1024;
const RECORD_HEADER: usize = 7;

/// Where a list of files has to end that ends within a record. Nothing where it ends with one, or has records of a kind
/// that is not known here.
fn torn_at(list: &[u8]) -> Option<usize> {
    let (mut at, mut record) = (0, 0);
    let mut is_whole = true;
    while at < list.len() {
        let left = BLOCK - at % BLOCK;
        if left < RECORD_HEADER {
            at += left;
            continue;
        }
        let Some([_, _, _, _, low, high, kind]) = list.get(at..at + RECORD_HEADER) else { return Some(record) };
        let end = at + RECORD_HEADER + usize::from(u16::from_le_bytes([*low, *high]));
        match kind {
            1 | 2 => record = at, // whole, or the first part
            3 | 4 => {}           // a part in the middle, or the last
            _ => return None,
        }
        if end > list.len() {
            return Some(record);
        }
        (at, is_whole) = (end, matches!(kind, 1 | 4));
    }
    (!is_whole).then_some(record)
}

/// Refuses a store that nobody writes and whose list of files ends within a record: the engine would take the list for a
/// younger one and, once it may write, remove the tables that the lost records named.
pub(super) fn refuse_cut_list(path: &Path) -> Result<(), StoreError> {
    let unreadable = |error| classify_io(path, "reading the list of files", error);
    let current = fs::read_to_string(path.join(CURRENT_FILE)).map_err(unreadable)?;
    let name = path.join(current.trim());
    let Ok(list) = fs::read(&name) else { return Ok(()) }; // the engine says what is wrong with it
    let Some(whole) = torn_at(&list) else { return Ok(()) };
    let (name, length) = (name.display(), list.len());
    Err(StoreError::Corrupt(format!(
        "{name} ends within a record, so it was cut: opening the store would remove the tables that the lost part named. \
         If only the machine lost power or a write of the node to it failed, as its log says then, copy the folder, then \
         cut the file from {length} to {whole} bytes (truncate -s {whole}). In any other case that would lose data, and the whole file has to come back"
    )))
}

/// Whether each of these names of families is somewhere in the list of files, as far as it can be read. A hint: they may be
/// there as something else, and a name that lies across two blocks of the list is not found.
pub(super) fn list_mentions<'a>(path: &Path, names: impl IntoIterator<Item = &'a String>) -> bool {
    let list = fs::read_to_string(path.join(CURRENT_FILE)).and_then(|name| fs::read(path.join(name.trim())));
    let mentions = |list: &[u8], name: &str| list.windows(name.len()).any(|part| part == name.as_bytes());
    list.is_ok_and(|list| names.into_iter().all(|name| mentions(&list, name)))
}

/// Cuts the list of files to its whole records where the engine told that a write to it failed: what it wrote of that record is
/// in the way of the next opening. Nothing rests on the record, because the write that failed was acknowledged to nobody, and
/// the engine writes to this list no more: it begins another, or stops.
pub(super) fn mend_failed_list(path: &Path, log: &EngineLog) {
    let Some(list) = log.failed_list() else { return };
    match cut_if_torn(path, &list) {
        Ok(cut) => {
            log.list_is_settled();
            if let Some((length, whole)) = cut {
                let path = path.display();
                tracing::warn!(%path, list, length, whole, "a write to the list of files failed: its part is cut off");
            }
        }
        Err(error) => {
            let path = path.display();
            tracing::error!(%path, list, %error, "a write to the list of files failed, and its part cannot be cut off");
        }
    }
}

/// The lengths before and after, if it ended within a record and is still the list in force.
fn cut_if_torn(path: &Path, list: &str) -> io::Result<Option<(usize, usize)>> {
    if fs::read_to_string(path.join(CURRENT_FILE))?.trim() != list {
        return Ok(None);
    }
    let list = path.join(list);
    let written = fs::read(&list)?;
    let Some(whole) = torn_at(&written) else { return Ok(None) };
    let file = File::options().write(true).open(&list)?;
    file.set_len(whole as u64)?;
    file.sync_all()?;
    Ok(Some((written.len(), whole)))
}

/// Mends the list of files when the store is closed.
pub(super) struct FailedList {
    path: Arc<Path>,
    log: Arc<EngineLog>,
}

impl FailedList {
    pub(super) fn of(path: &Arc<Path>, log: &Arc<EngineLog>) -> Self {
        Self { path: Arc::clone(path), log: Arc::clone(log) }
    }

    /// Mends it at once, if a write to it has failed.
    pub(super) fn mend(&self) {
        mend_failed_list(&self.path, &self.log);
    }
}

impl Drop for FailedList {
    fn drop(&mut self) {
        self.mend();
    }
}

/// As [`RocksBackend::refuse_lost_list`], for a database that shows the default family and no other.
pub(super) fn refuse_lost_families(path: &Path) -> Result<(), StoreError> {
    let mut options = Options::default();
    let (_log, logger) = EngineLog::install(Opening::Reader);
    options.set_info_logger(logger);
    match DB::open_for_read_only(&options, path, false) {
        Ok(db) => refuse_lost_list(path, &db),
        Err(error) => Err(classify(path, "opening for reading", &error)),
    }
}

impl RocksBackend {
    /// Says whether a store without any record has lost them.
    ///
    /// Errors: the engine's list of files names no table although tables lie in the folder.
    pub fn refuse_lost_list(&self) -> Result<(), StoreError> {
        refuse_lost_list(&self.path, &self.db)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_with_the_file_it_lies_in_and_without_a_stop_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let blob = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join(name), bytes).unwrap();
            dir.path().join(name).display().to_string()
        };
        let finished = [&BLOB_MAGIC[..], &[7; 40], &BLOB_MAGIC, &[0; 28]].concat();
        let text = "Error while decoding blob log footer: Magic number mismatch";
        let described = |path: &Path, text: &str| described(path, &format!("Corruption: Corruption: {text}"));
        let only = blob("000001.blob", &finished);
        assert_eq!(described(dir.path(), text), format!("{text}, in {only}"));
        let cut = blob("000002.blob", &finished[..finished.len() - 1]);
        assert_eq!(described(dir.path(), text), format!("{text}, in {cut}"));
        let empty = blob("000003.blob", b"");
        assert_eq!(described(dir.path(), text), format!("{text}, in {cut} or {empty}"));
        let list = "The file /x/MANIFEST-000005 may be corrupted.";
        let sized = "Sst file size mismatch sstable: /x/000009.sst";
        assert_eq!(described(dir.path(), &format!("{sized}  {list}")), sized);
        let listed = described(dir.path(), &format!("checksum mismatch  {list}"));
        assert_eq!(listed, "checksum mismatch. The file /x/MANIFEST-000005 may be corrupted");
    }
}
