//! A small store, a catalog with a snapshot of it and what a dead process has left there: commands on it in this process.

use std::{
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use state_pruner::{
    Control, ManualClock, Unobserved,
    catalog::{
        self, Catalog, CatalogError, CatalogRetention, CreateRequest, Depth, Listed, Removed, SnapshotId, Source,
        Unusable,
    },
    offline::{Steering, StoreLayout},
};
use state_store::RocksBackend;
use state_tests::{chain::Chain, folder, rig::SMALL, workload::Profile};
use tempfile::TempDir;

const ONE: CatalogRetention = CatalogRetention { keep: Some(NonZeroU64::MIN), max_age: None };

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
    /// With a retention that takes all but the newest.
    Prune,
    Restore,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Did {
    /// With what the retention did then.
    Made(SnapshotId, Removed),
    Removed(Removed),
    Restored,
    /// With those that could not be read.
    Listed(Vec<Unusable>),
    Verified,
}

impl Did {
    /// Whether it says that something failed beside what it did.
    pub(crate) fn tells(&self) -> bool {
        match self {
            Self::Made(_, removed) | Self::Removed(removed) => {
                let Removed { unreadable, failures, left, .. } = removed;
                !(unreadable.is_empty() && failures.is_empty() && left.is_empty())
            }
            Self::Listed(unreadable) => !unreadable.is_empty(),
            Self::Restored | Self::Verified => false,
        }
    }
}

/// The folders.
pub(crate) struct Ground {
    dir: TempDir,
    /// The snapshot that was there first.
    pub(crate) first: SnapshotId,
    /// The one that was made last.
    last: SnapshotId,
}

impl Ground {
    /// A new one.
    pub(crate) fn new() -> Self {
        let none = SnapshotId::draw(&ManualClock::default());
        let ground = Self { dir: home(), first: none, last: none };
        let chain = Chain::open(Arc::new(RocksBackend::open(&ground.db(), &SMALL).unwrap()));
        chain.grow(Profile::Tables, 7, 6);
        chain.store.backend().flush().unwrap();
        chain.grow(Profile::Uniform, 8, 3);
        drop(chain);
        fs::create_dir(ground.kept()).unwrap();
        let first = ground.made();
        Self { first, last: first, ..ground }
    }

    /// One on whose catalog a command finds what it is about.
    pub(crate) fn of(act: Act) -> Self {
        let mut ground = Self::new();
        if act == Act::Prune {
            ground.made();
            ground.last = ground.made();
        }
        ground
    }

    /// The snapshot that a command has to leave.
    pub(crate) fn stays(&self, act: Act) -> Option<SnapshotId> {
        match act {
            Act::Create | Act::List | Act::Verify | Act::Restore => Some(self.first),
            Act::Prune => Some(self.last),
            Act::Delete | Act::Replace | Act::Found => None,
        }
    }

    /// Makes a snapshot.
    pub(crate) fn made(&self) -> SnapshotId {
        let Did::Made(made, _) = self.run(Act::Create).unwrap() else { panic!("nothing was made") };
        made
    }

    /// The same, elsewhere, with a folder that nobody holds.
    pub(crate) fn twin(&self, act: Act) -> Self {
        let dir = home();
        for name in ["store", "kept"] {
            folder::copy(&self.dir.path().join(name), &dir.path().join(name));
        }
        let twin = Self { dir, first: self.first, last: self.last };
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
        let after = Self { dir: home(), first: self.first, last: self.last };
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
            Act::Replace => self.create(ONE),
            Act::List => catalog()?.list().map(|listing| Did::Listed(listing.unreadable)),
            Act::Verify => catalog()?.verify(self.first, Depth::Sampled, &steering).map(|_| Did::Verified),
            Act::Delete => catalog()?.delete(self.first, &clock).map(|tidied| Did::Removed(tidied.removed)),
            Act::Prune => catalog()?.prune(ONE, &clock).map(|tidied| Did::Removed(tidied.removed)),
            Act::Restore => catalog()?.restore(self.first, &self.target(), &steering).map(|_| Did::Restored),
        }
    }

    fn create(&self, retention: CatalogRetention) -> Result<Did, CatalogError> {
        let id = SnapshotId::draw(&ManualClock::default());
        let source = Source::Rest { db: &self.db(), layout: StoreLayout::Native, orders: NonZeroU64::MIN };
        let request = CreateRequest { catalog: &self.catalog_dir(), id, retention };
        catalog::create(&request, &source, &steering()).map(|created| Did::Made(created.id, created.removed))
    }

    /// The snapshots that are listed, each of which is whole; none is listed as damaged.
    pub(crate) fn sound(&self, context: &str) -> Vec<SnapshotId> {
        let ids: Vec<SnapshotId> = self.listed(context).iter().map(|listed| listed.id).collect();
        for id in &ids {
            let verified = self.catalog().verify(*id, Depth::Deep, &steering());
            assert!(verified.is_ok(), "{context}: {verified:?}");
        }
        ids
    }

    fn listed(&self, context: &str) -> Vec<Listed> {
        let listing = match Catalog::open(&self.catalog_dir()).and_then(|catalog| catalog.list()) {
            Err(CatalogError::NoCatalog { .. }) => return Vec::new(),
            listing => listing.unwrap(),
        };
        assert_eq!((&listing.damaged, &listing.unreadable), (&vec![], &vec![]), "{context}");
        listing.snapshots
    }

    /// The lock file alone tells which ordinal comes next, or is torn and tells nothing.
    pub(crate) fn gives_no_ordinal_twice(&self, context: &str) {
        let Some(greatest) = self.listed(context).iter().map(|listed| listed.ordinal.unwrap().get()).max() else {
            return;
        };
        let text = fs::read_to_string(self.catalog_dir().join("catalog.lock")).unwrap();
        let last = text.strip_suffix('\n').map_or(Ok(greatest), str::parse::<u64>);
        assert!(last.is_ok_and(|last| last >= greatest), "{context}: {greatest} is there, {text:?} was given");
    }

    /// Whether the restored store is there, which it is whole or not at all.
    pub(crate) fn is_restored(&self, digests: &folder::Digests, context: &str) -> bool {
        let there = self.target().exists() && fs::read_dir(self.target()).unwrap().next().is_some();
        if there {
            assert_eq!(folder::digests(&self.target()), *digests, "{context}: half a store");
        }
        there
    }

    /// The names in the catalog that are no snapshots.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = names(&self.catalog_dir());
        left.retain(|name| name != "catalog.lock" && name.parse::<SnapshotId>().is_err());
        left
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
        let next = self.made();
        assert!(self.listed(context).iter().any(|listed| listed.id == next), "{context}");
        match self.catalog().restore(next, &self.target(), &steering()) {
            Err(CatalogError::BadPlace { .. }) => {
                assert!(self.is_restored(digests, context), "{context}");
                let verified = self.catalog().verify(next, Depth::Sampled, &steering());
                assert!(verified.is_ok(), "{context}: {verified:?}");
            }
            restored => {
                restored.unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(self.is_restored(&self.digests_of(next), context), "{context}");
            }
        }
        let mut left = self.leftovers();
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
