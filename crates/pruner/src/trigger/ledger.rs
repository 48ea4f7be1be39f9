//! What outlives the process of the triggers: up to where runs have counted, which run has begun, how the last ones
//! ended, and which requests were served. One record, saved BEFORE a run does anything and again when it has ended.
//!
//! Promises: the counts of all runs and what none has counted add up to the orders committed, whatever fails or dies in
//! between, because the end of a run moves `counted` in the write that records its count; an interrupted run counts
//! nothing, so that its orders make the next one due; a request is saved before it is answered, and one that began a run is
//! not served again (C14), unless that run was interrupted: then it waits for the next one.
//!
//! A rollback takes orders away, counted or not: what runs have counted of the abandoned branch stays theirs, and the
//! orders that take the place of those are counted anew. So each commit is counted once at most, and each of the branch
//! that is left by a run or by none yet.

mod earlier;

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};
use state_tree::Order;

use super::{Figure, disk::Fired};
use crate::{
    certificate::Trigger,
    error::PruneError,
    outcome::Outcome,
    records::{RecordKey, Records},
    rollback::Fate,
};

/// Runs remembered; the oldest goes when a new one ends.
const KEPT_RUNS: usize = 16;

/// Ids of served requests remembered; a request that is repeated later than so many others is a new one.
pub(crate) const KEPT_REQUESTS: usize = 64;

/// One run that a trigger set off: a cycle, from its trigger to its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Counted from 1 in this store.
    pub number: u64,
    /// What set it off.
    pub trigger: Trigger,
    /// Milliseconds since 1970 when it began.
    #[serde(rename = "began_ms")]
    pub began_at: u64,
    /// How long it took, in the process in which it ended; absent if its process ended first.
    pub duration_ms: Option<u64>,
    /// Orders between the snapshot of the run before and its own: each order is counted by one run.
    pub counted: u64,
    /// How it ended; absent if its process ended first and its cycle could not go on.
    pub outcome: Option<Outcome>,
    /// What was measured when it was set off, where that decided.
    pub figure: Option<Figure>,
}

/// A run that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenRun {
    number: u64,
    trigger: Trigger,
    began_at: u64,
    /// The head when it began: where its count ends if it does not get as far as a snapshot.
    head: u64,
    /// [`state_store::Store::nodes_stored`] when it began, which is at most what it was at its snapshot.
    nodes_stored: u64,
    /// What was measured, where that decided.
    figure: Option<Figure>,
    /// The chain went back since: what its branch left is for a later run (L9).
    went_back: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Served {
    id: String,
    run: u64,
}

/// Whether an order has left the window of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// None has: the chain begins with genesis still.
    Filling {
        /// Orders retained.
        keep_last: u64,
    },
    /// One has, by this window or by an earlier one.
    Left,
}

impl Window {
    /// By the oldest readable order; before there is a state nothing has left.
    pub(crate) fn of(floor: Option<Order>, keep_last: u64) -> Self {
        match floor {
            Some(floor) if floor > Order::GENESIS => Self::Left,
            Some(_) | None => Self::Filling { keep_last },
        }
    }

    /// Whether a chain that is so long has nothing to delete.
    pub(crate) fn is_filling(self, head: u64) -> bool {
        match self {
            Self::Filling { keep_last } => head < keep_last,
            Self::Left => false,
        }
    }
}

/// A run that begins.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) trigger: Trigger,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) head: u64,
    pub(crate) nodes_stored: u64,
    /// What was measured, where that decided.
    pub(crate) figure: Option<Figure>,
    /// Requests that it serves.
    pub(crate) requests: Vec<String>,
}

