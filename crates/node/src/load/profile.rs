//! Seeded workloads: each connection works in names of its own and remembers what it was told, so that it can check
//! what the node answers.
//!
//! The number of objects of a workload is bounded, however long it runs.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::chain::{Hex32, HexBytes, ObjectPath, Outcome, PathError, Transaction};

/// What kind of changes a workload makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Everything, mostly values.
    Mixed,
    /// Values and fields that flip back and forth, so that hashes come back.
    Toggle,
    /// Nested tables that are cloned, moved and deleted whole.
    Tables,
}

/// What the workload believes about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Belief {
    /// There is none.
    Absent,
    /// There is one; the value if it is known.
    Present(Option<Vec<u8>>),
}

/// The transactions of one connection.
#[derive(Debug)]
pub struct Workload {
    profile: Profile,
    rng: ChaCha8Rng,
    space: [u8; 32],
    owner: Hex32,
    beliefs: BTreeMap<ObjectPath, Belief>,
    /// Whether an object will be there once the transactions made since the last answer are applied. What lies below one
    /// of these and is none of them is unknown.
    expected: BTreeMap<ObjectPath, bool>,
}

/// Objects of the global tree that one connection uses.
const SLOTS: u16 = 500;
/// Of these, how many are tables in the profile of that name.
const TABLES: u16 = 24;
/// Fields of one object, rows of one table, cells of one row.
const FIELDS: u16 = 24;
/// One value in so many is long enough for a blob file.
const LONG_VALUES: u32 = 50;

impl Workload {
    /// The workload of one connection; the same arguments give the same transactions for the same answers.
    pub fn new(profile: Profile, seed: u64, connection: u32) -> Self {
        let digest = Sha256::new()
            .chain_update(b"state-node load 1")
            .chain_update(seed.to_le_bytes())
            .chain_update(connection.to_le_bytes())
            .chain_update(format!("{profile:?}"))
            .finalize();
        let space: [u8; 32] = digest.into();
        Self {
            profile,
            rng: ChaCha8Rng::from_seed(space),
            space,
            owner: Hex32(space),
            beliefs: BTreeMap::new(),
            expected: BTreeMap::new(),
        }
    }

    fn name(&self, kind: &str, number: u16) -> Hex32 {
        let digest =
            Sha256::new().chain_update(self.space).chain_update(kind).chain_update(number.to_le_bytes()).finalize();
        Hex32(digest.into())
    }

    fn slot(&self, number: u16) -> ObjectPath {
        ObjectPath::top(self.name("slot", number).0)
    }

    fn is_absent(&self, path: &ObjectPath) -> bool {
        let below = self.expected.keys().any(|known| known != path && known.holds(path));
        match self.expected.get(path) {
            Some(present) => !present,
            None => below || matches!(self.beliefs.get(path), None | Some(Belief::Absent)),
        }
    }

    /// Takes into account that a transaction will be applied before those made after it.
    fn expect(&mut self, transaction: &Transaction) {
        let mut whole = |path: &ObjectPath, present| {
            self.expected.retain(|known, _| !path.holds(known));
            self.expected.insert(path.clone(), present);
        };
        match transaction {
            Transaction::CreateObject { id, .. } => whole(id, true),
            Transaction::DeleteObject { id } => whole(id, false),
            Transaction::CloneFields { to, .. } => whole(to, true),
            Transaction::MoveObject { from, to } => {
                whole(from, false);
                whole(to, true);
            }
            Transaction::SetFields { id, put, remove } => {
                let put = put.iter().map(|(name, _)| (name, true));
                for (name, present) in put.chain(remove.iter().map(|name| (name, false))) {
                    if let Ok(field) = id.child(*name) {
                        whole(&field, present);
                    }
                }
            }
            Transaction::SetValue { .. } => {}
        }
    }

    /// The next transaction. The state allows it if those made before it are applied, and if no earlier run left objects
    /// of its names.
    ///
    /// Errors: a promise of ours does not hold.
    pub fn next_transaction(&mut self) -> Result<Transaction, PathError> {
        let next = match self.profile {
            Profile::Mixed => self.mixed(),
            Profile::Toggle => self.toggle(),
            Profile::Tables => self.tables()?,
        };
        self.expect(&next);
        Ok(next)
    }

    fn value(&mut self) -> HexBytes {
        let length = if self.rng.random_ratio(1, LONG_VALUES) {
            self.rng.random_range(1100..2500)
        } else {
            self.rng.random_range(8..200)
        };
        HexBytes((0..length).map(|_| self.rng.random()).collect())
    }

    fn create(&mut self, id: ObjectPath) -> Transaction {
        Transaction::CreateObject { id, owner: self.owner, value: self.value() }
    }

    fn mixed(&mut self) -> Transaction {
        let number = self.rng.random_range(0..SLOTS);
        let (id, other) = (self.slot(number), self.rng.random_range(0..SLOTS));
        let other = self.slot(other);
        if self.is_absent(&id) {
            return self.create(id);
        }
        match self.rng.random_range(0..100) {
            0..55 => Transaction::SetValue { value: self.value(), id },
            55..80 => self.fields(id, 4),
            80..88 => Transaction::DeleteObject { id },
            88..94 if self.is_absent(&other) => Transaction::MoveObject { from: id, to: other },
            94..100 if !self.is_absent(&other) && id != other => Transaction::CloneFields { from: id, to: other },
            _ => Transaction::SetValue { value: self.value(), id },
        }
    }

