//! A folder for what is spilled, which goes with the process: by its own hand, or, where it was killed, by that of the next
//! one that makes such a folder beside it.
//!
//! Whose a folder is tells the lock on a file inside: its maker holds it from before the file has its name until the folder
//! is gone, and the system lets it go with the process. A folder without that file, one of another user, and one whose
//! lock cannot be asked for stay (I8).

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use tempfile::TempDir;

const PREFIX: &str = "state-pruner-";
const OWNER_FILE: &str = "owner.lock";

/// The folder. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir, // dropped BEFORE the lock
    _owner: File,
}

impl Scratch {
    /// Makes one in `within`, and removes those there whose process is dead.
    ///
    /// Errors: a folder or a file that cannot be made.
    pub(crate) fn within(within: &Path) -> io::Result<Self> {
        remove_those_of_the_dead(within); // BEFORE room is needed
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(within)?;
        let unnamed = dir.path().join("owner.new");
        let owner = File::create(&unnamed)?;
        if let Err(error) = owner.try_lock() {
            tracing::debug!(%error, "a folder of temporary files cannot be marked as ours; if this process is killed it stays");
            return Ok(Self { dir, _owner: owner });
        }
        fs::rename(&unnamed, dir.path().join(OWNER_FILE))?; // AFTER the lock: who finds the file finds it locked
        Ok(Self { dir, _owner: owner })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// What cannot be removed stays, and is told: nobody waits for it.
fn remove_those_of_the_dead(within: &Path) {
    let entries = match fs::read_dir(within) {
        Ok(entries) => entries,
        Err(error) => return tracing::debug!(%error, "left-over folders in {} were not looked for", within.display()),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        match remove_if_dead(&path) {
            Ok(true) => tracing::info!("{}: removed, the process that made it was killed", path.display()),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "{} stays", path.display()),
        }
    }
}

/// Whether it was there, its maker dead, and is gone.
fn remove_if_dead(folder: &Path) -> io::Result<bool> {
    let is_like_ours = |found: &Metadata| found.uid() == rustix::process::geteuid().as_raw();
    let (found, owner) = (folder.symlink_metadata()?, folder.join(OWNER_FILE));
    if !found.is_dir() || !is_like_ours(&found) {
        return Ok(false);
    }
    let marked = match owner.symlink_metadata() {
        Ok(marked) => marked,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !marked.is_file() || !is_like_ours(&marked) {
        return Ok(false);
    }
    let lock = File::open(&owner)?;
    if lock.try_lock().is_err() {
        return Ok(false); // it lives, or nobody can tell
    }
    fs::remove_dir_all(folder)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as a killed process leaves it: everything is there, and nobody holds the lock.
    fn left_by_the_dead(within: &Path, name: &str) -> std::path::PathBuf {
        let dir = within.join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(OWNER_FILE), b"").unwrap();
        fs::write(dir.join("run-1"), b"spilled").unwrap();
        dir
    }

    #[test]
    fn the_folder_of_a_killed_process_goes_and_that_of_a_living_one_stays() {
        let within = tempfile::tempdir().unwrap();
        let alive = Scratch::within(within.path()).unwrap();
        let dead = left_by_the_dead(within.path(), "state-pruner-dead");
        let next = Scratch::within(within.path()).unwrap();
        assert!(!dead.exists(), "nobody holds its lock");
        assert!(alive.path().exists() && next.path().exists());
        let (first, second) = (alive.path().to_owned(), next.path().to_owned());
        drop((alive, next));
        assert!(!first.exists() && !second.exists(), "each goes with its maker");
    }

    #[test]
    fn a_folder_stays_of_which_nobody_can_tell_whose_it_is() {
        let within = tempfile::tempdir().unwrap();
        let unmarked = within.path().join("state-pruner-unmarked");
        fs::create_dir(&unmarked).unwrap();
        let foreign = left_by_the_dead(within.path(), "of-somebody-else");
        let target = left_by_the_dead(within.path(), "target");
        std::os::unix::fs::symlink(&target, within.path().join("state-pruner-link")).unwrap();
        let linked = within.path().join("state-pruner-linked");
        fs::create_dir(&linked).unwrap();
        std::os::unix::fs::symlink(target.join(OWNER_FILE), linked.join(OWNER_FILE)).unwrap();
        let _made = Scratch::within(within.path()).unwrap();
        for stays in [unmarked, foreign, target.join("run-1"), linked] {
            assert!(stays.exists(), "{}", stays.display());
        }
    }
}
