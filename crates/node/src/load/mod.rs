//! Load: a client process that drives a node with seeded profiles, and checks proofs as it goes.

mod client;
mod profile;
mod stats;

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    chain::{ObjectPath, Transaction},
    http::{WireBlock, WireProof},
};
pub(crate) use client::chain_of;
pub use client::{Client, ClientError, Refusal};
pub use profile::{Belief, Profile, Workload};
pub use stats::{Counts, Latencies, LoadReport, Percentiles};

/// How fast a load sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the answers come.
    Max,
    /// So many transactions per second over all connections.
    PerSecond(NonZeroU32),
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let number = text.parse().map(Self::PerSecond);
        number.map_err(|_| format!("`{text}` is no rate: transactions per second, or `max`"))
    }
}

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadPlan {
    /// What is sent.
    pub profile: Profile,
    /// What the transactions are derived from.
    pub seed: u64,
    /// How fast.
    pub rate: Rate,
    /// Requests under way at once.
    pub connections: NonZeroU32,
    /// Transactions per request.
    pub batch: NonZeroUsize,
}

/// Requests between two proofs that a connection checks.
const PROBE_EVERY: u64 = 16;
/// Pause after an error that is not back-pressure.
const ERROR_PAUSE: Duration = Duration::from_millis(200);
/// Errors in a row after which a connection gives up.
const MAX_ERRORS: u32 = 50;