/// A run that ends.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Head of its snapshot, if it got that far.
    pub(crate) snapshot_head: Option<u64>,
    /// Nodes its mark found live, if it finished.
    pub(crate) live: Option<u64>,
    pub(crate) duration_ms: u64,
    pub(crate) outcome: Outcome,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Number of the newest run.
    pub(super) begun: u64,
    /// Milliseconds since 1970 when the newest run began.
    pub(super) last_at: Option<u64>,
    /// Milliseconds since 1970 from which the schedule counts: when the last run that ended began, or when this ledger
    /// was opened.
    pub(super) scheduled_from: u64,
    /// The order up to which runs have counted.
    pub(super) counted: u64,
    /// [`state_store::Store::nodes_stored`] at the beginning of the last run that finished, or the least since.
    pub(super) nodes_stored: u64,
    /// Nodes that the mark of the last finished run found live, or as few as were stored since; absent where it is not known how
    /// many were stored when that run began.
    pub(super) live: Option<u64>,
    /// The seed of the node whose runs are spread already.
    pub(super) spread: Option<u64>,
    /// How the low-disk trigger fired, while it is not armed.
    pub(super) low_disk: Option<Fired>,
    /// The head from which a cycle is due that a rollback left owed, until one that began since has finished (L9).
    pub(super) owed_from: Option<u64>,
    /// The ids of an operator's request for a run that has not begun, and of those that joined it.
    pub(super) asked: Option<Vec<String>>,
    open: Option<OpenRun>,
    runs: Vec<Run>,
    served: Vec<Served>,
}

impl Record for Ledger {
    const KIND: [u8; 4] = *b"TRIG";
    const VERSION: u16 = 4;
}

/// The name of the record in messages.
const NAME: &str = "triggers";

impl Ledger {
    /// A ledger that begins at a time, behind an order that was counted before there was one.
    pub(crate) fn new(unix_ms: u64, counted: u64) -> Self {
        Self {
            begun: 0,
            last_at: None,
            scheduled_from: unix_ms,
            counted,
            nodes_stored: 0,
            live: None,
            spread: None,
            low_disk: None,
            owed_from: None,
            asked: None,
            open: None,
            runs: Vec::new(),
            served: Vec::new(),
        }
    }

    /// The ledger of this store, if it has one.
    pub(crate) fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        let bytes = records.load(RecordKey::Triggers)?;
        bytes.map(|bytes| Self::decode(&bytes)).transpose()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, PruneError> {
        match record::decode::<Self>(NAME, bytes) {
            Ok(ledger) => Ok(ledger),
            Err(error) => earlier::decode(bytes).ok_or_else(|| error.into()),
        }
    }

    /// Takes what happened in what is the future by now for just happened: the wall clock was wrong then or is now. Whether there was
    /// such a thing: saved, it has happened now for later processes, too, and makes each of them wait no longer.
    pub(crate) fn take_for_new(&mut self, unix_ms: u64) -> bool {
        let failed = self.low_disk.as_mut().and_then(|fired| fired.failed_at.as_mut());
        let ahead = self.last_at.as_mut().into_iter().chain([&mut self.scheduled_from]).chain(failed);
        ahead.filter(|at| **at > unix_ms).map(|at| *at = unix_ms).count() > 0
    }

