//! Reading a catalog: what lists and shows snapshots, without any lock.

use std::{io, num::NonZeroU64};

use serde::{Deserialize, Serialize};

use super::{
    Catalog, CatalogError, CopiedDoubt, CopiedState, Creator, Depth, MANIFEST, Manifest, STORE, SnapshotId,
    VerifiedSnapshot,
    folder::{self, unread},
    manifest, proof,
};
use crate::{
    clock::Clock,
    offline::{Steering, StoreLayout},
};

/// How often a list is begun again because snapshots come and go meanwhile. Each row is true by itself, so the last
/// attempt is shown also if it is overtaken.
const ATTEMPTS: usize = 16;

/// One row of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its id.
    pub id: SnapshotId,
    /// Its number in the catalog; not known of one that an older version made.
    pub ordinal: Option<NonZeroU64>,
    /// When it was begun by the wall clock, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who made it.
    pub creator: Creator,
    /// Whose records it holds.
    pub layout: StoreLayout,
    /// What it has.
    pub state: CopiedState,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub total_bytes: u64,
    /// Why it may have damage, if it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<CopiedDoubt>,
}

/// A snapshot that cannot be used, or not now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// Its id.
    pub id: SnapshotId,
    /// The code of the error.
    pub code: String,
    /// What is wrong with it.
    pub message: String,
}

/// A snapshot as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// What it says of itself.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// What is wrong with it, as far as that can be seen without reading its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<Unusable>,
}

/// The snapshots of a catalog, in the order in which they were begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Those whose manifest is what was written.
    pub snapshots: Vec<Listed>,
    /// Those whose manifest is not, or whose files are missing or of another length.
    pub damaged: Vec<Unusable>,
    /// Those of which the system does not answer, or that another version made, which says nothing about what they hold (I8).
    pub unreadable: Vec<Unusable>,
}

impl Catalog {
    /// Lists the snapshots. Their manifests are read; of their files it is asked whether they are there, as long as they were.
    ///
    /// Errors: the folder cannot be read.
    pub fn list(&self) -> Result<Listing, CatalogError> {
        let mut ids = self.ids()?;
        for _ in 1..ATTEMPTS {
            let listing = self.listing(&ids)?;
            let now = self.ids()?;
            if now == ids {
                return Ok(listing);
            }
            ids = now;
        }
        self.listing(&ids)
    }

    /// The manifest of one snapshot.
    ///
    /// Errors: no snapshot has the id, a manifest that is not what was written.
    pub fn show(&self, id: SnapshotId) -> Result<Manifest, CatalogError> {
        let entry = self.entry(id);
        let path = entry.join(MANIFEST);
        match folder::read_regular(&path, manifest::MOST_BYTES) {
            Ok(text) => Manifest::decode(id, &path, &text),
            Err(error) if error.kind() != io::ErrorKind::NotFound && folder::tells_what_is_there(&error) => {
                Err(CatalogError::DamagedSnapshot { id, what: format!("{} is no file: {error}", path.display()) })
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unread(&path)(error)),
            Err(_) if folder::exists(&entry)? => {
                Err(CatalogError::DamagedSnapshot { id, what: format!("{} is missing", path.display()) })
            }
            Err(_) => Err(CatalogError::UnknownSnapshot { id, dir: self.dir.clone() }),
        }
    }

    /// One snapshot as people are shown it: its manifest, and whether its files are there, as long as they were.
    ///
    /// Errors: as of [`Catalog::show`], or a disk that does not say what is there.
    pub fn inspect(&self, id: SnapshotId) -> Result<Shown, CatalogError> {
        let manifest = self.show(id)?;
        let damaged = match self.refuse_cut(&manifest) {
            Err(error @ CatalogError::DamagedSnapshot { .. }) => Some(Unusable::of(id, &error)),
            looked => looked.map(|()| None)?,
        };
        Ok(Shown { manifest, damaged })
    }

