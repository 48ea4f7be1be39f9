//! The newest commit, until somebody has looked which of its nodes were stored before it.
//!
//! The look is the dearest part of counting a commit, and the commit need not wait for it: whoever takes the gate next takes it
//! first ([`crate::stay::Gate::lock`]), in a view of before the commit, with marks and index as they were then. So nobody ever
//! finds marks or an index that lack something of a commit (S21, S22), and what is found is what the commit would have found.
//!
//! Promise: at every moment the disk marks what needs a mark (I9). The bundle in the batch of the commit marks all that may be at
//! another place, and marks less only once the marks that were found are written, in the same batch or before. A crash in
//! between leaves it at that, which only keeps more until a major cycle (I8). What is shared spreads, though: so a commit presumes
//! nothing where little is shared.
//!
//! Costs: the delta and one view, from a commit to the next stay. What the engine rewrites beside a view it writes anew once that
//! goes, so a rewrite takes the gate BEFORE ([`crate::ActiveSweep::rewrite`]).

use std::sync::{Arc, atomic::Ordering};

use state_tree::{Delta, Gained, NodeHash};

use crate::{
    backend::{Batch, View},
    bundle,
    counting::{Counting, Mode, Plan},
    error::StoreError,
    many::{Marks, Written},
    pending::Pending,
    queue::{Entry, Queue},
    schema::Table,
    standing::{Asks, Entries, Looked, Memory, Strays},
    stay::Waste,
};

/// A commit that nobody has looked at.
pub(crate) struct Unjudged {
    pub(crate) delta: Arc<Delta>,
    pub(crate) gained: Gained,
    /// The store as it was before.
    pub(crate) view: Arc<dyn View>,
    pub(crate) strays: Strays,
    /// As [`crate::counting::Plan::recorded`].
    pub(crate) recorded: u64,
    /// Nodes that were stored before, at most.
    pub(crate) stored: u64,
    /// What it has marked already, that nothing had marked before.
    pub(crate) marked: Vec<u64>,
    pub(crate) marks: Written,
    /// Whether the disk marks more of it.
    pub(crate) presumes: bool,
    pub(crate) entry: Entry,
}

/// What a look came to.
pub(crate) struct Judgement {
    /// Nodes that are stored now, at most.
    pub(crate) stored: u64,
    /// Whether the disk does not have marks and number as they were found.
    pub(crate) differs: bool,
}

impl std::fmt::Debug for Unjudged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unjudged").field("order", &self.entry.order).finish_non_exhaustive()
    }
}

impl Unjudged {
    /// Which of its nodes were stored. Errors: a failed read.
    fn look(&self, marks: &Marks, index: Option<&Pending>) -> Result<Looked, StoreError> {
        let Self { delta, gained, view, strays, .. } = self;
        let known = Memory { marks, index, strays: *strays };
        let marked = &marks.in_memory();
        known.look(&**view, Asks { delta, gained, marked, entries: Entries::Trusted })
    }

    /// Enters what the commit did into marks and index.
    fn enter(self, looked: Looked, (marks, queue): (&mut Marks, Option<&mut Queue>), waste: &mut Waste) -> Judgement {
        let Looked { many, present, asked } = looked;
        let Self { delta, gained, view, recorded, stored, mut marked, marks: written, presumes, entry, .. } = self;
        let order = entry.order;
        let mut found = marks.renew(many.iter().map(NodeHash::fingerprint), order);
        found.retain(|fingerprint| marked.binary_search(fingerprint).is_err());
        marks.written(order, written, &found);
        let nodes = delta.created.len() as u64;
        let absent = nodes.saturating_sub(present).max(recorded);
        let differs = presumes || !found.is_empty() || absent != nodes.max(recorded);
        marked.extend(found);
        marks.add(marked, order);
        if let Some(queue) = queue {
            queue.push(Entry { lately: asked, ..entry });
        }
        waste.push((delta, gained, view));
        Judgement { stored: stored.saturating_add(absent), differs }
    }
}

