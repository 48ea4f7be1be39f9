//! The *many* marks: nodes that more than one place may have, each with the order of a commit that marked it.
//!
//! Key: fingerprint, big-endian; value: order, big-endian, its top bit set where nothing had marked it before that order; then
//! the CRC-32 of both, little-endian, so that a flipped bit of a row is found (C5). Two nodes that share a fingerprint share the
//! mark, which only keeps more (I6). Only a major cycle and a rollback take marks away: a count that is never decremented cannot
//! drift (S32, S34).
//!
//! [`Marks`] holds them in memory, so that neither a commit nor a slice reads for them under the gate, and a mark that is made
//! again is not written again. It is part of what the gate guards: whatever is marked on disk is in it, or it knows that it
//! does not know. An order on disk may therefore be older than the last mark: what an earlier process marked counts as marked
//! when this one began, which only keeps it for longer.
//!
//! A rollback takes back the marks that the orders above it made first: what was not marked before needed no mark in the state
//! that is gone back to. Rows say so themselves, whoever wrote them. Other marks stay, and only keep more: those that were made
//! while marks had no room in memory, and so nobody asked for older ones, and those that a cycle found the state to need that
//! it traced.
//!
//! A row whose key has a flipped bit marks another node than it was written for, and nobody who asks for that one comes upon it
//! (C5). So every row is read before marks are relied on: those that have room in memory when the store is opened, the others
//! before the first slice and before each cycle, once per process, without the gate. What goes bad later is the engine's to
//! find: its block checksums cover what was written then.
//!
//! Costs: 20 bytes of disk per shared node; in memory about 40 bytes each up to a limit, beyond which marks are read again, one
//! batched read per commit and slice, that of a slice before it takes the gate (I12), and written each time. A rollback reads all
//! of them once, under the gate. What a commit marks is one row at first ([`crate::bundle`]).

mod row;

use std::collections::BTreeSet;

use state_tree::{NodeHash, Order};

use crate::{
    backend::{Batch, Flow, KeyRange, View},
    bundle::{self, BundleRecord, Bundles},
    error::StoreError,
    fingerprints::Fingerprints,
    record,
    schema::Table,
};

pub(crate) use row::{Mark, check, delete, first_bad, first_made_above, mark_of, marked_of, number, put, read};

/// Fingerprints, each with the order of its last mark.
pub(crate) type Orders = Fingerprints<Order>;

/// The marks as of the last write under the gate.
#[derive(Debug)]
pub(crate) struct Marks {
    /// Nothing once there are too many of them.
    known: Option<Orders>,
    /// What was known, until whoever has the gate lets it go (I12).
    forgotten: Option<Orders>,
    /// Those that have no row of their own yet, also while nothing else is known.
    bundles: Bundles,
    /// The most that are held.
    limit: usize,
    /// What was marked since somebody began to read marks without the gate, as long as it is little.
    since: Option<BTreeSet<u64>>,
    /// The newest order that has marked anything.
    newest: Order,
    /// Marks that were made again up to this order may have an older one on disk.
    unsure: Order,
    /// Whether there are rows of an earlier process that nobody has read.
    unchecked: bool,
}

/// Marks that are remembered while others are read.
const MOST_SINCE: usize = 1 << 16;

/// How a commit has written its marks.
#[derive(Debug)]
pub(crate) enum Written {
    /// A row for each, if any.
    Rows,
    /// These, in a bundle.
    Bundle(Vec<u64>),
    /// A row for each, and for so many that were in bundles.
    Unpacked(usize),
}

/// What is known of the marks of some nodes.
pub(crate) enum Marked<'a> {
    /// Nobody knows, so every node is (I8).
    All,
    /// These, of all there are.
    Known(&'a Orders),
    /// These, of the nodes that were asked for, and those that are in bundles or were marked since they were read.
    Read { read: BTreeSet<u64>, since: BTreeSet<u64> },
}

impl Marks {
    /// No marks, and room for so many.
    pub(crate) fn none(limit: usize) -> Self {
        let (newest, unsure) = (Order::GENESIS, Order::GENESIS);
        let (known, bundles) = (Some(Orders::new()), Bundles::default());
        Self { known, forgotten: None, bundles, limit, since: None, newest, unsure, unchecked: false }
    }

