//! What the commit gate knows of counts: rules 1 to 5 of one-bit reference counts, applied inside it.
//!
//! Three modes. *Off*: commits are journalled and nothing they name may go. *Blind*, while a major cycle traces the first
//! state: every node counts as shared, so marks are set and nothing expires. *Exact*: every node that two places of a
//! state have is marked, from one order on, and each commit keeps it so ([`state_tree::count`]). A store that begins
//! with its journal begins exact; any other becomes so by a major cycle (S33, S57). What is exact is deleted from only
//! once a major cycle has finished under it. A commit on an older state than the newest ends it: that state may need marks
//! that are gone, and may have what the orders in between lost.
//!
//! Costs: a commit adds one batched read of marks and one of the lowest nodes that it creates, both under the gate; where
//! some of those are stored already, one more of the nodes above them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use state_tree::{Counted, Created, Delta, Expiring, Known, NodeHash, Order, Questions, Standing, count};

use crate::{
    backend::{Batch, View},
    error::StoreError,
    journal::{self, JournalRecord},
    many,
    pending::Pending,
    record::{self, Record},
    schema::Table,
    store::StoreConfig,
};

/// Since when counts are exact, in `prune_meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CountsRecord {
    /// The first order whose state has every mark it needs; entries of later orders may be trusted.
    pub(crate) since: u64,
    /// The last major cycle that made the marks exact; nothing is deleted before there is one.
    pub(crate) cycle: Option<u64>,
}

impl Record for CountsRecord {
    const KIND: [u8; 4] = *b"CNTS";
    const VERSION: u16 = 1;
}

impl CountsRecord {
    pub(crate) const KEY: &[u8] = b"counts";

    pub(crate) fn load(view: &dyn View) -> Result<Option<Self>, StoreError> {
        view.row(&Table::META, Self::KEY)?.map(|bytes| record::decode("counts", &bytes)).transpose()
    }

    pub(crate) fn put(&self, batch: &mut Batch) -> Result<(), StoreError> {
        batch.put(Table::META, Self::KEY, record::encode(self)?);
        Ok(())
    }

    /// Counts are exact no more.
    pub(crate) fn forget(batch: &mut Batch) {
        batch.delete(Table::META, Self::KEY);
    }
}

/// How commits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Off,
    Blind,
    Exact(CountsRecord),
}

impl Mode {
    /// Whether entries may expire.
    pub(crate) fn is_settled(self) -> bool {
        matches!(self, Self::Exact(CountsRecord { cycle: Some(_), .. }))
    }
}

/// What the gate guards beside the order of writes.
#[derive(Debug)]
pub(crate) struct Counting {
    pub(crate) mode: Mode,
    /// Nothing until it was read from the journal.
    pub(crate) pending: Option<Pending>,
    /// Grows whenever entries are settled from outside the sweep of them: work on those is void.
    pub(crate) settled: u64,
    /// The most nodes the index may hold.
    pub(crate) limit: usize,
    journal: bool,
}

/// A commit as the gate will write it.
pub(crate) struct Plan<'a> {
    pub(crate) order: Order,
    /// The order of the state it builds on.
    pub(crate) base: Option<Order>,
    /// The newest order before it.
    pub(crate) head: Option<Order>,
    pub(crate) commit: u64,
    pub(crate) timestamp_ms: u64,
    pub(crate) delta: &'a Delta,
}

/// What counting adds to a commit.
pub(crate) struct Booked {
    pub(crate) rows: Batch,
    mode: Mode,
    expiring: Expiring,
}

impl Counting {
    /// Reads how an earlier process counted. Without a journal nothing is counted from the next commit on.
    pub(crate) fn load(view: &dyn View, config: StoreConfig) -> Result<Self, StoreError> {
        let mode = CountsRecord::load(view)?.map_or(Mode::Off, Mode::Exact);
        Ok(Self { mode, ..Self::new(config) })
    }

    /// Counts nothing yet.
    pub(crate) fn new(config: StoreConfig) -> Self {
        let StoreConfig { journal, pending_limit, .. } = config;
        Self { mode: Mode::Off, pending: None, settled: 0, limit: pending_limit, journal }
    }

