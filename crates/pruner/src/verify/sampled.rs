//! Verification by sample: random paths from random roots down to nodes without children, every node hashed again.

use std::collections::BTreeSet;

use state_store::View;
use state_tree::{NodeHash, NodeLayout, StateRoot, TreeError};

use super::{Audit, VerifyJob, VerifyReport, check};
use crate::{
    control::{Progress, Stage},
    error::PruneError,
    mark::choose::Dice,
};

/// A descent that is longer than any path of a tree goes round in circles, which hashing rules out.
const DEEPEST: usize = 1 << 20;

/// Follows random paths from random roots down to nodes without children.
pub(super) fn verify(job: &VerifyJob<'_>, paths: u64) -> Result<VerifyReport, PruneError> {
    let roots: Vec<StateRoot> = job.roots.distinct().into_iter().collect();
    let (mut dice, mut audit, mut met) = (Dice(job.seed), Audit::default(), BTreeSet::new());
    for followed in 0..paths {
        job.control.checkpoint()?;
        let Some(root) = roots.get(dice.below(roots.len())).and_then(StateRoot::node) else {
            break;
        };
        if let Err((hash, fault)) = descend(job, root, &mut dice, &mut audit.read)?
            && met.insert(hash)
        {
            audit.fault(&fault)?; // once, however many paths lead there
        }
        let share = Some(followed as f64 / paths as f64);
        job.observer.progress(Progress { stage: Stage::Verify, done: audit.read, share });
    }
    Ok(VerifyReport { sampled_paths: Some(paths), ..audit.report(job, &roots) })
}

/// One random way down; the inner error is a node on it, and what is wrong with it.
fn descend(
    job: &VerifyJob<'_>,
    root: NodeHash,
    dice: &mut Dice,
    read: &mut u64,
) -> Result<Result<(), (NodeHash, TreeError)>, PruneError> {
    let mut at = root;
    for _ in 0..DEEPEST {
        let children = match intact(job.view, job.layout, &at)? {
            Ok(children) => children,
            Err(fault) => return Ok(Err((at, fault))),
        };
        *read += 1;
        match children.get(dice.below(children.len())) {
            Some(child) => at = *child,
            None => return Ok(Ok(())),
        }
    }
    Err(PruneError::Invariant("a path does not end".to_owned()))
}

/// The children of a node that is present, decodes and hashes to its key; the inner error says what is wrong.
fn intact(
    view: &dyn View,
    layout: &dyn NodeLayout,
    hash: &NodeHash,
) -> Result<Result<Vec<NodeHash>, TreeError>, PruneError> {
    let Some(bytes) = view.node(hash)? else {
        return Ok(Err(TreeError::Missing(*hash)));
    };
    Ok(check(layout, hash, &bytes))
}
