//! Reading whole files, several at once: hashed, copied, made durable. A stop is seen after each mebibyte.

use std::{
    any::Any,
    fs::File,
    io::Read as _,
    num::NonZeroUsize,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{self, ScopedJoinHandle},
};

use sha2::{Digest as _, Sha256};

use super::{
    CatalogError,
    folder::{self, open_regular, unread},
};
use crate::{control::Control, error::PruneError, panics::StopOnPanic, threads};

const CHUNK: usize = 1 << 20;
/// More would only wait for the disk.
const MOST_THREADS: usize = 4;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digested {
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// The names that it has.
    pub(super) names: u64,
}

/// Hashes a file and makes it durable.
pub(super) fn sync_and_hash(path: &Path, control: &Control) -> Result<Digested, CatalogError> {
    let file = open_regular(path).map_err(unread(path))?;
    folder::sync_file(&file, path)?;
    stream((path, &file), u64::MAX, control, &mut |_| Ok(()))
}

/// Hashes a file up to `most` bytes; one that is longer shows one byte more.
pub(super) fn hash(path: &Path, most: u64, control: &Control) -> Result<Digested, CatalogError> {
    let file = open_regular(path).map_err(unread(path))?;
    stream((path, &file), most, control, &mut |_| Ok(()))
}

/// Copies up to `most` bytes into a new file, durably, and tells what it has copied.
pub(super) fn copy(from: &Path, to: &Path, most: u64, control: &Control) -> Result<Digested, CatalogError> {
    let file = open_regular(from).map_err(unread(from))?;
    let copy = folder::create(to)?;
    let copied = stream((from, &file), most, control, &mut |bytes| folder::write(&copy, to, bytes))?;
    folder::sync_file(&copy, to)?;
    Ok(copied)
}

fn stream(
    (path, file): (&Path, &File),
    most: u64,
    control: &Control,
    each: &mut dyn FnMut(&[u8]) -> Result<(), CatalogError>,
) -> Result<Digested, CatalogError> {
    let names = folder::names_of(&folder::look_into(file, path)?);
    let mut file = file.take(most.saturating_add(1)); // a manifest that lies about a size bounds what is read (F15)
    let (mut buffer, mut hasher, mut bytes) = (vec![0; CHUNK], Sha256::new(), 0);
    loop {
        control.checkpoint()?;
        let count = folder::read(&mut file, path, &mut buffer)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
            return Ok(Digested { bytes, sha256: hex::encode(hasher.finalize()), names });
        };
        hasher.update(read);
        each(read)?;
        bytes += count as u64;
    }
}

/// Works on every item, several at once, and returns the results in the order of the items.
///
/// Errors: the first one met; the work that has begun ends, no other begins. A panic is one, with its words, and comes before
/// all others: a bug of ours. The system has not one thread to give.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, CatalogError> + Sync,
) -> Result<Vec<R>, CatalogError> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let share = || {
        let (mut done, _guard) = (Vec::new(), StopOnPanic(&failed));
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            match work(item) {
                Ok(result) => done.push((index, result)),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(done)
    };
    let most = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS).min(items.len());
    let ended = thread::scope(|scope| -> Result<Vec<_>, PruneError> {
        let workers = threads::begin_some(scope, "catalog-files", most, |_| share)?;
        Ok(workers.into_iter().map(ScopedJoinHandle::join).collect()) // all: one that is not would panic here
    })?;
    let mut all = shares(ended)?;
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

/// What each thread has done, or why one has not.
fn shares<T>(ended: Vec<thread::Result<Result<Vec<T>, CatalogError>>>) -> Result<Vec<T>, CatalogError> {
    let ended = ended.into_iter().map(|share| share.map_err(|panic| panicked(&*panic)));
    let ended = ended.collect::<Result<Vec<_>, _>>()?; // BEFORE an error is looked at: it may come of the panic
    let done = ended.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(done.into_iter().flatten().collect())
}

fn panicked(panic: &(dyn Any + Send)) -> PruneError {
    let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let words = words.map_or("it left no words", |words| words);
    PruneError::Invariant(format!("a thread that reads files panicked: {words}"))
}

#[cfg(test)]
mod tests {
    use state_store::Disposition;

    use super::*;
    use crate::threads::lack::Lack;

    #[test]
    fn a_panic_is_told_before_the_error_of_another_thread() {
        let failed = || Ok(Err(CatalogError::from(PruneError::NoHead)));
        let panicked = || Err(Box::new("of a file") as Box<dyn Any + Send>);
        for ended in [vec![failed(), panicked()], vec![panicked(), failed()]] {
            let error = shares::<()>(ended).unwrap_err().to_string();
            assert!(error.ends_with("panicked: of a file"), "{error}");
        }
        assert!(matches!(shares::<()>(vec![Ok(Ok(vec![()])), failed()]), Err(CatalogError::Prune(PruneError::NoHead))));
        assert_eq!(shares(vec![Ok(Ok(vec![1])), Ok(Ok(vec![2, 3]))]).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn files_are_read_by_the_threads_that_there_are_if_there_is_one() {
        for (passing, done) in [(0, None), (1, Some(vec![2, 3, 4]))] {
            let _lack = Lack::after(passing);
            match each(&[1, 2, 3], |item| Ok(item + 1)) {
                Ok(result) => assert_eq!(Some(result), done),
                Err(error) => assert!(done.is_none() && error.code() == "no_thread", "{error}"),
            }
        }
    }

    #[test]
    fn a_panic_of_a_thread_that_reads_files_is_a_bug_of_ours_with_its_words() {
        let met = |work: fn(&u8) -> Result<u8, CatalogError>| each(&[1, 2], work).unwrap_err();
        for (error, words) in [
            (met(|_| panic!("file {}", CHUNK)), "panicked: file 1048576"),
            (met(|_| panic!("of a file")), "panicked: of a file"),
            (met(|_| std::panic::panic_any(7)), "panicked: it left no words"),
        ] {
            let CatalogError::Prune(error) = error else { panic!("{error}") };
            assert_eq!(error.disposition(), Disposition::Bug, "{error}");
            assert!(error.to_string().ends_with(words), "{error}");
        }
    }
}
