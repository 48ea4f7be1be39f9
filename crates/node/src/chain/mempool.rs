//! The bounded queue between clients and block production.
//!
//! Transactions submitted together enter together or not at all, and keep their order. A full queue refuses at once:
//! back-pressure is the client's to bear. Closing it lets what is inside be produced and refuses everything new.
//!
//! Bounds: the queue and each block are bounded by count and by the bytes of the canonical encodings.

use std::{collections::VecDeque, num::NonZeroUsize, time::Duration};

use parking_lot::{Condvar, Mutex};
use state_pruner::Clock;
use state_tree::Order;
use tokio::sync::oneshot;

use super::{
    bytes::Hex32,
    error::{Refusal, SubmitError},
    transaction::{Receipt, Transaction},
};

/// A transaction in a committed block. Whoever holds one may rely on it under the configured durability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Included {
    /// Order of the block.
    pub order: Order,
    /// What the transaction did.
    pub receipt: Receipt,
}

/// What became of one submitted transaction. A closed channel means that the outcome is unknown.
pub type Reply = Result<Included, Refusal>;

/// The claim of whoever submitted a transaction.
#[derive(Debug)]
pub struct Ticket {
    /// The id of the transaction.
    pub id: Hex32,
    /// Resolves after the commit of its block.
    pub reply: oneshot::Receiver<Reply>,
}

/// Most bytes of the transactions of one block. The longest transaction has fewer, and a block adds less than its
/// transactions weigh, so no block outgrows what a record can hold.
pub(crate) const MAX_BLOCK_BYTES: usize = 32 << 20;

/// A transaction on its way into a block.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) id: Hex32,
    /// Length of its encoding.
    pub(crate) bytes: usize,
    pub(crate) transaction: Transaction,
    pub(crate) reply: oneshot::Sender<Reply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Closed,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Of everything that waits.
    bytes: usize,
    gate: Gate,
}

impl Queue {
    /// How many of those in front make one block, and whether more would not fit into it.
    fn block(&self, most: usize) -> (usize, bool) {
        let (mut count, mut bytes) = (0, 0);
        for next in &self.waiting {
            bytes += next.bytes;
            if count == most || bytes > MAX_BLOCK_BYTES {
                return (count.max(1), true);
            }
            count += 1;
        }
        (count, count == most)
    }

    fn take(&mut self, count: usize) -> Vec<Waiting> {
        let taken: Vec<Waiting> = self.waiting.drain(..count).collect();
        self.bytes -= weight(&taken);
        taken
    }
}

fn weight(waiting: &[Waiting]) -> usize {
    waiting.iter().map(|one| one.bytes).sum()
}

/// The most that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) transactions: NonZeroUsize,
    pub(crate) bytes: usize,
}

impl Limit {
    fn holds(self, transactions: usize, bytes: usize) -> bool {
        transactions <= self.transactions.get() && bytes <= self.bytes
    }
}

/// When a block is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// As soon as so many wait, or [`MAX_BLOCK_BYTES`].
    pub(crate) at_size: NonZeroUsize,
    /// Or at this reading of the monotonic clock, with whatever waits.
    pub(crate) at_time: Duration,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Mempool {
    queue: Mutex<Queue>,
    changed: Condvar,
    limit: Limit,
}

impl Mempool {
    pub(crate) fn new(limit: Limit) -> Self {
        let queue = Queue { waiting: VecDeque::new(), bytes: 0, gate: Gate::Open };
        Self { queue: Mutex::new(queue), changed: Condvar::new(), limit }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.lock().waiting.len()
    }

    /// Bytes of what waits.
    pub(crate) fn bytes(&self) -> usize {
        self.queue.lock().bytes
    }

    pub(crate) fn limit(&self) -> Limit {
        self.limit
    }

    pub(crate) fn is_open(&self) -> bool {
        self.queue.lock().gate == Gate::Open
    }

    /// Takes all of them in, or none.
    pub(crate) fn push(&self, transactions: Vec<Transaction>, pause: Duration) -> Result<Vec<Ticket>, SubmitError> {
        let limit = self.limit.transactions.get();
        let given = transactions.len();
        if given > limit {
            return Err(SubmitError::TooMany { given, limit });
        }
        let (waiting, tickets) = prepare(transactions)?;
        let bytes = weight(&waiting);
        if bytes > self.limit.bytes {
            return Err(SubmitError::TooLarge { given: bytes, limit: self.limit.bytes });
        }
        let mut queue = self.queue.lock();
        if queue.gate == Gate::Closed {
            return Err(SubmitError::Stopping);
        }
        if !self.limit.holds(queue.waiting.len() + given, queue.bytes + bytes) {
            return Err(SubmitError::Full { limit, limit_bytes: self.limit.bytes, retry_after: pause });
        }
        queue.waiting.extend(waiting);
        queue.bytes += bytes;
        self.changed.notify_all();
        Ok(tickets)
    }

    /// Puts back at the front what did not fit into a block. It was inside before, so the limit does not apply.
    pub(crate) fn put_back(&self, waiting: Vec<Waiting>) {
        let mut queue = self.queue.lock();
        queue.bytes += weight(&waiting);
        for one in waiting.into_iter().rev() {
            queue.waiting.push_front(one);
        }
    }

    /// The next transactions for a block, or nothing once the queue is closed and empty. Waits until the cut.
    pub(crate) fn take(&self, cut: Cut, clock: &dyn Clock) -> Option<Vec<Waiting>> {
        let mut queue = self.queue.lock();
        loop {
            let closed = queue.gate == Gate::Closed;
            if queue.waiting.is_empty() {
                if closed {
                    return None;
                }
                self.changed.wait(&mut queue);
                continue;
            }
            let left = cut.at_time.saturating_sub(clock.monotonic());
            let (count, full) = queue.block(cut.at_size.get());
            if closed || left.is_zero() || full {
                return Some(queue.take(count));
            }
            self.changed.wait_for(&mut queue, left);
        }
    }

