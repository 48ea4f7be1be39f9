//! One-bit reference counts: what a commit must write so that IncrementalSweep may delete without walking a state.
//!
//! Rules 1 to 5 of docs/design.md, section 7, as pure functions. [`Questions`] says what must be known of which nodes,
//! sorted, so that one batched read can answer all of it; [`count`] turns delta and answers into what belongs in the batch
//! of the commit. [`count_places`] does as much of it as needs no look at what is stored, which is all but the marks of
//! [`Gained`] nodes: those may be found later. The count of a node is *one*, which is stored nowhere, or *many*, a mark
//! that only a major cycle takes away: a count that is never decremented cannot drift (S32, S34).
//!
//! Promise: if every node that a state refers to twice is marked *many*, the same holds for the new state once the marks
//! are written, and nothing that the journal entry names is reachable from the new state (I2, S21, S22, S28). A later
//! commit that needs such a node creates it, which cancels the entry or marks the node. Older states may still have it,
//! which is why an entry waits until its order falls to the cutoff.
//!
//! Requires: the parent of the delta is the state of the order before. A commit on an older state takes over nodes that
//! entries in between name, without creating them, and may need marks that a major cycle has taken away since: whoever
//! admits one trusts no entry and no mark any more until a major cycle has made them anew.
//!
//! Whoever cannot answer says *many* and *present*, which only keeps more (I8, S33).
//!
//! Costs: one look-up per node that lost a place, one per node created, and one sort of each; memory follows the delta.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    delta::Delta,
    hash::{NodeHash, Order},
};

/// What a node that is about to be created is to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not stored, and in no journal entry.
    Absent,
    /// Stored, and named by no journal entry: some state has it at another place, it waits for a major cycle, or it lies
    /// below a dropped root that an entry names, whose expansion stops at it once it is *many*.
    Present,
    /// Its last place was lost in this order and the entry has not been settled; whether it is still stored is no matter.
    /// Not for a node that is *many*: the expansion of a dropped tree may have come upon it while another place has it.
    Pending(Order),
}

/// What the store knew before the commit, read under the commit gate. Whatever is unknown is *many* and present (I8).
pub trait Known {
    /// Whether the node is marked *many*; asked about [`Questions::counts`] only.
    fn is_many(&self, hash: &NodeHash) -> bool;

    /// What the node is to the store; asked about [`Questions::standings`] only.
    fn standing(&self, hash: &NodeHash) -> Standing;
}

/// What [`count`] will ask, known before anything is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions {
    /// Nodes whose count is needed: those that lose a place.
    pub counts: BTreeSet<NodeHash>,
    /// Nodes whose standing is needed: those that gain a place.
    pub standings: BTreeSet<NodeHash>,
}

impl Questions {
    /// The questions that a delta raises.
    pub fn of(delta: &Delta) -> Self {
        let replaced = delta.replaced.iter().map(|place| place.hash);
        let dropped = delta.dropped.iter().map(|dropped| dropped.root);
        Self { counts: replaced.chain(dropped).collect(), standings: delta.created.keys().copied().collect() }
    }
}

/// Nodes that may be deleted once the order of their commit has fallen to the cutoff, unless they are *many* by then.
/// Both are sorted, each hash once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expiring {
    /// Nodes that lost their last place, each for itself.
    pub stale: Vec<NodeHash>,
    /// Roots of trees that lost their last place, each with everything below it.
    pub dropped: Vec<NodeHash>,
}

impl Expiring {
    /// Takes over what others name, too.
    pub fn extend(&mut self, others: Self) {
        let Self { stale, dropped } = self;
        for (all, more) in [(stale, others.stale), (dropped, others.dropped)] {
            all.extend(more);
            all.sort(); // two sorted runs are merged
            all.dedup();
        }
    }
}

/// What belongs in the batch of a commit beside its nodes (I9).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Nodes to mark *many* as of this order; some are marked already, and their mark becomes as recent.
    pub many: BTreeSet<NodeHash>,
    /// The journal entry of this order.
    pub expiring: Expiring,
    /// Nodes to take out of the entries of earlier orders, with the order whose entry holds them.
    pub cancelled: BTreeMap<NodeHash, Order>,
}

/// Created nodes that gained a place. Those that the store has already are *many* (rule 4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gained(Vec<NodeHash>);

impl Gained {
    /// Whether a node is among them.
    pub fn has(&self, hash: &NodeHash) -> bool {
        self.0.binary_search(hash).is_ok()
    }

    /// All of them, sorted.
    pub fn all(&self) -> &[NodeHash] {
        &self.0
    }
}

