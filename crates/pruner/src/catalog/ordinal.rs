//! Ordinals: in which order snapshots were begun, whatever the clock said (C16).
//!
//! Contract: each is given under the lock of the catalog and is greater than that of every snapshot begun before. The lock
//! file has the last one given. It is written without a sync, because the lock is held for moments only, and synced before
//! the snapshot gets its name: so after a power cut it is not below the ordinal of any snapshot that is there, or is torn
//! and says nothing. Where it says nothing, or was spoilt, the manifests tell, if all of them are whole and can be read,
//! and the locks of the snapshots that are being made, which have theirs. A file that says too little and looks whole, as
//! one does that was copied before the others, is found out only by a manifest that can be read.

use std::{fs::File, num::NonZeroU64, path::Path};

use super::{Catalog, CatalogError, ENTRY_LOCK, STAGING, SnapshotId, folder, staging::named};

/// Digits of the greatest one; every text is as long, so that none shows the end of the one before.
const DIGITS: usize = 20;

/// What the manifests say.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The greatest ordinal.
    greatest: u64,
    /// A snapshot whose ordinal is not known, and why.
    unknown: Option<(SnapshotId, CatalogError)>,
}

impl Catalog {
    /// The greatest ordinal of a snapshot that is being made. Under the lock of the catalog.
    pub(super) fn begun(&self) -> Result<u64, CatalogError> {
        let mut greatest = 0;
        for (_, dir) in named(&self.dir, STAGING)? {
            let path = dir.join(ENTRY_LOCK);
            match folder::open_regular(&path) {
                Ok(file) => greatest = greatest.max(last(&file, &path)?.map_or(0, |last| last)),
                Err(error) if folder::is_absence(&error) => {} // of somebody else, or done with
                Err(error) => return Err(folder::unread(&path)(error)),
            }
        }
        Ok(greatest)
    }

    /// What the manifests say of ordinals.
    pub(super) fn ordinals(&self) -> Result<Told, CatalogError> {
        let mut told = Told::default();
        for id in self.ids()? {
            match self.show(id) {
                Ok(manifest) => told.greatest = told.greatest.max(manifest.ordinal.map_or(0, NonZeroU64::get)),
                Err(CatalogError::UnknownSnapshot { .. }) => {} // another process was faster
                Err(error @ (CatalogError::DamagedSnapshot { .. } | CatalogError::OtherVersion { .. })) => {
                    told.unknown = Some((id, error));
                }
                Err(error) if error.is_of_a_read() => told.unknown = Some((id, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(told)
    }
}

/// Gives the next ordinal; `lock` is the lock file, which the caller holds, and `begun` tells the greatest one of a snapshot that
/// is being made.
///
/// Errors: a failed read or write; [`CatalogError::OrdinalUnknown`] where neither the file nor the manifests tell.
pub(super) fn next(
    (lock, path): (&File, &Path),
    told: Told,
    begun: impl FnOnce() -> Result<u64, CatalogError>,
) -> Result<NonZeroU64, CatalogError> {
    let last = match (last(lock, path)?.filter(|last| *last >= told.greatest), told.unknown) {
        (Some(last), _) => last,
        (None, None) => told.greatest.max(begun()?),
        (None, Some((id, source))) => {
            return Err(CatalogError::OrdinalUnknown { id, lock: path.to_owned(), source: Box::new(source) });
        }
    };
    let next = NonZeroU64::MIN.saturating_add(last);
    note(lock, path, next)?;
    Ok(next)
}

/// Writes an ordinal into a lock file.
pub(super) fn note(lock: &File, path: &Path, ordinal: NonZeroU64) -> Result<(), CatalogError> {
    folder::write_first(lock, path, format!("{ordinal:0DIGITS$}\n").as_bytes())
}

/// The last one given, where the file says it.
fn last(lock: &File, path: &Path) -> Result<Option<u64>, CatalogError> {
    let mut text = [0; DIGITS];
    folder::read_first(lock, path, &mut text)?; // what is missing stays zero, which is no digit
    let Ok(digits) = str::from_utf8(&text) else { return Ok(None) };
    let Ok(last) = digits.parse() else { return Ok(None) };
    Ok(Some(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_greater_than_every_one_that_is_known_from_either_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        let next = |greatest| next((&lock, &path), Told { greatest, unknown: None }, || Ok(0)).unwrap().get();
        assert_eq!((next(0), next(0), next(1)), (1, 2, 3), "counted in the file");
        assert_eq!((next(7), next(0)), (8, 9), "the manifests know more");
        for torn in [&b""[..], b"0000", b"not a number, but long enough", &[0xff; 21]] {
            lock.set_len(0).unwrap();
            folder::write_first(&lock, &path, torn).unwrap();
            assert_eq!((next(9), next(0)), (10, 11), "{torn:?}");
        }
    }

    #[test]
    fn a_manifest_that_cannot_be_read_counts_only_where_the_file_does_not_say_the_ordinal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let id = SnapshotId::draw(&crate::ManualClock::default());
        let next = |text: &[u8], greatest| {
            std::fs::write(&path, text).unwrap();
            let source = std::io::Error::from_raw_os_error(5);
            let unknown = Some((id, CatalogError::File { path: "/there/manifest.json".into(), source }));
            next((&folder::open_or_make(&path).unwrap(), &path), Told { greatest, unknown }, || Ok(0))
        };
        let seven = b"00000000000000000007\n";
        assert_eq!((next(seven, 0).unwrap().get(), next(seven, 7).unwrap().get()), (8, 8));
        for (text, greatest) in [(&b""[..], 0), (b"garbage", 3), (&seven[..5], 0), (seven, 8)] {
            let error = next(text, greatest).unwrap_err();
            assert_eq!(error.code(), "ordinal_unknown");
            let lock = format!("for {} has lost", path.display());
            let says = ["/there/manifest.json: ", "Input/output error", &lock, &format!("`snapshot delete {id}`")];
            assert!(says.iter().all(|part| error.to_string().contains(part)), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), text, "nothing is written");
        }
    }
}
