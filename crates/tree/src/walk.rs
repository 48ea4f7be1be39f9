//! THE traversal: iterative, in batches, depth first; used by mark, verify and statistics.
//!
//! Contract: every node reachable from what is on the work list is read exactly once, hashed again if asked, and shown
//! to the visitor with its children. A fault is shown too and never passes for a node without children (S5, S7). Only
//! a walk that visited everything without a fault ends as [`Walked::Complete`], and nothing else makes that value.
//! Memory is the work list's; depth cannot overflow a stack; there is no loop guard, because hashing makes the graph
//! acyclic (P20).

use crate::{error::TreeError, hash::NodeHash, layout::NodeLayout};

/// Reads many nodes at once.
pub trait NodeSource {
    /// Calls `each` once for every index of `hashes`, in any order, with the bytes or with nothing when absent.
    ///
    /// Errors: a read failed, so nothing is known about the nodes that `each` was not called for.
    fn read(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError>;
}

/// What is still to be visited, and exactly what was: hands out every pushed hash at most once (I6).
pub trait WorkList {
    /// Adds a hash unless it was pushed before.
    ///
    /// Errors: the list could not keep it.
    fn push(&mut self, hash: NodeHash) -> Result<(), TreeError>;

    /// Replaces `batch` by hashes never handed out before, sorted and unique; an empty batch means that none is left.
    ///
    /// Errors: the list could not tell.
    fn take(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), TreeError>;
}

/// Whether node bytes are hashed again and compared with their key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehash {
    /// Every node read: what makes "marked" mean "intact".
    Every,
    /// None: only measurements of the cost of hashing do without.
    Never,
}

/// What the walk does after a node or a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Visit the children; after a fault there are none.
    Descend,
    /// Go on without the children.
    Skip,
    /// End the walk now.
    Stop,
}

/// What a walk is for.
pub trait Visitor {
    /// One node with its children, placeholders left out.
    fn node(&mut self, hash: &NodeHash, bytes: &[u8], children: &[NodeHash]) -> Step;

    /// A node that is missing, malformed or stored under another hash; the policy is the visitor's.
    fn fault(&mut self, fault: TreeError) -> Step;
}

/// How a walk ended.
#[derive(Debug)]
#[must_use]
pub enum Walked {
    /// Everything was visited: the evidence that sealing consumes (I7).
    Complete(CompleteWalk),
    /// Everything that could be reached was visited, but some nodes were faulty.
    Faulty(Counts),
    /// The visitor stopped it.
    Stopped(Counts),
}

/// A walk that visited every node without a fault. Only [`walk`] makes one.
#[derive(Debug)]
pub struct CompleteWalk {
    counts: Counts,
}

impl CompleteWalk {
    /// What was visited; `faults` is zero.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// What a walk saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Nodes shown to the visitor.
    pub nodes: u64,
    /// Nodes whose children the visitor declined.
    pub skipped: u64,
    /// Nodes that were missing, malformed or under a wrong hash.
    pub faults: u64,
}

/// Visits everything reachable from the hashes on `work`.
///
/// Errors: the source or the work list failed; nothing is known about what was not visited.
pub fn walk(
    source: &dyn NodeSource,
    reading: Reading<'_>,
    work: &mut dyn WorkList,
    visitor: &mut dyn Visitor,
) -> Result<Walked, TreeError> {
    let counts = Counts { nodes: 0, skipped: 0, faults: 0 };
    let mut pass = Pass { reading, work, visitor, counts, children: Vec::new(), state: State::Running };
    let mut batch = Vec::new();
    loop {
        pass.work.take(&mut batch)?;
        if batch.is_empty() {
            return Ok(pass.end());
        }
        pass.batch(source, &batch)?;
        match pass.state {
            State::Running => {}
            State::Stopped => return Ok(Walked::Stopped(pass.counts)),
            State::Failed(error) => return Err(error),
        }
    }
}

