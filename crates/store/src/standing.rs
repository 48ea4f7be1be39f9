//! What the nodes of a commit are to the store, and what the rules of one-bit counts say of it.
//!
//! Asked under the gate, of the store as it was BEFORE the commit: in a view of then, and before anything else that the gate
//! guards has changed. [`Memory::look`] alone may wait for the next stay ([`crate::unjudged`]).
//!
//! Costs: one batched read of the lowest created nodes; where some of those are stored already, one more of the nodes just above
//! them, and so on upward; where the marks have no room in memory, one of marks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use state_tree::{Counted, Created, Delta, Gained, NodeHash, Questions, Standing, count_places};

use crate::{
    backend::View,
    barrier::ByFingerprint,
    counting::{Mode, Plan},
    error::StoreError,
    many::{Marked, Marks},
    pending::Pending,
};

/// What the entries of the journal are to the state that a commit builds on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entries {
    /// It lacks what they name.
    Trusted,
    /// It may have it.
    OfAnother,
}

/// What a look at what is stored says of the nodes that a commit created.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Those of the gained that are present, sorted: they are *many*.
    pub(crate) many: Vec<NodeHash>,
    /// How many of all are stored.
    pub(crate) present: u64,
    /// Fingerprints of the nodes that were asked for, and may be at other places.
    pub(crate) asked: Vec<u64>,
}

impl Looked {
    /// What is true of them whatever is stored (I8).
    pub(crate) fn nowhere(delta: &Delta, gained: &Gained, strays: Strays) -> Self {
        let may_be = delta.created.iter().filter(|(hash, created)| strays.allow(created) && gained.has(hash));
        Self { many: may_be.map(|(hash, _)| *hash).collect(), present: 0, asked: Vec::new() }
    }
}

/// What is known without a read.
pub(crate) struct Memory<'a> {
    pub(crate) marks: &'a Marks,
    /// Nothing until it was read from the journal.
    pub(crate) index: Option<&'a Pending>,
    pub(crate) strays: Strays,
}

/// Whether a leaf of the global tree may be a field, too ([`state_tree::Delta::astray`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strays {
    /// There never was such a field, this commit included.
    None,
    /// Nobody knows of none (I8).
    Possible,
}

impl Strays {
    /// Whether a node may be at more than one place.
    pub(crate) fn allow(self, created: &Created) -> bool {
        self == Self::Possible || !created.sole
    }
}

impl Memory<'_> {
    /// The marks of the nodes that the rules ask for.
    ///
    /// Errors: a failed read.
    pub(crate) fn marked(&self, view: &dyn View, plan: &Plan<'_>, mode: Mode) -> Result<Marked<'_>, StoreError> {
        match mode {
            Mode::Exact(_) => self.marks.ask(view, || fingerprints_asked(plan.delta, self.index)),
            Mode::Blind(_) | Mode::Off => Ok(Marked::All),
        }
    }

    /// Which created nodes are stored, by a view of before the commit.
    ///
    /// Errors: a failed read.
    pub(crate) fn look(&self, view: &dyn View, asks: Asks<'_>) -> Result<Looked, StoreError> {
        let Asks { delta, gained, marked, entries } = asks;
        let index = self.index;
        let standing = |hash: &NodeHash| match index.and_then(|index| index.order(hash)) {
            Some(_) if entries == Entries::OfAnother => Some(Standing::Present), // so it is marked
            Some(order) if !marked.contains(hash) => Some(Standing::Pending(order)),
            Some(_) => Some(Standing::Present),
            None if marked.is_known(hash) => Some(Standing::Present),
            None => index.is_some_and(|index| index.is_stored(hash)).then_some(Standing::Present),
        };
        let Presence { stored, asked, .. } = Presence::of(delta, self.strays).read(view, &standing)?;
        let present = stored.len() as u64;
        let is_many = |(hash, standing): &(NodeHash, Standing)| *standing == Standing::Present && gained.has(hash);
        let many = stored.into_iter().filter(is_many).map(|(hash, _)| hash).collect();
        Ok(Looked { many, present, asked })
    }
}