    pub(crate) fn save(&self, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::Triggers, &self.encode()?)
    }

    /// The bytes of the record.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, PruneError> {
        Ok(record::encode(self)?)
    }

    /// Whether a request waits, and with this id if one is given.
    pub(crate) fn waits(&self, id: Option<&str>) -> bool {
        self.asked.as_ref().is_some_and(|ids| id.is_none_or(|id| ids.iter().any(|known| known == id)))
    }

    /// Whether no other id may join the request that waits.
    pub(crate) fn is_full(&self) -> bool {
        self.asked.as_ref().is_some_and(|ids| ids.len() >= KEPT_REQUESTS)
    }

    /// A request waits; it joins one that does already.
    pub(crate) fn ask(&mut self, id: Option<&str>) {
        let is_new = !self.waits(id);
        self.asked.get_or_insert_default().extend(id.filter(|_| is_new).map(str::to_owned));
    }

    /// A run begins. Save it BEFORE the run does anything.
    pub(super) fn begin(&mut self, beginning: Beginning) {
        let Beginning { trigger, at, head, nodes_stored, figure, requests } = beginning;
        self.begun += 1;
        self.last_at = Some(at);
        let (run, went_back) = (self.begun, false);
        self.open = Some(OpenRun { number: run, trigger, began_at: at, head, nodes_stored, figure, went_back });
        self.served.extend(requests.into_iter().map(|id| Served { id, run }));
        keep_newest(&mut self.served, KEPT_REQUESTS);
    }

    /// The open run ends; nothing if none is open.
    pub(super) fn end(&mut self, ending: Ending) -> Option<&Run> {
        let open = self.open.take()?;
        let to = ending.snapshot_head.map_or(open.head, |head| head).max(self.counted);
        let counted = to - self.counted;
        self.counted = to;
        if let Some(live) = ending.live {
            // One that did not finish found no garbage. Of one that is recorded at its end nobody knows how much was stored when
            // its snapshot was taken: nothing is measured before the next one (I13).
            let is_known = open.trigger != Trigger::Resumed;
            (self.live, self.nodes_stored) = (is_known.then_some(live), open.nodes_stored);
        }
        self.scheduled_from = open.began_at;
        self.keep(Run {
            number: open.number,
            trigger: open.trigger,
            began_at: open.began_at,
            duration_ms: Some(ending.duration_ms),
            counted,
            outcome: Some(ending.outcome),
            figure: open.figure,
        })
    }

    /// So many nodes are stored now. Fewer than at the beginning of the last run means that the live state has become
    /// smaller by as much at least: what is live is never more than what is stored.
    pub(super) fn stored(&mut self, nodes: u64) {
        let Some(live) = self.live else { return };
        let fewer = self.nodes_stored.saturating_sub(nodes);
        (self.live, self.nodes_stored) = (Some(live.saturating_sub(fewer)), self.nodes_stored - fewer);
    }

    /// The process of the open run ended before it did, and its cycle cannot go on: everything it was to count makes
    /// the next one due, and who asked for it waits again. Nothing if none is open.
    pub(super) fn interrupt(&mut self) -> Option<&Run> {
        let OpenRun { number, trigger, began_at, figure, .. } = self.open.take()?;
        self.low_disk = None;
        if trigger == Trigger::Operator {
            self.ask_again(number);
        }
        self.keep(Run { number, trigger, began_at, duration_ms: None, counted: 0, outcome: None, figure })
    }

    /// What a run was begun for waits for the next one, beside what waits already.
    fn ask_again(&mut self, run: u64) {
        let again = self.served.extract_if(.., |served| served.run == run).map(|served| served.id);
        let asked: Vec<String> = again.chain(self.asked.take().into_iter().flatten()).collect();
        self.asked = Some(asked);
    }

    /// Orders after `to` are taken away, and a cycle is owed to what they had created. An open run whose cycle does not go on is
    /// returned.
    pub(crate) fn rolled_back(&mut self, to: u64, fate: Fate) -> Option<Run> {
        let given_up = match fate {
            Fate::GivenUp => self.interrupt().cloned(),
            Fate::GoesOn => None,
        };
        if let Some(open) = &mut self.open {
            (open.went_back, open.head) = (true, open.head.min(to));
        }
        self.counted = self.counted.min(to);
        self.spread = None; // all nodes of a fleet go back to one order (F10)
        self.owed_from = Some(to);
        given_up
    }

    fn keep(&mut self, run: Run) -> Option<&Run> {
        self.runs.push(run);
        keep_newest(&mut self.runs, KEPT_RUNS);
        self.runs.last()
    }

    /// The order at which so many orders make a cycle due. A chain from whose window nothing has left yet has nothing to
    /// delete before it is longer (S13).
    pub(crate) fn due_at(&self, orders: u64, window: Window) -> u64 {
        let due = self.counted.saturating_add(orders);
        match window {
            Window::Filling { keep_last } => due.max(keep_last),
            Window::Left => due,
        }
    }

    /// Orders up to the head that no run has counted.
    pub(crate) fn uncounted(&self, head: u64) -> u64 {
        head.saturating_sub(self.counted)
    }

    /// The number of the newest run.
    pub(crate) fn newest(&self) -> u64 {
        self.begun
    }

    /// What set off the run that has not ended.
    pub(crate) fn open(&self) -> Option<Trigger> {
        self.open.as_ref().map(|open| open.trigger)
    }

    /// Whether the open run, once it has finished, leaves nothing of the branches that the chain has left. Of one that is recorded
    /// at its end nobody knows.
    pub(super) fn pays_rollbacks(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.went_back && open.trigger != Trigger::Resumed)
    }

    /// What was measured when the run was set off that has not ended.
    pub(crate) fn figure(&self) -> Option<Figure> {
        self.open.as_ref()?.figure
    }

    /// What set off the newest run, if it has not ended but with its process.
    pub(crate) fn set_off_by(&self) -> Option<Trigger> {
        let interrupted = || self.runs.last().filter(|run| run.number == self.begun && run.outcome.is_none());
        self.open().or_else(|| interrupted().map(|run| run.trigger))
    }

    /// The last runs that ended, the newest last.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The order from which the runs that are remembered have counted.
    pub(crate) fn counted_before_runs(&self) -> u64 {
        self.counted.saturating_sub(self.runs.iter().map(|run| run.counted).sum())
    }

    /// Milliseconds since 1970 when the ledger was opened, as long as no run has ended.
    pub(crate) fn opened_at(&self) -> u64 {
        self.scheduled_from
    }

    /// The run that served a request, if one has begun for it.
    pub(crate) fn served(&self, id: &str) -> Option<u64> {
        self.served.iter().rev().find(|served| served.id == id).map(|served| served.run)
    }
}