    /// The marks of a view whose newest order is `head`, in one scan of at most as many rows as have room and one of bundles,
    /// and the first row that cannot be read: it may stand for a node that nothing else marks.
    ///
    /// Errors: a failed read, a bundle of a newer program (C17).
    pub(crate) fn load(view: &dyn View, head: Order, limit: usize) -> Result<(Self, Option<StoreError>), StoreError> {
        let (mut marks, mut unreadable) = (Self { unsure: head, ..Self::none(limit) }, None);
        view.scan(&Table::MANY, &KeyRange::ALL, &mut |key, value| {
            unreadable = unreadable.take().or_else(|| check(key, value).err());
            marks.add(number(key), head);
            if marks.known.is_some() { Flow::Continue(()) } else { Flow::Break(()) }
        })?;
        marks.unchecked = marks.known.is_none();
        let (bundles, torn) = Bundles::load(view)?;
        marks.add(bundles.all(), head);
        marks.bundles = bundles;
        Ok((marks, unreadable.or(torn)))
    }

    /// These are marked on disk now, as of an order or a later one.
    pub(crate) fn add(&mut self, fingerprints: impl IntoIterator<Item = u64>, order: Order) {
        self.newest = self.newest.max(order);
        let Some(known) = &mut self.known else {
            if let Some(since) = &mut self.since {
                since.extend(fingerprints);
            }
            self.since.take_if(|since| since.len() > MOST_SINCE);
            return;
        };
        for fingerprint in fingerprints {
            known.insert(fingerprint, known.get(fingerprint).map_or(order, |last| order.max(last)));
        }
        if known.len() > self.limit {
            self.forget();
        }
    }

    /// Those of a commit that are not marked for certain. The others count as made again, whether or not it comes to be written: that
    /// only keeps them for longer, and they need no row, for memory knows when they were made.
    pub(crate) fn renew(&mut self, fingerprints: impl Iterator<Item = u64>, order: Order) -> Vec<u64> {
        let Some(known) = &mut self.known else { return fingerprints.collect() };
        let is_new = |fingerprint: &u64| match known.get_mut(*fingerprint) {
            Some(last) => {
                *last = order.max(*last);
                false
            }
            None => true,
        };
        fingerprints.filter(is_new).collect()
    }

    /// The rows by which a commit marks nodes that are not marked for certain ([`Marks::renew`]), and others that may turn out not
    /// to be shared: a bundle for those and, where they have room in it, for the first, else a row for each of these. Where nobody knows whether they
    /// are in a bundle already, those are unpacked BEFORE: their rows would make newer marks older. Memory never has the others.
    ///
    /// Errors: a fault of ours.
    pub(crate) fn put(
        &self,
        rows: &mut Batch,
        (marked, presumed): (Vec<u64>, &[u64]),
        order: Order,
    ) -> Result<Written, StoreError> {
        if marked.is_empty() && presumed.is_empty() {
            return Ok(Written::Rows);
        }
        let Some(_) = &self.known else {
            let (unpacked, marks) = self.bundles.rows(usize::MAX);
            rows.append(unpacked);
            marked.into_iter().for_each(|fingerprint| put(rows, fingerprint, Mark::again(order)));
            return Ok(Written::Unpacked(marks));
        };
        let fit = self.bundles.marks() + marked.len() + presumed.len() <= Bundles::MOST;
        let bundled: Vec<u64> = if fit { [&marked, presumed].concat() } else { presumed.to_vec() };
        if !bundled.is_empty() {
            let bundle = BundleRecord { order: order.get(), marked: bundled };
            rows.put(Table::META, bundle::key(order), record::encode(&bundle)?);
        }
        if fit {
            return Ok(Written::Bundle(marked));
        }
        marked.into_iter().for_each(|fingerprint| put(rows, fingerprint, Mark::first(order)));
        Ok(Written::Rows)
    }

    /// The rows of a commit are written. Beside them, marks of it that were found since and have no row of their own: whoever
    /// unpacks writes them.
    pub(crate) fn written(&mut self, order: Order, written: Written, found: &[u64]) {
        let mut bundled = match written {
            Written::Rows => Vec::new(),
            Written::Bundle(marked) => marked,
            Written::Unpacked(marks) => {
                self.bundles.unpacked(marks);
                Vec::new()
            }
        };
        bundled.extend(found);
        if !bundled.is_empty() {
            self.bundles.push(order, bundled);
        }
    }

    /// Those that have no row of their own.
    pub(crate) fn bundles(&mut self) -> &mut Bundles {
        &mut self.bundles
    }

    /// Whether every mark is known without a read, and so many more have room in bundles.
    pub(crate) fn have_room(&self, marks: usize) -> bool {
        self.known.is_some() && self.bundles.marks() + marks <= Bundles::MOST
    }

