//! Damage that reads for clients meet: told by health until the process ends, and deletes freeze by what may lie in live
//! nodes (I11).
//!
//! A row that is not what was written says nothing of nodes. A node under a root that is retained and pinned does, and so does
//! whatever the engine finds: its checksums cover the file, not the row, and who changed one may have changed others (I8).

use std::collections::BTreeMap;

use parking_lot::Mutex;
use state_pruner::{Found, PruneError};
use state_store::StoreError;
use state_tree::TreeError;

use super::Node;
use crate::chain::{ChainError, ReadError};

/// Different faults that are remembered as told; after so many they are told anew.
const REMEMBERED: usize = 64;

/// What is said where a fault could not be written down.
pub(super) const UNSAVED: &str = "that live nodes may be damaged could not be saved";

/// Whether deletes are frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deletes {
    GoOn,
    Frozen,
}

/// What reads have met since the process began.
#[derive(Debug, Default)]
pub(super) struct Damage(Mutex<Met>);

#[derive(Debug, Default)]
struct Met {
    first: Option<String>,
    reads: u64,
    /// What became of each fault, once that was saved: who lifts a freeze knows of what it is for.
    told: BTreeMap<String, Found>,
}

impl Damage {
    /// The first fault, and how many reads met one.
    pub(super) fn met(&self) -> Option<(String, u64)> {
        let met = self.0.lock();
        met.first.clone().map(|first| (first, met.reads))
    }

    /// Notes a read, and says how many have met damage.
    fn note(&self, words: &str) -> u64 {
        let mut met = self.0.lock();
        met.reads += 1;
        met.first.get_or_insert_with(|| words.to_owned());
        met.reads
    }

    /// Tells of a fault, unless that was done; it was once what came of it is saved. One that was met while deletes were frozen
    /// for another is told again when they are not.
    fn tell(
        &self,
        words: &str,
        deletes: Deletes,
        tell: impl FnOnce() -> Result<Found, PruneError>,
    ) -> Result<(), PruneError> {
        match (self.0.lock().told.get(words), deletes) {
            (Some(Found::Told), _) | (Some(Found::InDoubt), Deletes::Frozen) => return Ok(()),
            (Some(Found::InDoubt), Deletes::GoOn) | (None, _) => {}
        }
        let found = tell()?; // without the lock: it waits for the disk
        let told = &mut self.0.lock().told;
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert(words.to_owned(), found);
        Ok(())
    }
}

impl Node {
    /// A read of the chain failed.
    pub(super) fn met_by_read(&self, error: &ReadError) {
        let ReadError::Chain(error) = error else { return };
        match fault_of(error) {
            Some(fault) => self.met_fault(&fault),
            None if is_bad_row(error) => {
                self.note_damage(&error.to_string());
            }
            None => {}
        }
    }

    /// A read of what is retained failed.
    pub(super) fn met_by_retention(&self, error: &PruneError) {
        if error.is_live_fault() {
            self.met_fault(error);
        } else if let PruneError::Store(StoreError::Record { .. }) = error {
            self.note_damage(&error.to_string());
        }
    }

    fn met_fault(&self, fault: &PruneError) {
        let words = fault.to_string();
        let reads = self.note_damage(&words);
        let frozen = self.pruner.as_ref().and_then(|pruner| pruner.status().frozen);
        let deletes = if frozen.is_some() { Deletes::Frozen } else { Deletes::GoOn };
        let told = self.damage.tell(&words, deletes, || self.found(fault));
        if let Err(unsaved) = told
            && reads.is_power_of_two()
        {
            tracing::error!(%unsaved, reads, "{UNSAVED}"); // O15
        }
    }

    /// Says how many reads have met damage.
    fn note_damage(&self, words: &str) -> u64 {
        let reads = self.damage.note(words);
        if reads.is_power_of_two() {
            tracing::error!(damage = words, reads, "reads for clients meet damage"); // O15
        }
        reads
    }
}

/// What a failed read of the chain says of live nodes, or of the files they lie in.
fn fault_of(error: &ChainError) -> Option<PruneError> {
    match error {
        ChainError::Store(error) | ChainError::Unsettled(error) => of_engine(error),
        ChainError::Tree(error) => of_node(error),
        ChainError::Invariant(_) => None,
    }
}

fn of_engine(error: &StoreError) -> Option<PruneError> {
    let StoreError::Corrupt(what) = error else { return None };
    Some(StoreError::Corrupt(what.clone()).into())
}

