//! Health as a pure function of what is known: it says what is wrong and what to do, and it recovers with its cause.

mod age;
mod behind;
mod config;
mod counts;
mod engine;
mod heard;
mod meter;
mod recorded;
mod room;
mod unpruned;

use serde::{Deserialize, Serialize};
use state_store::Holder;

use crate::{
    control::Pause,
    doubt::Doubted,
    error::{Counted, FROZEN_ADVICE, iec},
    incremental::LagGrowth,
    outcome::{Ended, Freeze, Outcome},
    phase::PrunePhase,
    quarantine::Quarantine,
    recovery::{BreakerState, Came, RecoveryState, RecoveryStatus},
    snapshot::{SnapshotLock, SnapshotPath},
    trigger::DiskStatus,
    when::Span,
    worker::{IncrementalStatus, SwitchedOff},
};
pub use age::{CycleAge, OldestPin, RecordedLock, Since};
pub use config::HealthConfig;
pub(crate) use engine::of_damage;
pub use heard::ByHeartbeat;
pub(crate) use meter::{Measured, Meter};
pub use recorded::UnreadableRecord;
pub(crate) use recorded::{Recorded, Unread};
pub use room::{NoReserve, Room};
pub use unpruned::{Commands, Unpruned};

/// The overall state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing to do.
    Healthy,
    /// Works, and somebody should look.
    Degraded,
    /// Deletes have stopped until somebody acts; the node serves.
    Critical,
}

/// One thing that is wrong, or worth telling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// How bad it is.
    pub verdict: Verdict,
    /// A stable word for scripts, and the heading in docs/operations.md.
    pub code: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// The verdict with its reasons. A healthy one has none, or tells what goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The worst of the reasons.
    pub verdict: Verdict,
    /// Everything that is wrong, or worth telling.
    pub reasons: Vec<Reason>,
}

/// A cycle that has begun and has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The cycle.
    pub cycle: u64,
    /// How far it is.
    pub phase: PrunePhase,
}

impl std::fmt::Display for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cycle {} ({})", self.cycle, self.phase)
    }
}

/// What has not ended, as seen from outside, and who can end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfinished {
    /// A process works on the store; a prune at rest has no cycle at its beginning.
    Running {
        /// What it has begun.
        begun: Option<Begun>,
        /// The process.
        by: Holder,
    },
    /// The node whose store it is runs; whether its pruner works only the node can tell.
    HeldByNode {
        /// What was begun.
        begun: Begun,
        /// The node.
        by: Holder,
    },
    /// Nobody works on it: the prune was interrupted.
    AtRest {
        /// What it had begun, unless a refused run gave that up since.
        begun: Option<Begun>,
    },
    /// The node whose store it is does not run.
    WithItsNode {
        /// What was begun.
        begun: Begun,
    },
}