    /// Puts some fields and removes another.
    fn fields(&mut self, id: ObjectPath, puts: u16) -> Transaction {
        let first = self.rng.random_range(0..FIELDS);
        let names = (0..puts).map(|index| self.name("field", (first + index) % FIELDS));
        let names: Vec<Hex32> = names.collect();
        let put = names.into_iter().map(|name| (name, self.value())).collect();
        let removed = (first + puts + self.rng.random_range(0..FIELDS - puts)) % FIELDS;
        Transaction::SetFields { id, put, remove: vec![self.name("field", removed)] }
    }

    /// Two states per object and per field: whatever is written was there before.
    fn toggle(&mut self) -> Transaction {
        let number = self.rng.random_range(0..SLOTS);
        let id = self.slot(number);
        let (one, other) = (self.name("one", number), self.name("other", number));
        if self.is_absent(&id) {
            let value = HexBytes(one.0.to_vec());
            return Transaction::CreateObject { id, owner: self.owner, value };
        }
        let field = self.rng.random_range(0..4);
        let field = self.name("field", field);
        match self.rng.random_range(0..10) {
            0..6 => {
                let was_one = self.beliefs.get(&id) == Some(&Belief::Present(Some(one.0.to_vec())));
                let value = HexBytes(if was_one { other.0 } else { one.0 }.to_vec());
                Transaction::SetValue { id, value }
            }
            6..8 => Transaction::SetFields { id, put: vec![(field, HexBytes(field.0.to_vec()))], remove: Vec::new() },
            8 => Transaction::SetFields { id, put: Vec::new(), remove: vec![field] },
            _ => Transaction::DeleteObject { id },
        }
    }

    fn row_of(&mut self, table: &ObjectPath) -> Result<ObjectPath, PathError> {
        let number = self.rng.random_range(0..FIELDS);
        table.child(self.name("field", number))
    }

    fn tables(&mut self) -> Result<Transaction, PathError> {
        let (number, other) = (self.rng.random_range(0..TABLES), self.rng.random_range(0..TABLES));
        let (table, other) = (self.slot(number), self.slot(other));
        if self.is_absent(&table) {
            return Ok(self.create(table));
        }
        let (row, target) = (self.row_of(&table)?, self.row_of(&other)?);
        Ok(match self.rng.random_range(0..100) {
            0..40 => self.fields(table, 6),
            40..65 if !self.is_absent(&row) => self.fields(row, 4),
            40..65 => self.fields(table, 6), // makes rows to write to
            65..77 if !self.is_absent(&other) && table != other => Transaction::CloneFields { from: table, to: other },
            77..84 if !self.is_absent(&row) && !self.is_absent(&target) && row != target => {
                Transaction::CloneFields { from: row, to: target }
            }
            84..92 if self.is_absent(&other) => Transaction::MoveObject { from: table, to: other },
            92..97 => Transaction::DeleteObject { id: table },
            _ => Transaction::SetValue { value: self.value(), id: table },
        })
    }

    /// Takes over what the node said it did.
    pub fn observe(&mut self, transaction: &Transaction, outcome: Outcome) {
        self.expected.clear();
        let Outcome::Failed(_) = outcome else {
            return self.applied(transaction);
        };
        // What is there was left by an earlier run with this seed: nothing of the
        // objects that it names is known for certain now.
        match transaction {
            Transaction::CreateObject { id, .. } => self.believe(id, Belief::Present(None)),
            Transaction::SetValue { id, .. } | Transaction::SetFields { id, .. } | Transaction::DeleteObject { id } => {
                self.forget(id);
            }
            Transaction::MoveObject { from, to } | Transaction::CloneFields { from, to } => {
                self.forget(from);
                self.forget(to);
            }
        }
    }

    fn applied(&mut self, transaction: &Transaction) {
        match transaction {
            Transaction::CreateObject { id, value, .. } => {
                self.forget(id);
                self.believe(id, Belief::Present(Some(value.0.clone())));
            }
            Transaction::SetValue { id, value } => self.believe(id, Belief::Present(Some(value.0.clone()))),
            Transaction::SetFields { id, put, remove } => {
                for (name, value) in put {
                    if let Ok(field) = id.child(*name) {
                        self.believe(&field, Belief::Present(Some(value.0.clone())));
                    }
                }
                for name in remove {
                    if let Ok(field) = id.child(*name) {
                        self.forget(&field);
                        self.believe(&field, Belief::Absent);
                    }
                }
            }
            Transaction::DeleteObject { id } => {
                self.forget(id);
                self.believe(id, Belief::Absent);
            }
            Transaction::MoveObject { from, to } => {
                let moved = self.beliefs.get(from).cloned();
                self.forget(from);
                self.forget(to);
                self.believe(from, Belief::Absent);
                self.believe(to, moved.map_or(Belief::Present(None), |belief| belief));
            }
            Transaction::CloneFields { to, .. } => {
                let kept = self.beliefs.get(to).cloned();
                self.forget(to);
                self.believe(to, kept.map_or(Belief::Present(None), |belief| belief));
            }
        }
    }