    /// All marks that are known without a read; where that is not all there are, every node counts as marked (I8).
    pub(crate) fn in_memory(&self) -> Marked<'_> {
        self.known.as_ref().map_or(Marked::All, Marked::Known)
    }

    /// Whether rows of an earlier process may be bad without anybody knowing.
    pub(crate) fn is_unchecked(&self) -> bool {
        self.unchecked
    }

    /// Every row was read.
    pub(crate) fn checked(&mut self) {
        self.unchecked = false;
    }

    /// How many there are, as far as they have room.
    pub(crate) fn count(&self) -> Option<u64> {
        self.known.as_ref().map(|known| known.len() as u64)
    }

    /// These are not marked on disk any more.
    pub(crate) fn remove<'a>(&mut self, fingerprints: impl IntoIterator<Item = &'a u64>) {
        let Some(known) = &mut self.known else { return };
        for fingerprint in fingerprints {
            known.remove(*fingerprint);
        }
    }

    /// What is marked on disk is not known any more: it is read from here on.
    pub(crate) fn forget(&mut self) {
        self.forgotten = self.known.take().or(self.forgotten.take());
        self.since = None;
        self.unsure = self.unsure.max(self.newest);
    }

    /// What was known before it was forgotten, which is the caller's to free.
    pub(crate) fn take_forgotten(&mut self) -> Option<Orders> {
        self.forgotten.take()
    }

    /// Whether it is marked; nothing where that has to be read.
    pub(crate) fn knows(&self, fingerprint: u64) -> Option<bool> {
        match &self.known {
            Some(known) => Some(known.get(fingerprint).is_some()),
            None => self.bundles.has(fingerprint).then_some(true),
        }
    }

    /// Whether a mark, as it is on disk, was not made again after `traced`. One that cannot be read is judged by what is in
    /// memory, or is not old.
    pub(crate) fn is_old(&self, (fingerprint, on_disk): (u64, Mark), traced: Order) -> bool {
        let last = match &self.known {
            Some(known) => known.get(fingerprint),
            None => Some(self.unsure),
        };
        let is_old = on_disk.order <= traced || (on_disk == Mark::UNREADABLE && self.known.is_some());
        is_old && last.is_none_or(|last| last <= traced)
    }

    /// Looks up those that `asked` names, or all at once where they are in memory.
    ///
    /// Errors: a failed read.
    pub(crate) fn ask(&self, view: &dyn View, asked: impl FnOnce() -> BTreeSet<u64>) -> Result<Marked<'_>, StoreError> {
        if let Some(known) = &self.known {
            return Ok(Marked::Known(known));
        }
        Ok(Marked::Read { read: marked_of(view, asked())?, since: self.bundles.all().collect() })
    }

    /// Whether marks have to be read. What is marked from here on is remembered: whoever reads them BEHIND this, without the
    /// gate, has all of them with [`Marks::recall`].
    pub(crate) fn watch(&mut self) -> bool {
        self.since = self.known.is_none().then(|| self.bundles.all().collect()); // some may be unpacked once it reads
        self.since.is_some()
    }

    /// The marks of what was read without the gate; nothing where they have to be read again.
    pub(crate) fn recall(&mut self, read: Option<BTreeSet<u64>>) -> Option<Marked<'_>> {
        if let Some(known) = &self.known {
            return Some(Marked::Known(known));
        }
        let (read, since) = read.zip(self.since.take())?;
        Some(Marked::Read { read, since })
    }
}

impl Marked<'_> {
    /// Whether the node, which was asked for, is marked.
    pub(crate) fn contains(&self, hash: &NodeHash) -> bool {
        match self {
            Self::All => true,
            Self::Known(known) => known.get(hash.fingerprint()).is_some(),
            Self::Read { read, since } => [read, since].iter().any(|set| set.contains(&hash.fingerprint())),
        }
    }

    /// Whether any node is known to be marked, asked for or not.
    pub(crate) fn is_known(&self, hash: &NodeHash) -> bool {
        matches!(self, Self::Known(_)) && self.contains(hash)
    }
}

/// The fingerprints of all that is marked on disk, in a row of its own or in a bundle.
///
/// Errors: a failed read, a bundle that is unusable.
#[cfg(any(test, feature = "test-util"))]
pub fn marked_on_disk(view: &dyn View) -> Result<BTreeSet<u64>, StoreError> {
    let mut marked = marked_in_rows(view)?;
    marked.extend(Bundles::load(view)?.0.all());
    Ok(marked)
}

