//! The pruner: what another chain embeds.
//!
//! One cycle: the floor moves, a snapshot fixes one instant behind an open barrier, BuildReach seals the exact set of
//! nodes that the retained roots reach, SweepExpired removes everything else that was not created since, and a sample
//! is read back. [`cycle::run`] is that sequence; [`Pruner`] runs it in the background of a node; [`offline`] runs it
//! on a store at rest. Invariants I1 to I13 are numbered in docs/invariants.md and cited where the code keeps them.

mod alone;
pub mod catalog;
mod certificate;
mod clock;
mod config;
mod control;
pub mod cycle;
mod doubt;
mod error;
pub mod events;
mod files;
mod health;
mod heartbeat;
pub mod incremental;
mod log_cut;
pub mod mark;
mod metrics;
pub mod offline;
mod outcome;
mod pace;
mod panics;
pub mod phase;
mod policy;
mod priority;
mod quarantine;
mod records;
pub mod recovery;
mod retention;
mod rollback;
mod roots;
mod scratch;
pub mod snapshot;
pub mod sweep;
mod threads;
mod trigger;
pub mod validate;
pub mod verify;
mod when;
mod worker;

pub use certificate::{
    Certificate, CertificateText, FileBytes, PhaseSeconds, RetainedReport, RootReport, Trigger, Verification,
};
#[cfg(any(test, feature = "test-util"))]
pub use clock::ManualClock;
pub use clock::{Clock, Sleep, SystemClock};
pub use config::{CycleConfig, IncrementalConfig, PrunerConfig, SweepChoice};
pub use control::{Control, FrozenBy, Left, Observer, Pause, Progress, Settled, Stage, Told, Unobserved};
pub use doubt::Doubted;
pub use error::PruneError;
pub use health::{
    Begun, ByHeartbeat, Commands, CycleAge, Facts, Health, HealthConfig, NoReserve, OldestPin, Reason, RecordedLock,
    Room, Since, Unfinished, Unpruned, UnreadableRecord, Verdict, assess,
};
pub use heartbeat::{Heart, NoHeartbeat};
pub use log_cut::LogCuts;
pub use outcome::{Ended, Freeze, Outcome};
pub use pace::RatePace;
pub use policy::{FloorRows, LiveWindow, RestWindow, retained};
pub use quarantine::{Poison, Quarantine, SetAside, Unusable};
pub use records::{FolderRecords, Place, RecordKey, Records, StoreRecords};
pub use retention::{
    Ask, Asked, Bound, BoundStatus, Cause, Consumer, ConsumerStatus, DEFAULT_CONSUMER_TTL, Explanation, Fill, Gone,
    HashExplained, KeepPolicy, LOOK_LIMIT, LiveRetention, NamedPin, NewPin, NodeStanding, OldReaders, OrderExplained,
    PinHold, PinState, PinStatus, ReaderLimit, ReaderState, ReaderStatus, RecordedPolicy, RetentionParts,
    RetentionStatus, Standing, Standstill, WaitsFor, Why, check_name,
};
pub use roots::{KeptBy, RetainedRoot, RetainedRoots, Retention, Window};
pub use trigger::{
    DiskStatus, Figure, GarbageStatus, HeldBy, Run, Share, TriggerConfig, TriggerState, TriggerStatus, TriggersStatus,
    Turnover,
};
pub use when::When;
pub use worker::{
    Command, Found, Imposed, IncrementalStatus, Pruner, PrunerParts, PrunerStatus, ReclaimStatus, Reply, ReserveStatus,
    StageStatus, SwitchedOff, Uncounted, Walking,
};
