//! The verdict on the whole node: the pruner's, and that on block production. Pure, reads nothing, waits for nothing.

use std::path::Path;

use state_pruner::{
    Consumer, Health, PruneError, ReaderState, ReaderStatus, Reason, Verdict,
    events::{Replay, WriteFailure},
};
use state_store::Disposition;

use crate::chain::{ChainStatus, Production};

/// Judges what is retained, by the consumers that are silent.
pub(crate) fn of_retention(silent: Result<Vec<String>, PruneError>) -> Option<Reason> {
    match silent {
        Ok(silent) if silent.is_empty() => None,
        Ok(silent) => {
            let names = silent.join(", ");
            let message = format!(
                "not heard of for longer than they said, so not waited for, and what they need may go: {names}; start them \
                 again, or `consumer remove` those that are no more"
            );
            Some(reason(Verdict::Degraded, "consumer_silent", message))
        }
        Err(error) => {
            let message = format!("pins and consumers cannot be read, so nothing is let go: {error}");
            Some(reason(Verdict::Degraded, "retention_unreadable", message))
        }
    }
}

/// Judges the consumers that get no further. Records that cannot be read are told beside.
pub(crate) fn of_still(still: Result<Vec<Consumer>, PruneError>) -> Option<Reason> {
    let Ok(still) = still else { return None };
    let still: Vec<String> =
        still.iter().map(|Consumer { name, order, .. }| format!("{name} (order {order})")).collect();
    let message = format!(
        "they speak and get no further for longer than they may be silent, and every order from theirs on is kept for them: {}; mend \
         them, or `consumer remove` those that are not needed",
        still.join(", ")
    );
    (!still.is_empty()).then(|| reason(Verdict::Degraded, "consumer_still", message))
}

/// Judges the journal of events.
pub(crate) fn of_events(failure: Option<WriteFailure>) -> Option<Reason> {
    let WriteFailure { code, message, .. } = failure?;
    let message = format!("what happens is not written down ({code}), pruning goes on: {message}");
    Some(reason(Verdict::Degraded, "events_unwritten", message))
}

/// Judges what the opening of that journal found damaged in it, until somebody has seen to that.
pub(crate) fn of_replay(journal: &Path, damage: Option<Replay>) -> Option<Reason> {
    let damage = damage?;
    let message = format!(
        "when the event journal {} was opened it had {}; what is whole is kept, and events are written. Look at the disk, and at \
         what `state-node journal verify` tells of it now; this is told until `state-node acknowledge events_damaged`, or a start that finds none",
        journal.display(),
        damage.lack_told()
    );
    Some(reason(Verdict::Degraded, "events_damaged", message))
}

/// Judges what reads for clients and blocks have met: the first fault, and how often one was met.
pub(crate) fn of_damage(met: Option<(String, u64)>) -> Option<Reason> {
    let (first, times) = met?;
    let message = format!(
        "reads for clients and blocks met damage, {times} so far, the first: {first}. Restore a snapshot or the data of a \
         peer; how far the damage goes is told by docs/operations.md, \"How far damage goes\"; this is told until the node restarts"
    );
    Some(reason(Verdict::Critical, "store_damaged", message))
}

/// Judges the readers.
pub(crate) fn of_readers(readers: &[ReaderStatus]) -> Option<Reason> {
    let old = readers.iter().filter(|reader| reader.state == ReaderState::TooOld);
    let old: Vec<String> = old.map(ReaderStatus::to_string).collect();
    let message = format!("readers keep what nobody else does, for longer than max_reader_age: {}", old.join("; "));
    (!old.is_empty()).then(|| reason(Verdict::Degraded, "old_reader", message))
}

/// Judges the node, beside what its pruner and its pins came to.
pub(crate) fn assess(chain: &ChainStatus, pruner: Health, further: impl IntoIterator<Item = Option<Reason>>) -> Health {
    let mut reasons = pruner.reasons;
    reasons.extend(further.into_iter().flatten());
    if chain.production == Production::Dead {
        let message =
            "block production panicked, which is a bug of ours; reads are served, restart to take transactions";
        reasons.push(reason(Verdict::Critical, "production_ended", message.to_owned()));
    }
    if let Some(failure) = &chain.failure {
        let verdict = match failure.refusal.disposition {
            Disposition::Corrupt | Disposition::Bug => Verdict::Critical,
            Disposition::Transient | Disposition::Resource | Disposition::Input => Verdict::Degraded,
        };
        let (times, what) = (failure.times, &failure.refusal.message);
        let message = format!("the last {times} blocks could not be committed: {what}");
        reasons.push(reason(verdict, "commits_failing", message));
    }
    if chain.is_mempool_full() {
        let (count, bytes) = (chain.mempool, chain.mempool_bytes);
        let message = format!(
            "{count} transactions of {bytes} bytes wait, more are refused: clients send faster than blocks take"
        );
        reasons.push(reason(Verdict::Degraded, "mempool_full", message));
    }
    let worst = reasons.iter().map(|reason| reason.verdict).max();
    Health { verdict: worst.map_or(Verdict::Healthy, |worst| worst), reasons }
}