    /// The rows of a commit, read and decided under the gate. Nothing is changed yet.
    pub(crate) fn book(&self, view: &dyn View, plan: &Plan<'_>) -> Result<Booked, StoreError> {
        let mut rows = Batch::new();
        let mut mode = self.mode;
        if !self.journal || plan.base < plan.head {
            if mode != Mode::Off {
                CountsRecord::forget(&mut rows); // a gap begins here (C11), or a state whose marks may be gone already
            }
            mode = Mode::Off;
        }
        if !self.journal {
            return Ok(Booked { rows, mode, expiring: Expiring::default() });
        }
        if plan.base.is_none() {
            let record = CountsRecord { since: plan.order.get(), cycle: None };
            record.put(&mut rows)?;
            mode = Mode::Exact(record); // the empty state has every mark it needs
        }
        let counted = match mode {
            Mode::Off => None,
            Mode::Blind | Mode::Exact(_) => Some(self.count(view, plan.delta, mode)?),
        };
        let expiring = match counted {
            Some(Counted { many, expiring, .. }) => {
                many.iter().for_each(|hash| many::put(&mut rows, hash.fingerprint(), plan.order));
                expiring
            }
            None => Expiring::default(),
        };
        let row = JournalRecord::new(plan.timestamp_ms, plan.delta, &expiring);
        rows.put(Table::JOURNAL, journal::key(plan.order, plan.commit), record::encode(&row)?);
        Ok(Booked { rows, mode, expiring })
    }

    fn count(&self, view: &dyn View, delta: &Delta, mode: Mode) -> Result<Counted, StoreError> {
        let questions = Questions::of(delta);
        let pending: BTreeSet<NodeHash> = match &self.pending {
            Some(pending) => questions.standings.iter().filter(|hash| pending.order(hash).is_some()).copied().collect(),
            None => BTreeSet::new(),
        };
        let many = match mode {
            Mode::Exact(_) => {
                let asked: BTreeSet<u64> = questions.counts.iter().chain(&pending).map(NodeHash::fingerprint).collect();
                let asked: Vec<u64> = asked.into_iter().collect();
                Some(many::read(view, &asked)?.into_keys().collect())
            }
            Mode::Blind | Mode::Off => None,
        };
        let present = Presence::of(delta).read(view)?;
        Ok(count(delta, &Answers { many, present, index: self.pending.as_ref() }))
    }

    /// Takes over what a written commit says.
    pub(crate) fn keep(&mut self, plan: &Plan<'_>, booked: Booked) {
        let began = self.mode == Mode::Off && booked.mode != Mode::Off;
        self.mode = booked.mode;
        if began {
            self.pending = Some(Pending::new(self.limit));
        }
        if self.mode == Mode::Off {
            self.pending = None;
        }
        let Some(pending) = &mut self.pending else { return };
        plan.delta.created.keys().for_each(|hash| pending.forget(hash.fingerprint())); // S21
        let Expiring { stale, dropped } = &booked.expiring;
        pending.insert(plan.order, Some(plan.timestamp_ms), stale.iter().chain(dropped));
    }
}

/// Which created nodes are stored, or may be.
///
/// Only nodes with nothing created below are read at first, which in most commits are the changed leaves: above one that is
/// not stored no node is in any retained state, nor below a root that an unsettled entry names: a cycle, which deletes by
/// keys, settles those first. The rest is read together.
struct Presence<'a> {
    created: &'a BTreeMap<NodeHash, Created>,
    present: BTreeSet<NodeHash>,
}

impl<'a> Presence<'a> {
    fn of(delta: &'a Delta) -> Self {
        Self { created: &delta.created, present: BTreeSet::new() }
    }

    /// Two batched reads at most.
    fn read(mut self, view: &dyn View) -> Result<BTreeSet<NodeHash>, StoreError> {
        let (mut lowest, mut above) = (Vec::new(), Vec::new());
        for (hash, created) in self.created {
            match created.lowest.filter(|lowest| self.created.contains_key(lowest)) {
                Some(below) => above.push((*hash, below)),
                None => lowest.push(*hash),
            }
        }
        self.ask(view, &lowest)?;
        if !self.present.is_empty() {
            let doubtful = above.into_iter().filter(|(_, lowest)| self.present.contains(lowest));
            let doubtful: Vec<NodeHash> = doubtful.map(|(hash, _)| hash).collect();
            self.ask(view, &doubtful)?;
        }
        Ok(self.present)
    }

    fn ask(&mut self, view: &dyn View, hashes: &[NodeHash]) -> Result<(), StoreError> {
        if hashes.is_empty() {
            return Ok(());
        }
        let present = &mut self.present;
        view.nodes(hashes, &mut |index, bytes| {
            present.extend(hashes.get(index).filter(|_| bytes.is_some()));
        })
    }
}

/// What was read for one commit.
struct Answers<'a> {
    /// The fingerprints marked of those asked for; nothing while nobody knows.
    many: Option<BTreeSet<u64>>,
    present: BTreeSet<NodeHash>,
    index: Option<&'a Pending>,
}

impl Known for Answers<'_> {
    fn is_many(&self, hash: &NodeHash) -> bool {
        self.many.as_ref().is_none_or(|many| many.contains(&hash.fingerprint()))
    }

    fn standing(&self, hash: &NodeHash) -> Standing {
        match self.index.and_then(|pending| pending.order(hash)) {
            Some(order) if !self.is_many(hash) => Standing::Pending(order),
            Some(_) => Standing::Present,
            None if self.present.contains(hash) => Standing::Present,
            None => Standing::Absent,
        }
    }
}
