//! Requests to prune and verify a store at rest, with the defaults of the command line.

use std::{collections::BTreeSet, num::NonZeroU64, num::NonZeroUsize, path::Path, sync::Arc};

use state_pruner::{
    Control, CycleConfig, Observer, PruneError, SweepChoice, SystemClock, Unobserved,
    mark::{MarkChoice, RehashChoice},
    offline::{self, Frozen, PruneMode, PruneOutcome, PruneRequest, Steering, StoreLayout, VerifyRequest},
    verify::{Leaks, VerifyReport},
};

/// Nobody watches, nobody interferes.
pub fn alone() -> Steering {
    watched(Arc::new(Unobserved))
}

/// Somebody watches.
pub fn watched(observer: Arc<dyn Observer>) -> Steering {
    Steering { control: Arc::new(Control::default()), observer, clock: Arc::new(SystemClock::new()) }
}

/// A prune that keeps the last orders of a Rooch store.
pub fn request(db: &Path, keep_last: u64) -> PruneRequest {
    PruneRequest {
        db: db.to_owned(),
        layout: StoreLayout::Rooch,
        keep_last: NonZeroU64::new(keep_last).unwrap(),
        mode: PruneMode::Apply,
        frozen: Frozen::Refuse,
        mark: MarkChoice::Auto,
        sweep: SweepChoice::Auto,
        rehash: RehashChoice::All,
        memory_budget: 1 << 30,
        threads: NonZeroUsize::new(2).unwrap(),
        note_every: Some(CycleConfig::NOTE_EVERY),
        io_limit: None,
        verify_sample: 1000,
        state_dir: None,
        allowed_holes: BTreeSet::new(),
    }
}

/// Runs a prune that nothing disturbs.
pub fn prune(request: &PruneRequest) -> Result<PruneOutcome, PruneError> {
    offline::prune(request, &alone())
}

/// A full verification with the leak check.
pub fn verify(db: &Path, layout: StoreLayout, keep_last: u64) -> Result<VerifyReport, PruneError> {
    let request = VerifyRequest {
        db: db.to_owned(),
        layout,
        keep_last: NonZeroU64::new(keep_last).unwrap(),
        leaks: Leaks::Count,
        sample: None,
        memory_budget: 1 << 30,
        state_dir: None,
        allowed_holes: BTreeSet::new(),
    };
    offline::verify(&request, &alone())
}
