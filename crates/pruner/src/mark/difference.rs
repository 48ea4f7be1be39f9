//! What one retained state has beside another, read from a view under the control of an operator.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use state_store::View;
use state_tree::{Between, NodeHash, NodeLayout, NodeSource, TreeError, difference};

use super::{fault, source::ViewSource};
use crate::{
    control::{Control, Observer, Progress, Stage},
    error::PruneError,
};

/// How differences are read, one after another.
pub(crate) struct Differing<'a> {
    /// The instant.
    pub(crate) view: &'a dyn View,
    /// Reads the nodes.
    pub(crate) layout: &'a dyn NodeLayout,
    /// Pause and cancel, once per batch.
    pub(crate) control: &'a Control,
    /// Who watches.
    pub(crate) observer: &'a dyn Observer,
    /// Nodes that were read for all of them so far.
    pub(crate) read: AtomicU64,
}

impl Differing<'_> {
    /// The nodes that the new state has and the old one may lack; nothing if there are too many to follow, or if a node of
    /// either cannot be used, which a walk finds again and names.
    ///
    /// Errors: a failed read, a cancel or stop.
    pub(crate) fn between(&self, between: Between, most: usize) -> Result<Option<HashSet<NodeHash>>, PruneError> {
        match difference(self, self.layout, between, most) {
            Ok(told) => Ok(told),
            Err(error @ (TreeError::Missing(_) | TreeError::Malformed { .. } | TreeError::WrongHash { .. })) => {
                tracing::warn!(%error, "what two states differ in cannot be told");
                Ok(None)
            }
            Err(error) => Err(fault::unwrap(error)),
        }
    }
}

impl NodeSource for Differing<'_> {
    fn read(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError> {
        ViewSource { view: self.view, threads: 1, control: self.control }.read(hashes, each)?;
        let done = self.read.fetch_add(hashes.len() as u64, Ordering::Relaxed) + hashes.len() as u64;
        self.observer.progress(Progress { stage: Stage::Mark, done, share: None });
        Ok(())
    }
}