    /// Hashes every file of a snapshot again, opens it, and reads nodes back. Nobody can remove it meanwhile.
    ///
    /// Errors: no such snapshot, anything that is not what was written, a stop.
    pub fn verify(&self, id: SnapshotId, depth: Depth, steering: &Steering) -> Result<VerifiedSnapshot, CatalogError> {
        let clock: &dyn Clock = &*steering.clock;
        let started = clock.monotonic();
        let _reading = self.steered(steering).reading(id)?;
        let manifest = self.show(id)?;
        let store = self.entry(id).join(STORE);
        proof::compare_files(&manifest, &store, &steering.control)?;
        let report = proof::prove(&manifest, &store, (depth, proof::Whole::No), steering)?;
        Ok(VerifiedSnapshot {
            id,
            files: manifest.files.len() as u64,
            bytes: manifest.total_bytes,
            state: manifest.state,
            depth,
            nodes_read: report.nodes_read,
            live_nodes: report.live_nodes,
            seconds: clock.monotonic().saturating_sub(started).as_secs_f64(),
        })
    }

    pub(super) fn ids(&self) -> Result<Vec<SnapshotId>, CatalogError> {
        let names = folder::names(&self.dir)?;
        // Anything else in the folder is not ours to speak of.
        Ok(names.iter().flat_map(|name| name.parse()).collect())
    }

    fn listing(&self, ids: &[SnapshotId]) -> Result<Listing, CatalogError> {
        let mut listing = Listing { snapshots: Vec::new(), damaged: Vec::new(), unreadable: Vec::new() };
        for id in ids {
            let whole = self.show(*id).and_then(|manifest| self.refuse_cut(&manifest).map(|()| manifest));
            match whole {
                Ok(manifest) => listing.snapshots.push(manifest.into()),
                Err(CatalogError::UnknownSnapshot { .. }) => {} // removed since the folder was read
                Err(error @ CatalogError::DamagedSnapshot { .. }) => listing.damaged.push(Unusable::of(*id, &error)),
                Err(error) if error.is_of_a_read() || matches!(error, CatalogError::OtherVersion { .. }) => {
                    listing.unreadable.push(Unusable::of(*id, &error));
                }
                Err(error) => return Err(error),
            }
        }
        listing.snapshots.sort_by_key(Listed::begun);
        Ok(listing)
    }

    /// Errors: files of the snapshot that are not there or have another length, unless all of it was removed meanwhile; a
    /// disk that does not answer.
    fn refuse_cut(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        let (id, entry) = (manifest.id, self.entry(manifest.id));
        let store = entry.join(STORE);
        let mut wrong = Vec::new();
        for file in &manifest.files {
            let path = store.join(&file.name);
            match folder::look_at(&path) {
                Ok(found) => wrong.extend(file.difference_in_length(&path, found.len(), folder::names_of(&found))),
                Err(error) if folder::tells_what_is_there(&error) => wrong.push(format!("{}: {error}", path.display())),
                Err(error) => return Err(unread(&path)(error)),
            }
        }
        if !wrong.is_empty() && !folder::exists(&entry.join(MANIFEST))? {
            return Err(CatalogError::UnknownSnapshot { id, dir: self.dir.clone() });
        }
        proof::refuse_wrong(id, wrong)
    }
}

impl Unusable {
    fn of(id: SnapshotId, error: &CatalogError) -> Self {
        Self { id, code: error.code().to_owned(), message: error.to_string() }
    }
}

/// What tells which of two snapshots was begun first: those without an ordinal are older than those with one, and have only
/// their dates.
pub(super) type Begun = (Option<NonZeroU64>, u64, SnapshotId);

impl Listed {
    pub(super) fn begun(&self) -> Begun {
        (self.ordinal, self.created_at_ms, self.id)
    }
}

impl From<Manifest> for Listed {
    fn from(manifest: Manifest) -> Self {
        let Manifest { id, ordinal, created_at_ms, creator, layout, state, total_bytes, files, doubt, .. } = manifest;
        Self { id, ordinal, created_at_ms, creator, layout, state, files: files.len() as u64, total_bytes, doubt }
    }
}