/// A read has no roots at hand, so the path to the node is left to `verify` and to the next mark.
fn of_node(error: &TreeError) -> Option<PruneError> {
    let path = Vec::new();
    if let TreeError::Missing(hash) = error {
        return Some(PruneError::MissingLiveNode { hash: *hash, path });
    }
    if let TreeError::Malformed { hash, source } = error {
        return Some(PruneError::BadNode { hash: *hash, fault: source.clone(), path });
    }
    if let TreeError::WrongHash { key, actual } = error {
        return Some(PruneError::WrongHash { hash: *key, actual: *actual, path });
    }
    let TreeError::Read { source, .. } = error else { return None };
    source.downcast_ref::<StoreError>().and_then(of_engine)
}

/// Whether a row of ours, or the way to a node, is not what was written.
fn is_bad_row(error: &ChainError) -> bool {
    match error {
        ChainError::Store(error) => matches!(error, StoreError::Record { .. }),
        ChainError::Tree(error) => {
            matches!(error, TreeError::WrongKind { .. } | TreeError::Misplaced { .. } | TreeError::TooDeep { .. })
        }
        ChainError::Unsettled(_) | ChainError::Invariant(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use state_tree::{NodeError, NodeHash};

    use super::*;

    #[test]
    fn only_nodes_and_the_engine_say_something_of_live_nodes() {
        let (hash, io) =
            (NodeHash::new([1; 32]), || StoreError::Io { what: String::new(), source: io::Error::other("x") });
        let corrupt = || StoreError::Corrupt("a checksum".to_owned());
        let row = StoreError::Record { name: "block 1".to_owned(), why: "torn".to_owned() };
        let rows: [(ChainError, Option<&str>, bool); 10] = [
            (TreeError::Missing(hash).into(), Some("missing_live_node"), false),
            (TreeError::Malformed { hash, source: NodeError::Empty }.into(), Some("bad_node"), false),
            (TreeError::WrongHash { key: hash, actual: hash }.into(), Some("wrong_hash"), false),
            (TreeError::Read { hash, source: Box::new(corrupt()) }.into(), Some("corrupt"), false),
            (TreeError::Read { hash, source: Box::new(io()) }.into(), None, false),
            (TreeError::WrongKind { hash }.into(), None, true),
            (corrupt().into(), Some("corrupt"), false),
            (row.into(), None, true),
            (io().into(), None, false),
            (ChainError::Invariant("a bug".to_owned()), None, false),
        ];
        for (error, code, is_row) in rows {
            let fault = fault_of(&error);
            assert_eq!(fault.as_ref().map(PruneError::code), code, "{error}");
            assert!(fault.is_none_or(|fault| fault.is_live_fault()), "{error}");
            assert_eq!(is_bad_row(&error), is_row, "{error}");
        }
    }

    #[test]
    fn a_fault_is_told_once_and_the_first_one_is_shown() {
        let damage = Damage::default();
        assert_eq!(damage.met(), None);
        assert_eq!(["a", "b"].map(|words| damage.note(words)), [1, 2]);
        assert_eq!(damage.met(), Some(("a".to_owned(), 2)));
        let is_told = |words: &str| told(&damage, words, Deletes::GoOn, Ok(Found::Told));
        assert!(is_told("a") && !is_told("a"));
        assert_eq!((0..10 * REMEMBERED).filter(|n| is_told(&n.to_string())).count(), 10 * REMEMBERED);
        assert!(damage.0.lock().told.len() <= REMEMBERED, "what is remembered is bounded");
    }

    /// Whether a fault is told, of which this comes.
    fn told(damage: &Damage, words: &str, deletes: Deletes, comes: Result<Found, PruneError>) -> bool {
        let (mut is_told, fails) = (false, comes.is_err());
        let told = damage.tell(words, deletes, || {
            is_told = true;
            comes
        });
        assert_eq!(told.is_err(), is_told && fails);
        is_told
    }

    #[test]
    fn a_fault_that_could_not_be_saved_is_told_again() {
        let damage = Damage::default();
        let unsaved = || Err(PruneError::NoHead);
        assert!(told(&damage, "a", Deletes::GoOn, unsaved()));
        assert!(told(&damage, "a", Deletes::Frozen, unsaved()), "also while deletes are frozen for it in memory");
        assert!(told(&damage, "a", Deletes::Frozen, Ok(Found::Told)));
        assert!(!told(&damage, "a", Deletes::Frozen, Ok(Found::Told)));
    }

    #[test]
    fn a_fault_beside_a_freeze_for_another_is_told_and_once_more_after_it() {
        let damage = Damage::default();
        assert!(told(&damage, "b", Deletes::Frozen, Ok(Found::InDoubt)), "it is in doubt");
        assert!(!told(&damage, "b", Deletes::Frozen, Ok(Found::InDoubt)));
        assert!(told(&damage, "b", Deletes::GoOn, Ok(Found::Told)), "whoever lifted the freeze did not know of it");
        assert!(!told(&damage, "b", Deletes::GoOn, Ok(Found::Told)));
    }
}