/// The same of those in rows of their own.
///
/// Errors: a failed read.
#[cfg(any(test, feature = "test-util"))]
pub(crate) fn marked_in_rows(view: &dyn View) -> Result<BTreeSet<u64>, StoreError> {
    let mut marked = BTreeSet::new();
    view.scan(&Table::MANY, &KeyRange::ALL, &mut |key, _| {
        marked.extend(number(key));
        Flow::Continue(())
    })?;
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Durability, MemoryBackend};

    fn hash(n: u64) -> NodeHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        NodeHash::new(bytes)
    }

    #[test]
    fn marks_in_memory_answer_as_those_on_disk_do_and_too_many_are_read_again() {
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        [3, 5].into_iter().for_each(|n| put(&mut batch, n, Mark::first(Order::new(1))));
        backend.write(&batch, Durability::Logged).unwrap();
        let view = backend.view().unwrap();
        let mut marks = Marks::load(&*view, Order::new(1), 9).unwrap().0;
        let answers = |marks: &Marks| {
            let marked = marks.ask(&*view, || (3..7).collect()).unwrap();
            [3, 4, 5, 6].map(|n| marked.contains(&hash(n)))
        };
        assert_eq!(answers(&marks), [true, false, true, false]);
        marks.add([6], Order::new(2));
        marks.remove(&[3]);
        assert_eq!(answers(&marks), [false, false, true, true]);
        marks.add(100..108, Order::new(2));
        assert_eq!(marks.count(), None);
        marks.forget();
        assert_eq!(
            marks.take_forgotten().map(|known| known.len()),
            Some(10),
            "nobody who waits for the gate waits for them"
        );
        assert!(matches!(marks.ask(&*view, BTreeSet::new).unwrap(), Marked::Read { .. }));
        assert_eq!(answers(&marks), [true, false, true, false], "as the disk has it");
        assert!(
            !marks.ask(&*view, || [3].into()).unwrap().is_known(&hash(3)),
            "only what is in memory is known unasked"
        );
    }

    #[test]
    fn what_is_marked_while_marks_are_read_is_recalled_or_they_are_read_again() {
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        put(&mut batch, 3, Mark::again(Order::new(1)));
        backend.write(&batch, Durability::Logged).unwrap();
        let (view, mut marks) = (backend.view().unwrap(), Marks::none(0));
        assert!(!marks.watch(), "none has to be read while all are in memory");
        marks.forget();
        let read = || Some(read(&*view, &[3, 4, 5]).unwrap().into_keys().collect());
        assert!(marks.recall(read()).is_none(), "nobody watched");
        assert!(marks.watch());
        marks.add([4], Order::new(2));
        let marked = marks.recall(read()).unwrap();
        assert_eq!([3, 4, 5].map(|n| marked.contains(&hash(n))), [true, true, false]);
        assert!(marks.recall(read()).is_none(), "nobody watches any more");
        assert!(marks.watch());
        marks.add((0..=MOST_SINCE as u64).map(|n| n + 9), Order::new(3));
        assert!(marks.recall(read()).is_none(), "they were too many");
        assert!(marks.watch());
        marks.forget();
        assert!(marks.recall(read()).is_none(), "what was written is not known");
    }

    #[test]
    fn a_mark_that_may_have_been_made_again_is_not_old() {
        let order = Order::new;
        let is_old = |marks: &Marks, on_disk, traced| marks.is_old((7, Mark::first(order(on_disk))), order(traced));
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        put(&mut batch, 7, Mark::first(order(3)));
        backend.write(&batch, Durability::Logged).unwrap();
        let mut marks = Marks::load(&*backend.view().unwrap(), order(5), 9).unwrap().0;
        assert!(!is_old(&marks, 3, 4), "the process before may have made it again up to its last order");
        assert!(is_old(&marks, 3, 5));
        assert_eq!(marks.renew([7, 8].into_iter(), order(9)), [8]);
        marks.add([7], order(8));
        assert!(!is_old(&marks, 3, 8) && is_old(&marks, 3, 9));
        marks.add([], order(9));
        marks.forget();
        assert_eq!(marks.renew([7].into_iter(), order(9)), [7]);
        assert!(!is_old(&marks, 3, 8), "nobody knows any more which of them were made again");
        assert!(is_old(&marks, 3, 9) && !is_old(&marks, 10, 9));
    }
}
