//! Checks of snapshots, locks, phases and recovery: each observes, and a pure function judges what was seen.

use std::time::Duration;

use state_store::{ChainView, Head, Permit, View};
use state_tree::Order;

use super::result::ValidationResult;
use crate::{
    error::PruneError,
    health::frozen_since,
    outcome::Freeze,
    phase::{PhaseRecord, PrunePhase},
    recovery::{BreakerState, ErrorRecoveryManager, RecoveryState, RecoveryStatus},
    roots,
    snapshot::{AtomicSnapshot, AtomicSnapshotManager, KeptOrders, LockStanding, NotNow},
};

/// How often something that moves is looked at before it is judged, and how long apart.
pub(super) const LOOKS: usize = 20;
const APART: Duration = Duration::from_millis(5);

/// Most roots that are read one by one.
const LONGEST_READ: u64 = 4096;

const NO_RECOVERY: &str = "deletes are not frozen; only the process that has the store open knows more: ask that one";
pub(super) const NO_STATE: &str = "the store has no committed state yet";
pub(super) const MOVED: &str = "it changed each time it was looked at: whoever works was not waited for";

/// Waits a moment for whoever works; nothing that is checked depends on how long.
pub(super) fn look_again() {
    std::thread::park_timeout(APART);
}

/// Captures twice, as a cycle does.
pub(super) fn creation(snapshots: &AtomicSnapshotManager) -> ValidationResult {
    let twice = snapshots.rehearse().and_then(|first| Ok((first, snapshots.rehearse()?)));
    let (first, second) = match twice {
        Ok(captured) => captured,
        Err(PruneError::NoHead) => return ValidationResult::skipped(NO_STATE),
        Err(error) => return ValidationResult::failed(format!("no snapshot can be taken: {error}")),
    };
    let mut wrong = faults_of(&first);
    wrong.extend(faults_of(&second));
    if second.snapshot.view_sequence < first.snapshot.view_sequence {
        wrong.push("a later snapshot shows an earlier instant".to_owned());
    }
    ValidationResult::unless(wrong, || format!("two captures, the second retains {}", retained(&second)))
}

/// Which orders a snapshot retains.
fn retained(captured: &AtomicSnapshot) -> String {
    let it = &captured.snapshot;
    let below = it.retained.iter().filter(|run| run.first < it.first_order);
    let window = match it.first_order == it.latest_order {
        true => format!("order {}, its head", it.latest_order),
        false => format!("orders {} to {}, its head", it.first_order, it.latest_order),
    };
    match below.map(KeptOrders::orders).sum::<u64>() {
        0 => window,
        below => format!("{window}, and {below} below"),
    }
}

/// What one snapshot says that contradicts itself.
pub(super) fn faults_of(captured: &AtomicSnapshot) -> Vec<String> {
    let (it, mut wrong) = (&captured.snapshot, Vec::new());
    if let Err(error) = captured.verify_integrity() {
        wrong.push(error.to_string());
    }
    match captured.encode().and_then(|bytes| AtomicSnapshot::decode("snapshot", &bytes)) {
        Ok(read) if read == *captured => {}
        Ok(_) => wrong.push("a snapshot is another one when it is read back".to_owned()),
        Err(error) => wrong.push(format!("a snapshot cannot be read back: {error}")),
    }
    if it.first_order > it.latest_order {
        wrong.push(format!("its window begins at order {} above its head {}", it.first_order, it.latest_order));
    }
    if captured.chain_metadata.block_height != it.latest_order {
        wrong.push(format!("its head is {} and its chain's {}", it.latest_order, captured.chain_metadata.block_height));
    }
    if !it.retained.iter().any(|run| (run.first..=run.last).contains(&it.latest_order)) {
        wrong.push(format!("it does not retain its own head {}", it.latest_order));
    }
    wrong
}

