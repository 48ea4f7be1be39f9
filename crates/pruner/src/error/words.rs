//! Words that messages are made of.

use bytesize::ByteSize;
use state_store::{Hole, StoreError};
use state_tree::Order;

use super::PruneError;

/// What to do about frozen deletes. Beside a running node `verify` takes what a failed checksum gives for haste of that node.
pub(crate) const FROZEN_ADVICE: &str = "See how far it goes with `state-node verify --db DIR --layout LAYOUT \
    --keep-last N` (if that says again and again that a node changed the store, with the node stopped), restore a snapshot \
    or the data of a peer, then lift the freeze: `state-node prune-unfreeze --url URL`, of a store at rest `prune --unfreeze`";

/// Bytes as people read them.
pub(crate) fn iec(bytes: u64) -> impl std::fmt::Display {
    ByteSize::b(bytes).display().iec()
}

/// So many of what a noun names, whose plural ends in an s.
pub(crate) struct Counted(pub(crate) u64, pub(crate) &'static str);

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(count, noun) = self;
        write!(f, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}

/// The way from a retained root down to a node whose hash was told already.
pub(crate) struct Way<'a, T>(pub(crate) &'a [T]);

impl<T: std::fmt::Display> std::fmt::Display for Way<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((_, above)) = self.0.split_last() else {
            return f.write_str("the path from its root was not found");
        };
        if above.is_empty() {
            return f.write_str("it is a retained root");
        }
        f.write_str("path from its root: ")?;
        above.iter().try_for_each(|hash| write!(f, "{hash} > "))?;
        f.write_str("this node")
    }
}

/// What was met where that is no damage: without the words of damage and the advice to restore a backup.
pub(super) struct Met<'a>(pub(super) &'a PruneError);

impl std::fmt::Display for Met<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let PruneError::Store(StoreError::Corrupt(what)) = self.0 { f.write_str(what) } else { self.0.fmt(f) }
    }
}

pub(super) struct Suggested(pub(super) Option<&'static str>);

impl std::fmt::Display for Suggested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(found) => write!(
                f,
                "its column families are those of the layout `{found}`: give --layout {found}, where the command takes it; one that does not works on the store of a node alone"
            ),
            None => f.write_str(
                "its column families are those of no layout known here: give the folder of another database",
            ),
        }
    }
}

const HOLES_SHOWN: usize = 20;

pub(super) struct Holes<'a>(pub(super) &'a [(Order, Hole)]);

impl std::fmt::Display for Holes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (order, hole)) in self.0.iter().take(HOLES_SHOWN).enumerate() {
            write!(f, "{}{order} ({hole})", if index == 0 { "" } else { ", " })?;
        }
        if self.0.len() > HOLES_SHOWN { write!(f, " and {} more", self.0.len() - HOLES_SHOWN) } else { Ok(()) }
    }
}