/// What is asked of the nodes that a commit created.
pub(crate) struct Asks<'a> {
    pub(crate) delta: &'a Delta,
    pub(crate) gained: &'a Gained,
    pub(crate) marked: &'a Marked<'a>,
    pub(crate) entries: Entries,
}

/// Applies the rules to a commit without a look at what is stored. `marked` are the marks from before it.
pub(crate) fn count(plan: &Plan<'_>, mode: Mode, marked: &Marked<'_>) -> (Counted, Gained) {
    if mode == Mode::Off {
        return Default::default();
    }
    let (counted, gained) = count_places(plan.delta, &|hash| marked.contains(hash));
    if plan.is_fork() {
        // What its base lost is judged by marks that a cycle which traces this state takes away.
        return (Counted { many: counted.many, ..Counted::default() }, gained);
    }
    (counted, gained)
}

/// The fingerprints whose marks the rules ask for, where marks have to be read.
fn fingerprints_asked(delta: &Delta, index: Option<&Pending>) -> BTreeSet<u64> {
    let Questions { counts, standings } = Questions::of(delta);
    let is_pending = |hash: &&NodeHash| index.is_some_and(|index| index.order(hash).is_some());
    counts.iter().chain(standings.iter().filter(is_pending)).map(NodeHash::fingerprint).collect()
}

/// Which created nodes are stored, or may be, and what they are.
///
/// Only nodes with nothing created below are looked at at first, which in most commits are the changed leaves: above one that is
/// not stored no node is in any retained state, nor below a root that an unsettled entry names: a cycle, which deletes by
/// keys, settles those first. Those just above what is stored are read next, and so on upward. What is known to be marked, or waits
/// to go, or was created lately, is not read: it is stored, or taken for it, which only renews a mark.
///
/// Nor is a leaf read that is at one place only. If it is stored all the same, some state had it there before: an entry names it, or
/// nothing will before a cycle has taken it; no other place loses it to this one. What lies above it has it, and so one place, too.
struct Presence<'a> {
    created: &'a BTreeMap<NodeHash, Created>,
    strays: Strays,
    stored: BTreeMap<NodeHash, Standing>,
    asked: Vec<u64>,
}

/// A created node.
type New<'a> = (&'a NodeHash, &'a Created);

impl<'a> Presence<'a> {
    fn of(delta: &'a Delta, strays: Strays) -> Self {
        Self { created: &delta.created, strays, stored: BTreeMap::new(), asked: Vec::new() }
    }

    /// A batched read for each level that has something stored, and one more; `standing` is what is known without.
    fn read(mut self, view: &dyn View, standing: &dyn Fn(&NodeHash) -> Option<Standing>) -> Result<Self, StoreError> {
        let (mut next, mut above) = self.lowest();
        while !next.is_empty() {
            let stored = self.ask(view, next, standing)?;
            if stored.is_empty() {
                break; // as for most commits: none above is looked through
            }
            let is_above = |below: &NodeHash| stored.contains(&below.fingerprint()); // of equal ones one more is read
            next = above.extract_if(.., |(_, below)| is_above(below)).map(|(new, _)| new).collect();
        }
        Ok(self)
    }

    /// Nodes of which nothing is known below them, and the others, each with one that is just below it. Both are sorted.
    fn lowest(&self) -> (Vec<New<'a>>, Vec<(New<'a>, &'a NodeHash)>) {
        let most = self.created.len();
        let mut created: HashMap<u64, &NodeHash, ByFingerprint> =
            HashMap::with_capacity_and_hasher(most, ByFingerprint::default());
        created.extend(self.created.keys().map(|hash| (hash.fingerprint(), hash)));
        let (mut lowest, mut above) = (Vec::with_capacity(most), Vec::with_capacity(most));
        for new in self.created {
            match &new.1.below {
                Some(below) if created.get(&below.fingerprint()) == Some(&below) => above.push((new, below)),
                Some(_) | None => lowest.push(new), // what was not created says nothing of it (I8)
            }
        }
        (lowest, above)
    }