/// Compares the snapshot in memory with its record.
pub(super) fn reload(snapshots: &AtomicSnapshotManager) -> ValidationResult {
    if !snapshots.persists() {
        return ValidationResult::skipped("snapshots are not persisted here: none survives a restart");
    }
    let mut last = None;
    for _ in 0..LOOKS {
        let (saved, held) = match snapshots.saved_and_held() {
            Ok(both) => both,
            Err(error) => return ValidationResult::failed(format!("the record of the snapshot: {error}")),
        };
        match (saved, held) {
            (None, None) => return ValidationResult::skipped("no snapshot was taken yet"),
            (Some(saved), Some(held)) if saved == held => return whole(&held),
            both => last = Some(both),
        }
        look_again(); // one is being replaced: its record comes first
    }
    let id = |it: Option<AtomicSnapshot>| it.map_or("none".to_owned(), |it| it.snapshot_id.to_string());
    let (saved, held) = last.map_or((None, None), |both| both);
    if saved.as_ref().zip(held.as_ref()).is_some_and(|(saved, held)| saved.snapshot_id > held.snapshot_id) {
        return ValidationResult::skipped("a snapshot is being taken"); // its record comes before it
    }
    ValidationResult::failed(format!("a restart would find snapshot {} instead of {}", id(saved), id(held)))
}

fn whole(held: &AtomicSnapshot) -> ValidationResult {
    let faults = faults_of(held);
    ValidationResult::unless(faults, || format!("snapshot {} is whole, in memory and on disk", held.snapshot_id))
}

/// Takes the lock if nobody has it, and gives it back.
pub(super) fn locking(snapshots: &AtomicSnapshotManager) -> ValidationResult {
    if let Some(dead) = dead_lock(snapshots) {
        return dead;
    }
    let mut result = probed(snapshots);
    for _ in 1..LOOKS {
        match result {
            ValidationResult::Failed { .. } => look_again(), // a phase may have come and gone meanwhile
            ValidationResult::Passed { .. } | ValidationResult::Skipped { .. } => break,
        }
        result = probed(snapshots);
    }
    result
}

fn probed(snapshots: &AtomicSnapshotManager) -> ValidationResult {
    let probe = match snapshots.probe() {
        Ok(probe) => probe,
        Err(not_now) => return ValidationResult::skipped(not_now.to_string()),
    };
    let permit = probe.permit().clone();
    let second = snapshots.probe().map(|_| ());
    let seen = Probed { second: second.err(), permit: Life::of(&permit), phase: phase_now(snapshots) };
    drop(probe);
    seen.judge(Life::of(&permit))
}

/// A lock whose permit is dead, and stays so.
fn dead_lock(snapshots: &AtomicSnapshotManager) -> Option<ValidationResult> {
    let LockStanding::Dead(phase, generation) = snapshots.lock_standing() else { return None };
    for _ in 0..LOOKS * 10 {
        look_again(); // it may be being released, behind one commit
        if snapshots.lock_standing() != LockStanding::Dead(phase, generation) {
            return None;
        }
    }
    let why = format!("phase {phase} holds the lock and its permit is dead: permits are issued beside this manager");
    Some(ValidationResult::failed(why))
}

fn phase_now(snapshots: &AtomicSnapshotManager) -> Option<PrunePhase> {
    match snapshots.lock_standing() {
        LockStanding::Free => None,
        LockStanding::Held(phase, _) | LockStanding::Dead(phase, _) => Some(phase),
    }
}

/// Whether a permit still allows anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Alive,
    Dead,
}

impl Life {
    fn of(permit: &Permit) -> Self {
        if permit.is_current() { Self::Alive } else { Self::Dead }
    }
}

/// What was seen while the lock was held.
#[derive(Debug, Clone, Copy)]
struct Probed {
    /// Why a second one was not let in; nothing if it was.
    second: Option<NotNow>,
    /// The permit after that.
    permit: Life,
    /// The phase that had taken the lock over by then.
    phase: Option<PrunePhase>,
}

impl Probed {
    fn judge(self, afterwards: Life) -> ValidationResult {
        let mut wrong = Vec::new();
        if afterwards == Life::Alive {
            wrong.push("a permit outlives its lock".to_owned());
        }
        match (self.second, self.permit, self.phase) {
            (None, Life::Alive, _) => wrong.push("two hold the lock at once".to_owned()),
            (_, Life::Dead, Some(phase)) if wrong.is_empty() => {
                return ValidationResult::skipped(format!("phase {phase} took the lock over meanwhile"));
            }
            (_, Life::Dead, None) => wrong.push("a permit died while its lock was held".to_owned()),
            (Some(_), Life::Alive, _) | (_, Life::Dead, Some(_)) => {}
        }
        ValidationResult::unless(wrong, || "one holder at a time, and its permit died with the lock".to_owned())
    }
}

