//! Histories of a state that keeps its size: its values are written again and again, in three profiles, and in one more that
//! is run by its name only.
//!
//! Each is a function of its seed alone and reads no state, so that two stores can be taken through the same history.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use state_tree::{Change, Changes, FieldsBase, Key, Object, ObjectId, Put, TypeTag};

use crate::{Error, args, history::key};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Fresh values, every object as often as any other.
    Uniform,
    /// Fresh values, nine writes in ten to one object in ten.
    Hot,
    /// Half of the state flips between few values, so that nodes come back; the other half is tables of rows of cells,
    /// which are cloned, moved, deleted and made anew while their cells flip and come and go.
    Tables,
    /// The same tables, of which none is cloned, moved or deleted; fresh values.
    Cells,
}

impl Profile {
    /// Those that are run where none is named.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Hot, Self::Tables];

    /// The one behind `--profile`, or those.
    ///
    /// Errors: a profile that there is not.
    pub fn asked_for() -> Result<Vec<Self>, Error> {
        let Some(name) = args::text("--profile") else { return Ok(Self::ALL.to_vec()) };
        let known = Self::ALL.into_iter().chain([Self::Cells]).find(|profile| profile.name() == name);
        Ok(vec![known.ok_or_else(|| format!("--profile: there is no {name}"))?])
    }

    /// Its name in arguments, figures and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Hot => "hot",
            Self::Tables => "tables",
            Self::Cells => "cells",
        }
    }

    fn has_tables(self) -> bool {
        match self {
            Self::Tables | Self::Cells => true,
            Self::Uniform | Self::Hot => false,
        }
    }
}

const ROWS: u64 = 16;
const CELLS: u64 = 16;
/// Objects of one table.
const TABLE: u64 = 1 + ROWS * (1 + CELLS);
/// Values that one place of the profile with tables may have.
const VALUES: u64 = 4;
/// One change in so many of that profile concerns a whole table.
const WHOLE: u32 = 100;
/// One value in so many is long enough for a blob file, as in the load of `state-node`.
const LONG: u32 = 50;
/// Objects per commit while the state is filled.
const FILL: u64 = 20_000;

/// One history.
#[derive(Debug)]
pub struct Workload {
    profile: Profile,
    dice: ChaCha8Rng,
    /// Flat objects.
    objects: u64,
    /// Flat objects that are filled.
    filled: u64,
    /// Which tables exist.
    tables: Vec<Presence>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Absent,
    Present,
}

impl Workload {
    /// The history of a state of about so many objects, cells of tables included.
    pub fn new(profile: Profile, seed: u64, objects: u64) -> Self {
        let tables = if profile.has_tables() { (objects / 2).div_ceil(TABLE).max(4) } else { 0 };
        Self {
            profile,
            dice: ChaCha8Rng::seed_from_u64(seed),
            objects: objects.saturating_sub(tables * TABLE).max(10),
            filled: 0,
            tables: (0..tables).map(|_| Presence::Absent).collect(),
        }
    }

    /// Objects of the whole state.
    pub fn objects(&self) -> u64 {
        self.objects + self.tables.len() as u64 * TABLE
    }

    /// The next part of the first state, or nothing once it is whole.
    pub fn fill(&mut self) -> Option<Changes> {
        if self.filled < self.objects {
            let end = (self.filled + FILL).min(self.objects);
            let part = (self.filled..end).map(|number| (key(number), self.flat(number))).collect();
            self.filled = end;
            return Some(Changes(part));
        }
        let absent = (0..).zip(&self.tables).filter(|(_, presence)| **presence == Presence::Absent);
        let next: Vec<u64> = absent.map(|(table, _)| table).take((FILL / TABLE) as usize).collect();
        let part = next.into_iter().map(|table| (self.table(table), self.whole_table(table))).collect();
        let changes = Changes(part);
        (!changes.0.is_empty()).then_some(changes)
    }

