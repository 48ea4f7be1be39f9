//! Why commits are not counted exactly any more: kept, so that whoever operates the store is told, also after a restart.

use serde::{Deserialize, Serialize};

use crate::{
    backend::{Batch, View},
    error::StoreError,
    record::{self, Record},
    schema::Table,
};

/// What ended exact counting. Records name a variant by its place, so new ones come at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostBy {
    /// A commit on an older state, whose marks may be gone.
    Fork,
    /// A rollback to a state from before counts were exact.
    Rollback,
    /// An order without a row in the journal.
    Gap,
    /// A cursor of the sweep of the journal that could not be used.
    Cursor,
    /// A commit while the journal was off.
    Unjournalled,
    /// A mark of a shared node that could not be read.
    Mark,
    /// The record that says since when counts are exact, which could not be read.
    Record,
}

/// Exact counting ended: nothing is deleted between cycles before one has begun it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountsLost {
    /// By what.
    pub by: LostBy,
    /// At which order.
    pub order: u64,
}

impl Record for CountsLost {
    const KIND: [u8; 4] = *b"LOST";
    const VERSION: u16 = 1;
}

impl CountsLost {
    pub(crate) const KEY: &[u8] = b"counts_lost";

    /// What an earlier process left. It decides nothing: one that is unusable is only not told.
    pub(crate) fn load(view: &dyn View) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = view.row(&Table::META, Self::KEY)? else { return Ok(None) };
        match record::decode("counts_lost", &bytes) {
            Ok(lost) => Ok(Some(lost)),
            Err(error @ StoreError::Newer { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    pub(crate) fn put(&self, batch: &mut Batch) -> Result<(), StoreError> {
        batch.put(Table::META, Self::KEY, record::encode(self)?);
        Ok(())
    }

    /// Counting is exact again.
    pub(crate) fn forget(batch: &mut Batch) {
        batch.delete(Table::META, Self::KEY);
    }
}

impl LostBy {
    /// As told to people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Fork => "a commit on an older state",
            Self::Rollback => "a rollback",
            Self::Gap => "a gap in the commit journal",
            Self::Cursor => "an unusable cursor of the sweep",
            Self::Unjournalled => "commits without a journal",
            Self::Mark => "a mark of a shared node that cannot be read",
            Self::Record => "a record of the counts that cannot be read",
        }
    }
}
