//! The bounded queue between clients and block production.
//!
//! Transactions submitted together enter together or not at all, and keep their order. A full queue refuses at once:
//! back-pressure is the client's to bear. Closing it lets what is inside be produced and refuses everything new.

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

/// A transaction on its way into a block.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) id: Hex32,
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
    gate: Gate,
}

/// When a block is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// As soon as so many wait.
    pub(crate) at_size: NonZeroUsize,
    /// Or at this reading of the monotonic clock, with whatever waits.
    pub(crate) at_time: Duration,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Mempool {
    queue: Mutex<Queue>,
    changed: Condvar,
    limit: NonZeroUsize,
}

impl Mempool {
    pub(crate) fn new(limit: NonZeroUsize) -> Self {
        Self { queue: Mutex::new(Queue { waiting: VecDeque::new(), gate: Gate::Open }), changed: Condvar::new(), limit }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.lock().waiting.len()
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.get()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.queue.lock().gate == Gate::Open
    }

    /// Takes all of them in, or none.
    pub(crate) fn push(&self, transactions: Vec<Transaction>, pause: Duration) -> Result<Vec<Ticket>, SubmitError> {
        let limit = self.limit.get();
        if transactions.len() > limit {
            let given = transactions.len();
            return Err(SubmitError::TooMany { given, limit });
        }
        let (waiting, tickets) = prepare(transactions)?;
        let mut queue = self.queue.lock();
        if queue.gate == Gate::Closed {
            return Err(SubmitError::Stopping);
        }
        if queue.waiting.len() + waiting.len() > limit {
            return Err(SubmitError::Full { limit, retry_after: pause });
        }
        queue.waiting.extend(waiting);
        self.changed.notify_all();
        Ok(tickets)
    }

    /// Puts back at the front what did not fit into a block. It was inside before, so the limit does not apply.
    pub(crate) fn put_back(&self, waiting: Vec<Waiting>) {
        let mut queue = self.queue.lock();
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
            if closed || left.is_zero() || queue.waiting.len() >= cut.at_size.get() {
                let count = queue.waiting.len().min(cut.at_size.get());
                return Some(queue.waiting.drain(..count).collect());
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
    }
}

fn prepare(transactions: Vec<Transaction>) -> Result<(Vec<Waiting>, Vec<Ticket>), SubmitError> {
    let mut waiting = Vec::with_capacity(transactions.len());
    let mut tickets = Vec::with_capacity(transactions.len());
    for (index, transaction) in transactions.into_iter().enumerate() {
        transaction.check().map_err(|why| SubmitError::Malformed { index, why })?;
        let id = transaction.id().map_err(|e| SubmitError::Invariant(e.to_string()))?;
        let (reply, receiver) = oneshot::channel();
        waiting.push(Waiting { id, transaction, reply });
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

    fn pool(limit: usize) -> Mempool {
        Mempool::new(NonZeroUsize::new(limit).unwrap())
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
