//! The overlay against a plain model: nested maps that are copied and moved whole. A tree root depends on content
//! alone, so an equal root is an equal state.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use state_tree::{NodeHash, update};

use super::*;

#[derive(Default)]
struct Nodes(RefCell<HashMap<NodeHash, Vec<u8>>>);

impl NodeReader for Nodes {
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.borrow().get(hash).cloned())
    }
}

impl Nodes {
    fn apply(&self, root: StateRoot, changes: &Changes) -> StateRoot {
        let delta = update(root, changes, self).unwrap();
        let created = delta.created.into_iter().map(|(hash, created)| (hash, created.bytes));
        self.0.borrow_mut().extend(created);
        delta.root
    }
}

#[derive(Clone)]
struct Plain {
    object: Object,
    fields: BTreeMap<Key, Plain>,
}

#[derive(Default)]
struct Model(BTreeMap<Key, Plain>);

impl Model {
    fn at(&mut self, keys: &[Key]) -> Option<&mut Plain> {
        let (first, rest) = keys.split_first()?;
        let mut at = self.0.get_mut(first)?;
        for key in rest {
            at = at.fields.get_mut(key)?;
        }
        Some(at)
    }

    fn level(&mut self, keys: &[Key]) -> Option<&mut BTreeMap<Key, Plain>> {
        if keys.is_empty() { Some(&mut self.0) } else { self.at(keys).map(|plain| &mut plain.fields) }
    }

    fn put(&mut self, keys: &[Key], plain: Plain) {
        let (last, parents) = keys.split_last().unwrap();
        self.level(parents).unwrap().insert(*last, plain);
    }

    fn take(&mut self, keys: &[Key]) -> Option<Plain> {
        let (last, parents) = keys.split_last().unwrap();
        self.level(parents)?.remove(last)
    }

    fn free(&mut self, id: &ObjectPath) -> Result<(), Reason> {
        let keys = id.keys();
        let (_, parents) = keys.split_last().unwrap();
        if self.level(parents).is_none() {
            return Err(Reason::NoParent);
        }
        if self.at(&keys).is_some() { Err(Reason::AlreadyExists) } else { Ok(()) }
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), Reason> {
        let plain = |id: &ObjectPath, owner, value: &HexBytes| Plain {
            object: new_object(id, owner, value).unwrap(),
            fields: BTreeMap::new(),
        };
        match transaction {
            Transaction::CreateObject { id, owner, value } => {
                self.free(id)?;
                self.put(&id.keys(), plain(id, owner.0, value));
            }
            Transaction::SetValue { id, value } => {
                self.at(&id.keys()).ok_or(Reason::NoSuchObject)?.object.value = value.0.clone();
            }
            Transaction::SetFields { id, put, remove } => {
                let at = self.at(&id.keys()).ok_or(Reason::NoSuchObject)?;
                for (name, value) in put {
                    let fresh = plain(&id.child(*name).unwrap(), at.object.owner, value);
                    let field = at.fields.entry(key_of(name)).or_insert(fresh);
                    field.object.value = value.0.clone();
                }
                remove.iter().for_each(|name| {
                    at.fields.remove(&key_of(name));
                });
            }
            Transaction::DeleteObject { id } => {
                self.take(&id.keys()).ok_or(Reason::NoSuchObject)?;
            }
            Transaction::MoveObject { from, to } => {
                self.at(&from.keys()).ok_or(Reason::NoSuchObject)?;
                if from.holds(to) {
                    return Err(Reason::IntoItself);
                }
                self.free(to)?;
                let moved = self.take(&from.keys()).unwrap();
                self.put(&to.keys(), moved);
            }
            Transaction::CloneFields { from, to } => {
                if from == to {
                    return Err(Reason::OntoItself);
                }
                let copy = self.at(&from.keys()).ok_or(Reason::NoSuchObject)?.fields.clone();
                self.at(&to.keys()).ok_or(Reason::NoSuchObject)?.fields = copy;
            }
        }
        Ok(())
    }

    fn root(&self) -> StateRoot {
        fn changes(level: &BTreeMap<Key, Plain>) -> Changes {
            let put = |plain: &Plain| {
                Change::Put(Put {
                    object: Some(plain.object.clone()),
                    base: FieldsBase::Empty,
                    fields: changes(&plain.fields),
                })
            };
            Changes(level.iter().map(|(key, plain)| (*key, put(plain))).collect())
        }
        Nodes::default().apply(StateRoot::EMPTY, &changes(&self.0))
    }

    fn size(&self) -> usize {
        fn size(level: &BTreeMap<Key, Plain>) -> usize {
            level.values().map(|plain| 1 + size(&plain.fields)).sum()
        }
        size(&self.0)
    }
}

/// Few names, so that transactions meet each other.
fn path(rng: &mut ChaCha8Rng) -> ObjectPath {
    let names = rng.random_range(1..=3);
    ObjectPath::new((0..names).map(|_| Hex32([rng.random_range(0..3); 32])).collect()).unwrap()
}

fn transaction(rng: &mut ChaCha8Rng) -> Transaction {
    let value = |rng: &mut ChaCha8Rng| HexBytes(vec![rng.random_range(0..3)]);
    let id = path(rng);
    match rng.random_range(0..10) {
        0..3 => Transaction::CreateObject { owner: Hex32([rng.random_range(0..2); 32]), value: value(rng), id },
        3 => Transaction::SetValue { value: value(rng), id },
        4..6 => Transaction::SetFields {
            put: vec![(Hex32([rng.random_range(0..2); 32]), value(rng))],
            remove: vec![Hex32([2; 32])],
            id,
        },
        6 => Transaction::DeleteObject { id },
        7 => Transaction::MoveObject { from: id, to: path(rng) },
        _ => Transaction::CloneFields { from: id, to: path(rng) },
    }
}

