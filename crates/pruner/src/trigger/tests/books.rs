//! What runs count and which requests they serve, held against a list of commits, whatever comes between: runs that end, fail
//! or die, rollbacks, requests, restarts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A run that has begun.
struct Begun {
    number: u64,
    head: u64,
    snapshot: Option<u64>,
    requests: Vec<String>,
}

/// A node whose every commit is known by itself.
struct Books {
    coordinator: Coordinator,
    /// The ledger as a later process finds it.
    saved: Ledger,
    /// Of each order behind genesis, the run that has counted it.
    chain: Vec<Option<u64>>,
    run: Option<Begun>,
    /// What each run has counted.
    counted: BTreeMap<u64, u64>,
    waiting: BTreeSet<String>,
    served: BTreeMap<String, u64>,
    asked: u64,
}

impl Books {
    fn new() -> Self {
        let coordinator = coordinator(TriggerConfig::default());
        let saved = coordinator.ledger.clone();
        let (chain, run, counted) = (Vec::new(), None, BTreeMap::new());
        Self { coordinator, saved, chain, run, counted, waiting: BTreeSet::new(), served: BTreeMap::new(), asked: 0 }
    }

    fn head(&self) -> u64 {
        self.chain.len() as u64
    }

    fn save(&mut self) {
        self.saved = Ledger::decode(&self.coordinator.ledger.encode().unwrap()).unwrap();
    }

    fn step(&mut self, what: u8, how: u64) {
        match what {
            0 | 1 => self.chain.extend((0..=how).map(|_| None)),
            2 if self.run.is_none() => self.begin(),
            3 => {
                let head = self.head();
                self.run.iter_mut().for_each(|run| run.snapshot = Some(head));
            }
            4 if self.run.is_some() => self.end((how > 2).then_some(1)),
            5 => self.restart(),
            6 => self.roll_back(self.head().saturating_sub(how)),
            7 => self.ask(),
            _ => {}
        }
    }

    fn begin(&mut self) {
        let facts = Facts { head: self.head(), ..facts() };
        let requests: Vec<String> = self.coordinator.take_asked().into_iter().flatten().collect();
        let trigger = if requests.is_empty() { Trigger::Orders } else { Trigger::Operator };
        let beginning =
            Beginning { trigger, at: 0, head: facts.head, nodes_stored: 0, figure: None, requests: requests.clone() };
        self.coordinator.begin(beginning, facts.now);
        self.save();
        let number = self.coordinator.ledger.newest();
        self.waiting.clear();
        self.served.extend(requests.iter().map(|id| (id.clone(), number)));
        self.run = Some(Begun { number, head: facts.head, snapshot: None, requests });
    }

    fn end(&mut self, live: Option<u64>) {
        let Begun { number, head, snapshot, .. } = self.run.take().unwrap();
        let outcome = Outcome { cycle: None, at: 0, head_order: None, ended: Ended::Cancelled };
        let ending = Ending { snapshot_head: snapshot, live, duration_ms: 0, outcome };
        self.coordinator.end(ending, Duration::ZERO).unwrap();
        self.save();
        let to = snapshot.map_or(head, |snapshot| snapshot) as usize;
        let new = self.chain.iter_mut().take(to).filter(|counted_by| counted_by.is_none());
        let count = new.map(|counted_by| *counted_by = Some(number)).count() as u64;
        self.counted.insert(number, count);
    }

    /// The process dies, and the next one finds what was saved.
    fn restart(&mut self) {
        self.coordinator = Coordinator::new(rules(TriggerConfig::default()), self.saved.clone(), Duration::ZERO, 0);
        self.coordinator.interrupt();
        self.save();
        self.interrupted();
    }

    /// A run that does not go on has counted nothing, and who asked for it waits again.
    fn interrupted(&mut self) {
        let Some(Begun { number, requests, .. }) = self.run.take() else { return };
        self.counted.insert(number, 0);
        self.served.retain(|id, _| !requests.contains(id));
        self.waiting.extend(requests);
    }

    /// A run that has not captured what goes may go on, and one that has captured nothing may do either.
    fn roll_back(&mut self, to: u64) {
        let captured = self.run.as_ref().map(|run| run.snapshot);
        let fate = match captured {
            Some(None) if to.is_multiple_of(2) => Fate::GoesOn,
            captured => Fate::of(captured.flatten(), Order::new(to)),
        };
        self.coordinator.rolled_back(to, fate);
        self.save();
        match fate {
            Fate::GoesOn => self.run.iter_mut().for_each(|run| run.head = run.head.min(to)),
            Fate::GivenUp => self.interrupted(),
        }
        self.chain.truncate(to as usize);
    }

    fn ask(&mut self) {
        self.asked += 1;
        let id = format!("request {}", self.asked);
        self.coordinator.ask(Some(&id));
        self.save();
        self.waiting.insert(id);
    }

    fn agree(&self) -> Result<(), TestCaseError> {
        let ledger = &self.saved;
        let uncounted = self.chain.iter().filter(|counted_by| counted_by.is_none()).count() as u64;
        prop_assert_eq!(ledger.uncounted(self.head()), uncounted);
        for run in ledger.runs() {
            prop_assert_eq!(run.counted, self.counted[&run.number], "run {}", run.number);
        }
        let waiting: BTreeSet<String> = ledger.asked.iter().flatten().cloned().collect();
        prop_assert_eq!(&waiting, &self.waiting);
        for (id, run) in self.served.iter().filter(|(_, run)| **run + 8 > ledger.newest()) {
            prop_assert_eq!(ledger.served(id), Some(*run), "{}", id);
        }
        prop_assert!(self.waiting.iter().all(|id| ledger.served(id).is_none()), "one that waits was served");
        Ok(())
    }
}

proptest! {
    #[test]
    fn each_commit_is_counted_once_and_each_request_served_once_whatever_comes_between(
        steps in prop::collection::vec((0..8_u8, 0..6_u64), 1..200),
    ) {
        let mut books = Books::new();
        for (what, how) in steps {
            books.step(what, how);
            books.agree()?;
        }
    }
}