/// Compares what the phase record of a cycle says with the snapshot and with the chain.
pub(super) fn phases(snapshots: &AtomicSnapshotManager) -> ValidationResult {
    let mut last = None;
    for _ in 0..LOOKS {
        last = match phases_once(snapshots) {
            Ok(Some(ValidationResult::Failed { reasons })) => Some(reasons), // it may be marking anew
            Ok(Some(result)) => return result,
            Ok(None) => None,
            Err(error) => Some(vec![format!("the cycle under way: {error}")]),
        };
        look_again();
    }
    last.map_or_else(|| ValidationResult::skipped(MOVED), |reasons| ValidationResult::Failed { reasons })
}

/// Nothing if the cycle moved on meanwhile.
fn phases_once(snapshots: &AtomicSnapshotManager) -> Result<Option<ValidationResult>, PruneError> {
    let parts = snapshots.parts();
    let Some(record) = PhaseRecord::load(&*parts.records)? else {
        return Ok(Some(ValidationResult::skipped("no cycle is under way")));
    };
    let (view, (saved, held)) = (parts.store.view()?, snapshots.saved_and_held()?);
    let (first, last) = (Order::new(record.first_order), Order::new(record.head_order));
    let head = parts.chain.head(&*view)?;
    let roots = match head {
        Some(Head { order, .. }) if order >= last && first <= last => roots_now(&*parts.chain, &*view, (first, last)),
        Some(_) | None => Ok(RootsNow::Gone),
    };
    let again = PhaseRecord::load(&*parts.records)?;
    if again.is_none_or(|again| (again.cycle, again.phase) != (record.cycle, record.phase)) {
        return Ok(None);
    }
    let seen = Cycle { record, saved, held, head: head.map(|head| head.order.get()), roots: roots? };
    Ok(Some(seen.judge()))
}

/// What the chain says of the roots of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RootsNow {
    /// Their digest.
    Digest([u8; 32]),
    /// It would have to read more of them than a check may.
    NotTold,
    /// It does not have them all any more.
    Gone,
}

fn roots_now(chain: &dyn ChainView, view: &dyn View, (first, last): (Order, Order)) -> Result<RootsNow, PruneError> {
    if let Some(digest) = chain.window_digest(view, first, last)? {
        return Ok(RootsNow::Digest(digest));
    }
    if last.get().saturating_sub(first.get()) >= LONGEST_READ {
        return Ok(RootsNow::NotTold);
    }
    roots::digest_between(chain, view, first, last).map(RootsNow::Digest)
}

/// A cycle under way, as its records tell.
#[derive(Debug, Clone)]
struct Cycle {
    record: PhaseRecord,
    saved: Option<AtomicSnapshot>,
    held: Option<AtomicSnapshot>,
    /// The head of the chain.
    head: Option<u64>,
    roots: RootsNow,
}

impl Cycle {
    fn judge(&self) -> ValidationResult {
        let (record, mut wrong) = (&self.record, Vec::new());
        for (place, snapshot) in [("on disk", &self.saved), ("in memory", &self.held)] {
            match snapshot {
                Some(snapshot) => wrong.extend(differences(record, snapshot).map(|what| format!("{what} {place}"))),
                None if place == "in memory" => {}
                None => wrong.push(format!("its snapshot {} is gone {place}", record.snapshot_id)),
            }
        }
        if self.head.is_none_or(|head| head < record.head_order) {
            wrong.push(format!("its snapshot's head {} is above the chain's", record.head_order));
        } else if self.roots != RootsNow::NotTold && self.roots != RootsNow::Digest(record.roots_digest) {
            wrong.push("the chain has other roots than those of its snapshot".to_owned());
        }
        let (sweeps, marked) = (record.phase == PrunePhase::SweepExpired, record.mark_digest.is_some());
        if sweeps != marked {
            wrong.push(format!("phase {} does not fit its mark", record.phase));
        }
        let PhaseRecord { cycle, phase, snapshot_id, .. } = record;
        let works = format!("cycle {cycle} in {phase} works on snapshot {snapshot_id}");
        match self.roots {
            RootsNow::NotTold if wrong.is_empty() => {
                ValidationResult::skipped(format!("{works}, whose window is too long to compare its roots"))
            }
            RootsNow::Digest(_) | RootsNow::Gone | RootsNow::NotTold => {
                ValidationResult::unless(wrong, || format!("{works}, an ancestor of the chain"))
            }
        }
    }
}

