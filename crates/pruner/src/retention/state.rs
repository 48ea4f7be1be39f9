//! What the policy knows of who keeps what: under its lock as it decides, and as a copy that whoever shows it reads.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    held::{Held, Now},
    holds::NamedPin,
    log::RetentionLog,
};
use crate::{error::PruneError, events::Event, records::Records};

/// Whether the kept orders are those that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Below {
    Settled,
    ToBeLookedAt,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) held: Held,
    pub(super) log: RetentionLog,
    pub(super) below: Below,
    /// Consumers whose silence was told.
    pub(super) silent: BTreeSet<String>,
    /// Pins that were dropped, the last few.
    pub(super) expired: VecDeque<NamedPin>,
    /// Told once the lock is let go: whoever tells may wait, and health must not wait with it.
    pub(super) untold: Vec<Event>,
}

/// What is shown of the state: whoever shows it waits for nobody who changes it, and so for no write (O14).
#[derive(Debug)]
pub(super) struct Published {
    pub(super) held: Held,
    pub(super) expired: VecDeque<NamedPin>,
}

impl State {
    pub(super) fn load(records: &dyn Records, now: Now) -> Result<Self, PruneError> {
        Ok(Self {
            held: Held::load(records, now)?,
            log: RetentionLog::load(records)?,
            below: Below::ToBeLookedAt, // the policy may be another one than that of the last process
            silent: BTreeSet::new(),
            expired: VecDeque::new(),
            untold: Vec::new(),
        })
    }

    pub(super) fn to_publish(&self) -> Arc<Published> {
        Arc::new(Published { held: self.held.clone(), expired: self.expired.clone() })
    }

    /// Says once that a consumer is not obeyed any more.
    pub(super) fn tell_silence(&mut self, now: Now) {
        for consumer in self.held.silent(now) {
            if self.silent.insert(consumer.name.clone()) {
                let (name, order, ttl_ms) = (&consumer.name, consumer.order, consumer.ttl_ms);
                tracing::warn!(name, order, ttl_ms, "a consumer is silent: it is not waited for");
                self.untold.push(Event::ConsumerWentSilent { name: name.clone(), order });
            }
        }
    }
}
