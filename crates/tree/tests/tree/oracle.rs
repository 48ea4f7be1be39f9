//! What a delta must say, derived from the two states place by place: both trees are built from scratch and compared.

use std::collections::BTreeMap;

use state_tree::{
    Change, Changes, Child, ChildKind, Delta, FieldsBase, Key, NodeHash, NodeView, Put, StateRoot, embedded_root,
};

use crate::{model::Tree, store::Store};

/// A replaced place: hash, hashes above it upward, whether below an adoption, children that stay.
type Loss = (NodeHash, Vec<NodeHash>, bool, Vec<NodeHash>);

/// What a delta says, in a form without indices, sorted.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Account {
    created: BTreeMap<NodeHash, u32>,
    replaced: Vec<Loss>,
    dropped: Vec<(NodeHash, Vec<NodeHash>)>,
    adopted: Vec<NodeHash>,
}

impl Account {
    pub(crate) fn of(delta: &Delta) -> Self {
        let chain = |index| delta.above(index).map(|place| place.hash).collect::<Vec<_>>();
        let losses = delta
            .replaced
            .iter()
            .map(|place| (place.hash, chain(place.above), place.below_adoption, place.unchanged.clone()));
        Self {
            created: delta.created.iter().map(|(hash, created)| (*hash, created.places)).collect(),
            replaced: losses.collect(),
            dropped: delta.dropped.iter().map(|dropped| (dropped.root, chain(dropped.above))).collect(),
            adopted: delta.adopted.clone(),
        }
        .sorted()
    }

    fn sorted(mut self) -> Self {
        self.replaced.iter_mut().for_each(|loss| loss.3.sort());
        self.replaced.sort();
        self.dropped.sort();
        self.adopted.sort();
        self
    }
}

/// The places of one tree: nibbles -> node, embedded trees not entered.
type Places = BTreeMap<Vec<u8>, Child>;

fn places(root: StateRoot, store: &Store) -> Places {
    let mut places = Places::new();
    let mut stack: Vec<(Vec<u8>, NodeHash)> = root.node().map(|hash| (Vec::new(), hash)).into_iter().collect();
    while let Some((path, hash)) = stack.pop() {
        let view = NodeView::decode(&store.0[&hash]).unwrap();
        places.insert(path.clone(), Child { hash, kind: view.kind() });
        let NodeView::Internal(node) = view else { continue };
        stack.extend(node.children().map(|(nibble, child)| ([path.clone(), vec![nibble]].concat(), child.hash)));
    }
    places
}

/// The account of an update that took `old` to `new`.
pub(crate) fn difference(old: &Tree, new: &Tree, changes: &Changes) -> Account {
    let mut store = Store::default();
    let mut oracle = Oracle { store: &mut store, parent: old, account: Account::default() };
    oracle.compare(&Pair { old, new, above: Vec::new(), below_adoption: false }, changes);
    oracle.account.sorted()
}

/// Derives the account from the two states and the request, place by place.
struct Oracle<'a> {
    store: &'a mut Store,
    parent: &'a Tree,
    account: Account,
}

/// A comparison of one tree before and after.
#[derive(Clone)]
struct Pair<'a> {
    old: &'a Tree,
    new: &'a Tree,
    above: Vec<NodeHash>,
    below_adoption: bool,
}

impl Oracle<'_> {
    fn compare(&mut self, pair: &Pair<'_>, changes: &Changes) {
        let was = places(pair.old.build(self.store), self.store);
        let now = places(pair.new.build(self.store), self.store);
        let still = |child: &Child, path: &[u8]| {
            now.get(path) == Some(child) || (child.kind == ChildKind::Leaf && now.values().any(|other| other == child))
        };
        for (path, child) in &now {
            let moved = child.kind == ChildKind::Leaf && was.values().any(|other| other == child);
            if was.get(path) != Some(child) && !moved {
                *self.account.created.entry(child.hash).or_insert(0) += 1;
            }
        }
        for (path, child) in was.iter().filter(|(path, child)| !still(child, path)) {
            let above = above(path, &was, &pair.above);
            let mut unchanged: Vec<NodeHash> = was
                .iter()
                .filter(|(below, child)| {
                    below.len() == path.len() + 1 && below.starts_with(path) && still(child, below)
                })
                .map(|(_, child)| child.hash)
                .collect();
            unchanged.extend(self.embedded_that_stays(child, pair, changes));
            self.account.replaced.push((child.hash, above, pair.below_adoption, unchanged));
        }
        for (key, change) in &changes.0 {
            self.object(key, change, pair, &was);
        }
    }

    /// The fields root of a replaced leaf, if the object goes on with it.
    fn embedded_that_stays(&mut self, child: &Child, pair: &Pair<'_>, changes: &Changes) -> Option<NodeHash> {
        let NodeView::Leaf(leaf) = NodeView::decode(&self.store.0[&child.hash]).unwrap() else {
            return None;
        };
        let key = leaf.key;
        let own = embedded_root(leaf.value).unwrap()?;
        let new = pair.new.0.get(&key)?.fields.build(self.store);
        if new.node() == Some(own) {
            return Some(own);
        }
        let Change::Put(put) = &changes.0[&key] else {
            return None;
        };
        let kept = self.base(put, &pair.old.0[&key].fields).build(self.store) == StateRoot::new(own);
        let leaves = places(new, self.store);
        let moved = leaves.values().any(|child| child.hash == own && child.kind == ChildKind::Leaf);
        (kept && moved).then_some(own)
    }

    fn base(&self, put: &Put, own: &Tree) -> Tree {
        match &put.base {
            FieldsBase::Keep => own.clone(),
            FieldsBase::Empty => Tree::default(),
            FieldsBase::Adopt(path) => self.parent.at(path).unwrap().fields.clone(),
        }
    }

    fn object(&mut self, key: &Key, change: &Change, pair: &Pair<'_>, was: &Places) {
        let none = Tree::default();
        let old = pair.old.0.get(key).map_or(&none, |entry| &entry.fields);
        let new = pair.new.0.get(key).map_or(&none, |entry| &entry.fields);
        let (own, after) = (old.build(self.store), new.build(self.store));
        let leaf_above = || -> Vec<NodeHash> {
            let nibbles: Vec<u8> = (0..64).map(|depth| key.nibble(depth).unwrap()).collect();
            let place = was.keys().filter(|path| nibbles.starts_with(path)).max();
            place
                .filter(|_| pair.old.0.contains_key(key))
                .map_or(Vec::new(), |path| [vec![was[path].hash], above(path, was, &pair.above)].concat())
        };
        let Change::Put(put) = change else {
            self.account.dropped.extend(own.node().map(|root| (root, leaf_above())));
            return;
        };
        if own == after {
            return;
        }
        let base = self.base(put, old);
        let start = base.build(self.store);
        if start == own {
            let below = Pair { old, new, above: leaf_above(), below_adoption: pair.below_adoption };
            return self.compare(&below, &put.fields);
        }
        self.account.dropped.extend(own.node().map(|root| (root, leaf_above())));
        self.account.adopted.extend(start.node());
        self.compare(&Pair { old: &base, new, above: Vec::new(), below_adoption: true }, &put.fields);
    }
}

/// The hashes above a place, upward, continued by those above its tree.
fn above(path: &[u8], places: &Places, tree: &[NodeHash]) -> Vec<NodeHash> {
    let own = (0..path.len()).rev().map(|length| places[&path[..length]].hash);
    own.chain(tree.iter().copied()).collect()
}