fn differences(record: &PhaseRecord, snapshot: &AtomicSnapshot) -> impl Iterator<Item = &'static str> {
    let it = &snapshot.snapshot;
    let same = [
        (record.snapshot_id == snapshot.snapshot_id, "it works on another snapshot than the one"),
        (record.head_order == it.latest_order, "its head is not that of the snapshot"),
        (record.integrity_hash == snapshot.integrity_hash.0, "its snapshot has another integrity hash than the one"),
        (record.first_order == it.first_order, "its window is not that of the snapshot"),
        (record.roots_digest == it.roots_digest.0, "its roots are not those of the snapshot"),
    ];
    same.into_iter().filter_map(|(same, what)| (!same).then_some(what))
}

/// Asks whether deletes are frozen, and the recovery manager whether what failed is over.
pub(super) fn recovery(
    snapshots: &AtomicSnapshotManager,
    manager: Option<&ErrorRecoveryManager>,
    in_force: Option<Freeze>,
) -> ValidationResult {
    let frozen = frozen(in_force, Freeze::load(&*snapshots.parts().records));
    judge_recovery(frozen, manager.map(ErrorRecoveryManager::status).as_ref())
}

/// What is in force is not always on record, and a record that is unusable counts as a freeze.
fn frozen(in_force: Option<Freeze>, on_record: Result<Option<Freeze>, PruneError>) -> Vec<String> {
    let told = |freeze: &Freeze| format!("{}: {}", frozen_since(freeze), freeze.why);
    match (in_force, on_record) {
        (Some(freeze), Ok(None)) => vec![format!("{}; that is not on record", told(&freeze))],
        (Some(freeze), Ok(Some(_))) | (None, Ok(Some(freeze))) => vec![told(&freeze)],
        (None, Ok(None)) => Vec::new(),
        (in_force, Err(error)) => {
            let unread = format!("whether deletes are frozen by the record: {error}");
            in_force.iter().map(told).chain([unread]).collect()
        }
    }
}