    /// The changes of the next commit.
    pub fn changes(&mut self, count: u64) -> Changes {
        let mut changes = Changes::default();
        match self.profile {
            Profile::Uniform | Profile::Hot => (0..count).for_each(|_| {
                let number = self.pick();
                changes.0.insert(key(number), self.flat(number));
            }),
            Profile::Tables => self.tables(count, &mut changes),
            Profile::Cells => (0..count).for_each(|_| self.flip(&BTreeSet::new(), &mut changes)),
        }
        changes
    }

    fn pick(&mut self) -> u64 {
        let hot = self.objects / 10;
        match self.profile {
            Profile::Hot if self.dice.random_ratio(9, 10) => self.dice.random_range(0..hot),
            Profile::Hot => self.dice.random_range(hot..self.objects),
            Profile::Uniform | Profile::Tables | Profile::Cells => self.dice.random_range(0..self.objects),
        }
    }

    /// A new value of a flat object.
    fn flat(&mut self, number: u64) -> Change {
        put(ObjectId::single(*key(number).as_bytes()), self.value(number), Changes::default())
    }

    /// A new value of a place: a fresh one, or one of the few that it has.
    fn value(&mut self, place: u64) -> Vec<u8> {
        match self.profile {
            Profile::Uniform | Profile::Hot | Profile::Cells => value(&mut self.dice),
            Profile::Tables => {
                let which = self.dice.random_range(0..VALUES);
                value(&mut ChaCha8Rng::seed_from_u64(place * VALUES + which))
            }
        }
    }

    fn tables(&mut self, count: u64, changes: &mut Changes) {
        let whole = (0..count).filter(|_| self.dice.random_ratio(1, WHOLE)).count() as u64;
        let taken = self.whole_tables(whole, changes);
        for _ in whole..count {
            self.flip(&taken, changes);
        }
    }

    /// A flat object, or a cell of a table that is none of these.
    fn flip(&mut self, taken: &BTreeSet<u64>, changes: &mut Changes) {
        let (number, table) = (self.pick(), self.any_table());
        if self.dice.random() {
            changes.0.insert(key(number), self.flat(number));
        } else if self.is_present(table) && !taken.contains(&table) {
            self.flip_cell(table, changes);
        }
    }

    /// Clones, moves, deletes and makes tables, each of them at most once; returns which. What is taken over is taken
    /// from the state before the commit.
    fn whole_tables(&mut self, count: u64, changes: &mut Changes) -> BTreeSet<u64> {
        let (before, mut taken) = (self.tables.clone(), BTreeSet::new());
        for _ in 0..count {
            let (to, from) = (self.any_table(), self.any_table());
            let is_source = before.get(from as usize) == Some(&Presence::Present) && from != to;
            if taken.contains(&to) || !is_source {
                continue;
            }
            taken.insert(to);
            let (target, source) = (self.table(to), self.table(from));
            let change = match (self.is_present(to), self.dice.random_range(0..100)) {
                (true, 0..15) => self.deleted(to),
                (true, 15..40) => self.cloned_row(source),
                (true, _) => self.cloned(to, source),
                (false, 0..50) if taken.insert(from) => {
                    changes.0.insert(source, self.deleted(from));
                    self.cloned(to, source)
                }
                (false, _) => self.whole_table(to),
            };
            changes.0.insert(target, change);
        }
        taken
    }

    fn any_table(&mut self) -> u64 {
        self.dice.random_range(0..self.tables.len() as u64)
    }

    /// The key of a table; those of flat objects come before.
    fn table(&self, table: u64) -> Key {
        key(self.objects + table)
    }

    fn is_present(&self, table: u64) -> bool {
        self.tables.get(table as usize) == Some(&Presence::Present)
    }

    fn becomes(&mut self, table: u64, presence: Presence) {
        if let Some(at) = self.tables.get_mut(table as usize) {
            *at = presence;
        }
    }

    fn deleted(&mut self, table: u64) -> Change {
        self.becomes(table, Presence::Absent);
        Change::Remove
    }

    fn cloned(&mut self, to: u64, source: Key) -> Change {
        self.becomes(to, Presence::Present);
        adopt(ObjectId::single(*self.table(to).as_bytes()), vec![source])
    }