/// What health is judged by.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The freeze in force.
    pub freeze: Option<Freeze>,
    /// How the last cycle ended.
    pub last: Option<Outcome>,
    /// What has not ended, where the one who asks is not the one who works.
    pub unfinished: Option<Unfinished>,
    /// Why the worker is gone, if it is.
    pub poisoned: Option<String>,
    /// Orders committed since a cycle was due to be behind, and the number after which the next one is due.
    pub lag: Option<(u64, u64)>,
    /// Orders that no cycle has counted, where nobody says after how many one is due.
    pub uncounted: Option<u64>,
    /// Failures the engine met in the background, where somebody has it open.
    pub background_errors: Option<u64>,
    /// Damage that the engine met in the background, after which it takes no write.
    pub engine_damage: Option<String>,
    /// The write that failed, after which the engine takes none.
    pub engine_stopped: Option<String>,
    /// Blocks that went with a damaged write-ahead log, or will with the next start, in words.
    pub log_cut: Option<String>,
    /// Free space, where the low-disk trigger looks at it.
    pub disk: Option<DiskStatus>,
    /// The sweep between cycles, where there is one.
    pub incremental: Option<IncrementalStatus>,
    /// What that sweep has set aside, until a cycle has settled it.
    pub quarantine: Option<Quarantine>,
    /// What was found in a store at rest, until a prune has settled it.
    pub doubt: Option<Doubted>,
    /// Whether commits make it do more than it can, and have for long.
    pub too_much: bool,
    /// What waits for that sweep and has grown for ten minutes, if so.
    pub lag_growth: Option<LagGrowth>,
    /// Nodes that its index had no place for, where they become more.
    pub without_place: Option<u64>,
    /// Since when an operator has switched pruning off, if one has.
    pub off: Option<SwitchedOff>,
    /// What has failed, and what comes of it.
    pub recovery: Option<RecoveryStatus>,
    /// The lock on the snapshot, while a phase holds it.
    pub lock: Option<SnapshotLock>,
    /// Whether its cycle was told to hold, where one runs.
    pub pause: Option<Pause>,
    /// Snapshots in a row that could not be taken.
    pub snapshot_failures: u32,
    /// How snapshots are treated.
    pub snapshot_path: SnapshotPath,
    /// The reserve, while it has not its room.
    pub reserve: Option<NoReserve>,
    /// The lock as it is written down, where the one who asks is not the one who works.
    pub lock_record: Option<RecordedLock>,
    /// How long ago a cycle finished, as far as anything is remembered.
    pub cycle_age: Option<CycleAge>,
    /// The oldest named pin.
    pub oldest_pin: Option<OldestPin>,
    /// Free space beside what the next cycle needs, where both were measured.
    pub room: Option<Room>,
    /// What the last validation came to.
    pub validation: Option<crate::validate::Validated>,
    /// What could not be measured, and why.
    pub unmeasured: Vec<String>,
    /// Records that cannot be used, where nobody has what they told in memory.
    pub unreadable: Vec<UnreadableRecord>,
    /// What its node does with the commands that are advised.
    pub commands: Commands,
    /// By which heartbeat all of this is known, where nobody looked at the store.
    pub by_heartbeat: Option<ByHeartbeat>,
}

impl Facts {
    /// Whether what failed can be tried again by itself.
    fn goes_on(&self) -> bool {
        self.freeze.is_none() && self.poisoned.is_none()
    }
}

/// Snapshots in a row that may fail before somebody should look.
const FEW_SNAPSHOT_FAILURES: u32 = 3;

/// Outcomes that are no faults of the store or the pruner: somebody ended the cycle, or asked for too much.
const NO_FAULTS: [&str; 2] = ["cancelled", "pruned_before"];

/// Judges the facts.
pub fn assess(facts: &Facts, config: &HealthConfig) -> Health {
    let reasons: Vec<Reason> = [
        frozen(facts),
        worker_gone(facts),
        last_failed(facts),
        unfinished(facts),
        lagging(facts, config),
        age::cycle_overdue(facts, config),
        engine::damaged(facts),
        engine::stopped(facts),
        engine::log_cut(facts),
        engine::errors(facts),
        room::low_disk(facts),
        room::reserve_released(facts),
        room::cycle_room(facts),
        room::validation_failed(facts),
        age::pin_old(facts, config),
        incremental_failed(facts),
        behind::incremental_behind(facts),
        behind::incremental_lagging(facts),
        behind::index_full(facts),
        behind::incremental_waits(facts),
        counts::counts_lost(facts),
        counts::poison_items(facts),
        counts::unproven(facts),
        unpruned::switched_off(facts),
        breaker_open(facts),
        recovery_exhausted(facts),
        awaiting_room(facts),
        recovering(facts),
        snapshots_failing(facts),
        age::lock_held_long(facts, config),
        age::lock_recorded(facts, config),
        paused(facts),
        basic_snapshots(facts),
        age::lag_unknown(facts, config),
        meter::unmeasured(facts),
        unpruned::unpruned(facts),
        heard::by_heartbeat(facts),
    ]
    .into_iter()
    .flatten()
    .chain(recorded::unreadable(facts))
    .collect();
    let verdict = reasons.iter().map(|reason| reason.verdict).max().map_or(Verdict::Healthy, |worst| worst);
    Health { verdict, reasons }
}

fn reason(verdict: Verdict, code: &str, message: String) -> Reason {
    Reason { verdict, code: code.to_owned(), message }
}

fn frozen(facts: &Facts) -> Option<Reason> {
    let freeze = facts.freeze.as_ref()?;
    let (since, refused) = (frozen_since(freeze), unpruned::refused(facts, "prune-unfreeze"));
    let message = format!("{since}: {}. {FROZEN_ADVICE}{refused}", freeze.why);
    Some(reason(Verdict::Critical, "frozen", message))
}