fn judge_recovery(mut wrong: Vec<String>, status: Option<&RecoveryStatus>) -> ValidationResult {
    let Some(status) = status else {
        return if wrong.is_empty() {
            ValidationResult::skipped(NO_RECOVERY)
        } else {
            ValidationResult::Failed { reasons: wrong }
        };
    };
    let by = status.exhausted_by.as_deref().map_or("an unknown error", |code| code);
    match status.state {
        RecoveryState::Exhausted => wrong.push(format!("a phase was given up for {by}, and nothing ended well since")),
        RecoveryState::Healthy | RecoveryState::Retrying | RecoveryState::Recovering => {}
    }
    match status.breaker.state {
        BreakerState::Open => wrong.push(format!("the breaker is open after {} failures", status.breaker.failures)),
        BreakerState::Closed | BreakerState::HalfOpen => {}
    }
    ValidationResult::unless(wrong, || match status.state {
        RecoveryState::Healthy => "nothing has failed that is not over".to_owned(),
        RecoveryState::Retrying | RecoveryState::Recovering | RecoveryState::Exhausted => {
            let (healthy, needed) = (status.healthy_cycles, status.min_healthy_cycles);
            format!("something failed: {healthy} of {needed} cycles have finished since, after which it is over")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::BreakerStatus;

    #[test]
    fn two_holders_and_permits_that_outlive_or_die_before_their_lock_are_found() {
        use Life::{Alive, Dead};
        let phase = Some(PrunePhase::BuildReach);
        let rows = [
            (Some(NotNow::Probe), Alive, None, Dead, "passed"),
            (None, Alive, None, Dead, "failed"), // a second one was let in
            (Some(NotNow::Probe), Alive, None, Alive, "failed"), // it outlives its lock
            (Some(NotNow::Probe), Dead, None, Dead, "failed"), // it died, and nobody took it
            (Some(NotNow::Probe), Dead, phase, Dead, "skipped"),
            (None, Dead, phase, Dead, "skipped"), // the second came after a phase had let go again
            (Some(NotNow::Probe), Dead, phase, Alive, "failed"),
        ];
        for (second, permit, phase, afterwards, expected) in rows {
            let seen = Probed { second, permit, phase };
            assert_eq!(seen.judge(afterwards).word(), expected, "{seen:?} {afterwards:?}");
        }
    }

    #[test]
    fn a_cycle_whose_phases_saw_different_snapshots_is_found() {
        let snapshot = crate::snapshot::sample();
        let it = &snapshot.snapshot;
        let record = PhaseRecord {
            cycle: 3,
            phase: PrunePhase::BuildReach,
            snapshot_id: snapshot.snapshot_id,
            head_order: it.latest_order,
            first_order: it.first_order,
            roots_digest: it.roots_digest.0,
            integrity_hash: snapshot.integrity_hash.0,
            mark_digest: None,
            config: [0; 32],
            cursor: None,
            swept_by: None,
            deleted: 0,
        };
        let sound = Cycle {
            roots: RootsNow::Digest(record.roots_digest),
            head: Some(it.latest_order),
            saved: Some(snapshot.clone()),
            held: Some(snapshot),
            record,
        };
        let judged = |change: &dyn Fn(&mut Cycle)| {
            let mut cycle = sound.clone();
            change(&mut cycle);
            cycle.judge().word()
        };
        assert_eq!(judged(&|_| ()), "passed");
        assert_eq!(judged(&|it| it.head = it.head.map(|head| head + 1)), "passed", "the chain went on");
        assert_eq!(judged(&|it| it.held = None), "passed", "a restart has it on disk only");
        assert_eq!(judged(&|it| it.roots = RootsNow::NotTold), "skipped", "it is not known to be an ancestor");
        let broken: [&dyn Fn(&mut Cycle); 11] = [
            &|it| it.record.snapshot_id += 1,
            &|it| it.record.head_order -= 1,
            &|it| it.record.first_order += 1,
            &|it| it.record.roots_digest = [0; 32],
            &|it| it.record.integrity_hash = [0; 32],
            &|it| it.record.phase = PrunePhase::SweepExpired,
            &|it| it.record.mark_digest = Some([1; 32]),
            &|it| it.saved = None,
            &|it| it.head = it.head.map(|head| head - 1),
            &|it| it.head = None,
            &|it| it.roots = RootsNow::Gone,
        ];
        for (index, change) in broken.iter().enumerate() {
            assert_eq!(judged(change), "failed", "change {index}");
        }
    }

    #[test]
    fn a_breaker_that_is_open_and_a_phase_that_was_given_up_are_found() {
        let status = |state, breaker| RecoveryStatus {
            state,
            breaker: BreakerStatus { state: breaker, failures: 3, closes_after: None, probe_in_ms: None },
            healthy_cycles: 1,
            min_healthy_cycles: 3,
            exhausted_by: Some("io".to_owned()),
            retries_total: 0,
            attempts: Vec::new(),
        };
        let rows = [
            (RecoveryState::Healthy, BreakerState::Closed, "passed"),
            (RecoveryState::Retrying, BreakerState::HalfOpen, "passed"),
            (RecoveryState::Recovering, BreakerState::Closed, "passed"),
            (RecoveryState::Exhausted, BreakerState::Closed, "failed"),
            (RecoveryState::Healthy, BreakerState::Open, "failed"),
        ];
        for (state, breaker, expected) in rows {
            let status = status(state, breaker);
            assert_eq!(judge_recovery(Vec::new(), Some(&status)).word(), expected, "{state:?} {breaker:?}");
            assert_eq!(judge_recovery(vec!["frozen".to_owned()], Some(&status)).word(), "failed");
        }
        let told = |state| format!("{:?}", judge_recovery(Vec::new(), Some(&status(state, BreakerState::Closed))));
        assert!(told(RecoveryState::Healthy).contains("nothing has failed that is not over"), "no number of cycles");
        assert!(told(RecoveryState::Recovering).contains("1 of 3 cycles have finished since"));
        assert_eq!(judge_recovery(Vec::new(), None).word(), "skipped");
        assert_eq!(judge_recovery(vec!["frozen".to_owned()], None).word(), "failed");
    }
}
