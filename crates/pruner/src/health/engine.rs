//! What the engine met by itself, and a store that it cannot open.

use state_store::StoreError;

use super::{Facts, Health, Reason, Verdict, reason};

/// The verdict on a store that cannot be opened, or not be read, because it is damaged.
pub(crate) fn of_damage(error: &StoreError) -> Health {
    let reasons = vec![reason(Verdict::Critical, "store_damaged", error.to_string())];
    Health { verdict: Verdict::Critical, reasons }
}

/// The engine found damage by itself.
pub(super) fn damaged(facts: &Facts) -> Option<Reason> {
    let what = facts.engine_damage.as_ref()?;
    let message = format!(
        "the engine met damage in the background and takes no write until the store is opened again: {what}. No command lists \
         what is lost: restore a snapshot that `snapshot verify --deep` finds sound, or the data of a peer, and make none with \
         `--keep` until then; a restart alone brings the damage back"
    );
    Some(reason(Verdict::Critical, "engine_damaged", message))
}

/// A write of it failed.
pub(super) fn stopped(facts: &Facts) -> Option<Reason> {
    let what = facts.engine_stopped.as_ref().filter(|_| facts.engine_damage.is_none())?;
    let message = format!(
        "a write of the engine failed, so it takes none until the store is opened again: {what}. Look at the disk, then \
         restart the node; reads are served meanwhile"
    );
    Some(reason(Verdict::Critical, "engine_stopped", message))
}

pub(super) fn errors(facts: &Facts) -> Option<Reason> {
    let has_stopped = facts.engine_damage.is_some() || facts.engine_stopped.is_some();
    let errors = facts.background_errors.filter(|errors| *errors > 0 && !has_stopped)?;
    let failures = if errors == 1 { "a failure".to_owned() } else { format!("{errors} failures") };
    let message = format!(
        "the engine met {failures} in the background since the last cycle that finished; the log says of what, as a rule of \
         the disk: look at it; the next cycle that finishes ends this, or the next start"
    );
    Some(reason(Verdict::Degraded, "engine_errors", message))
}

/// Blocks may be gone that somebody relies on.
pub(super) fn log_cut(facts: &Facts) -> Option<Reason> {
    Some(reason(Verdict::Degraded, "log_cut", facts.log_cut.clone()?))
}
