//! A store at rest, a catalog beside it, and the commands on both.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use serde_json::Value;
use state_pruner::catalog::{Catalog, SnapshotId};
use state_store::RocksBackend;
use state_tests::{chain::Chain, folder, node, rig::SMALL, workload::Profile};
use tempfile::TempDir;

/// A store at rest with a history, and room for a catalog beside it.
pub(crate) struct Place {
    dir: TempDir,
    db: PathBuf,
    layout: &'static str,
}

impl Place {
    /// A store of the node's kind, whose newest commits no flush has reached.
    pub(crate) fn native() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("store");
        let chain = Chain::open(Arc::new(RocksBackend::open(&db, &SMALL).unwrap()));
        chain.grow(Profile::Tables, 7, 150);
        chain.store.backend().flush().unwrap();
        chain.grow(Profile::Uniform, 8, 50);
        drop(chain);
        let logs = folder::with_ending(&db, "log");
        assert!(logs.iter().any(|log| fs::metadata(log).unwrap().len() > 0), "something is in the logs only");
        Self { dir, db, layout: "native" }
    }

    /// Another store, of a layout.
    pub(crate) fn of(db: PathBuf, layout: &'static str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), db, layout }
    }

    pub(crate) fn db(&self) -> &Path {
        &self.db
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn catalog_dir(&self) -> PathBuf {
        self.path("catalog")
    }

    pub(crate) fn catalog(&self) -> Catalog {
        Catalog::open(&self.catalog_dir()).unwrap()
    }

    pub(crate) fn entry(&self, id: &str) -> PathBuf {
        self.catalog_dir().join(id)
    }

    /// The words of `snapshot create` on this store.
    pub(crate) fn creating(&self, more: &[&str]) -> Vec<String> {
        let (db, catalog) = (self.db.display().to_string(), self.catalog_dir().display().to_string());
        let words = ["snapshot", "create", "--db", &db, "--layout", self.layout, "--catalog", &catalog, "--json"];
        words.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    /// Makes a snapshot and returns what was told of it.
    pub(crate) fn create(&self, more: &[&str]) -> Value {
        let output = Command::new(node::binary()).args(self.creating(more)).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success(), "{told:#}");
        told
    }

    /// Begins to make one.
    pub(crate) fn begin(&self, more: &[&str]) -> Child {
        let mut command = Command::new(node::binary());
        command.args(self.creating(more)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Another command on the catalog, with its exit code and answer.
    pub(crate) fn ask(&self, words: &[&str]) -> (i32, Value) {
        let catalog = self.catalog_dir().display().to_string();
        node::json(&[&["snapshot"], words, &["--catalog", &catalog]].concat())
    }

    /// The code of a command that must fail.
    pub(crate) fn refusal(&self, words: &[&str]) -> (String, String) {
        let (code, told) = self.ask(words);
        assert_eq!(code, 1, "{told:#}");
        let told = |name: &str| told["error"][name].as_str().unwrap().to_owned();
        (told("code"), told("message"))
    }

    /// The names in the catalog that are no snapshots.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.catalog_dir()).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name != "catalog.lock" && name.parse::<SnapshotId>().is_err()).collect()
    }
}

/// The id that a command told.
pub(crate) fn id(told: &Value) -> String {
    told["id"].as_str().unwrap().to_owned()
}

/// The folder of a snapshot that is being made, while there is one.
pub(crate) fn staging(catalog: &Path) -> Option<PathBuf> {
    let names =
        fs::read_dir(catalog).map_or_else(|_| Vec::new(), |entries| entries.map(|e| e.unwrap().path()).collect());
    names.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".staging-"))
}
