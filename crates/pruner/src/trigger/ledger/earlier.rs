//! Earlier versions of the record of the triggers, and how this program goes on from them.

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};

use super::{Figure, Fired, Ledger, NAME, OpenRun, Run, Served};
use crate::{certificate::Trigger, outcome::Outcome};

/// A run that has not ended, without whether the chain went back since: a rollback ended every run that was open.
#[derive(Debug, Serialize, Deserialize)]
struct ThirdOpenRun {
    earlier: EarlierOpenRun,
    figure: Option<Figure>,
}

impl From<ThirdOpenRun> for OpenRun {
    fn from(ThirdOpenRun { earlier, figure }: ThirdOpenRun) -> Self {
        Self { figure, ..earlier.into() }
    }
}

/// Version 3. In it no run outlived a rollback.
#[derive(Debug, Serialize, Deserialize)]
struct ThirdLedger {
    begun: u64,
    last_at: Option<u64>,
    scheduled_from: u64,
    counted: u64,
    nodes_stored: u64,
    live: Option<u64>,
    spread: Option<u64>,
    low_disk: Option<Fired>,
    owed_from: Option<u64>,
    asked: Option<Vec<String>>,
    open: Option<ThirdOpenRun>,
    runs: Vec<Run>,
    served: Vec<Served>,
}

impl Record for ThirdLedger {
    const KIND: [u8; 4] = Ledger::KIND;
    const VERSION: u16 = 3;
}

impl From<ThirdLedger> for Ledger {
    fn from(third: ThirdLedger) -> Self {
        let ThirdLedger { begun, last_at, scheduled_from, counted, nodes_stored, live, spread, low_disk, .. } = third;
        let (owed_from, asked, open) = (third.owed_from, third.asked, third.open.map(OpenRun::from));
        let (runs, served) = (third.runs, third.served);
        let new = Self::new(scheduled_from, counted);
        Self { begun, last_at, nodes_stored, live, spread, low_disk, owed_from, asked, open, runs, served, ..new }
    }
}

/// A run that ended, without what was measured when it was set off.
#[derive(Debug, Serialize, Deserialize)]
struct EarlierRun {
    number: u64,
    trigger: Trigger,
    began_at: u64,
    duration_ms: Option<u64>,
    counted: u64,
    outcome: Option<Outcome>,
}

impl From<EarlierRun> for Run {
    fn from(earlier: EarlierRun) -> Self {
        let EarlierRun { number, trigger, began_at, duration_ms, counted, outcome } = earlier;
        Self { number, trigger, began_at, duration_ms, counted, outcome, figure: None }
    }
}

/// The same of one that has not ended.
#[derive(Debug, Serialize, Deserialize)]
struct EarlierOpenRun {
    number: u64,
    trigger: Trigger,
    began_at: u64,
    head: u64,
    nodes_stored: u64,
}

impl From<EarlierOpenRun> for OpenRun {
    fn from(earlier: EarlierOpenRun) -> Self {
        let EarlierOpenRun { number, trigger, began_at, head, nodes_stored } = earlier;
        Self { number, trigger, began_at, head, nodes_stored, figure: None, went_back: false }
    }
}

/// Version 2. It had no requests that wait, and not the bound under which low disk had fired.
#[derive(Debug, Serialize, Deserialize)]
struct SecondLedger {
    begun: u64,
    last_at: Option<u64>,
    scheduled_from: u64,
    counted: u64,
    nodes_stored: u64,
    live: Option<u64>,
    spread: Option<u64>,
    low_disk: Option<u64>,
    owed_from: Option<u64>,
    open: Option<EarlierOpenRun>,
    runs: Vec<EarlierRun>,
    served: Vec<Served>,
}

impl Record for SecondLedger {
    const KIND: [u8; 4] = Ledger::KIND;
    const VERSION: u16 = 2;
}

impl From<SecondLedger> for Ledger {
    /// Low disk is armed: a cycle too many loses nothing.
    fn from(second: SecondLedger) -> Self {
        let SecondLedger { begun, last_at, scheduled_from, counted, nodes_stored, live, spread, .. } = second;
        let runs = second.runs.into_iter().map(Run::from).collect();
        let (owed_from, open, served) = (second.owed_from, second.open.map(OpenRun::from), second.served);
        let new = Self::new(scheduled_from, counted);
        Self { begun, last_at, nodes_stored, live, spread, owed_from, open, runs, served, ..new }
    }
}

/// Version 1. It had two lists of triggers under that one number, so what it says of a trigger is not told.
#[derive(Debug, Serialize, Deserialize)]
struct FirstLedger {
    begun: u64,
    last_at: Option<u64>,
    scheduled_from: u64,
    counted: u64,
    nodes_put: u64,
    live: Option<u64>,
    spread: Option<u64>,
    low_disk: Option<u64>,
    open: Option<EarlierOpenRun>,
    runs: Vec<EarlierRun>,
    served: Vec<Served>,
}

impl Record for FirstLedger {
    const KIND: [u8; 4] = Ledger::KIND;
    const VERSION: u16 = 1;
}

impl From<FirstLedger> for Ledger {
    /// A run that was open counts as interrupted: what it was to count makes the next one due. It counted other nodes, so
    /// garbage is not measured before the next run (I13).
    fn from(first: FirstLedger) -> Self {
        let FirstLedger { begun, last_at, scheduled_from, counted, spread, served, .. } = first;
        Self { begun, last_at, spread, served, ..Self::new(scheduled_from, counted) }
    }
}

/// The ledger that these bytes have in an earlier version, if they are one.
pub(super) fn decode(bytes: &[u8]) -> Option<Ledger> {
    if let Ok(third) = record::decode::<ThirdLedger>(NAME, bytes) {
        return Some(third.into());
    }
    if let Ok(second) = record::decode::<SecondLedger>(NAME, bytes) {
        return Some(second.into());
    }
    let Ok(first) = record::decode::<FirstLedger>(NAME, bytes) else { return None };
    tracing::info!("the ledger of the triggers has version 1: what it counted and served goes on from it");
    Some(first.into())
}
