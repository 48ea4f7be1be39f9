//! A small store, a catalog with a snapshot of it and what a dead process has left there: commands on it in this process.

use std::{
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use state_pruner::{
    Control, ManualClock, Unobserved,
    catalog::{self, Catalog, CatalogError, CatalogRetention, CreateRequest, Depth, SnapshotId, Source},
    offline::{Steering, StoreLayout},
};
use state_store::RocksBackend;
use state_tests::{chain::Chain, folder, rig::SMALL, workload::Profile};
use tempfile::TempDir;

/// A command on a catalog of one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    Create,
    /// Of the first snapshot of a catalog that is not there yet.
    Found,
    /// With a retention that takes the snapshot that is there.
    Replace,
    List,
    Verify,
    Delete,
    Restore,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Did {
    Made(SnapshotId),
    Removed,
    Restored,
    Looked,
}

/// The folders.
pub(crate) struct Ground {
    dir: TempDir,
    /// The snapshot that was there first.
    pub(crate) first: SnapshotId,
}

impl Ground {
    /// A new one.
    pub(crate) fn new() -> Self {
        let ground = Self { dir: home(), first: SnapshotId::draw(&ManualClock::default()) };
        let chain = Chain::open(Arc::new(RocksBackend::open(&ground.db(), &SMALL).unwrap()));
        chain.grow(Profile::Tables, 7, 6);
        chain.store.backend().flush().unwrap();
        chain.grow(Profile::Uniform, 8, 3);
        drop(chain);
        fs::create_dir(ground.kept()).unwrap();
        let Did::Made(first) = ground.run(Act::Create).unwrap() else { panic!("nothing was made") };
        Self { first, ..ground }
    }

    /// The same, elsewhere, with a folder that nobody holds.
    pub(crate) fn twin(&self, act: Act) -> Self {
        let dir = home();
        for name in ["store", "kept"] {
            folder::copy(&self.dir.path().join(name), &dir.path().join(name));
        }
        let twin = Self { dir, first: self.first };
        if act == Act::Found {
            fs::remove_dir_all(twin.catalog_dir()).unwrap();
            return twin;
        }
        fs::create_dir(twin.catalog_dir().join(".staging-0000000000001-00000000000000ff")).unwrap();
        fs::create_dir(twin.kept().join(".restored.restoring-0000000000001-00000000000000ff")).unwrap();
        twin
    }

    /// The same store, and what a power cut has left of the rest.
    pub(crate) fn after(&self, leave: impl FnOnce(&Path)) -> Self {
        let after = Self { dir: home(), first: self.first };
        folder::copy(&self.db(), &after.db());
        leave(&after.kept());
        after
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// What commands write.
    pub(crate) fn kept(&self) -> PathBuf {
        self.dir.path().join("kept")
    }

    pub(crate) fn catalog_dir(&self) -> PathBuf {
        self.kept().join("catalog")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.kept().join("restored")
    }

    pub(crate) fn catalog(&self) -> Catalog {
        Catalog::open(&self.catalog_dir()).unwrap()
    }

    pub(crate) fn run(&self, act: Act) -> Result<Did, CatalogError> {
        let (steering, clock) = (steering(), ManualClock::default());
        let catalog = || Catalog::open(&self.catalog_dir());
        match act {
            Act::Create | Act::Found => self.create(CatalogRetention::ALL),
            Act::Replace => self.create(CatalogRetention { keep: Some(NonZeroU64::MIN), max_age: None }),
            Act::List => catalog()?.list().map(|_| Did::Looked),
            Act::Verify => catalog()?.verify(self.first, Depth::Sampled, &steering).map(|_| Did::Looked),
            Act::Delete => catalog()?.delete(self.first, &clock).map(|_| Did::Removed),
            Act::Restore => catalog()?.restore(self.first, &self.target(), &steering).map(|_| Did::Restored),
        }
    }

    fn create(&self, retention: CatalogRetention) -> Result<Did, CatalogError> {
        let id = SnapshotId::draw(&ManualClock::default());
        let source = Source::Rest { db: &self.db(), layout: StoreLayout::Native, orders: NonZeroU64::MIN };
        let request = CreateRequest { catalog: &self.catalog_dir(), id, retention };
        catalog::create(&request, &source, &steering()).map(|created| Did::Made(created.id))
    }

    /// The snapshots that are listed, each of which is whole; none is listed as damaged.
    pub(crate) fn sound(&self, context: &str) -> Vec<SnapshotId> {
        let listing = match Catalog::open(&self.catalog_dir()).and_then(|catalog| catalog.list()) {
            Err(CatalogError::NoCatalog { .. }) => return Vec::new(),
            listing => listing.unwrap(),
        };
        assert_eq!(listing.damaged, [], "{context}");
        let ids: Vec<SnapshotId> = listing.snapshots.iter().map(|listed| listed.id).collect();
        for id in &ids {
            let verified = self.catalog().verify(*id, Depth::Deep, &steering());
            assert!(verified.is_ok(), "{context}: {verified:?}");
        }
        ids
    }

    /// Whether the restored store is there, which it is whole or not at all.
    pub(crate) fn is_restored(&self, digests: &folder::Digests, context: &str) -> bool {
        let there = self.target().exists() && fs::read_dir(self.target()).unwrap().next().is_some();
        if there {
            assert_eq!(folder::digests(&self.target()), *digests, "{context}: half a store");
        }
        there
    }

    /// The digests of the store of the first snapshot.
    pub(crate) fn digests(&self) -> folder::Digests {
        self.digests_of(self.first)
    }

    fn digests_of(&self, id: SnapshotId) -> folder::Digests {
        folder::digests(&self.catalog_dir().join(id.to_string()).join("store"))
    }

    /// Commands that come next do what they are asked, and nothing that was not finished is left afterwards.
    pub(crate) fn goes_on(&self, digests: &folder::Digests, context: &str) {
        let Did::Made(next) = self.run(Act::Create).unwrap() else { panic!("{context}: nothing was made") };
        assert!(self.sound(context).contains(&next), "{context}");
        match self.catalog().restore(next, &self.target(), &steering()) {
            Err(CatalogError::BadPlace { .. }) => assert!(self.is_restored(digests, context), "{context}"),
            restored => {
                restored.unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(self.is_restored(&self.digests_of(next), context), "{context}");
            }
        }
        let mut left = names(&self.catalog_dir());
        left.retain(|name| name != "catalog.lock" && name.parse::<SnapshotId>().is_err());
        left.extend(names(&self.kept()).into_iter().filter(|name| name != "catalog" && name != "restored"));
        assert_eq!(left, [] as [&str; 0], "{context}: is left");
    }
}

/// In memory where the system has that: what these tests ask of a disk is asked at the seam, and an honest sync takes long.
fn home() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn steering() -> Steering {
    Steering {
        control: Arc::new(Control::default()),
        observer: Arc::new(Unobserved),
        clock: Arc::new(ManualClock::default()),
    }
}
