//! A folder as values: every file with its bytes, to show that nothing was touched.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// Digests by path.
pub type Digests = BTreeMap<PathBuf, String>;

/// The digest of every file below the folder, by its path.
pub fn digests(folder: &Path) -> Digests {
    let mut found = BTreeMap::new();
    add(folder, folder, &mut found);
    found
}

fn add(root: &Path, folder: &Path, found: &mut Digests) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add(root, &path, found);
        } else {
            let digest = hex::encode(Sha256::digest(fs::read(&path).unwrap()));
            found.insert(path.strip_prefix(root).unwrap().to_owned(), digest);
        }
    }
}

/// Copies a folder, with those in it, into a new one.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let into = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &into);
        } else {
            fs::copy(&path, into).unwrap();
        }
    }
}

/// The files of a folder whose name ends so.
pub fn with_ending(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == ending)).collect();
    found.sort();
    found
}