/// That deletes are frozen, and since when.
pub(crate) fn frozen_since(freeze: &Freeze) -> String {
    match freeze.cycle {
        0 => "deletes are frozen by what was found outside of a cycle".to_owned(),
        cycle => format!("deletes are frozen since cycle {cycle}"),
    }
}

fn worker_gone(facts: &Facts) -> Option<Reason> {
    let why = facts.poisoned.as_ref()?;
    let message = format!("the pruning worker ended: {why}. The node serves; restart it to prune again");
    Some(reason(Verdict::Critical, "worker_gone", message))
}

fn last_failed(facts: &Facts) -> Option<Reason> {
    let Ended::Failed { code, message } = &facts.last.as_ref()?.ended else { return None };
    let counts = facts.freeze.is_none() && !NO_FAULTS.contains(&code.as_str());
    let message = format!("the last cycle failed ({code}): {message}");
    counts.then(|| reason(Verdict::Degraded, "last_cycle_failed", message))
}

fn unfinished(facts: &Facts) -> Option<Reason> {
    let what = |begun: &Option<Begun>| begun.map_or_else(|| "a prune".to_owned(), |begun| begun.to_string());
    let unfinished = facts.unfinished.as_ref().filter(|_| facts.freeze.is_none())?; // a freeze comes first
    Some(match unfinished {
        Unfinished::Running { begun, by } => {
            reason(Verdict::Healthy, "running", format!("{} is under way, by {by}", what(begun)))
        }
        Unfinished::HeldByNode { begun, by } => {
            let message = format!("{begun} has begun, and {by} has the store open: `--url` asks it how far it is");
            reason(Verdict::Healthy, "running", message)
        }
        Unfinished::AtRest { begun } => {
            let message = format!("{} was interrupted: run the same prune again to end it", what(begun));
            reason(Verdict::Degraded, "interrupted", message)
        }
        Unfinished::WithItsNode { begun } => {
            let then = match begun.phase {
                PrunePhase::SweepExpired => "start the node, which goes on with it",
                PrunePhase::BuildReach => {
                    "start the node, which goes on with a walk that was written down; another mark begins anew at the next trigger"
                }
                PrunePhase::Idle | PrunePhase::IncrementalSweep => "start the node; its next cycle marks anew",
            };
            let message = format!("{begun} was interrupted: {then}");
            reason(Verdict::Degraded, "interrupted", message)
        }
    })
}

fn lagging(facts: &Facts, config: &HealthConfig) -> Option<Reason> {
    let (lag, due) = facts.lag.filter(|(lag, due)| *lag > due.saturating_mul(config.lag_cycles.get()))?;
    let lag = Counted(lag, "order");
    let message = format!("{lag} since the last cycle, one is due every {due}: pruning falls behind");
    Some(reason(Verdict::Degraded, "lagging", message))
}

fn incremental_failed(facts: &Facts) -> Option<Reason> {
    let why = facts.incremental.as_ref().filter(|_| facts.goes_on())?.failure.as_ref()?;
    let message = format!("the sweep between cycles failed and is tried again: {why}");
    Some(reason(Verdict::Degraded, "incremental_failed", message))
}

fn breaker_open(facts: &Facts) -> Option<Reason> {
    let recovery = facts.recovery.as_ref().filter(|_| facts.poisoned.is_none())?;
    let failures = recovery.breaker.failures;
    let last = recovery.attempts.iter().rev().find(|attempt| attempt.came.has_failed());
    let told = last.and_then(|attempt| attempt.message.as_deref());
    let why = told.or(recovery.exhausted_by.as_deref()).map_or("see the log", |why| why);
    let next = match (recovery.breaker.state, recovery.breaker.probe_in_ms) {
        (BreakerState::Closed, _) => return None,
        (BreakerState::Open, Some(ms)) => format!("one is let through in {}", Span(ms)),
        (BreakerState::Open, None) => "when one is let through only its node knows".to_owned(),
        (BreakerState::HalfOpen, _) => "the next one tells whether it is over".to_owned(),
    };
    let message =
        format!("{failures} attempts in a row failed, so nothing is tried for a while; {next}. The last: {why}");
    Some(reason(Verdict::Degraded, "breaker_open", message))
}

fn recovery_exhausted(facts: &Facts) -> Option<Reason> {
    let recovery = facts.recovery.as_ref().filter(|_| facts.goes_on())?;
    let code = recovery.exhausted_by.as_ref()?;
    let message = format!("a phase was given up ({code}); the next cycle, or the next round, begins anew");
    Some(reason(Verdict::Degraded, "recovery_exhausted", message))
}