/// Applies rules 1 to 5 to one commit.
///
/// Ordering: `known` is the state before the commit, and what is returned is written in the batch of the commit, both
/// in one stay under the commit gate; a mark or an entry of a commit in between would be missed.
pub fn count(delta: &Delta, known: &dyn Known) -> Counted {
    let (mut counted, gained) = count_places(delta, &|hash| known.is_many(hash));
    for hash in gained.all() {
        match known.standing(hash) {
            Standing::Absent => {}
            Standing::Present => drop(counted.many.insert(*hash)),
            Standing::Pending(order) => drop(counted.cancelled.insert(*hash, order)),
        }
    }
    counted
}

/// The same without a look at what is stored: what a commit loses, and every mark but those of gained nodes that are
/// present. Whoever finds these later has what [`count`] says, for none of them is among the lost: of what was at a
/// place before it is clear that it is present.
pub fn count_places(delta: &Delta, is_many: &dyn Fn(&NodeHash) -> bool) -> (Counted, Gained) {
    let marked = delta.replaced.iter().map(|place| is_many(&place.hash)).collect();
    let mut counting = Counting { delta, is_many, marked, many: BTreeSet::new() };
    let moves = counting.adopt();
    let mut lost = counting.share();
    let gained = counting.create(net(delta, &mut lost));
    let expiring = counting.expiring(&lost, &moves);
    (Counted { many: counting.many, expiring, cancelled: BTreeMap::new() }, gained)
}

/// How many places each node gained or lost.
type Places = BTreeMap<NodeHash, u32>;

/// The same of the many nodes of a whole commit: sorted, each hash once.
type SortedPlaces = Vec<(NodeHash, u32)>;

/// A commit while its rules are applied: each sees the marks of those before it.
struct Counting<'a> {
    delta: &'a Delta,
    is_many: &'a dyn Fn(&NodeHash) -> bool,
    /// Of each replaced place, whether its node was *many* before.
    marked: Vec<bool>,
    many: BTreeSet<NodeHash>,
}

impl Counting<'_> {
    /// Rule 1: an adopted root is *many*, unless the adoption is half of a move. Returns the moves.
    fn adopt(&mut self) -> Places {
        if self.delta.adopted.is_empty() {
            return Places::new();
        }
        let moves = self.delta.moves(&|dropped| self.is_shared(dropped.above));
        let mut adoptions = Places::new();
        for root in &self.delta.adopted {
            *adoptions.entry(*root).or_insert(0) += 1;
        }
        adoptions.retain(|root, times| moves.get(root).is_none_or(|moved| moved < times));
        self.many.extend(adoptions.into_keys());
        moves
    }

    /// Rule 2: what is replaced at a shared place is not lost, and its children that stay are *many*. Returns what is.
    fn share(&mut self) -> SortedPlaces {
        let mut lost = Vec::with_capacity(self.delta.replaced.len());
        for (place, shared) in self.delta.replaced.iter().zip(self.shared_places()) {
            if shared {
                self.many.extend(&place.unchanged);
            } else {
                lost.push(place.hash);
            }
        }
        lost.sort_unstable();
        lost.chunk_by(|one, next| one == next).filter_map(|same| Some((*same.first()?, same.len() as u32))).collect()
    }

    /// Whether one replaced place is, or lies below, a node that something else reaches.
    fn is_shared(&self, place: Option<usize>) -> bool {
        let mut above = place;
        while let Some(index) = above {
            let (Some(place), Some(marked)) = (self.delta.replaced.get(index), self.marked.get(index)) else { break };
            if place.below_adoption || *marked || self.many.contains(&place.hash) {
                return true;
            }
            above = place.above.filter(|above| *above < index); // parents come before children, so it ends
        }
        false
    }

    /// The same of each of them, at once. Parents come before children.
    fn shared_places(&self) -> Vec<bool> {
        let mut shared: Vec<bool> = Vec::with_capacity(self.delta.replaced.len());
        for (place, marked) in self.delta.replaced.iter().zip(&self.marked) {
            let above = place.above.and_then(|index| shared.get(index)).is_some_and(|above| *above);
            shared.push(above || place.below_adoption || *marked || self.many.contains(&place.hash));
        }
        shared
    }

    /// Rule 4, as far as the delta tells: created at two places or while at one of the places that are lost is *many*.
    fn create(&mut self, gained: Vec<Gain>) -> Gained {
        self.many.extend(gained.iter().filter(|gain| gain.is_shared).map(|gain| gain.hash));
        let gained = Gained(gained.into_iter().map(|gain| gain.hash).collect());
        self.many.extend(self.delta.dropped.iter().map(|dropped| dropped.root).filter(|root| gained.has(root)));
        gained
    }

    /// Rule 5: what lost its last place, judged by all marks of this commit. What was *many* before is not among the lost.
    fn expiring(&self, lost: &SortedPlaces, moves: &Places) -> Expiring {
        let mut many = self.many.iter().peekable(); // sorted, as the lost are
        let mut is_one = |hash: &NodeHash| {
            while many.next_if(|other| *other < hash).is_some() {}
            many.peek() != Some(&hash)
        };
        let stale = lost.iter().map(|(hash, _)| *hash).filter(|hash| is_one(hash)).collect();
        let mut drops = Places::new();
        for dropped in self.delta.dropped.iter().filter(|dropped| !self.is_shared(dropped.above)) {
            *drops.entry(dropped.root).or_insert(0) += 1;
        }
        let is_many = |root: &NodeHash| self.many.contains(root) || (self.is_many)(root);
        drops.retain(|root, times| !is_many(root) && moves.get(root).is_none_or(|moved| moved < times));
        Expiring { stale, dropped: drops.into_keys().collect() }
    }
}

