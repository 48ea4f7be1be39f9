//! `Producer`: the thread that makes blocks. Dropping it closes the mempool, produces what is left and joins.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use super::{
    Chain,
    error::ChainError,
    mempool::Cut,
    produce::{Making, Produced},
};

/// Hears of every block, on the thread that made it; must return quickly.
pub trait BlockObserver: Send + 'static {
    /// A block is committed.
    fn produced(&self, produced: &Produced);

    /// A block could not be made, or a transaction of it not be judged; nobody who waits for it has heard of it yet.
    fn met(&self, error: &ChainError);

    /// A block could not be committed; its transactions were answered with the error.
    fn failed(&self, error: &ChainError);
}

/// The running production.
#[derive(Debug)]
pub struct Producer {
    chain: Arc<Chain>,
    thread: Option<JoinHandle<()>>,
}

/// Tells the chain how the thread ended, also when it panicked.
struct Obituary(Arc<Chain>);

impl Drop for Obituary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison();
            self.0.mempool.abandon();
        }
    }
}

impl Producer {
    /// Starts making blocks.
    ///
    /// Errors: the system gave no thread.
    pub fn start(chain: Arc<Chain>, observer: Box<dyn BlockObserver>) -> io::Result<Self> {
        let worker = Arc::clone(&chain);
        let thread = std::thread::Builder::new().name("block-producer".to_owned()).spawn(move || {
            let obituary = Obituary(worker);
            run(&obituary.0, &*observer);
        })?;
        Ok(Self { chain, thread: Some(thread) })
    }

    /// Refuses new transactions, commits those that wait, and returns when that is done.
    pub fn finish(&mut self) {
        self.chain.mempool.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("block production had panicked");
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.finish();
    }
}

fn run(chain: &Chain, observer: &dyn BlockObserver) {
    let mut opens = Duration::ZERO;
    loop {
        let cut = Cut { at_size: chain.config.max_block_transactions, at_time: opens };
        let Some(batch) = chain.mempool.take(cut, &*chain.clock) else {
            return;
        };
        opens = chain.clock.monotonic() + chain.config.block_interval;
        let attempt = {
            let _block = chain.producing.lock(); // a rollback comes before it or after it
            Making { store: &chain.store, clock: &chain.clock, met: &|error| observer.met(error) }.produce(batch)
        };
        chain.mempool.put_back(attempt.left);
        match attempt.result {
            Ok(produced) => {
                chain.note_success();
                if let Some(produced) = produced {
                    observer.produced(&produced);
                }
            }
            Err(error) => {
                chain.note_failure(&error);
                observer.failed(&error);
            }
        }
    }
}