fn awaiting_room(facts: &Facts) -> Option<Reason> {
    let recovery = facts.recovery.as_ref().filter(|recovery| recovery.state == RecoveryState::Retrying)?;
    let last = recovery.attempts.last()?;
    let Came::AwaitedRoom { need } = last.came else { return None };
    let room = need.map_or_else(|| "room".to_owned(), |need| format!("{} of room", iec(need)));
    let why = last.message.as_deref().map_or("see the log", |why| why);
    let message =
        format!("{} waits for {room} on the device, and is tried again: make room. The last: {why}", last.phase);
    Some(reason(Verdict::Degraded, "awaiting_room", message))
}

fn recovering(facts: &Facts) -> Option<Reason> {
    let recovery = facts.recovery.as_ref().filter(|_| facts.freeze.is_none())?; // which nothing has got over
    let (healthy, needed) = (recovery.healthy_cycles, recovery.min_healthy_cycles);
    let message = format!("something failed and was got over; {healthy} of {needed} cycles have finished since");
    let is_it = recovery.state == RecoveryState::Recovering;
    is_it.then(|| reason(Verdict::Healthy, "recovering", message))
}

fn snapshots_failing(facts: &Facts) -> Option<Reason> {
    let failures = facts.snapshot_failures;
    let message =
        format!("{failures} snapshots in a row could not be taken, so nothing is pruned: see the last outcome");
    (failures > FEW_SNAPSHOT_FAILURES).then(|| reason(Verdict::Degraded, "snapshots_failing", message))
}

fn paused(facts: &Facts) -> Option<Reason> {
    let holds = match facts.pause? {
        Pause::No => return None,
        Pause::Asked => "holds at its next checkpoint",
        Pause::Holding => "holds",
    };
    let message =
        format!("the cycle {holds}, as an operator wants, and garbage collects: `prune-resume` lets it go on");
    Some(reason(Verdict::Healthy, "paused", message))
}

