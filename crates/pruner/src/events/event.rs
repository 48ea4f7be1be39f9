//! What can happen, as one type: each kind with its word and its fields.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{
    code::UNKNOWN,
    totals::{CycleEnd, Reclaimed, RoundTotals, RunEnd},
};
use crate::{certificate::Trigger, phase::PrunePhase, trigger::Figure};

/// What a circuit breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// One attempt, to see.
    HalfOpen,
}

/// What a cycle that is asked for, or due, joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Joined {
    /// A request that waits already.
    Request,
    /// A cycle that runs: one more follows it.
    Cycle,
}

/// One thing that happened. Records name a variant by its place, so new ones come at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each variant has its heading in docs/operations.md, its fields say what they are")]
pub enum Event {
    Started {
        version: String,
        pid: u32,
        damaged: u64,
        torn_bytes: u64,
    },
    Stopped {
        lost: u64,
    },
    CycleBegun {
        cycle: u64,
        trigger: Trigger,
    },
    CycleEnded(CycleEnd),
    PhaseEntered {
        cycle: u64,
        phase: PrunePhase,
    },
    PhaseLeft {
        cycle: u64,
        phase: PrunePhase,
        outcome: String,
        #[serde(rename = "duration_ms")]
        millis: u64,
    },
    LockTaken {
        phase: PrunePhase,
        snapshot: u64,
    },
    LockTakenOver {
        phase: PrunePhase,
        from: PrunePhase,
        unrenewed_ms: u64,
    },
    LockWaited {
        phase: PrunePhase,
        holder: PrunePhase,
        waited_ms: u64,
    },
    LockRefused {
        phase: PrunePhase,
        holder: PrunePhase,
        held_ms: u64,
    },
    LockReleased {
        phase: PrunePhase,
    },
    SnapshotCreated {
        snapshot: u64,
        phase: PrunePhase,
        first_order: u64,
        head_order: u64,
    },
    SnapshotFailed {
        phase: PrunePhase,
        error: String,
        message: String,
    },
    DeletesFrozen {
        cycle: Option<u64>,
        why: String,
    },
    DeletesUnfrozen,
    PinAdded {
        name: String,
        owner: String,
        order: u64,
        ttl_ms: Option<u64>,
    },
    PinRemoved {
        name: String,
        order: u64,
    },
    PinExpired {
        name: String,
        owner: String,
        order: u64,
    },
    ConsumerAdded {
        name: String,
        order: u64,
        ttl_ms: u64,
    },
    ConsumerRemoved {
        name: String,
        order: u64,
    },
    ConsumerWentSilent {
        name: String,
        order: u64,
    },
    TriggerFired {
        trigger: Trigger,
        run: u64,
        head_order: u64,
        #[serde(default, deserialize_with = "if_there")]
        figure: Option<Figure>,
    },
    TriggerCoalesced {
        joined: Joined,
        #[serde(default, deserialize_with = "if_there")]
        trigger: Option<Trigger>,
    },
    RoundsSwept(RoundTotals),
    RoundFailed {
        error: String,
        message: String,
        failures: u32,
    },
    RolledBack {
        from: u64,
        to: u64,
        #[serde(default, deserialize_with = "if_there")]
        duration_ms: Option<u64>,
    },
    ConfigChanged {
        what: String,
    },
    PoisonItem {
        what: String,
        count: u64,
    },
    WorkerPanicked {
        why: String,
    },
    RetryAttempted {
        what: String,
        attempt: u32,
        delay_ms: u64,
        error: String,
    },
    RetryGivenUp {
        what: String,
        attempts: u32,
        error: String,
    },
    BreakerChanged {
        state: Breaker,
    },
    PhaseRolledBack {
        cycle: u64,
        from: PrunePhase,
        to: PrunePhase,
        error: String,
    },
    EventsLost {
        count: u64,
    },
    JournalCompacted {
        dropped: u64,
        bytes_before: u64,
        bytes_after: u64,
    },
    ReaderTooOld {
        order: u64,
        owner: String,
        since_order: u64,
        alone_ms: u64,
    },
    ReaderLetGo {
        order: u64,
        owner: String,
    },
    ReserveLetGo {
        bytes: u64,
    },
    ReserveTaken {
        bytes: u64,
    },
    CatalogSnapshotMade {
        id: String,
        catalog: String,
        bytes: u64,
        removed: u64,
    },
    CatalogSnapshotRefused {
        catalog: String,
        error: String,
        message: String,
    },
    Validated {
        passed: u64,
        skipped: u64,
        failed: Vec<String>,
    },
    PhaseGivenUp {
        what: String,
        attempts: u32,
        error: String,
    },
    CountsLost {
        why: String,
        order: u64,
    },
    SpaceReclaimed(Reclaimed),
    RunEnded(RunEnd),
    RequestDropped {
        ids: Vec<String>,
    },
    ConsumerAhead {
        name: String,
        order: u64,
        head: u64,
    },
    RollbackFailed {
        to: u64,
        error: String,
        message: String,
        duration_ms: u64,
    },
    LogCut {
        what: String,
        head: Option<u64>,
        kept: Option<String>,
    },
    EngineDamaged {
        what: String,
    },
    EngineStopped {
        what: String,
    },
    DamageMet {
        what: String,
    },
    ProductionEnded,
    CommitsFailing {
        error: String,
        message: String,
        times: u64,
    },
    CyclePaused,
    CycleResumed,
    QuarantineEnded {
        cycle: u64,
        items: u64,
    },
}

/// The last field of an event that ended before it when it was new: absent in what was written until then.
fn if_there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    match Option::deserialize(from) {
        Ok(field) => Ok(field),
        Err(_) => Ok(None),
    }
}

/// An event with its place in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// Rises by one from event to event, from 1 on; a gap means that something was lost. Or [`Happened::UNNUMBERED`].
    pub seq: u64,
    /// Milliseconds since 1970 by the wall clock, which may step.
    pub at_ms: u64,
    /// What happened.
    pub event: Event,
}

impl Happened {
    /// Of an event that is heard while the journal cannot be opened: its place is known when it is.
    pub const UNNUMBERED: u64 = 0;
}

/// An event as it is told to people and scripts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the journal, as in [`Happened::seq`].
    pub seq: u64,
    /// Milliseconds since 1970 by the wall clock.
    pub at_ms: u64,
    /// Its word.
    pub code: String,
    /// Its fields.
    pub data: Map<String, Value>,
}

impl Entry {
    /// An event that this program does not know.
    pub(super) fn unknown(seq: u64, at_ms: u64) -> Self {
        Self { seq, at_ms, code: UNKNOWN.to_owned(), data: Map::new() }
    }
}

impl From<&Happened> for Entry {
    fn from(happened: &Happened) -> Self {
        let Happened { seq, at_ms, event } = happened;
        let fields = match serde_json::to_value(event) {
            Ok(Value::Object(tagged)) => tagged.into_iter().next().map(|(_, fields)| fields),
            Ok(_) | Err(_) => None, // one without fields is its word alone
        };
        let data = match fields {
            Some(Value::Object(data)) => data,
            Some(_) | None => Map::new(),
        };
        Self { seq: *seq, at_ms: *at_ms, code: event.code().to_owned(), data }
    }
}
