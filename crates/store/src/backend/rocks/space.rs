//! Bytes on disk, from the folder's entries and the engine's list of live files.

use std::{fs, io, path::Path};

use rocksdb::LiveFile;

use super::classify::classify_io;
use crate::{
    backend::{NodeFile, Space},
    error::StoreError,
    schema::NODE_FAMILY,
};

/// Sums the files of the folder by what they hold. No file is opened; one that vanishes meanwhile counts nothing.
pub fn space_of(path: &Path) -> Result<Space, StoreError> {
    let mut space = Space { tables: 0, blobs: 0, logs: 0, other: 0 };
    sum(path, &mut space).map_err(|source| classify_io(path, "measuring the files", source))?;
    Ok(space)
}

fn sum(path: &Path, space: &mut Space) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let name = entry.file_name();
        let kind = Path::new(&name).extension().and_then(|extension| extension.to_str());
        *match kind {
            Some("sst") => &mut space.tables,
            Some("blob") => &mut space.blobs,
            Some("log") => &mut space.logs,
            Some(_) | None => &mut space.other,
        } += metadata.len();
    }
    Ok(())
}

/// Bytes that an unprivileged process may still write on the device.
pub(super) fn free_bytes(path: &Path) -> Result<u64, StoreError> {
    let device = rustix::fs::statvfs(path).map_err(|errno| classify_io(path, "asking for free space", errno.into()))?;
    Ok(device.f_bavail * device.f_frsize)
}

/// The live table files of the node family; blob files have no keys and are not among them.
pub(super) fn node_files(live: Vec<LiveFile>) -> Result<Vec<NodeFile>, StoreError> {
    live.into_iter().filter(|file| file.column_family_name == NODE_FAMILY).map(node_file).collect()
}

fn node_file(file: LiveFile) -> Result<NodeFile, StoreError> {
    let unusable = || StoreError::Invariant(format!("the engine describes file `{}` incompletely", file.name));
    let digits = file.name.trim_start_matches('/').trim_end_matches(".sst");
    Ok(NodeFile {
        number: digits.parse().map_err(|_| unusable())?,
        level: u32::try_from(file.level).map_err(|_| unusable())?,
        bytes: file.size as u64,
        first: file.start_key.clone().ok_or_else(unusable)?,
        last: file.end_key.clone().ok_or_else(unusable)?,
        entries: file.num_entries,
        deletes: file.num_deletions,
    })
}
