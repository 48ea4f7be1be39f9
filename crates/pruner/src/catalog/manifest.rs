//! The manifest of a snapshot: what it has and what its files are, under a digest over all of it.
//!
//! The text is believed only if it is exactly the text that its own content gives, under the digest of that content: so a
//! flipped bit, a lost end or an added blank is found (C5). Names, counts and sizes are bounded and cannot lead out of the
//! folder (F15).

use std::{collections::BTreeSet, num::NonZeroU64, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{CatalogError, SnapshotId};
use crate::{error::PruneError, offline::StoreLayout};

/// The newest version, of a copy that may have damage.
const VERSION: u64 = 3;
/// That of any other copy: programs that know of no doubt read it.
const PLAIN_VERSION: u64 = 2;
/// The oldest that it reads. It has no ordinals.
const OLDEST_VERSION: u64 = 1;
/// The longest manifest.
pub(super) const MOST_BYTES: u64 = 64 << 20;
/// The most files of one store.
const MOST_FILES: usize = 200_000;
const LONGEST_NAME: usize = 64;
/// Without it nothing is a database.
pub(super) const CURRENT: &str = "CURRENT";

/// Through what a snapshot was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// From a store at rest.
    Rest,
    /// By the node that has the store open.
    Node,
}

/// Who made a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Creator {
    /// The process.
    pub pid: u32,
    /// Its way.
    pub through: Through,
    /// The version of the program.
    pub version: String,
}

/// What the copy has, as read from the copy itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopiedState {
    /// The engine's sequence number of the copy.
    pub sequence: u64,
    /// Newest order.
    pub head_order: u64,
    /// Root after it, in hex.
    pub head_root: String,
    /// Oldest order of the window that the snapshot has.
    pub first_order: u64,
    /// Single orders below the window.
    pub kept_below: u64,
    /// Retained roots, those of single orders included.
    pub roots: u64,
    /// SHA-256 over order (u64 big-endian) and root of each of them, by order.
    pub roots_sha256: String,
    /// Rows in the table files of the nodes, every version counted.
    pub node_table_rows: u64,
}

/// One file of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopiedFile {
    /// Its name in the folder of the store.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of what it holds, in hex.
    pub sha256: String,
}

/// Why a copy may have damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopiedDoubt {
    /// Its word: `frozen`, `engine_damaged`, `log_cut` or `unproven`.
    pub code: String,
    /// What was found in the store.
    pub why: String,
}

impl std::fmt::Display for CopiedDoubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MAY BE DAMAGED ({}): {}", self.code, self.why)
    }
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub version: u64,
    /// Its id.
    pub id: SnapshotId,
    /// The how many-th of its catalog it is; version 1 has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<NonZeroU64>,
    /// When it was begun by the wall clock, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who made it.
    pub creator: Creator,
    /// Whose records lead from an order to a root.
    pub layout: StoreLayout,
    /// What it has.
    pub state: CopiedState,
    /// Table and blob files that shared their bytes with the store when the copy was made.
    pub linked_files: u64,
    /// Files with bytes of their own.
    pub copied_files: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Every file, by name.
    pub files: Vec<CopiedFile>,
    /// Why the store may have been damaged when it was copied; only version 3 has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<CopiedDoubt>,
}

/// A manifest with its digest: SHA-256 over the compact JSON of the manifest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    digest: String,
    manifest: Manifest,
}

/// What every version has.
#[derive(Deserialize)]
struct Versioned {
    manifest: Version,
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

impl Manifest {
    pub(super) const VERSION: u64 = VERSION;
    pub(super) const PLAIN_VERSION: u64 = PLAIN_VERSION;

    /// The text of its file.
    ///
    /// Errors: a fault of ours.
    pub fn encode(&self) -> Result<Vec<u8>, CatalogError> {
        let broken = |error| PruneError::Invariant(format!("a manifest does not encode: {error}"));
        let digest = hex::encode(Sha256::digest(serde_json::to_vec(self).map_err(broken)?));
        let sealed = Sealed { digest, manifest: self.clone() };
        let mut text = serde_json::to_vec_pretty(&sealed).map_err(broken)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads the manifest of the snapshot `id`, the text of the file at `path`.
    ///
    /// Errors: another version; anything that is not exactly what was written for this id.
    pub(super) fn decode(id: SnapshotId, path: &Path, text: &[u8]) -> Result<Self, CatalogError> {
        let damaged = |what: String| CatalogError::DamagedSnapshot {
            id,
            what: format!("the manifest {} {what}", path.display()),
        };
        let versioned: Versioned =
            serde_json::from_slice(text).map_err(|error| damaged(format!("does not parse: {error}")))?;
        let version = versioned.manifest.version;
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(CatalogError::OtherVersion { id, version, known: VERSION });
        }
        let Sealed { manifest, .. } =
            serde_json::from_slice(text).map_err(|error| damaged(format!("does not parse: {error}")))?;
        if manifest.encode()? != text {
            return Err(damaged("is not what its digest stands for".to_owned()));
        }
        if manifest.id != id {
            return Err(damaged(format!("is that of snapshot {}", manifest.id))); // F4
        }
        manifest.check().map_err(|what| damaged(what.to_owned()))?;
        Ok(manifest)
    }

    /// Bounds what is done on the strength of a manifest (F15).
    fn check(&self) -> Result<(), &'static str> {
        if self.ordinal.is_none() != (self.version == OLDEST_VERSION) {
            return Err("has an ordinal where its version has none, or none where it has one");
        }
        if self.doubt.is_some() != (self.version == VERSION) {
            return Err("has a doubt where its version has none, or none where it has one");
        }
        if self.files.len() > MOST_FILES {
            return Err("names more files than a store can have");
        }
        let names: BTreeSet<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        if names.len() != self.files.len() {
            return Err("names a file twice");
        }
        if !names.iter().all(|name| is_name(name)) {
            return Err("names a file that no store has");
        }
        if !names.contains(CURRENT) {
            return Err("names no file CURRENT");
        }
        let total = self.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes));
        if total != Some(self.total_bytes) {
            return Err("has another total than its files");
        }
        Ok(())
    }
}