fn reason(verdict: Verdict, code: &str, message: String) -> Reason {
    Reason { verdict, code: code.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use state_pruner::events::DamagedPlace;
    use state_store::{HeadRecord, RootRecord};
    use state_tree::Order;

    use super::*;
    use crate::chain::{Failure, Refusal};

    fn status() -> ChainStatus {
        ChainStatus {
            head: HeadRecord {
                order: 0,
                at: RootRecord { root: [0; 32], timestamp_ms: 0, block_hash: [0; 32], trail: [0; 32] },
                commits: 1,
                nodes_put: 0,
                bytes_put: 0,
            },
            floor: Order::GENESIS,
            mempool: 0,
            mempool_limit: 10,
            mempool_bytes: 0,
            mempool_bytes_limit: 1 << 20,
            production: Production::Accepting,
            failure: None,
        }
    }

    fn failing(disposition: Disposition) -> ChainStatus {
        let refusal = Refusal { code: "x", message: "why".to_owned(), disposition };
        ChainStatus { failure: Some(Failure { refusal, times: 2 }), ..status() }
    }

    #[test]
    fn the_verdict_is_the_worst_of_production_and_pruner() {
        let pruner = |verdict, code: &str| {
            let reasons = vec![reason(verdict, code, "why".to_owned())];
            Health { verdict, reasons }
        };
        let full = ChainStatus { mempool: 10, ..status() };
        let heavy = ChainStatus { mempool_bytes: 1 << 20, ..status() };
        let dead = ChainStatus { production: Production::Dead, ..status() };
        let none = || Health { verdict: Verdict::Healthy, reasons: Vec::new() };
        let rows: [(ChainStatus, Health, Verdict, &[&str]); 7] = [
            (status(), none(), Verdict::Healthy, &[]),
            (heavy, none(), Verdict::Degraded, &["mempool_full"]),
            (full.clone(), none(), Verdict::Degraded, &["mempool_full"]),
            (full, pruner(Verdict::Critical, "frozen"), Verdict::Critical, &["frozen", "mempool_full"]),
            (dead, none(), Verdict::Critical, &["production_ended"]),
            (failing(Disposition::Resource), none(), Verdict::Degraded, &["commits_failing"]),
            (failing(Disposition::Corrupt), none(), Verdict::Critical, &["commits_failing"]),
        ];
        for (chain, pruner, verdict, codes) in rows {
            let health = assess(&chain, pruner, []);
            let found: Vec<&str> = health.reasons.iter().map(|reason| reason.code.as_str()).collect();
            assert_eq!((health.verdict, found.as_slice()), (verdict, codes), "{chain:?}");
        }
    }

    #[test]
    fn a_silent_consumer_and_unreadable_pins_degrade_a_node() {
        let judged = |silent| {
            let pruner = Health { verdict: Verdict::Healthy, reasons: Vec::new() };
            let health = assess(&status(), pruner, [of_retention(silent)]);
            (health.verdict, health.reasons.first().map(|reason| reason.code.clone()))
        };
        let degraded = |code: &str| (Verdict::Degraded, Some(code.to_owned()));
        assert_eq!(judged(Ok(Vec::new())), (Verdict::Healthy, None));
        assert_eq!(judged(Ok(vec!["indexer".to_owned()])), degraded("consumer_silent"));
        assert_eq!(judged(Err(PruneError::NoHead)), degraded("retention_unreadable"));
    }

    #[test]
    fn a_consumer_that_stands_still_degrades_a_node_and_is_named() {
        let consumer = Consumer { name: "indexer".to_owned(), order: 7, heard_ms: 1, ttl_ms: 1 };
        let told = of_still(Ok(vec![consumer])).unwrap();
        assert_eq!((told.verdict, told.code.as_str()), (Verdict::Degraded, "consumer_still"));
        assert!(told.message.contains("indexer (order 7)"), "{}", told.message);
        assert!(of_still(Ok(Vec::new())).is_none() && of_still(Err(PruneError::NoHead)).is_none());
    }

    #[test]
    fn events_that_cannot_be_written_degrade_a_node() {
        let failure = WriteFailure { code: "disk_full".to_owned(), message: "full".to_owned(), times: 3 };
        let pruner = Health { verdict: Verdict::Healthy, reasons: Vec::new() };
        let health = assess(&status(), pruner, [of_events(Some(failure))]);
        assert_eq!(health.verdict, Verdict::Degraded);
        assert_eq!(health.reasons.first().map(|reason| reason.code.as_str()), Some("events_unwritten"));
        assert!(of_events(None).is_none());
    }

    #[test]
    fn a_journal_that_was_opened_with_damage_degrades_a_node_and_says_where() {
        let place = DamagedPlace { from: 4096, length: 63, after: Some(7), before: Some(9) };
        let damage = Replay { damaged: 1, missing: 1, places: vec![place], ..Replay::default() };
        let told = of_replay(Path::new("/data/journal.events"), Some(damage)).unwrap();
        assert_eq!((told.verdict, told.code.as_str()), (Verdict::Degraded, "events_damaged"));
        for part in
            ["/data/journal.events", "63 bytes at byte 4096", "event 8 is missing", "acknowledge events_damaged"]
        {
            assert!(told.message.contains(part), "{part}: {}", told.message);
        }
        assert!(of_replay(Path::new("journal"), None).is_none());
    }
}