    /// Refuses everything new from here on.
    pub(crate) fn close(&self) {
        self.queue.lock().gate = Gate::Closed;
        self.changed.notify_all();
    }

    /// Drops what waits: its tickets report an unknown outcome. Only for a production that has died.
    pub(crate) fn abandon(&self) {
        let mut queue = self.queue.lock();
        queue.gate = Gate::Closed;
        queue.waiting.clear();
        queue.bytes = 0;
    }
}

fn prepare(transactions: Vec<Transaction>) -> Result<(Vec<Waiting>, Vec<Ticket>), SubmitError> {
    let mut waiting = Vec::with_capacity(transactions.len());
    let mut tickets = Vec::with_capacity(transactions.len());
    for (index, transaction) in transactions.into_iter().enumerate() {
        transaction.check().map_err(|why| SubmitError::Malformed { index, why })?;
        let (id, bytes) = transaction.identify().map_err(|e| SubmitError::Invariant(e.to_string()))?;
        let (reply, receiver) = oneshot::channel();
        waiting.push(Waiting { id, bytes, transaction, reply });
        tickets.push(Ticket { id, reply: receiver });
    }
    Ok((waiting, tickets))
}

#[cfg(test)]
mod tests {
    use state_pruner::SystemClock;

    use super::*;
    use crate::chain::{HexBytes, ObjectPath};

    fn set(name: u8) -> Transaction {
        Transaction::SetValue { id: ObjectPath::top([name; 32]), value: HexBytes(vec![]) }
    }

    fn long(name: u8) -> Transaction {
        let value = HexBytes(vec![name; crate::chain::MAX_VALUE]);
        Transaction::SetValue { id: ObjectPath::top([name; 32]), value }
    }

    fn pool(limit: usize) -> Mempool {
        pool_of(limit, 1 << 30)
    }

    fn pool_of(transactions: usize, bytes: usize) -> Mempool {
        Mempool::new(Limit { transactions: NonZeroUsize::new(transactions).unwrap(), bytes })
    }

    fn cut(size: usize, millis: u64) -> Cut {
        Cut { at_size: NonZeroUsize::new(size).unwrap(), at_time: Duration::from_millis(millis) }
    }

    #[test]
    fn a_full_mempool_takes_all_of_a_submission_or_none() {
        let pool = pool(3);
        pool.push(vec![set(1), set(2)], Duration::ZERO).unwrap();
        let full = pool.push(vec![set(3), set(4)], Duration::from_secs(1)).unwrap_err();
        assert!(matches!(full, SubmitError::Full { limit: 3, .. }));
        assert_eq!(pool.len(), 2);
        pool.push(vec![set(3)], Duration::ZERO).unwrap();
        let many = pool.push(vec![set(1); 4], Duration::ZERO).unwrap_err();
        assert!(matches!(many, SubmitError::TooMany { given: 4, limit: 3 }));
    }

    #[test]
    fn the_bytes_that_wait_are_bounded_and_are_free_again_once_taken() {
        let one = bcs::to_bytes(&long(1)).unwrap().len();
        let pool = pool_of(1000, 3 * one);
        pool.push(vec![long(1), long(2)], Duration::ZERO).unwrap();
        let full = pool.push(vec![long(3), long(4)], Duration::ZERO).unwrap_err();
        assert!(matches!(full, SubmitError::Full { .. }), "{full:?}");
        let large = pool.push(vec![long(1); 4], Duration::ZERO).unwrap_err();
        assert!(matches!(large, SubmitError::TooLarge { .. }), "{large:?}");
        pool.push(vec![long(3)], Duration::ZERO).unwrap();
        assert_eq!(pool.bytes(), 3 * one);
        let taken = pool.take(cut(2, 0), &SystemClock::new()).unwrap();
        assert_eq!(pool.bytes(), one);
        pool.put_back(taken);
        assert_eq!(pool.bytes(), 3 * one);
    }

    #[test]
    fn a_block_is_cut_by_bytes_before_its_time() {
        let pool = pool(10_000);
        let most = MAX_BLOCK_BYTES / bcs::to_bytes(&long(1)).unwrap().len();
        pool.push(vec![long(1); most + 1], Duration::ZERO).unwrap();
        let taken = pool.take(cut(10_000, 3_600_000), &SystemClock::new()).unwrap();
        assert_eq!(taken.len(), most);
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn a_block_is_cut_by_size_before_its_time_and_keeps_the_order() {
        let pool = pool(8);
        pool.push(vec![set(1), set(2), set(3)], Duration::ZERO).unwrap();
        let hour = 3_600_000;
        let taken = pool.take(cut(2, hour), &SystemClock::new()).unwrap();
        assert_eq!(taken.iter().map(|w| &w.transaction).collect::<Vec<_>>(), [&set(1), &set(2)]);
        pool.put_back(taken);
        let again = pool.take(cut(3, hour), &SystemClock::new()).unwrap();
        assert_eq!(again.len(), 3);
        assert_eq!(again[0].transaction, set(1));
    }

    #[test]
    fn a_closed_mempool_hands_out_what_it_holds_and_refuses_the_rest() {
        let pool = pool(8);
        pool.push(vec![set(1)], Duration::ZERO).unwrap();
        pool.close();
        assert_eq!(pool.push(vec![set(2)], Duration::ZERO).unwrap_err(), SubmitError::Stopping);
        assert_eq!(pool.take(cut(5, 3_600_000), &SystemClock::new()).unwrap().len(), 1);
        assert!(pool.take(cut(5, 0), &SystemClock::new()).is_none());
    }
}