    /// A row of the source in the place of another one.
    fn cloned_row(&mut self, source: Key) -> Change {
        let (to, from) = (self.dice.random_range(0..ROWS), self.dice.random_range(0..ROWS));
        let row = adopt(ObjectId::single(*source.as_bytes()).child(&key(from)), vec![source, key(from)]);
        let fields = Changes(BTreeMap::from([(key(to), row)]));
        Change::Put(Put { object: None, base: FieldsBase::Keep, fields })
    }

    fn whole_table(&mut self, table: u64) -> Change {
        self.becomes(table, Presence::Present);
        let id = ObjectId::single(*self.table(table).as_bytes());
        let rows = (0..ROWS).map(|row| {
            let cells = (0..CELLS).map(|cell| (key(cell), self.cell(table, row, cell))).collect();
            (key(row), put(id.child(&key(row)), row.to_le_bytes().to_vec(), Changes(cells)))
        });
        let rows = rows.collect();
        put(id, table.to_le_bytes().to_vec(), Changes(rows))
    }

    fn cell(&mut self, table: u64, row: u64, cell: u64) -> Change {
        let id = ObjectId::single(*self.table(table).as_bytes()).child(&key(row)).child(&key(cell));
        let place = self.objects + (table * ROWS + row) * CELLS + cell;
        put(id, self.value(place), Changes::default())
    }

    fn flip_cell(&mut self, table: u64, changes: &mut Changes) {
        let (row, cell) = (self.dice.random_range(0..ROWS), self.dice.random_range(0..CELLS));
        let change = if self.dice.random_ratio(1, 8) { Change::Remove } else { self.cell(table, row, cell) };
        let rows = fields_of(changes, self.table(table));
        if let Some(cells) = rows.and_then(|rows| fields_of(rows, key(row))) {
            cells.0.insert(key(cell), change);
        }
    }
}

/// The changes to the fields of an object that itself stays as it is; nothing if it is removed.
fn fields_of(changes: &mut Changes, at: Key) -> Option<&mut Changes> {
    let untouched = || Change::Put(Put { object: None, base: FieldsBase::Keep, fields: Changes::default() });
    match changes.0.entry(at).or_insert_with(untouched) {
        Change::Put(put) => Some(&mut put.fields),
        Change::Remove => None,
    }
}

fn put(id: ObjectId, value: Vec<u8>, fields: Changes) -> Change {
    Change::Put(Put { object: Some(object(id, value)), base: FieldsBase::Keep, fields })
}

/// An object that takes over the fields of another one.
fn adopt(id: ObjectId, path: Vec<Key>) -> Change {
    let object = Some(object(id, Vec::new()));
    Change::Put(Put { object, base: FieldsBase::Adopt(path), fields: Changes::default() })
}

fn object(id: ObjectId, value: Vec<u8>) -> Object {
    Object { id, owner: [7; 32], flag: 0, created_at: 0, updated_at: 0, object_type: TypeTag::U64, value }
}

fn value(dice: &mut ChaCha8Rng) -> Vec<u8> {
    let length = if dice.random_ratio(1, LONG) { dice.random_range(1100..2500) } else { dice.random_range(8..200) };
    let mut value = vec![0; length];
    dice.fill(value.as_mut_slice());
    value
}

#[cfg(test)]
mod tests {
    use state_store::{Durability, RocksConfig, StoreConfig};

    use super::*;
    use crate::chain::Chain;

    /// Commits panic on changes that the state does not allow.
    #[test]
    fn a_seed_takes_two_stores_through_the_same_legal_history() {
        for profile in Profile::ALL.into_iter().chain([Profile::Cells]) {
            let [one, other, third] = [7, 7, 8].map(|seed| {
                let dir = tempfile::tempdir().unwrap();
                let mut chain =
                    Chain::create(dir.path(), &RocksConfig::default(), StoreConfig::new(Durability::Logged));
                let mut workload = Workload::new(profile, seed, 3_000);
                while let Some(changes) = workload.fill() {
                    chain.commit(&changes);
                }
                for _ in 0..200 {
                    chain.commit(&workload.changes(50));
                }
                chain.root()
            });
            assert_eq!(one, other, "{profile:?}");
            assert_ne!(one, third, "{profile:?}");
        }
    }
}