    fn believe(&mut self, path: &ObjectPath, belief: Belief) {
        self.beliefs.insert(path.clone(), belief);
    }

    /// Forgets an object and everything below it.
    fn forget(&mut self, path: &ObjectPath) {
        let below = self.beliefs.range(path.clone()..).map(|(known, _)| known);
        let doomed: Vec<ObjectPath> = below.take_while(|known| path.holds(known)).cloned().collect();
        for known in &doomed {
            self.beliefs.remove(known);
        }
    }

    /// An object to read, with what is believed of it.
    pub fn probe(&mut self) -> Option<(ObjectPath, Belief)> {
        let number = self.rng.random_range(0..SLOTS);
        let (from, skipped) = (self.slot(number), self.rng.random_range(0..usize::from(FIELDS)));
        let chosen = self.beliefs.range(from..).nth(skipped).or_else(|| self.beliefs.iter().next());
        chosen.map(|(path, belief)| (path.clone(), belief.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Reason;

    #[test]
    fn a_seed_gives_the_same_transactions_again_and_another_connection_other_ones() {
        for profile in [Profile::Mixed, Profile::Toggle, Profile::Tables] {
            let run = |seed, connection| {
                let mut workload = Workload::new(profile, seed, connection);
                let mut all = Vec::new();
                for _ in 0..300 {
                    let transaction = workload.next_transaction().unwrap();
                    transaction.check().unwrap();
                    workload.observe(&transaction, Outcome::Applied);
                    all.push(transaction);
                }
                all
            };
            assert_eq!(run(1, 0), run(1, 0));
            assert_ne!(run(1, 0), run(1, 1));
            assert_ne!(run(1, 0), run(2, 0));
        }
    }

    /// Whether the objects that must be there are, and the one that must not be is not; then applies it.
    fn is_allowed(objects: &mut Vec<ObjectPath>, transaction: &Transaction) -> bool {
        let (needed, absent) = match transaction {
            Transaction::CreateObject { id, .. } => (vec![], Some(id)),
            Transaction::SetValue { id, .. } | Transaction::SetFields { id, .. } | Transaction::DeleteObject { id } => {
                (vec![id], None)
            }
            Transaction::MoveObject { from, to } => (vec![from], Some(to)),
            Transaction::CloneFields { from, to } => (vec![from, to], None),
        };
        let allowed = needed.iter().all(|id| objects.contains(id)) && absent.is_none_or(|id| !objects.contains(id));
        match transaction {
            Transaction::DeleteObject { id } => objects.retain(|known| !id.holds(known)),
            Transaction::MoveObject { from, .. } => objects.retain(|known| !from.holds(known)),
            Transaction::CloneFields { to, .. } => objects.retain(|known| known == to || !to.holds(known)),
            Transaction::SetFields { id, put, remove } => {
                objects.extend(put.iter().map(|(name, _)| id.child(*name).unwrap()));
                let removed: Vec<ObjectPath> = remove.iter().map(|name| id.child(*name).unwrap()).collect();
                objects.retain(|known| !removed.iter().any(|field| field.holds(known)));
            }
            Transaction::CreateObject { .. } | Transaction::SetValue { .. } => {}
        }
        objects.extend(absent.cloned());
        allowed
    }

    #[test]
    fn a_batch_holds_no_transaction_that_the_state_will_refuse() {
        for profile in [Profile::Mixed, Profile::Toggle, Profile::Tables] {
            let (mut workload, mut objects) = (Workload::new(profile, 3, 0), Vec::new());
            for _ in 0..30 {
                let batch: Vec<Transaction> = (0..64).map(|_| workload.next_transaction().unwrap()).collect();
                for transaction in batch {
                    assert!(is_allowed(&mut objects, &transaction), "{profile:?}: {transaction:?}");
                    workload.observe(&transaction, Outcome::Applied);
                }
            }
        }
    }

    #[test]
    fn what_is_believed_stays_bounded_and_a_failure_makes_it_uncertain() {
        let mut workload = Workload::new(Profile::Tables, 7, 0);
        for _ in 0..5_000 {
            let transaction = workload.next_transaction().unwrap();
            workload.observe(&transaction, Outcome::Applied);
        }
        let most = usize::from(TABLES) * (1 + usize::from(FIELDS) * (1 + usize::from(FIELDS)));
        assert!(workload.beliefs.len() <= most);
        let id = workload.slot(0);
        let set = Transaction::SetValue { id: id.clone(), value: HexBytes(vec![1]) };
        workload.observe(&set, Outcome::Applied);
        assert_eq!(workload.beliefs.get(&id), Some(&Belief::Present(Some(vec![1]))));
        workload.observe(&set, Outcome::Failed(Reason::NoSuchObject));
        assert_eq!(workload.beliefs.get(&id), None);
    }
}
