//! Reading live nodes back after a cycle: what the sealed mark promised must still be there.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use state_store::{KeyRange, View};
use state_tree::{NodeHash, NodeLayout, TreeError};

use super::check;
use crate::{
    error::PruneError,
    mark::{SealedMark, choose::Dice},
};

/// What reading live nodes back came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleReport {
    /// Live nodes read back and hashed again.
    pub nodes_read: u64,
    /// Children of those nodes that were found present.
    pub children_found: u64,
}

/// Reads random nodes of a sealed mark back from a later view, hashes them again and looks for their children.
///
/// A mark knows the first eight bytes of a hash, so any present node with those counts as the one that was marked: of several
/// one has to be whole, for the others may be dead (I6).
///
/// Errors: a mark that cannot be read; a node that is gone or damaged, or that lacks a child. Where a node is gone, only the first sixteen digits
/// of its hash are known; the others are shown as zeros.
pub fn sample_live(
    view: &dyn View,
    layout: &dyn NodeLayout,
    mark: &SealedMark,
    nodes: u64,
    seed: u64,
) -> Result<SampleReport, PruneError> {
    let mut dice = Dice(seed);
    let (live, mut reader) = (mark.live_nodes(), mark.reader());
    let mut report = SampleReport { nodes_read: 0, children_found: 0 };
    for number in 0..nodes.min(live) {
        // One node out of each of as many equal shares: no node twice, and every one when that many are asked for.
        let (first, end) = (share(live, number, nodes), share(live, number + 1, nodes));
        let within = usize::try_from(end - first).map_or(usize::MAX, |within| within);
        let position = first + dice.below(within) as u64;
        let Some(fingerprint) = reader.fingerprint(position)? else {
            return Err(PruneError::Invariant("a position lies outside the mark".to_owned()));
        };
        report.children_found += read_back(view, layout, fingerprint)?;
        report.nodes_read += 1;
    }
    Ok(report)
}

fn share(live: u64, number: u64, of: u64) -> u64 {
    let parts = u128::from(of.min(live).max(1));
    u64::try_from(u128::from(live) * u128::from(number) / parts).map_or(live, |at| at.min(live))
}

/// Checks the present nodes with the fingerprint; returns how many children were found of those that are whole.
fn read_back(view: &dyn View, layout: &dyn NodeLayout, fingerprint: u64) -> Result<u64, PruneError> {
    let range = KeyRange {
        start: Some(fingerprint.to_be_bytes().to_vec()),
        end: fingerprint.checked_add(1).map(|end| end.to_be_bytes().to_vec()),
    };
    let mut found = Vec::new();
    view.scan_nodes(&range, &mut |key, value| {
        if let Ok(hash) = NodeHash::try_from(key) {
            found.push((hash, check(layout, &hash, value)));
        }
        ControlFlow::Continue(())
    })?;
    if found.is_empty() {
        let mut hash = [0; 32];
        hash.iter_mut().zip(fingerprint.to_be_bytes()).for_each(|(slot, byte)| *slot = byte);
        return Err(PruneError::MissingLiveNode { hash: NodeHash::new(hash), path: Vec::new() });
    }
    let (mut is_whole, mut present, mut fault) = (false, 0, None);
    for (hash, checked) in found {
        match checked.map_err(named).and_then(|children| find_all(view, &hash, children)) {
            Ok(children) => (is_whole, present) = (true, present + children),
            Err(error @ PruneError::Store(_)) => return Err(error),
            Err(error) => fault = Some(error),
        }
    }
    fault.filter(|_| !is_whole).map_or(Ok(present), Err)
}

/// The way from a root down to it is not known here.
fn named(fault: TreeError) -> PruneError {
    let path = Vec::new();
    if let TreeError::Malformed { hash, source } = fault {
        return PruneError::BadNode { hash, fault: source, path };
    }
    if let TreeError::WrongHash { key, actual } = fault {
        return PruneError::WrongHash { hash: key, actual, path };
    }
    PruneError::Tree(fault)
}

fn find_all(view: &dyn View, parent: &NodeHash, mut children: Vec<NodeHash>) -> Result<u64, PruneError> {
    children.sort_unstable();
    children.dedup();
    let mut absent = None;
    view.nodes(&children, &mut |index, bytes| {
        if bytes.is_none() {
            absent = children.get(index).copied();
        }
    })?;
    match absent {
        Some(hash) => {
            tracing::error!(%parent, %hash, "a live node names one that is missing");
            Err(PruneError::MissingLiveNode { hash, path: Vec::new() })
        }
        None => Ok(children.len() as u64),
    }
}