#[test]
fn random_blocks_leave_exactly_the_state_of_a_plain_model() {
    let mut applied = [0_u32; 6];
    for seed in 0..250 {
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (nodes, mut model, mut root) = (Nodes::default(), Model::default(), StateRoot::EMPTY);
        for _block in 0..12 {
            let mut overlay = Overlay::new(root, &nodes);
            for _ in 0..rng.random_range(1..12) {
                let transaction = transaction(&mut rng);
                if model.size() > 2_000 && matches!(transaction, Transaction::CloneFields { .. }) {
                    continue; // copies of copies double: keep the model small
                }
                let expected = match model.apply(&transaction) {
                    Ok(()) => Verdict::Applied,
                    Err(reason) => Verdict::Rejected(reason),
                };
                let verdict = overlay.apply(&transaction).unwrap();
                assert_eq!(verdict, expected, "seed {seed}: {transaction:?}");
                if verdict == Verdict::Applied {
                    applied[kind(&transaction)] += 1;
                }
            }
            let changes = overlay.changes().clone();
            root = nodes.apply(root, &changes);
            assert_eq!(root, model.root(), "seed {seed}");
        }
    }
    assert!(applied.iter().all(|count| *count > 20), "every kind is exercised: {applied:?}");
}

fn kind(transaction: &Transaction) -> usize {
    match transaction {
        Transaction::CreateObject { .. } => 0,
        Transaction::SetValue { .. } => 1,
        Transaction::SetFields { .. } => 2,
        Transaction::DeleteObject { .. } => 3,
        Transaction::MoveObject { .. } => 4,
        Transaction::CloneFields { .. } => 5,
    }
}

fn create(path: &ObjectPath) -> Transaction {
    Transaction::CreateObject { id: path.clone(), owner: Hex32([9; 32]), value: HexBytes(vec![7]) }
}

#[test]
fn a_recreated_object_does_not_inherit_the_fields_of_the_one_deleted_before_it() {
    let nodes = Nodes::default();
    let outer = ObjectPath::top([1; 32]);
    let inner = outer.child(Hex32([2; 32])).unwrap();
    let mut first = Overlay::new(StateRoot::EMPTY, &nodes);
    for transaction in [create(&outer), create(&inner)] {
        assert_eq!(first.apply(&transaction).unwrap(), Verdict::Applied);
    }
    let root = nodes.apply(StateRoot::EMPTY, &first.changes().clone());
    let mut second = Overlay::new(root, &nodes);
    for transaction in [Transaction::DeleteObject { id: outer.clone() }, create(&outer)] {
        assert_eq!(second.apply(&transaction).unwrap(), Verdict::Applied);
    }
    let root = nodes.apply(root, &second.changes().clone());
    assert!(get(root, &outer.keys(), &nodes).unwrap().is_some());
    assert!(get(root, &inner.keys(), &nodes).unwrap().is_none());
}

#[test]
fn copies_that_double_in_one_block_end_in_full_and_change_nothing() {
    let nodes = Nodes::default();
    let mut overlay = Overlay::new(StateRoot::EMPTY, &nodes);
    let (left, right) = (ObjectPath::top([1; 32]), ObjectPath::top([2; 32]));
    let inside = |outer: &ObjectPath| outer.child(Hex32([3; 32])).unwrap();
    for path in [&left, &right, &inside(&left), &inside(&right)] {
        overlay.apply(&create(path)).unwrap();
    }
    let mut verdicts = Vec::new();
    for _ in 0..40 {
        for (from, to) in [(&left, inside(&right)), (&right, inside(&left))] {
            let clone = Transaction::CloneFields { from: from.clone(), to };
            verdicts.push(overlay.apply(&clone).unwrap());
        }
    }
    assert!(verdicts.contains(&Verdict::Full));
    assert!(overlay.pending.objects <= MAX_ENTRIES);
    nodes.apply(StateRoot::EMPTY, overlay.changes()); // and what is pending is within what an update accepts
}

#[test]
fn copies_of_long_values_end_in_full_before_they_outgrow_the_bound_of_bytes() {
    let nodes = Nodes::default();
    let mut overlay = Overlay::new(StateRoot::EMPTY, &nodes);
    let source = ObjectPath::top([1; 32]);
    overlay.apply(&create(&source)).unwrap();
    let value = HexBytes(vec![7; 64 * 1024]);
    let put = (0..64).map(|name| (Hex32([name; 32]), value.clone())).collect();
    let fields = Transaction::SetFields { id: source.clone(), put, remove: Vec::new() };
    assert_eq!(overlay.apply(&fields).unwrap(), Verdict::Applied);
    let mut copies = 0;
    for name in 2..=255 {
        let to = ObjectPath::top([name; 32]);
        overlay.apply(&create(&to)).unwrap();
        let from = source.clone();
        match overlay.apply(&Transaction::CloneFields { from, to }).unwrap() {
            Verdict::Applied => copies += 1,
            Verdict::Full => break,
            Verdict::Rejected(reason) => panic!("{reason:?}"),
        }
    }
    assert_eq!(copies, 14, "sixteen times four MiB and some more would be too much");
    assert!(Amount::below(overlay.changes()).bytes <= MAX_PENDING);
}