#[cfg(test)]
impl Ledger {
    /// A whole run that begins at a time and counts up to a head.
    pub(crate) fn run(&mut self, at: u64, head: u64, outcome: Outcome) {
        let requests = Vec::new();
        self.begin(Beginning { trigger: Trigger::Orders, at, head, nodes_stored: 0, figure: None, requests });
        self.end(Ending { snapshot_head: Some(head), live: None, duration_ms: 1, outcome });
    }
}

fn keep_newest<T>(list: &mut Vec<T>, most: usize) {
    list.drain(..list.len().saturating_sub(most));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Ended;

    fn outcome() -> Outcome {
        Outcome { cycle: Some(1), at: 2, head_order: None, ended: Ended::Cancelled }
    }

    fn begin(ledger: &mut Ledger, head: u64, requests: &[&str]) {
        let requests = requests.iter().map(|id| (*id).to_owned()).collect();
        let (trigger, nodes_stored) = (Trigger::Operator, 10 * head);
        ledger.begin(Beginning { trigger, at: 7, head, nodes_stored, figure: None, requests });
    }

    fn end(ledger: &mut Ledger, snapshot_head: Option<u64>) -> u64 {
        ledger.end(Ending { snapshot_head, live: None, duration_ms: 3, outcome: outcome() }).unwrap().counted
    }

    #[test]
    fn each_order_is_counted_by_one_run_also_when_runs_fail_or_die() {
        let mut ledger = Ledger::new(0, 0);
        begin(&mut ledger, 100, &[]);
        assert_eq!(end(&mut ledger, Some(104)), 104, "to the snapshot, not to where it began");
        begin(&mut ledger, 150, &[]);
        assert_eq!(end(&mut ledger, None), 46, "no snapshot: to where it began");
        begin(&mut ledger, 200, &[]);
        assert_eq!(ledger.interrupt().unwrap().counted, 0);
        assert_eq!(ledger.counted, 150, "what an interrupted run was to count is left");
        begin(&mut ledger, 210, &[]);
        assert_eq!(end(&mut ledger, Some(212)), 62);
        let counted: u64 = ledger.runs().iter().map(|run| run.counted).sum();
        assert_eq!((counted, ledger.counted), (212, 212));
        assert!(
            ledger.end(Ending { snapshot_head: Some(300), live: None, duration_ms: 0, outcome: outcome() }).is_none()
        );
        assert!(ledger.interrupt().is_none(), "and no run is recorded that has not begun");
    }

    #[test]
    fn what_takes_the_place_of_an_abandoned_branch_is_counted_anew() {
        let mut ledger = Ledger::new(0, 0);
        begin(&mut ledger, 100, &[]);
        end(&mut ledger, Some(100));
        begin(&mut ledger, 150, &[]);
        let given_up = ledger.rolled_back(80, Fate::GivenUp).unwrap();
        assert_eq!((given_up.number, given_up.outcome), (2, None), "told as interrupted");
        assert!(ledger.open().is_none(), "a run that was left open does not go on");
        assert_eq!((ledger.counted, ledger.owed_from), (80, Some(80)));
        begin(&mut ledger, 120, &[]);
        assert_eq!(end(&mut ledger, Some(120)), 40);
        assert_eq!(ledger.rolled_back(130, Fate::GivenUp), None);
        assert_eq!((ledger.counted, ledger.owed_from), (120, Some(130)), "above what was counted");
        begin(&mut ledger, 150, &[]);
        assert_eq!(ledger.rolled_back(140, Fate::GoesOn), None);
        assert_eq!(end(&mut ledger, None), 20, "one that goes on counts nothing that is gone");
    }

    #[test]
    fn a_run_that_does_not_finish_leaves_the_garbage_that_was_measured() {
        let mut ledger = Ledger::new(0, 0);
        let mut run = |nodes_stored, live| {
            let requests = Vec::new();
            let (trigger, figure) = (Trigger::Orders, None);
            ledger.begin(Beginning { trigger, at: 1, head: 9, nodes_stored, figure, requests });
            ledger.end(Ending { snapshot_head: Some(9), live, duration_ms: 1, outcome: outcome() }).unwrap();
            (ledger.nodes_stored, ledger.live)
        };
        assert_eq!(run(100, Some(50)), (100, Some(50)));
        assert_eq!(run(130, None), (100, Some(50)), "cancelled: thirty more than at the last cycle");
        assert_eq!(run(140, Some(60)), (140, Some(60)));
    }

    #[test]
    fn runs_and_requests_are_remembered_up_to_their_bounds() {
        let mut ledger = Ledger::new(0, 0);
        for run in 1..=200u64 {
            begin(&mut ledger, run, &[&format!("request {run}")]);
            end(&mut ledger, None);
        }
        assert_eq!((ledger.runs().len(), ledger.runs().last().map(|run| run.number)), (KEPT_RUNS, Some(200)));
        assert_eq!(ledger.served.len(), KEPT_REQUESTS);
        assert_eq!((ledger.served("request 137"), ledger.served("request 136")), (Some(137), None));
    }

    /// The bytes that the code of version 1 was pinned to: an open run behind one that ended.
    #[test]
    fn a_ledger_of_version_1_goes_on_with_what_it_counted_and_served() {
        let first = concat!(
            "53505231545249470100a90000000200000000000000010700000000000000070000000000000004000000000000001e",
            "000000000000000106000000000000000107000000000000000108000000000000000102000000000000000107000000",
            "000000000500000000000000320000000000000001010000000000000001070000000000000001030000000000000002",
            "00000000000000010101000000000000000200000000000000000201026964010000000000000007e956d6",
        );
        let mut ledger = Ledger::decode(&hex::decode(first).unwrap()).unwrap();
        assert_eq!((ledger.newest(), ledger.counted, ledger.nodes_stored, ledger.live), (2, 4, 0, None));
        assert_eq!((ledger.last_at, ledger.scheduled_from, ledger.spread), (Some(7), 7, Some(7)));
        assert_eq!((ledger.served("id"), ledger.low_disk, ledger.owed_from), (Some(1), None, None));
        assert!(ledger.open().is_none() && ledger.runs().is_empty(), "what set them off is not known");
        begin(&mut ledger, 9, &[]);
        assert_eq!((end(&mut ledger, Some(9)), ledger.newest()), (5, 3), "what the open run was to count is counted");
        let bytes = ledger.encode().unwrap();
        assert_eq!(Ledger::decode(&bytes).unwrap(), ledger, "and it is saved as every other");
        assert!(Ledger::decode(&bytes[1..]).is_err());
    }

    /// The bytes that the code of version 2 was pinned to.
    #[test]
    fn a_ledger_of_version_2_goes_on_with_everything_but_what_low_disk_fired_on() {
        let second = concat!(
            "53505231545249470200b20000000200000000000000010700000000000000070000000000000004000000000000001e",
            "000000000000000106000000000000000107000000000000000108000000000000000109000000000000000102000000",
            "000000000107000000000000000500000000000000320000000000000001010000000000000001070000000000000001",
            "030000000000000002000000000000000101010000000000000002000000000000000002010269640100000000000000",
            "de94a5a8",
        );
        let mut expected = Ledger::new(1, 2);
        begin(&mut expected, 3, &["id"]);
        end(&mut expected, Some(4));
        begin(&mut expected, 5, &[]);
        (expected.live, expected.spread, expected.owed_from, expected.nodes_stored) = (Some(6), Some(7), Some(9), 30);
        assert_eq!(Ledger::decode(&hex::decode(second).unwrap()).unwrap(), expected);
    }

    /// Whoever asked waits again, and nobody is told that a run has begun that did nothing.
    #[test]
    fn requests_whose_run_is_interrupted_wait_for_the_next_one() {
        let mut ledger = Ledger::new(0, 0);
        begin(&mut ledger, 1, &["first"]);
        end(&mut ledger, Some(1));
        begin(&mut ledger, 2, &["second"]);
        ledger.asked = Some(vec!["third".to_owned()]);
        ledger.interrupt().unwrap();
        assert_eq!(ledger.asked, Some(vec!["second".to_owned(), "third".to_owned()]));
        assert_eq!((ledger.served("first"), ledger.served("second")), (Some(1), None));
        begin(&mut ledger, 3, &[]);
        (ledger.asked, ledger.open.as_mut().unwrap().trigger) = (None, Trigger::Orders);
        ledger.interrupt().unwrap();
        assert_eq!(ledger.asked, None, "nobody had asked");
    }

    /// With something in each field.
    fn full() -> Ledger {
        let mut ledger = Ledger::new(1, 2);
        begin(&mut ledger, 3, &["id"]);
        end(&mut ledger, Some(4));
        begin(&mut ledger, 5, &[]);
        ledger.runs[0].figure = Some(Figure::Garbage { nodes: 10, of: 11 });
        ledger.open.as_mut().unwrap().figure = Some(Figure::Free { bytes: 12 });
        ledger.low_disk = Some(Fired { below: 13, at: 8, failed_at: Some(14) });
        (ledger.live, ledger.spread, ledger.owed_from) = (Some(6), Some(7), Some(9));
        (ledger.nodes_stored, ledger.asked) = (30, Some(vec!["more".to_owned()]));
        ledger
    }

    /// The bytes that the code of version 3 was pinned to. No run outlived a rollback then.
    #[test]
    fn a_ledger_of_version_3_goes_on_with_everything() {
        let third = concat!(
            "53505231545249470300e60000000200000000000000010700000000000000070000000000000004000000000000001e",
            "00000000000000010600000000000000010700000000000000010d000000000000000800000000000000010e00000000",
            "0000000109000000000000000101046d6f72650102000000000000000107000000000000000500000000000000320000",
            "000000000001010c00000000000000010100000000000000010700000000000000010300000000000000020000000000",
            "0000010101000000000000000200000000000000000201000a000000000000000b000000000000000102696401000000",
            "000000007bb981d3",
        );
        assert_eq!(Ledger::decode(&hex::decode(third).unwrap()).unwrap(), full());
    }

    #[test]
    fn the_bytes_of_the_ledger_are_pinned() {
        let mut ledger = full();
        ledger.rolled_back(9, Fate::GoesOn);
        ledger.spread = Some(7);
        let bytes = record::encode(&ledger).unwrap();
        assert_eq!(record::decode::<Ledger>("triggers", &bytes).unwrap(), ledger);
        let pinned = concat!(
            "53505231545249470400e70000000200000000000000010700000000000000070000000000000004000000000000001e",
            "00000000000000010600000000000000010700000000000000010d000000000000000800000000000000010e00000000",
            "0000000109000000000000000101046d6f72650102000000000000000107000000000000000500000000000000320000",
            "000000000001010c00000000000000010101000000000000000107000000000000000103000000000000000200000000",
            "000000010101000000000000000200000000000000000201000a000000000000000b0000000000000001026964010000",
            "0000000000d587fedf",
        );
        assert_eq!(hex::encode(bytes), pinned);
    }
}
