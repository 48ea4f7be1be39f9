//! Decoding every record that the pruner keeps, by the code that uses it.

use state_store::record::{self, Record};

use crate::{
    cycle,
    doubt::Doubt,
    error::PruneError,
    log_cut::Lost,
    outcome::{Freeze, Outcome, RestFloor},
    phase::{self, PhaseRecord},
    quarantine::Quarantine,
    records::RecordKey,
    recovery,
    retention::{Holds, RetentionLog},
    snapshot::{AtomicSnapshot, SnapshotFailures, check_lock},
    trigger::Ledger,
    validate::Validated,
    worker::SwitchedOff,
};

/// Whether the bytes of a record are what was written.
///
/// Errors: what is wrong with them.
pub fn check_record(key: RecordKey, bytes: &[u8]) -> Result<(), PruneError> {
    let name = key.name();
    match key {
        RecordKey::Phase => PhaseRecord::decode(name, bytes).map(|_| ()),
        RecordKey::LastCycle => phase::check_last_cycle(bytes),
        RecordKey::Freeze => is::<Freeze>(name, bytes),
        RecordKey::Doubt => is::<Doubt>(name, bytes),
        RecordKey::Quarantine => is::<Quarantine>(name, bytes),
        RecordKey::LogCut => is::<Lost>(name, bytes),
        RecordKey::LastOutcome => is::<Outcome>(name, bytes),
        RecordKey::Reports => cycle::check_reports(bytes),
        RecordKey::Snapshot => AtomicSnapshot::decode(name, bytes).map(|_| ()),
        RecordKey::Floor => is::<RestFloor>(name, bytes),
        RecordKey::Holds => is::<Holds>(name, bytes),
        RecordKey::RetentionLog => RetentionLog::decode(name, bytes).map(|_| ()),
        RecordKey::Triggers => Ledger::decode(bytes).map(|_| ()),
        RecordKey::Validation => Validated::decode(name, bytes).map(|_| ()),
        RecordKey::Recovery => recovery::check_saved(bytes),
        RecordKey::Lock => check_lock(bytes),
        RecordKey::Switch => is::<SwitchedOff>(name, bytes),
        RecordKey::SnapshotFailures => is::<SnapshotFailures>(name, bytes),
    }
}

fn is<R: Record>(name: &str, bytes: &[u8]) -> Result<(), PruneError> {
    Ok(record::decode::<R>(name, bytes).map(|_| ())?)
}

#[cfg(test)]
mod tests {
    use state_tree::Order;

    use super::*;
    use crate::{
        outcome::Ended,
        phase::PrunePhase,
        quarantine::SetAside,
        validate::{Depth, Finding},
    };

    fn bytes(key: RecordKey) -> Option<Vec<u8>> {
        let phase = PhaseRecord {
            cycle: 1,
            phase: PrunePhase::SweepExpired,
            snapshot_id: 2,
            head_order: 3,
            first_order: 4,
            roots_digest: [5; 32],
            integrity_hash: [6; 32],
            mark_digest: Some([7; 32]),
            config: [8; 32],
            cursor: Some(vec![9]),
            swept_by: None,
            deleted: 10,
        };
        let ended = Ended::Failed { code: "io".to_owned(), message: "why".to_owned() };
        let bytes = match key {
            RecordKey::Phase => record::encode(&phase),
            RecordKey::Doubt => record::encode(&Doubt { cycle: 1, of_hash: true, why: "why".to_owned() }),
            RecordKey::Quarantine => {
                let items = vec![SetAside::of_journal(Some(Order::new(1)), 2), SetAside::of_journal(None, 3)];
                record::encode(&Quarantine { cycle: 4, total: 5, items, lost: Some("why".to_owned()) })
            }
            RecordKey::LogCut => {
                let (what, kept) = ("why".to_owned(), Some("there".to_owned()));
                record::encode(&Lost { at: 1, head: Some(2), what, kept, times: 3 })
            }
            RecordKey::Freeze => record::encode(&Freeze { cycle: 1, at: 2, why: "why".to_owned() }),
            RecordKey::LastOutcome => record::encode(&Outcome { cycle: Some(1), at: 2, head_order: None, ended }),
            RecordKey::Floor => record::encode(&RestFloor { order: 1 }),
            RecordKey::Holds => record::encode(&Holds::default()),
            RecordKey::RetentionLog => record::encode(&RetentionLog::default()),
            RecordKey::Triggers => record::encode(&Ledger::new(1, 2)),
            RecordKey::Validation => {
                let found =
                    |needs| vec![Finding { at: 1, check: "integrity".to_owned(), needs, what: "it".to_owned() }];
                let (failed, open) = (found(Depth::Newest), found(Depth::All));
                record::encode(&Validated { at: 1, passed: 2, skipped: 3, failed, open })
            }
            RecordKey::Switch => record::encode(&SwitchedOff { at: 1 }),
            RecordKey::SnapshotFailures => record::encode(&SnapshotFailures { in_a_row: 4 }),
            RecordKey::Snapshot => return Some(crate::snapshot::sample().encode().unwrap()),
            RecordKey::Recovery => return Some(recovery::sample()),
            // Their types are private to those who write them; tests of whole cycles flip the bits of theirs.
            RecordKey::LastCycle | RecordKey::Reports | RecordKey::Lock => return None,
        };
        Some(bytes.unwrap())
    }

    #[test]
    fn every_single_flipped_bit_of_each_record_is_found() {
        for key in RecordKey::ALL {
            let Some(bytes) = bytes(key) else { continue };
            check_record(key, &bytes).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(check_record(key, &flipped).is_err(), "{key:?}, bit {bit}");
            }
        }
    }
}