/// Whether the engine gives its files such names: letters, digits, a dash or a dot between them, nothing else.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && name.len() <= LONGEST_NAME && name.bytes().all(plain)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn decode(id: SnapshotId, text: &[u8]) -> Result<Manifest, CatalogError> {
        Manifest::decode(id, Path::new("/there/manifest.json"), text)
    }

    /// A manifest that could be.
    pub(crate) fn sample() -> Manifest {
        let file = |name: &str, bytes| CopiedFile { name: name.to_owned(), bytes, sha256: "ab".repeat(32) };
        Manifest {
            version: PLAIN_VERSION,
            id: SnapshotId::draw(&ManualClock::default()),
            ordinal: NonZeroU64::new(3),
            created_at_ms: 7,
            creator: Creator { pid: 4711, through: Through::Rest, version: "0.1.0".to_owned() },
            layout: StoreLayout::Native,
            state: CopiedState {
                sequence: 9,
                head_order: 5,
                head_root: "cd".repeat(32),
                first_order: 2,
                kept_below: 1,
                roots: 5,
                roots_sha256: "ef".repeat(32),
                node_table_rows: 100,
            },
            linked_files: 1,
            copied_files: 1,
            total_bytes: 12,
            files: vec![file("000012.sst", 8), file("CURRENT", 4)],
            doubt: None,
        }
    }

    #[test]
    fn a_copy_that_may_have_damage_says_so_and_no_other_does() {
        let doubt = CopiedDoubt { code: "frozen".to_owned(), why: "a node is missing".to_owned() };
        let doubted = Manifest { version: VERSION, doubt: Some(doubt), ..sample() };
        assert_eq!(decode(doubted.id, &doubted.encode().unwrap()).unwrap(), doubted);
        for wrong in [Manifest { version: PLAIN_VERSION, ..doubted }, Manifest { version: VERSION, ..sample() }] {
            let told = decode(wrong.id, &wrong.encode().unwrap()).unwrap_err().to_string();
            assert!(told.contains("doubt"), "{told}");
        }
        assert!(!String::from_utf8(sample().encode().unwrap()).unwrap().contains("doubt"), "older programs read it");
    }

    #[test]
    fn every_cut_and_every_flipped_bit_of_a_manifest_is_found() {
        let manifest = sample();
        let text = manifest.encode().unwrap();
        assert_eq!(decode(manifest.id, &text).unwrap(), manifest);
        for cut in 0..text.len() {
            assert!(decode(manifest.id, &text[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(manifest.id, &flipped).is_err(), "bit {bit}");
        }
        for added in [b" ", b"\n"] {
            assert!(decode(manifest.id, &[&text[..], &added[..]].concat()).is_err(), "an end that grew");
        }
    }

    #[test]
    fn a_stale_manifest_is_never_taken_for_that_of_another_snapshot() {
        let manifest = sample();
        let other = SnapshotId::draw(&ManualClock::default());
        let error = decode(other, &manifest.encode().unwrap()).unwrap_err();
        assert_eq!(error.code(), "damaged_snapshot", "{error}");
        assert!(error.to_string().contains("/there/manifest.json is that of snapshot"), "{error}");
    }

    #[test]
    fn a_manifest_of_another_version_is_told_from_a_damaged_one() {
        let manifest = Manifest { version: VERSION + 1, ..sample() };
        let error = decode(manifest.id, &manifest.encode().unwrap()).unwrap_err();
        assert_eq!(error.code(), "other_version", "{error}");
    }

    #[test]
    fn a_manifest_of_the_first_version_is_read_and_has_no_ordinal() {
        let first = Manifest { version: 1, ordinal: None, ..sample() };
        let text = first.encode().unwrap();
        assert!(!String::from_utf8(text.clone()).unwrap().contains("ordinal"));
        assert_eq!(decode(first.id, &text).unwrap(), first);
        for wrong in [Manifest { version: 1, ..sample() }, Manifest { ordinal: None, ..sample() }] {
            let told = decode(wrong.id, &wrong.encode().unwrap()).unwrap_err().to_string();
            assert!(told.contains("ordinal"), "{told}");
        }
    }

    #[test]
    fn names_totals_and_twins_that_no_store_has_are_refused() {
        let wrong = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = sample();
            change(&mut manifest);
            let text = manifest.encode().unwrap(); // under a digest of its own: only the contents are wrong
            decode(manifest.id, &text).unwrap_err().to_string()
        };
        let long = "a".repeat(LONGEST_NAME + 1);
        for name in ["../evil", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "-x", "a\0b", "a\\b", &long] {
            let told = wrong(&|manifest| manifest.files[0].name = name.to_owned());
            assert!(told.contains("no store has"), "{name:?}: {told}");
        }
        assert!(wrong(&|manifest| manifest.files[0].bytes = u64::MAX).contains("another total"));
        assert!(wrong(&|manifest| manifest.files[0].name = "CURRENT".to_owned()).contains("twice"));
        assert!(wrong(&|manifest| manifest.files[1].name = "CURRENT2".to_owned()).contains("no file CURRENT"));
        for name in ["CURRENT", "MANIFEST-000005", "OPTIONS-000007", "000012.sst", "000013.blob", "000004.log"] {
            assert!(is_name(name), "{name}");
        }
    }
}
