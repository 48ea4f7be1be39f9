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
        Self { profile, rng: ChaCha8Rng::from_seed(space), space, owner: Hex32(space), beliefs: BTreeMap::new() }
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
        matches!(self.beliefs.get(path), None | Some(Belief::Absent))
    }

    /// The next transaction.
    ///
    /// Errors: a promise of ours does not hold.
    pub fn next_transaction(&mut self) -> Result<Transaction, PathError> {
        match self.profile {
            Profile::Mixed => Ok(self.mixed()),
            Profile::Toggle => Ok(self.toggle()),
            Profile::Tables => self.tables(),
        }
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
        let row = self.row_of(&table)?;
        Ok(match self.rng.random_range(0..100) {
            0..40 => self.fields(table, 6),
            40..65 => self.fields(row, 4),
            65..77 if !self.is_absent(&other) && table != other => Transaction::CloneFields { from: table, to: other },
            77..84 => {
                let target = self.row_of(&other)?;
                Transaction::CloneFields { from: row, to: target }
            }
            84..92 if self.is_absent(&other) => Transaction::MoveObject { from: table, to: other },
            92..97 => Transaction::DeleteObject { id: table },
            _ => Transaction::SetValue { value: self.value(), id: table },
        })
    }

    /// Takes over what the node said it did.
    pub fn observe(&mut self, transaction: &Transaction, outcome: Outcome) {
        let Outcome::Failed(_) = outcome else {
            return self.applied(transaction);
        };
        // What is there was left by an earlier run with this seed, or this was a try at an absent row: nothing of the
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
