//! Some rows of a store at one instant, apart from it: what can be asked without opening the store.
//!
//! Promises: a row that was not taken along is an error, and no absence (I8, S45).

use serde::{Deserialize, Serialize};
use state_tree::{NodeHash, Order};

use crate::{
    backend::{Flow, KeyRange, View},
    chain::native,
    error::StoreError,
    schema::Table,
};

/// A row, there or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    table: String,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Taken {
    fn is(&self, table: &Table, key: &[u8]) -> bool {
        self.table == table.name() && self.key == key
    }
}

/// Some rows of one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    sequence: u64,
    rows: Vec<Taken>,
}

impl Excerpt {
    /// Takes rows along, as they are in a view, or that they are not there.
    ///
    /// Errors: a failed read, a table that the store does not have.
    pub fn of(view: &dyn View, rows: impl IntoIterator<Item = (Table, Vec<u8>)>) -> Result<Self, StoreError> {
        let taken = rows.into_iter().map(|(table, key)| {
            let value = view.row(&table, &key)?;
            Ok(Taken { table: table.name().to_owned(), key, value })
        });
        Ok(Self { sequence: view.sequence(), rows: taken.collect::<Result<_, StoreError>>()? })
    }

    /// The rows that tell the head of our own chain and where it begins.
    pub fn chain_ends() -> [(Table, Vec<u8>); 3] {
        let first = Order::GENESIS.to_key().to_vec();
        [(Table::CHAIN, native::HEAD_KEY.into()), (Table::CHAIN, native::FLOOR_KEY.into()), (Table::ROOT, first)]
    }

    /// Whether another one has the same rows, those of a table aside.
    pub fn is_like(&self, other: &Self, but_for: &Table) -> bool {
        fn rows<'a>(of: &'a Excerpt, but_for: &Table) -> impl Iterator<Item = &'a Taken> {
            of.rows.iter().filter(move |taken| taken.table != but_for.name())
        }
        rows(self, but_for).eq(rows(other, but_for))
    }
}

fn not_taken(what: &str) -> StoreError {
    StoreError::Invariant(format!("{what} is asked for and was not taken along"))
}

impl View for Excerpt {
    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, StoreError> {
        Err(not_taken(&format!("node {hash}")))
    }

    fn nodes(&self, _: &[NodeHash], _: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), StoreError> {
        Err(not_taken("a node"))
    }

    fn scan_nodes(&self, _: &KeyRange, _: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), StoreError> {
        Err(not_taken("every node"))
    }

    fn row(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let taken = self.rows.iter().find(|taken| taken.is(table, key));
        taken.map(|taken| taken.value.clone()).ok_or_else(|| not_taken(&format!("a row of {}", table.name())))
    }

    fn rows(
        &self,
        table: &Table,
        keys: &[[u8; 8]],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StoreError> {
        for (index, key) in keys.iter().enumerate() {
            each(index, self.row(table, key)?.as_deref());
        }
        Ok(())
    }

    fn scan(&self, table: &Table, _: &KeyRange, _: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), StoreError> {
        Err(not_taken(&format!("every row of {}", table.name())))
    }

    fn has_table(&self, table: &Table) -> bool {
        self.rows.iter().any(|taken| taken.table == table.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Batch, Durability, MemoryBackend};

    #[test]
    fn what_was_taken_along_is_read_as_it_was_and_nothing_else_passes_for_absent() {
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        batch.put(Table::META, *b"there", *b"bytes");
        backend.write(&batch, Durability::Logged).unwrap();
        let view = backend.view().unwrap();
        let asked = [(Table::META, b"there".to_vec()), (Table::META, b"absent".to_vec())];
        let excerpt = Excerpt::of(&*view, asked.into_iter().chain(Excerpt::chain_ends())).unwrap();
        assert_eq!(excerpt.row(&Table::META, b"there").unwrap().as_deref(), Some(&b"bytes"[..]));
        assert_eq!(excerpt.row(&Table::META, b"absent").unwrap(), None);
        assert!(native::read_head(&excerpt).unwrap().is_none() && excerpt.sequence() == view.sequence());
        assert!(excerpt.row(&Table::META, b"another").is_err());
        assert!(excerpt.rows(&Table::META, &[[0; 8]], &mut |_, _| {}).is_err());
        assert!(excerpt.scan(&Table::META, &KeyRange::ALL, &mut |_, _| Flow::Continue(())).is_err());
        assert!(excerpt.node(&state_tree::PLACEHOLDER).is_err() && excerpt.nodes(&[], &mut |_, _| {}).is_err());
        assert!(excerpt.scan_nodes(&KeyRange::ALL, &mut |_, _| Flow::Continue(())).is_err());
        assert!(excerpt.has_table(&Table::ROOT) && !excerpt.has_table(&Table::MANY));
        assert!(Excerpt::of(&*view, [(Table::foreign("foreign").unwrap(), vec![1])]).is_err());
    }

    #[test]
    fn two_are_alike_where_only_rows_of_one_table_differ() {
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        let excerpt = || {
            let asked = [(Table::META, b"a".to_vec()), (Table::CHAIN, b"b".to_vec())];
            Excerpt::of(&*backend.view().unwrap(), asked).unwrap()
        };
        let before = excerpt();
        batch.put(Table::CHAIN, *b"b", *b"new");
        backend.write(&batch, Durability::Logged).unwrap();
        let after = excerpt();
        assert!(after.is_like(&before, &Table::CHAIN) && !after.is_like(&before, &Table::META));
    }
}