    /// Returns the fingerprints of those that are stored.
    fn ask(
        &mut self,
        view: &dyn View,
        nodes: Vec<New<'a>>,
        standing: &dyn Fn(&NodeHash) -> Option<Standing>,
    ) -> Result<HashSet<u64, ByFingerprint>, StoreError> {
        let (mut stored, mut asked) = (Vec::new(), Vec::with_capacity(nodes.len()));
        for (hash, created) in nodes {
            let is_sole = !self.strays.allow(created);
            self.asked.extend((!is_sole).then(|| hash.fingerprint()));
            match standing(hash) {
                Some(standing) => stored.push((*hash, standing)),
                None if is_sole => {}
                None => asked.push(*hash),
            }
        }
        if !asked.is_empty() {
            view.nodes(&asked, &mut |index, bytes| {
                stored.extend(asked.get(index).filter(|_| bytes.is_some()).map(|hash| (*hash, Standing::Present)));
            })?;
        }
        self.stored.extend(stored.iter().copied());
        Ok(stored.into_iter().map(|(hash, _)| hash.fingerprint()).collect())
    }
}

#[cfg(test)]
mod tests {
    use state_tree::StateRoot;

    use super::*;
    use crate::backend::{Backend, Batch, Durability, MemoryBackend};

    fn hash(n: u8) -> NodeHash {
        NodeHash::new([n; 32])
    }

    /// Which of these created nodes, each with one just below it, are stored where 2 and 3 are.
    fn stored(created: &[(u8, Option<u8>)]) -> Vec<NodeHash> {
        stored_of(created, (&[], Strays::None))
    }

    /// The same where some are at one place only, as far as there are no strays.
    fn stored_of(created: &[(u8, Option<u8>)], (soles, strays): (&[u8], Strays)) -> Vec<NodeHash> {
        let node = |n: &u8, below: &Option<u8>| {
            let (bytes, below, sole) = (Vec::new(), below.map(hash), soles.contains(n));
            Created { bytes, places: 1, below, sole }
        };
        let delta = Delta {
            parent: StateRoot::EMPTY,
            root: StateRoot::new(hash(9)),
            created: created.iter().map(|(n, below)| (hash(*n), node(n, below))).collect(),
            replaced: Vec::new(),
            dropped: Vec::new(),
            adopted: Vec::new(),
            astray: false,
        };
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        [2, 3].into_iter().for_each(|n| batch.put_node(hash(n), vec![n]));
        backend.write(&batch, Durability::Logged).unwrap();
        let found = Presence::of(&delta, strays).read(&*backend.view().unwrap(), &|_| None).unwrap();
        found.stored.into_keys().collect()
    }

    #[test]
    fn a_leaf_at_one_place_only_is_not_looked_for_nor_what_lies_above_it_unless_there_are_strays() {
        let created = [(1, Some(2)), (2, None), (3, Some(1))];
        assert_eq!(stored_of(&created, (&[2], Strays::None)), []);
        assert_eq!(stored_of(&created, (&[2], Strays::Possible)), [hash(2)], "1 is not stored, and nothing above it");
        assert_eq!(stored_of(&[(2, None), (3, None)], (&[2], Strays::None)), [hash(3)]);
        assert_eq!(
            stored_of(&[(2, Some(3)), (3, None)], (&[2], Strays::None)),
            [hash(3)],
            "one with fields of its own"
        );
    }

    #[test]
    fn a_node_is_looked_for_where_one_just_below_it_is_stored_or_says_nothing_of_it() {
        assert_eq!(stored(&[(1, Some(2)), (2, None), (3, Some(2))]), [2, 3].map(hash));
        assert_eq!(stored(&[(2, Some(4)), (3, Some(5)), (4, None)]), [hash(3)], "4 is not stored, 5 was not created");
        assert_eq!(stored(&[(3, Some(2)), (2, None), (1, Some(3))]), [2, 3].map(hash), "level by level");
        assert_eq!(stored(&[(3, Some(2)), (2, Some(1)), (1, None)]), [], "none above 1 is in any state");
    }
}
