//! Bytes on disk, from the folder's entries and the engine's list of live files.

use std::{fs, io, path::Path};

use super::{
    classify::classify_io,
    raw::{LiveTable, LiveTables},
};
use crate::{
    backend::{NodeFile, Space},
    disk::{FileCall, ask},
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
    ask(FileCall::List, path)?;
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

/// Bytes that an unprivileged process may still write on the device of a folder.
///
/// Errors: the system does not answer.
pub fn free_bytes_of(path: &Path) -> Result<u64, StoreError> {
    let device = rustix::fs::statvfs(path).map_err(|errno| classify_io(path, "asking for free space", errno.into()))?;
    Ok(device.f_bavail * device.f_frsize)
}

/// The live table files of the node family; blob files have no keys and are not among them.
pub(super) fn node_files(live: &LiveTables) -> Result<Vec<NodeFile>, StoreError> {
    let mut files = Vec::with_capacity(live.iter().len());
    for table in live.iter().filter(|table| table.family() == NODE_FAMILY.as_bytes()) {
        files.push(node_file(table)?);
    }
    Ok(files)
}

fn node_file(table: LiveTable<'_>) -> Result<NodeFile, StoreError> {
    let level = table.level();
    Ok(NodeFile {
        number: table.number()?,
        level: level
            .try_into()
            .map_err(|_| StoreError::Invariant(format!("the engine has a table of level {level}")))?,
        bytes: table.bytes(),
        first: table.first().to_vec(),
        last: table.last().to_vec(),
        entries: table.entries(),
        deletes: table.deletes(),
    })
}
