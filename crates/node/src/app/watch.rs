//! What ends or hinders the work of a node, written into the journal of events when it begins: looked for at times and on a
//! thread of its own, since nothing on the way of a commit may wait for the journal (I12).

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use state_pruner::events::{Event, EventSink};

use crate::{
    chain::{Chain, Production},
    damage::Damage,
};

/// Looks at a node. What is over is told anew when it begins again.
#[derive(Debug)]
pub(crate) struct Watch {
    chain: Weak<Chain>,
    damage: Weak<Damage>,
    events: Arc<dyn EventSink>,
    told: BTreeSet<&'static str>,
}

impl Watch {
    /// Nothing was told yet.
    pub(crate) fn of(chain: &Arc<Chain>, damage: &Arc<Damage>, events: Arc<dyn EventSink>) -> Self {
        Self { chain: Arc::downgrade(chain), damage: Arc::downgrade(damage), events, told: BTreeSet::new() }
    }

    /// Tells what is new. May wait for the journal, and holds nothing of the node meanwhile.
    pub(crate) fn look(&mut self) {
        let found = self.found();
        self.told.retain(|code| found.iter().any(|event| event.code() == *code));
        for event in found {
            if self.told.insert(event.code()) {
                self.events.emit(event);
            }
        }
    }

    fn found(&self) -> Vec<Event> {
        let (Some(chain), Some(damage)) = (self.chain.upgrade(), self.damage.upgrade()) else { return Vec::new() };
        let backend = chain.store().backend();
        let engine = match (backend.damage(), backend.stopped_by()) {
            (Some(what), _) => Some(Event::EngineDamaged { what }),
            (None, stopped) => stopped.map(|what| Event::EngineStopped { what }),
        };
        let met = damage.met().map(|(what, _)| Event::DamageMet { what });
        engine.into_iter().chain(met).chain(of_production(&chain)).collect()
    }
}

fn of_production(chain: &Chain) -> Vec<Event> {
    let status = match chain.status() {
        Ok(status) => status,
        Err(error) => {
            tracing::warn!(%error, "whether blocks are made cannot be told");
            return Vec::new();
        }
    };
    let ended = (status.production == Production::Dead).then_some(Event::ProductionEnded);
    let failing = status.failure.map(|failure| Event::CommitsFailing {
        error: failure.refusal.code.to_owned(),
        message: failure.refusal.message,
        times: failure.times,
    });
    ended.into_iter().chain(failing).collect()
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use state_pruner::SystemClock;
    use state_store::{Durability, MemoryBackend, Store, StoreConfig, StoreError};

    use super::*;
    use crate::config::Config;

    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<&'static str>>);

    impl EventSink for Told {
        fn emit(&self, event: Event) {
            self.0.lock().push(event.code());
        }
    }

    #[test]
    fn what_hinders_a_node_is_told_when_it_begins_and_once_and_nothing_when_the_node_is_gone() {
        let config = StoreConfig { barrier_limit: 1_000, ..StoreConfig::new(Durability::Logged) };
        let store = Arc::new(Store::open(Arc::new(MemoryBackend::new()), config).unwrap());
        let chain = Chain::open(store, Config::default().chain(), Arc::new(SystemClock::new())).unwrap();
        let damage = Arc::new(Damage::of(None, Arc::clone(chain.store())));
        let told = Arc::new(Told::default());
        let mut watch = Watch::of(&chain, &damage, Arc::clone(&told) as _);
        watch.look();
        assert_eq!(*told.0.lock(), [""; 0]);
        let row = || StoreError::Record { name: "block 1".to_owned(), why: "torn".to_owned() };
        (0..2).for_each(|_| {
            damage.met_by_retention(row().into());
            watch.look();
        });
        assert_eq!(*told.0.lock(), ["damage_met"]);
        drop((chain, damage));
        watch.look();
        assert_eq!(told.0.lock().len(), 1);
    }
}