/// A created node that gained a place.
struct Gain {
    hash: NodeHash,
    /// Whether it gained two, or had one before.
    is_shared: bool,
}

/// Rule 3: gains and losses count places and cancel per hash. Returns the gains that are left, sorted.
fn net(delta: &Delta, lost: &mut SortedPlaces) -> Vec<Gain> {
    let mut gained = Vec::with_capacity(delta.created.len());
    let mut at = 0;
    for (hash, created) in &delta.created {
        let (mut gains, mut had) = (created.places, 0);
        while lost.get(at).is_some_and(|(other, _)| other < hash) {
            at += 1;
        }
        if let Some((_, losses)) = lost.get_mut(at).filter(|(other, _)| other == hash) {
            had = gains.min(*losses);
            gains -= had;
            *losses -= had;
        }
        if gains > 0 {
            gained.push(Gain { hash: *hash, is_shared: gains > 1 || had > 0 });
        }
    }
    lost.retain(|(_, places)| *places > 0);
    gained
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        delta::{Created, Dropped, Replaced},
        hash::StateRoot,
    };

    /// Few marks, and one answer for everything that is created.
    struct Told {
        many: Vec<NodeHash>,
        standing: Standing,
    }

    impl Known for Told {
        fn is_many(&self, hash: &NodeHash) -> bool {
            self.many.contains(hash)
        }

        fn standing(&self, _: &NodeHash) -> Standing {
            self.standing
        }
    }

    fn hash(n: u8) -> NodeHash {
        NodeHash::new([n; 32])
    }

    fn place(n: u8, above: Option<usize>, unchanged: &[u8]) -> Replaced {
        let unchanged = unchanged.iter().map(|n| hash(*n)).collect();
        Replaced { hash: hash(n), above, below_adoption: false, unchanged }
    }

    /// 1 and below it 2 are replaced, 2 leaves 3 in place; 3 is lost at a place of its own; 9 is created; 7 is dropped.
    fn delta() -> Delta {
        Delta {
            parent: StateRoot::EMPTY,
            root: StateRoot::new(hash(9)),
            created: [(hash(9), Created { bytes: Vec::new(), places: 1, below: None, sole: false })].into(),
            replaced: vec![place(1, None, &[]), place(2, Some(0), &[3]), place(3, Some(0), &[])],
            dropped: vec![Dropped { root: hash(7), above: Some(1) }],
            adopted: Vec::new(),
            astray: false,
        }
    }

    #[test]
    fn a_mark_of_this_commit_keeps_a_node_out_of_its_entry() {
        let counted = count(&delta(), &Told { many: vec![hash(2)], standing: Standing::Absent });
        assert_eq!(counted.many, [hash(3)].into());
        assert_eq!(counted.expiring, Expiring { stale: vec![hash(1)], dropped: Vec::new() });
        let alone = count(&delta(), &Told { many: Vec::new(), standing: Standing::Pending(Order::new(4)) });
        let expiring = Expiring { stale: [1, 2, 3].map(hash).into(), dropped: [hash(7)].into() };
        assert_eq!(alone, Counted { many: BTreeSet::new(), expiring, cancelled: [(hash(9), Order::new(4))].into() });
    }

    /// What was at a place before is present without a look.
    #[test]
    fn what_loses_a_place_and_gains_others_is_shared_before_anybody_looks_and_nothing_below_it_is_dropped() {
        let created = |places| Created { bytes: Vec::new(), places, below: None, sole: false };
        let moved = Delta { created: [(hash(2), created(2))].into(), ..delta() };
        let dropped = Delta { created: [(hash(7), created(1))].into(), ..delta() };
        for (delta, shared) in [(moved, 2), (dropped, 7)] {
            let (counted, gained) = count_places(&delta, &|_| false);
            assert_eq!((counted.many, counted.expiring.dropped), ([hash(shared)].into(), Vec::new()));
            assert_eq!(gained.all(), [hash(shared)]);
        }
    }

    #[test]
    fn a_store_that_knows_nothing_lets_nothing_expire() {
        let many = Questions::of(&delta()).counts.into_iter().collect();
        let counted = count(&delta(), &Told { many, standing: Standing::Present });
        assert_eq!(counted.expiring, Expiring::default());
        assert_eq!(counted.many, [hash(3), hash(9)].into());
    }
}