fn basic_snapshots(facts: &Facts) -> Option<Reason> {
    let message = "snapshots are basic: not kept over a restart, or not checked at each lock (pruner.snapshots)";
    match facts.snapshot_path {
        SnapshotPath::Full => None,
        SnapshotPath::Basic => Some(reason(Verdict::Healthy, "basic_snapshots", message.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        phase::PrunePhase,
        recovery::{Attempt, BreakerStatus, Came},
        retention::NamedPin,
        snapshot::{LockOwner, LockRecord},
        trigger::Ledger,
        validate::{Depth, Finding, Validated},
    };

    fn failed(code: &str) -> Option<Outcome> {
        let ended = Ended::Failed { code: code.to_owned(), message: "why".to_owned() };
        Some(Outcome { cycle: Some(1), at: 0, head_order: None, ended })
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY_MS: u64 = 24 * 3_600_000;

    fn age(since: Since, now_ms: u64, orders: u64, due_after: Option<u64>) -> Facts {
        Facts { cycle_age: Some(CycleAge { since, now_ms, orders, due_after }), ..Facts::default() }
    }

    fn lock(idle: Duration, timeout: Duration, pause: Pause) -> Facts {
        let (idle, timeout_ms) = (idle.as_millis() as u64, timeout.as_millis() as u64);
        let lock = SnapshotLock {
            snapshot_id: 1,
            locked_by_phase: PrunePhase::SweepExpired,
            owner: LockOwner { pid: 7, role: "pruner".to_owned() },
            generation: 1,
            locked_at: 0,
            held_for_ms: idle,
            unrenewed_ms: idle,
            timeout_ms,
            is_valid: true,
        };
        Facts { lock: Some(lock), pause: Some(pause), ..Facts::default() }
    }

    fn locked(since: u64, now_ms: u64, by: Option<u32>) -> Facts {
        let owner = LockOwner { pid: 7, role: "pruner".to_owned() };
        let record = LockRecord { owner, phase: PrunePhase::BuildReach, snapshot_id: 1, generation: 1, since };
        let by = by.map(|pid| Holder { pid: Some(pid), command: None });
        Facts { lock_record: Some(RecordedLock { record, now_ms, by }), ..Facts::default() }
    }

    fn pinned(since_ms: u64, now_ms: u64) -> Facts {
        let pin =
            NamedPin { name: "audit".to_owned(), owner: "me".to_owned(), order: 3, since_ms, ttl_ms: Some(u64::MAX) };
        Facts { oldest_pin: Some(OldestPin { pin, now_ms }), ..Facts::default() }
    }

    fn uncounted(orders: u64) -> Facts {
        Facts { uncounted: Some(orders), ..Facts::default() }
    }

    fn room(free: u64, need: u64) -> Facts {
        Facts { room: Some(Room { free, need }), ..Facts::default() }
    }

    fn validated(failed: &[&str]) -> Facts {
        let found = |what: &&str| Finding {
            at: 1,
            check: "integrity".to_owned(),
            needs: Depth::Newest,
            what: (*what).to_owned(),
        };
        let failed = failed.iter().map(found).collect();
        let kept = Validated { at: 1, passed: 3, skipped: 2, failed, open: Vec::new() };
        Facts { validation: Some(kept), ..Facts::default() }
    }

    fn judge(rows: &[(Facts, Verdict, &[&str])]) {
        for (facts, verdict, codes) in rows {
            let health = assess(facts, &HealthConfig::default());
            let found: Vec<&str> = health.reasons.iter().map(|reason| reason.code.as_str()).collect();
            assert_eq!((health.verdict, found.as_slice()), (*verdict, *codes), "{facts:?}");
        }
    }

    #[test]
    fn health_recovers_when_the_cause_is_gone() {
        let freeze = Some(Freeze { cycle: 3, at: 0, why: "node missing".to_owned() });
        let begun = Begun { cycle: 3, phase: PrunePhase::SweepExpired };
        let under_way = |unfinished| Facts { unfinished: Some(unfinished), ..Facts::default() };
        let by = Holder { pid: Some(7), command: None };
        let (fired_at, again_below) = (None, None);
        let disk =
            |low| Some(DiskStatus { below: 1000, room_from: 1250, free: Some(1100), low, fired_at, again_below });
        let lag = |orders| Facts { lag: Some((orders, 100)), ..Facts::default() };
        let failing = |snapshot_failures| Facts { snapshot_failures, ..Facts::default() };
        let reserve = Some(NoReserve::LetGo { bytes: 1 });
        let rows: [(Facts, Verdict, &[&str]); 21] = [
            (Facts::default(), Verdict::Healthy, &[]),
            (Facts { freeze: freeze.clone(), ..Facts::default() }, Verdict::Critical, &["frozen"]),
            (Facts { freeze, last: failed("missing_live_node"), ..Facts::default() }, Verdict::Critical, &["frozen"]),
            (Facts { poisoned: Some("panic".to_owned()), ..Facts::default() }, Verdict::Critical, &["worker_gone"]),
            (Facts { last: failed("io"), ..Facts::default() }, Verdict::Degraded, &["last_cycle_failed"]),
            (Facts { last: failed("cancelled"), ..Facts::default() }, Verdict::Healthy, &[]),
            (Facts { last: failed("pruned_before"), ..Facts::default() }, Verdict::Healthy, &[]),
            (under_way(Unfinished::Running { begun: Some(begun), by }), Verdict::Healthy, &["running"]),
            (under_way(Unfinished::AtRest { begun: Some(begun) }), Verdict::Degraded, &["interrupted"]),
            (under_way(Unfinished::WithItsNode { begun }), Verdict::Degraded, &["interrupted"]),
            (lag(401), Verdict::Degraded, &["lagging"]),
            (lag(400), Verdict::Healthy, &[]),
            (Facts { background_errors: Some(1), ..Facts::default() }, Verdict::Degraded, &["engine_errors"]),
            (
                Facts { background_errors: Some(1), engine_damage: Some("x.sst".to_owned()), ..Facts::default() },
                Verdict::Critical,
                &["engine_damaged"],
            ),
            (
                Facts { background_errors: Some(1), engine_stopped: Some("EIO".to_owned()), ..Facts::default() },
                Verdict::Critical,
                &["engine_stopped"],
            ),
            (Facts { pause: Some(Pause::Holding), ..Facts::default() }, Verdict::Healthy, &["paused"]),
            (Facts { disk: disk(true), ..Facts::default() }, Verdict::Degraded, &["low_disk"]),
            (Facts { disk: disk(false), ..Facts::default() }, Verdict::Healthy, &[]),
            (Facts { reserve, ..Facts::default() }, Verdict::Degraded, &["reserve_released"]),
            (failing(4), Verdict::Degraded, &["snapshots_failing"]),
            (failing(3), Verdict::Healthy, &[]),
        ];
        judge(&rows);
    }

    #[test]
    fn nothing_is_told_as_got_over_while_deletes_are_frozen() {
        let breaker = BreakerStatus { state: BreakerState::Closed, failures: 0, closes_after: None, probe_in_ms: None };
        let recovery = RecoveryStatus {
            state: RecoveryState::Recovering,
            breaker,
            healthy_cycles: 1,
            min_healthy_cycles: 3,
            exhausted_by: None,
            retries_total: 1,
            attempts: Vec::new(),
        };
        let recovering = Facts { recovery: Some(recovery), ..Facts::default() };
        let freeze = Some(Freeze { cycle: 3, at: 0, why: "node missing".to_owned() });
        judge(&[
            (recovering.clone(), Verdict::Healthy, &["recovering"]),
            (Facts { freeze, ..recovering }, Verdict::Critical, &["frozen"]),
        ]);
    }

    /// What the breaker holds back afterwards is no failure of its own.
    #[test]
    fn an_open_breaker_is_told_with_what_failed_last() {
        let attempt = |came, message: &str| Attempt {
            at: 0,
            phase: PrunePhase::BuildReach,
            number: 1,
            code: Some("io".to_owned()),
            message: Some(message.to_owned()),
            disposition: None,
            came,
        };
        let state = BreakerState::Open;
        let breaker = BreakerStatus { state, failures: 3, closes_after: None, probe_in_ms: Some(1) };
        let attempts =
            vec![attempt(Came::Exhausted, "the disk"), attempt(Came::HeldBack, "held"), attempt(Came::Unsaved, "kept")];
        let recovery = RecoveryStatus {
            state: RecoveryState::Exhausted,
            breaker,
            healthy_cycles: 0,
            min_healthy_cycles: 3,
            exhausted_by: None,
            retries_total: 1,
            attempts,
        };
        let told = breaker_open(&Facts { recovery: Some(recovery), ..Facts::default() }).unwrap().message;
        assert!(told.ends_with("The last: the disk"), "{told}");
    }

    #[test]
    fn health_tells_what_goes_on_for_too_long_and_what_the_next_cycle_lacks() {
        use Pause::{Holding, No};
        use Since::{Finished, NotSince};
        let (most, tick) = (Duration::from_secs(900), Duration::from_millis(1));
        let rows: [(Facts, Verdict, &[&str]); 24] = [
            (age(Finished(0), DAY_MS + 1, 100, Some(100)), Verdict::Degraded, &["cycle_overdue"]),
            (age(NotSince(0), DAY_MS + 1, 100, Some(100)), Verdict::Degraded, &["cycle_overdue"]),
            (age(Finished(0), DAY_MS, 100, Some(100)), Verdict::Healthy, &[]),
            (age(Finished(0), 9 * DAY_MS, 99, Some(100)), Verdict::Healthy, &[]), // none is due
            (age(Finished(0), 9 * DAY_MS, 0, None), Verdict::Healthy, &[]),       // nothing went by
            (age(Finished(0), 9 * DAY_MS, 5, None), Verdict::Healthy, &["cycle_age_unknown"]),
            (age(Finished(1000), 999, 5, Some(100)), Verdict::Healthy, &["cycle_age_unknown"]), // the clock went back
            (uncounted(1), Verdict::Healthy, &["lag_unknown"]),
            (uncounted(0), Verdict::Healthy, &[]),
            (lock(most + tick, HOUR, No), Verdict::Degraded, &["lock_held_long"]),
            (lock(most + tick, HOUR, Holding), Verdict::Degraded, &["lock_held_long", "paused"]),
            (lock(most, HOUR, No), Verdict::Healthy, &[]),
            (lock(2 * tick, 2 * tick, No), Verdict::Degraded, &["lock_held_long"]), // half of its timeout comes first
            (locked(0, DAY_MS + 1, Some(7)), Verdict::Degraded, &["lock_held_long"]),
            (locked(0, DAY_MS, Some(7)), Verdict::Healthy, &[]),
            (locked(0, DAY_MS + 1, None), Verdict::Healthy, &["lock_left"]),
            (pinned(0, 30 * DAY_MS + 1), Verdict::Degraded, &["pin_old"]),
            (pinned(0, 30 * DAY_MS), Verdict::Healthy, &[]),
            (pinned(1000, 0), Verdict::Healthy, &[]), // a clock that went back makes no pin old
            (room(99, 100), Verdict::Degraded, &["cycle_room"]),
            (room(100, 100), Verdict::Healthy, &[]),
            (validated(&["phase is damaged"]), Verdict::Degraded, &["validation_failed"]),
            (validated(&[]), Verdict::Healthy, &[]),
            (Facts::default(), Verdict::Healthy, &[]),
        ];
        judge(&rows);
    }

    /// Only a walk is written down, and a mark by a scan is not; which of the two it was the record of the phase does not tell.
    #[test]
    fn a_node_that_is_not_running_is_said_to_go_on_where_it_may() {
        let told = |phase| {
            let unfinished = Some(Unfinished::WithItsNode { begun: Begun { cycle: 3, phase } });
            let facts = Facts { unfinished, ..Facts::default() };
            assess(&facts, &HealthConfig::default()).reasons.remove(0).message
        };
        for (phase, words) in [
            (PrunePhase::SweepExpired, ["start the node, which goes on with it", "(sweep_expired)"]),
            (PrunePhase::BuildReach, ["goes on with a walk that was written down", "another mark begins anew"]),
        ] {
            let message = told(phase);
            assert!(words.iter().all(|words| message.contains(words)), "{message}");
        }
    }

    /// Nobody waits for a list that no command makes, nor replaces a good snapshot by one of a damaged store.
    #[test]
    fn an_engine_that_met_damage_is_to_be_replaced_and_not_looked_through() {
        let facts = Facts { engine_damage: Some("x.sst".to_owned()), ..Facts::default() };
        let message = assess(&facts, &HealthConfig::default()).reasons.remove(0).message;
        for words in ["`snapshot verify --deep`", "the data of a peer", "`--keep`"] {
            assert!(message.contains(words), "{words}: {message}");
        }
        assert!(!message.contains("state-node verify"), "it ends at the first such file: {message}");
    }

    #[test]
    fn moments_and_spans_are_told_as_people_read_them() {
        let off = Facts { off: Some(SwitchedOff { at: 1_764_158_400_123 }), ..Facts::default() };
        let left = locked(1_764_158_400_123, 1_764_158_400_124, None);
        for facts in [off, left] {
            let message = assess(&facts, &HealthConfig::default()).reasons.remove(0).message;
            assert!(message.contains("2025-11-26T12:00:00.123Z") && !message.contains("milliseconds"), "{message}");
        }
    }

    #[test]
    fn ages_that_are_not_to_be_looked_at_are_not() {
        let blind = HealthConfig { cycle_age: None, pin_age: None, ..HealthConfig::default() };
        for facts in [age(Since::Finished(0), 99 * DAY_MS, 100, Some(100)), pinned(0, 99 * DAY_MS)] {
            assert_eq!(assess(&facts, &blind).reasons, []);
        }
    }

    /// Failures fill what is remembered: the age is then told from where memory begins, not from the last failure.
    #[test]
    fn a_cycle_that_fails_again_and_again_grows_old_all_the_same() {
        let finished = |cycle, at, head| {
            let ended = Ended::Finished {
                deleted: 0,
                first_order: 0,
                live_nodes: 0,
                bytes_before: None,
                bytes_after: 0,
                certificate: String::new(),
            };
            Outcome { cycle: Some(cycle), at, head_order: Some(head), ended }
        };
        let mut ledger = Ledger::new(5, 10);
        let told = |ledger: &Ledger, last: &Outcome| {
            let age = CycleAge::told(Some(last), Some(ledger), (100, 1000)).unwrap();
            (age.since, age.orders)
        };
        let io = failed("io").unwrap();
        assert_eq!(told(&ledger, &io), (Since::NotSince(5), 90), "none has run yet");
        ledger.run(20, 30, finished(1, 21, 30));
        assert_eq!(told(&ledger, &finished(1, 21, 30)), (Since::Finished(21), 70));
        ledger.run(40, 50, io.clone());
        assert_eq!(told(&ledger, &io), (Since::Finished(21), 70), "a failure is no cycle");
        (0..16).for_each(|n| ledger.run(60 + n, 60 + n, io.clone()));
        assert_eq!(told(&ledger, &io), (Since::NotSince(60), 50), "older than everything that is remembered");
        assert_eq!(CycleAge::told(None, None, (100, 1000)), None, "nothing is known");
    }
}
