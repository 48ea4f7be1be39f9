//! Ordinals: in which order snapshots were begun, whatever the clock said (C16).
//!
//! Contract: each is given under the lock of the catalog and is greater than that of every snapshot begun before. The lock
//! file has the last one given. It is written without a sync, because the lock is held for moments only: what a power cut
//! takes back is found in the manifests, which are durable before anybody sees their snapshots.

use std::{fs::File, num::NonZeroU64, os::unix::fs::FileExt as _, path::Path};

use state_store::{Disposition, FileCall, ask};

use super::{Catalog, CatalogError, folder::failed};

/// Digits of the greatest one; every text is as long, so that none shows the end of the one before.
const DIGITS: usize = 20;

impl Catalog {
    /// The greatest ordinal in the manifests; one that is not what was written is passed.
    ///
    /// Errors: a disk that does not answer, because what it would have said may be the greatest.
    pub(super) fn greatest_ordinal(&self) -> Result<u64, CatalogError> {
        let mut greatest = 0;
        for id in self.ids()? {
            let ordinal = match self.show(id) {
                Ok(manifest) => manifest.ordinal.map_or(0, NonZeroU64::get),
                Err(error) if error.disposition() == Disposition::Transient => return Err(error),
                Err(_) => 0,
            };
            greatest = greatest.max(ordinal);
        }
        Ok(greatest)
    }
}

/// Gives the next ordinal; `lock` is the lock file, which the caller holds.
pub(super) fn next(lock: &File, path: &Path, greatest: u64) -> Result<NonZeroU64, CatalogError> {
    let last = ask(FileCall::Read, path).and_then(|()| last(lock)).map_err(failed(path))?;
    let next = NonZeroU64::MIN.saturating_add(greatest.max(last));
    let text = format!("{next:0DIGITS$}\n");
    ask(FileCall::Write, path).and_then(|()| lock.write_all_at(text.as_bytes(), 0)).map_err(failed(path))?;
    Ok(next)
}

/// The last one given, or 0 where the file does not say.
fn last(lock: &File) -> std::io::Result<u64> {
    let mut text = [0; DIGITS];
    let read = lock.read_at(&mut text, 0)?;
    let digits = if read == DIGITS { std::str::from_utf8(&text) } else { Ok("0") };
    Ok(digits.map_or(0, |digits| digits.parse().map_or(0, |last| last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_greater_than_every_one_that_is_known_from_either_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        let next = |greatest| next(&lock, &path, greatest).unwrap().get();
        assert_eq!((next(0), next(0), next(1)), (1, 2, 3), "counted in the file");
        assert_eq!((next(7), next(0)), (8, 9), "the manifests know more");
        for torn in [&b""[..], b"0000", b"not a number, but long enough", &[0xff; 21]] {
            lock.set_len(0).unwrap();
            lock.write_all_at(torn, 0).unwrap();
            assert_eq!((next(9), next(0)), (10, 11), "{torn:?}");
        }
    }
}