impl Counting {
    /// Where it is for the next stay to look which of the created nodes are stored, what may be marked then: all that may be at
    /// another place and is not marked. Nothing where it is for the commit itself.
    pub(crate) fn presumed(&self, plan: &Plan<'_>, mode: Mode, strays: Strays) -> Option<Vec<u64>> {
        let is_plain = matches!(mode, Mode::Exact(_)) && mode == self.mode && !plan.is_fork();
        let is_swept = self.journal && self.limit > 0 && self.pending.is_some(); // or nobody may come for long
        if !is_plain || !is_swept || !self.marks.have_room(plan.delta.created.len()) {
            return None;
        }
        let known = self.marks.in_memory();
        let may_be = plan.delta.created.iter().filter(|(_, created)| strays.allow(created)).map(|(hash, _)| hash);
        let presumed: Vec<u64> = may_be.filter(|hash| !known.contains(hash)).map(NodeHash::fingerprint).collect();
        let shared = self.marks.count().map_or(0, |marks| marks / presumed.len().max(1) as u64);
        (presumed.is_empty() || shared >= self.shared_per_presumed).then_some(presumed)
    }

    /// Judges the newest commit, unless that was done. A look that panics leaves it to the next stay.
    ///
    /// A read that fails is told ([`crate::Store::looked`]), and what was not found counts as found (I8): the commit is written.
    pub(crate) fn judge_newest(&mut self) {
        let Some(newest) = &self.unjudged else { return };
        let index = self.pending.as_mut().map(|queue| &*queue.index());
        let looked = newest.look(&self.marks, index);
        let Some(newest) = self.unjudged.take() else { return };
        let looked = looked.unwrap_or_else(|error| {
            self.failed_look = Some(error);
            Looked::nowhere(&newest.delta, &newest.gained, newest.strays)
        });
        let order = newest.entry.order;
        let judged = newest.enter(looked, (&mut self.marks, self.pending.as_mut()), &mut self.waste);
        self.stored.nodes = judged.stored;
        self.told.store(judged.stored, Ordering::Release);
        self.owed = Some(order).filter(|_| judged.differs);
    }

    /// Whether the newest commit is not judged.
    pub(crate) fn is_unjudged(&self) -> bool {
        self.unjudged.is_some()
    }

    /// Whether every mark has its row, and the disk has no others.
    pub(crate) fn is_unpacked(&mut self) -> bool {
        self.marks.bundles().is_empty() && self.owed.is_none()
    }

    /// Whether the disk does not have what was found.
    pub(crate) fn is_owed(&self) -> bool {
        self.owed.is_some()
    }

    /// Writes the bundle that is owed as it is now, before a commit that writes what is stored.
    ///
    /// Errors: a fault of ours.
    pub(crate) fn put_owed(&mut self, rows: &mut Batch) -> Result<(), StoreError> {
        self.owed.map_or(Ok(()), |order| self.marks.bundles().put_newest(rows, order))
    }

    /// Rows for at most so many of the oldest marks, and how many they are. A bundle goes with its last mark, and one that is owed
    /// with the last of all: not BEFORE (I9).
    ///
    /// Errors: a fault of ours.
    pub(crate) fn rows(&mut self, most: usize) -> Result<(Batch, usize), StoreError> {
        let (mut rows, marks) = self.marks.bundles().rows(most);
        if let Some(order) = self.owed.filter(|_| marks == self.marks.bundles().marks()) {
            rows.delete(Table::META, bundle::key(order));
            self.stored.put(&mut rows)?;
        }
        Ok((rows, marks))
    }

    /// So many of the oldest marks have rows now.
    pub(crate) fn unpacked(&mut self, marks: usize) {
        self.marks.bundles().unpacked(marks);
        self.owed.take_if(|_| self.marks.bundles().is_empty());
    }
}
