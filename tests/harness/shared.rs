//! Copies of the shared stores that Rooch's own code wrote, with what a prune of them must find.
//!
//! They lie beside the repository in `../shared/data`, or where STATE_PRUNER_SHARED says. A test that needs one and
//! does not find it beside the repository says so loudly and passes: the data is not part of the repository. Where the
//! variable says that it is there, its absence is a failure.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    folder,
    skip::{Lack, skipped},
};

/// One of the shared stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// About 22 thousand nodes.
    Small,
    /// About 170 thousand nodes.
    Medium,
}

impl Shared {
    fn archive(self) -> &'static str {
        match self {
            Self::Small => "rooch-small.tar.zst",
            Self::Medium => "rooch-medium.tar.zst",
        }
    }

    /// The unpacked original, once per process. Never write into it.
    fn original(self) -> Option<&'static Original> {
        static SMALL: OnceLock<Option<Original>> = OnceLock::new();
        static MEDIUM: OnceLock<Option<Original>> = OnceLock::new();
        let cell = match self {
            Self::Small => &SMALL,
            Self::Medium => &MEDIUM,
        };
        cell.get_or_init(|| Original::unpack(self)).as_ref()
    }

    /// A copy of the store in a folder of its own; nothing, and a loud line, if the data is not there.
    pub fn copy(self, test: &str) -> Option<RoochStore> {
        let Some(original) = self.original() else {
            let why = format!("{} is not at {}", self.archive(), folder_of_archives().display());
            assert!(std::env::var_os(FOLDER).is_none(), "{FOLDER} is set, and {why}");
            skipped(test, Lack::Other, &why);
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        folder::copy(&original.store(), &dir.path().join("store"));
        Some(RoochStore { dir, expected: original.expected.clone() })
    }
}

/// Names the folder of the archives.
const FOLDER: &str = "STATE_PRUNER_SHARED";

fn folder_of_archives() -> PathBuf {
    match std::env::var_os(FOLDER) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    }
}

struct Original {
    dir: TempDir,
    expected: Value,
}

impl Original {
    fn unpack(which: Shared) -> Option<Self> {
        let archive = folder_of_archives().join(which.archive());
        if !archive.exists() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar");
        let status = tar.arg("--zstd").arg("-xf").arg(&archive).arg("-C").arg(dir.path()).status().unwrap();
        assert!(status.success(), "{} does not unpack; is zstd installed?", archive.display());
        let expected = find(dir.path(), "expected.json").expect("the archive holds expected.json");
        let expected = serde_json::from_slice(&fs::read(expected).unwrap()).unwrap();
        Some(Self { dir, expected })
    }

    fn store(&self) -> PathBuf {
        find(self.dir.path(), "CURRENT").unwrap().parent().unwrap().to_owned()
    }
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| {
        if path.is_dir() {
            find(&path, name)
        } else {
            path.file_name().is_some_and(|found| found == name).then_some(path)
        }
    })
}

/// A copy of a Rooch store that a test may change.
pub struct RoochStore {
    dir: TempDir,
    /// What the makers of the store computed from it.
    pub expected: Value,
}

/// What a prune that keeps the last orders must find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Orders kept.
    pub keep_last: u64,
    /// Nodes they reach.
    pub live_nodes: u64,
    /// SHA-256 over the sorted hashes of those nodes.
    pub live_sha256: String,
}

impl RoochStore {
    /// The folder of the database.
    pub fn db(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The folder the store lies in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A number at the top of expected.json.
    pub fn number(&self, name: &str) -> u64 {
        self.expected[name].as_u64().unwrap()
    }

    /// Every window that expected.json knows.
    pub fn windows(&self) -> Vec<Expected> {
        let rows = self.expected["expected"].as_array().unwrap();
        rows.iter()
            .map(|row| Expected {
                keep_last: row["retain_last_orders"].as_u64().unwrap(),
                live_nodes: row["live_nodes"].as_u64().unwrap(),
                live_sha256: row["sha256_of_sorted_live_hashes"].as_str().unwrap().to_owned(),
            })
            .collect()
    }

    /// The root after each order, in hex.
    pub fn roots(&self) -> Vec<String> {
        let rows = self.expected["roots_by_order"].as_array().unwrap();
        rows.iter().map(|root| root.as_str().unwrap().to_owned()).collect()
    }
}