/// A load under way.
pub struct Load {
    plan: LoadPlan,
    client: Client,
    clock: Arc<dyn Clock>,
    begun: Duration,
    sent: AtomicU64,
    counted: Mutex<(Counts, Latencies)>,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Load {
    /// A load that has sent nothing yet.
    pub fn new(plan: LoadPlan, client: Client, clock: Arc<dyn Clock>) -> Self {
        Self { plan, client, begun: clock.monotonic(), clock, sent: AtomicU64::new(0), counted: Mutex::default() }
    }

    /// What was counted so far.
    pub fn report(&self) -> LoadReport {
        let (counts, latencies) = self.counted.lock().clone();
        LoadReport::of(counts, &latencies, self.clock.monotonic().saturating_sub(self.begun))
    }

    /// Sends until told to stop. What was counted until an error is in [`Load::report`].
    ///
    /// Errors: a node that cannot be reached, also when it went meanwhile, or that refuses everything.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), ClientError> {
        let mut connections = JoinSet::new();
        for number in 0..self.plan.connections.get() {
            let (load, stop) = (Arc::clone(&self), stop.clone());
            connections.spawn(async move { load.connection(number, &stop).await });
        }
        let mut first_error = Ok(());
        while let Some(ended) = connections.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    first_error = first_error.and(Err(error));
                    stop.cancel();
                }
                Err(error) => {
                    let broken = ClientError::Broken(format!("a connection ended early: {error}"));
                    first_error = first_error.and(Err(broken));
                    stop.cancel();
                }
            }
        }
        first_error
    }

    /// One connection until it is told to stop. A node that is away by then, or says nothing, is told: it is none that answered.
    async fn connection(&self, number: u32, stop: &CancellationToken) -> Result<(), ClientError> {
        let mut workload = Workload::new(self.plan.profile, self.plan.seed, number);
        let (mut errors, mut requests, mut gone) = (0, 0_u64, Ok(()));
        while !stop.is_cancelled() {
            let transactions = batch(&mut workload, self.plan.batch)?;
            if self.wait_for_turn(transactions.len(), stop).await.is_none() {
                return gone;
            }
            match self.send(&mut workload, &transactions, stop).await {
                Ok(()) => (errors, gone) = (0, Ok(())),
                Err(error) => {
                    errors += 1;
                    self.counted.lock().0.errors += 1;
                    if errors >= MAX_ERRORS || self.counted.lock().0.transactions() == 0 {
                        return Err(error);
                    }
                    tracing::debug!("{error}");
                    gone = if error.is_silence() { Err(error) } else { Ok(()) };
                    pause(ERROR_PAUSE, stop).await;
                    // What became of the batch is unknown, so nothing that was believed holds.
                    workload = Workload::new(self.plan.profile, self.plan.seed, number);
                }
            }
            requests += 1;
            if requests.is_multiple_of(PROBE_EVERY) && errors == 0 && !stop.is_cancelled() {
                self.probe(&mut workload).await;
            }
        }
        gone
    }

    /// Waits until the rate allows so many more transactions; nothing if told to stop meanwhile.
    async fn wait_for_turn(&self, transactions: usize, stop: &CancellationToken) -> Option<()> {
        let before = self.sent.fetch_add(transactions as u64, Ordering::Relaxed);
        let Rate::PerSecond(rate) = self.plan.rate else {
            return Some(());
        };
        let due = self.begun + Duration::from_secs_f64(before as f64 / f64::from(rate.get()));
        let left = due.saturating_sub(self.clock.monotonic());
        if !left.is_zero() {
            pause(left, stop).await;
        }
        (!stop.is_cancelled()).then_some(())
    }

    /// Sends one batch until it is taken. Back-pressure is waited out.
    async fn send(
        &self,
        workload: &mut Workload,
        transactions: &[Transaction],
        stop: &CancellationToken,
    ) -> Result<(), ClientError> {
        loop {
            let begun = self.clock.monotonic();
            match self.client.submit(transactions).await {
                Ok(submitted) => {
                    let latency = self.clock.monotonic().saturating_sub(begun);
                    let (counts, latencies) = &mut *self.counted.lock();
                    latencies.record(latency);
                    for (transaction, receipt) in transactions.iter().zip(&submitted.receipts) {
                        workload.observe(transaction, receipt.outcome);
                        match receipt.outcome {
                            crate::chain::Outcome::Applied => counts.applied += 1,
                            crate::chain::Outcome::Failed(_) => counts.failed += 1,
                        }
                    }
                    return Ok(());
                }
                Err(ClientError::Busy(time)) => {
                    self.counted.lock().0.busy += 1;
                    pause(time, stop).await;
                    if stop.is_cancelled() {
                        return Ok(());
                    }
                }
                Err(error) if stop.is_cancelled() && !error.is_silence() => {
                    tracing::debug!("while stopping: {error}");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn evidence(&self, path: &ObjectPath) -> Result<Evidence, ClientError> {
        let proof = self.client.prove(path).await?;
        let block = self.client.block(proof.order).await?;
        Ok((proof, block))
    }

    /// Reads one object back and checks its proof with nothing but the root of its block.
    async fn probe(&self, workload: &mut Workload) {
        let Some((path, belief)) = workload.probe() else {
            return;
        };
        let (proof, block) = match self.evidence(&path).await {
            Ok(evidence) => evidence,
            Err(error) => {
                tracing::debug!("{error}");
                self.counted.lock().0.errors += 1; // nothing was compared, so nothing is verified
                return;
            }
        };
        let verdict = if block.block.state_root == proof.root {
            judge(&proof, &path, &belief)
        } else {
            Err("its root is not the block's".to_owned())
        };
        let (counts, _) = &mut *self.counted.lock();
        match verdict {
            Ok(()) => counts.proofs_verified += 1,
            Err(why) => {
                counts.proofs_wrong += 1;
                tracing::error!(%path, order = proof.order, "a proof is wrong: {why}");
            }
        }
    }
}

/// A proof, and the block whose root it must show.
type Evidence = (WireProof, WireBlock);

/// Whether a proof verifies and shows what this connection, the only writer of the object, was told.
fn judge(proof: &WireProof, path: &ObjectPath, belief: &Belief) -> Result<(), String> {
    let shown = proof.verify(path).map_err(|error| error.to_string())?;
    match (belief, shown) {
        (Belief::Absent, None) | (Belief::Present(None), Some(_)) => Ok(()),
        (Belief::Present(Some(value)), Some(object)) if *value == object.value => Ok(()),
        (Belief::Absent, Some(_)) => Err("it shows an object that was deleted".to_owned()),
        (Belief::Present(_), None) => Err("it shows no object where one was acknowledged".to_owned()),
        (Belief::Present(Some(_)), Some(_)) => Err("it shows another value than the one acknowledged".to_owned()),
    }
}

fn batch(workload: &mut Workload, size: NonZeroUsize) -> Result<Vec<Transaction>, ClientError> {
    let none = |error| ClientError::Broken(format!("the workload made a path that is none: {error}"));
    (0..size.get()).map(|_| workload.next_transaction().map_err(none)).collect()
}

async fn pause(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dies when it is asked twice, as code with a bug would.
    #[derive(Debug, Default)]
    struct Broken(AtomicU64);

    impl Clock for Broken {
        fn monotonic(&self) -> Duration {
            assert_eq!(self.0.fetch_add(1, Ordering::Relaxed), 0, "a bug");
            Duration::ZERO
        }

        fn unix_ms(&self) -> u64 {
            0
        }
    }

    #[tokio::test]
    async fn a_connection_that_panicked_fails_the_load() {
        let plan = LoadPlan {
            profile: Profile::Mixed,
            seed: 1,
            rate: Rate::Max,
            connections: NonZeroU32::MIN,
            batch: NonZeroUsize::MIN,
        };
        let client = Client::new("http://127.0.0.1:9").unwrap();
        let load = Arc::new(Load::new(plan, client, Arc::new(Broken::default())));
        let ended = load.run(CancellationToken::new()).await;
        assert!(matches!(ended, Err(ClientError::Broken(_))), "{ended:?}");
    }
}
