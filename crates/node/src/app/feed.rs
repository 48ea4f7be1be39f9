//! What block production tells: metrics and the pruner of each block, and what is wrong with the store it reads. Waits for nobody.

use std::{cell::Cell, sync::Arc};

use metrics::{counter, histogram};
use state_pruner::Pruner;

use crate::{
    chain::{BlockObserver, ChainError, Produced},
    damage::Teller,
};

pub(super) struct Feed {
    pruner: Option<Arc<Pruner>>,
    damage: Teller,
    /// In a row.
    failures: Cell<u64>,
}

impl Feed {
    pub(super) fn new(pruner: Option<Arc<Pruner>>, damage: Teller) -> Self {
        Self { pruner, damage, failures: Cell::new(0) }
    }
}

impl BlockObserver for Feed {
    fn produced(&self, produced: &Produced) {
        self.failures.set(0);
        counter!("state_node_commits_total").increment(1);
        counter!("state_node_transactions_total", "outcome" => "applied").increment(produced.applied);
        counter!("state_node_transactions_total", "outcome" => "failed").increment(produced.failed);
        counter!("state_node_nodes_put_total").increment(produced.committed.nodes);
        counter!("state_node_node_bytes_put_total").increment(produced.committed.bytes);
        histogram!("state_node_execute_seconds").record(produced.execute.as_secs_f64());
        histogram!("state_node_commit_seconds").record(produced.commit.as_secs_f64());
        if let Some(pruner) = &self.pruner {
            pruner.committed_in(produced.committed.order, Some(produced.commit));
        }
    }

    fn met(&self, error: &ChainError) {
        self.damage.met_by_block(error);
    }

    fn failed(&self, error: &ChainError) {
        let failures = self.failures.get() + 1;
        self.failures.set(failures);
        counter!("state_node_failed_blocks_total", "code" => error.code()).increment(1);
        if let Some(pruner) = &self.pruner {
            pruner.commit_failed();
        }
        if failures.is_power_of_two() {
            tracing::error!(code = error.code(), failures, "a block could not be committed: {error}"); // O15
        }
    }
}
