//! Whether an operator has switched pruning off: one durable record, so that a restart does not switch it on again.

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};

use super::{Pruner, status::Reply};
use crate::{
    error::PruneError,
    events::Event,
    records::{self, RecordKey, Records},
};

/// Pruning is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchedOff {
    /// Milliseconds since 1970 when it was.
    #[serde(rename = "at_ms")]
    pub at: u64,
}

impl Record for SwitchedOff {
    const KIND: [u8; 4] = *b"SWCH";
    const VERSION: u16 = 1;
}

impl SwitchedOff {
    /// The switch as an operator left it; absent means on. An unreadable record is an error: nothing is pruned then.
    pub fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        records::read(records, RecordKey::Switch)
    }

    fn save(self, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::Switch, &record::encode(&self)?)
    }
}

impl Pruner {
    /// Switches pruning off, durably: what runs is abandoned at its next checkpoint, and nothing begins.
    pub(super) fn disable(&self) -> Reply {
        let single = self.inner.operating.lock(); // so that memory and record say the same
        let off = match SwitchedOff::load(&*self.inner.parts.records) {
            Ok(Some(since)) => since,
            Ok(None) | Err(_) => SwitchedOff { at: self.inner.parts.clock.unix_ms() }, // in place of one that cannot be read
        };
        if let Err(error) = off.save(&*self.inner.parts.records) {
            return Reply::unsaved(&error);
        }
        let (running, dropped) = {
            let mut shared = self.inner.shared.lock();
            if shared.off.replace(off).is_some() {
                return Reply::Unchanged;
            }
            let dropped = shared.coordinator.take_asked();
            ([shared.running.clone(), shared.steady.control.clone()], dropped) // also a look that may find a sweep to go on with
        };
        running.into_iter().flatten().for_each(|control| {
            control.cancel(); // one past its last checkpoint ends by itself, and deletes nothing more
        });
        tracing::warn!("pruning was switched off by an operator; nothing is deleted until it is switched on");
        if dropped.is_some() {
            self.inner.keep_ledger();
        }
        self.wake(); // what was left is abandoned now
        drop(single); // BEFORE anything is told: a full journal waits for the disk
        self.tell("pruning: switched off");
        dropped.into_iter().for_each(|ids| self.inner.tell_dropped(ids));
        Reply::Accepted
    }

    /// Switches it on again.
    pub(super) fn enable(&self) -> Reply {
        let single = self.inner.operating.lock();
        let was_off = !matches!(SwitchedOff::load(&*self.inner.parts.records), Ok(None));
        if let Err(error) = self.inner.parts.records.remove(RecordKey::Switch) {
            return Reply::unsaved(&error);
        }
        let is_new = self.inner.shared.lock().off.take().is_some() || was_off;
        self.wake(); // what was held back may be due
        drop(single);
        if !is_new {
            return Reply::Unchanged;
        }
        tracing::warn!("pruning was switched on by an operator");
        self.tell("pruning: switched on");
        Reply::Accepted
    }

    fn tell(&self, what: &str) {
        self.inner.parts.events.emit(Event::ConfigChanged { what: what.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_switch_record_are_pinned() {
        let bytes = record::encode(&SwitchedOff { at: 9 }).unwrap();
        assert_eq!(hex::encode(&bytes[..bytes.len() - 4]), "53505231535743480100080000000900000000000000");
    }
}
