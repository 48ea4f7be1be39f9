//! Whose records lead from an order to a root, and whether a store holds them.

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use state_store::{ChainView, NativeChain, RoochChain, Table, View};

use crate::{
    error::PruneError,
    records::ViewRecords,
    retention::{Holds, RetentionLog},
    roots::{KeptBy, RetainedRoot},
};

/// Who keeps an order, where that cannot be read.
const UNREAD: &str = "the node, below its floor";

/// Whose records lead from an order to a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreLayout {
    /// A Rooch database.
    Rooch,
    /// A store of the reference node.
    Native,
}

impl StoreLayout {
    /// The names the command line knows.
    pub const NAMES: [&'static str; 2] = ["rooch", "native"];

    /// The layout of that name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "rooch" => Some(Self::Rooch),
            "native" => Some(Self::Native),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rooch => "rooch",
            Self::Native => "native",
        }
    }

    pub(crate) fn chain(self) -> Arc<dyn ChainView> {
        match self {
            Self::Rooch => Arc::new(RoochChain),
            Self::Native => Arc::new(NativeChain),
        }
    }

    /// The single orders that a policy keeps below the window, each with why by what the node has written down.
    pub(crate) fn below(self, view: &dyn View) -> Result<Vec<RetainedRoot>, PruneError> {
        let kept = match self {
            Self::Rooch => return Ok(Vec::new()),
            Self::Native => NativeChain.kept(view)?,
        };
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let records = ViewRecords(view);
        let told = Holds::load(&records).and_then(|holds| Ok((holds, RetentionLog::recorded_policy(&records)?)));
        if let Err(error) = &told {
            tracing::warn!(%error, "who keeps orders below the floor cannot be read; they are taken as kept all the same");
        }
        let why = |order| match &told {
            Ok((holds, keep)) => holds.why_kept(order, *keep),
            Err(_) => KeptBy::Pin(UNREAD.to_owned()),
        };
        Ok(kept.into_iter().map(|(order, root)| RetainedRoot { order, root, kept_by: why(order) }).collect())
    }

    /// Refuses a store that has no family of this layout, and names the layout whose families it has.
    pub(crate) fn require(self, db: &Path, view: &dyn View) -> Result<(), PruneError> {
        if self.is_in(view) {
            return Ok(());
        }
        let found = [Self::Rooch, Self::Native].into_iter().find(|other| other.is_in(view)).map(Self::name);
        Err(PruneError::OtherLayout { db: db.to_owned(), asked: self.name(), found })
    }

    fn is_in(self, view: &dyn View) -> bool {
        match self {
            Self::Rooch => {
                RoochChain::FAMILIES.into_iter().filter_map(Table::foreign).any(|table| view.has_table(&table))
            }
            Self::Native => view.has_table(&Table::CHAIN),
        }
    }
}