/// How node bytes are understood during a walk.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The format of the nodes.
    pub layout: &'a dyn NodeLayout,
    /// Whether nodes are hashed again.
    pub rehash: Rehash,
}

enum State {
    Running,
    Stopped,
    Failed(TreeError),
}

struct Pass<'a> {
    reading: Reading<'a>,
    work: &'a mut dyn WorkList,
    visitor: &'a mut dyn Visitor,
    counts: Counts,
    children: Vec<NodeHash>,
    state: State,
}

impl Pass<'_> {
    /// Reads and visits one batch; what the source did not answer for is an error, never a visited node.
    fn batch(&mut self, source: &dyn NodeSource, batch: &[NodeHash]) -> Result<(), TreeError> {
        read_all(source, batch, &mut |hash, bytes| {
            if matches!(self.state, State::Running) {
                self.answer(hash, bytes);
            }
        })
    }

    fn answer(&mut self, hash: &NodeHash, bytes: Option<&[u8]>) {
        match self.understand(hash, bytes) {
            Ok(bytes) => {
                self.counts.nodes += 1;
                match self.visitor.node(hash, bytes, &self.children) {
                    Step::Descend => self.push_children(),
                    Step::Skip => self.counts.skipped += 1,
                    Step::Stop => self.state = State::Stopped,
                }
            }
            Err(fault) => {
                self.counts.faults += 1;
                if self.visitor.fault(fault) == Step::Stop {
                    self.state = State::Stopped;
                }
            }
        }
    }

    /// Fills `children` from the bytes of one node.
    fn understand<'b>(&mut self, hash: &NodeHash, bytes: Option<&'b [u8]>) -> Result<&'b [u8], TreeError> {
        self.children.clear();
        let there = bytes.ok_or(TreeError::Missing(*hash))?;
        let Reading { layout, rehash } = self.reading;
        match rehash {
            Rehash::Never => layout
                .children(there, &mut self.children)
                .map_err(|source| TreeError::Malformed { hash: *hash, source })?,
            Rehash::Every => children_of(layout, hash, there, &mut self.children)?,
        }
        Ok(there)
    }

    fn push_children(&mut self) {
        for child in &self.children {
            if let Err(error) = self.work.push(*child) {
                self.state = State::Failed(error);
                return;
            }
        }
    }

    fn end(self) -> Walked {
        if self.counts.faults == 0 {
            Walked::Complete(CompleteWalk { counts: self.counts })
        } else {
            Walked::Faulty(self.counts)
        }
    }
}

/// Reads every node of a batch and shows each once.
///
/// Errors: a failed read; [`TreeError::Unanswered`] where the source did not answer exactly once for each.
pub(crate) fn read_all(
    source: &dyn NodeSource,
    batch: &[NodeHash],
    each: &mut dyn FnMut(&NodeHash, Option<&[u8]>),
) -> Result<(), TreeError> {
    let mut waiting = vec![true; batch.len()];
    let mut answers = 0;
    source.read(batch, &mut |index, bytes| {
        answers += 1;
        let (Some(hash), Some(open)) = (batch.get(index), waiting.get_mut(index)) else {
            return;
        };
        if std::mem::take(open) {
            each(hash, bytes);
        }
    })?;
    if answers != batch.len() || waiting.contains(&true) {
        return Err(TreeError::Unanswered { asked: batch.len() });
    }
    Ok(())
}

/// Appends the children of a node that was read, if it is the one of its hash.
///
/// Errors: it is malformed or another one.
pub(crate) fn children_of(
    layout: &dyn NodeLayout,
    hash: &NodeHash,
    bytes: &[u8],
    out: &mut Vec<NodeHash>,
) -> Result<(), TreeError> {
    let actual = layout.read(bytes, out).map_err(|source| TreeError::Malformed { hash: *hash, source })?;
    if actual != *hash {
        return Err(TreeError::WrongHash { key: *hash, actual });
    }
    Ok(())
}
