//! What people and programs asked to keep by name: pins on single orders, and consumers with a watermark.
//!
//! One durable record holds both; it is replaced as a whole. Time here is the wall clock, because it must survive a
//! restart. That a clock which steps ends nothing early is up to `held`.

use serde::{Deserialize, Serialize};
use state_store::{
    Durability,
    record::{self, Record},
};
use state_tree::Order;

use super::keep::KeepPolicy;
use crate::{
    error::PruneError,
    records::{RecordKey, Records},
    roots::KeptBy,
};

/// The longest name.
const MAX_NAME: usize = 64;
/// What a name looks like.
const NAME: &str =
    "name: give 1 to 64 letters, digits, dots, dashes or underscores, with a letter or a digit among them";
/// The longest word about an owner.
const MAX_OWNER: usize = 128;
/// What an owner looks like.
const OWNER: &str = "owner: give 1 to 128 bytes without control characters, spaces alone are none";
/// Most pins, and most consumers.
pub(crate) const MAX_HOLDS: usize = 1024;

/// One order kept by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPin {
    /// Its name.
    pub name: String,
    /// Who asked for it.
    pub owner: String,
    /// The order.
    pub order: u64,
    /// Milliseconds since 1970 when it was added.
    pub since_ms: u64,
    /// It ends so many milliseconds later; absent means when it is removed.
    pub ttl_ms: Option<u64>,
}

/// Somebody who still needs every order from its watermark on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// The oldest order it needs.
    pub order: u64,
    /// Milliseconds since 1970 when it was last heard of.
    pub heard_ms: u64,
    /// So many milliseconds later it is silent, and no longer obeyed.
    pub ttl_ms: u64,
}

/// Whether the wall clock says nothing against it that a time is over that began then and lasts so long. One that is before its
/// beginning was wrong then or is now, and knows nothing.
fn may_be_over(since_ms: u64, ttl_ms: u64, now_ms: u64) -> bool {
    now_ms < since_ms || now_ms >= since_ms.saturating_add(ttl_ms)
}

impl NamedPin {
    /// Whether its time may be over by the wall clock.
    pub(super) fn may_be_past(&self, now_ms: u64) -> bool {
        self.ttl_ms.is_some_and(|ttl_ms| may_be_over(self.since_ms, ttl_ms, now_ms))
    }
}

impl Consumer {
    /// Whether this word may be lost with a power cut, where `known` is the last one: it needs more then than it said, and was
    /// heard of a quarter of its time earlier at most.
    pub(super) fn may_be_lost_behind(&self, known: &Self) -> bool {
        let quarter = |consumer: &Self| consumer.heard_ms / (consumer.ttl_ms / 4).max(1);
        known.order <= self.order && (known.ttl_ms, quarter(known)) == (self.ttl_ms, quarter(self))
    }

    /// Whether it was not heard of in time, by the wall clock.
    pub(super) fn may_be_past(&self, now_ms: u64) -> bool {
        may_be_over(self.heard_ms, self.ttl_ms, now_ms)
    }
}

/// Every pin and consumer, each list by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holds {
    pub(crate) pins: Vec<NamedPin>,
    pub(crate) consumers: Vec<Consumer>,
}

impl Record for Holds {
    const KIND: [u8; 4] = *b"HOLD";
    const VERSION: u16 = 1;
}

impl Holds {
    /// Refuses to be kept by a policy that does not know of it, also what has expired: only who knows of it may judge that.
    ///
    /// Errors: there is a pin or a consumer.
    pub(crate) fn refuse(&self) -> Result<(), PruneError> {
        let pins = self.pins.iter().map(|pin| format!("pin `{}`", pin.name));
        let consumers = self.consumers.iter().map(|consumer| format!("consumer `{}`", consumer.name));
        let named: Vec<String> = pins.chain(consumers).collect();
        if named.is_empty() { Ok(()) } else { Err(PruneError::HeldByName(named.join(", "))) }
    }

    /// What was saved last; nothing was if there is no record.
    pub(crate) fn load(records: &dyn Records) -> Result<Self, PruneError> {
        match records.load(RecordKey::Holds)? {
            Some(bytes) => Ok(record::decode("pins and consumers", &bytes)?),
            None => Ok(Self::default()),
        }
    }

    /// Writes the record; what is logged only may be lost with a power cut, and is then as it was before.
    pub(crate) fn save(&self, records: &dyn Records, durability: Durability) -> Result<(), PruneError> {
        let bytes = record::encode(self)?;
        match durability {
            Durability::Synced => records.save(RecordKey::Holds, &bytes),
            Durability::Logged => records.stage(RecordKey::Holds, &bytes),
        }
    }

    /// Why a single order below the floor is kept.
    pub(crate) fn why_kept(&self, order: Order, keep: Option<KeepPolicy>) -> KeptBy {
        let names = self.pins.iter().filter(|pin| pin.order == order.get());
        let names: Vec<String> = names.map(|pin| format!("{} of {}", pin.name, pin.owner)).collect();
        match keep {
            _ if !names.is_empty() => KeptBy::Pin(names.join(", ")),
            Some(keep) if keep.is_one_of_every(order) => KeptBy::Every,
            Some(_) | None => KeptBy::Leaving,
        }
    }

    /// With one pin more. The same name on the same order begins its time anew.
    pub(crate) fn with_pin(&self, pin: NamedPin) -> Result<Self, PruneError> {
        check_name(&pin.name)?;
        check_owner(&pin.owner)?;
        let mut holds = self.clone();
        match holds.pins.binary_search_by(|held| held.name.cmp(&pin.name)) {
            Ok(at) => match holds.pins.get_mut(at) {
                Some(held) if (held.order, &held.owner) == (pin.order, &pin.owner) => *held = pin,
                Some(held) => {
                    let (owner, order) = (held.owner.clone(), held.order);
                    return Err(PruneError::NameTaken { name: pin.name, owner, order });
                }
                None => return Err(PruneError::Invariant("a pin was found and is not there".to_owned())),
            },
            Err(_) if holds.pins.len() >= MAX_HOLDS => return Err(PruneError::TooManyNames { limit: MAX_HOLDS }),
            Err(at) => holds.pins.insert(at, pin),
        }
        Ok(holds)
    }

    /// Without the pin of this name, and that pin.
    pub(crate) fn without_pin(&self, name: &str) -> Result<(Self, NamedPin), PruneError> {
        let mut holds = self.clone();
        match holds.pins.binary_search_by(|held| held.name.as_str().cmp(name)) {
            Ok(at) => {
                let pin = holds.pins.remove(at);
                Ok((holds, pin))
            }
            Err(_) => Err(PruneError::UnknownName { what: "pin", name: name.to_owned() }),
        }
    }

    /// With this consumer, instead of the one of its name if there is one.
    pub(crate) fn with_consumer(&self, consumer: Consumer) -> Result<Self, PruneError> {
        check_name(&consumer.name)?;
        let mut holds = self.clone();
        match holds.consumers.binary_search_by(|held| held.name.cmp(&consumer.name)) {
            Ok(at) => holds.consumers.iter_mut().skip(at).take(1).for_each(|held| held.clone_from(&consumer)),
            Err(_) if holds.consumers.len() >= MAX_HOLDS => {
                return Err(PruneError::TooManyNames { limit: MAX_HOLDS });
            }
            Err(at) => holds.consumers.insert(at, consumer),
        }
        Ok(holds)
    }

    /// Without the consumer of this name, and that consumer.
    pub(crate) fn without_consumer(&self, name: &str) -> Result<(Self, Consumer), PruneError> {
        let mut holds = self.clone();
        match holds.consumers.binary_search_by(|held| held.name.as_str().cmp(name)) {
            Ok(at) => {
                let consumer = holds.consumers.remove(at);
                Ok((holds, consumer))
            }
            Err(_) => Err(PruneError::UnknownName { what: "consumer", name: name.to_owned() }),
        }
    }
}

/// Whether a pin or a consumer may have this name, which is part of an address and of log lines.
///
/// Errors: it may not, with the rule.
pub fn check_name(name: &str) -> Result<(), PruneError> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let words = name.chars().any(|letter| letter.is_ascii_alphanumeric());
    if words && name.len() <= MAX_NAME && name.chars().all(fits) {
        return Ok(());
    }
    let name = name.chars().take(MAX_NAME).collect();
    Err(PruneError::BadName { name, rule: NAME })
}

fn check_owner(owner: &str) -> Result<(), PruneError> {
    if !owner.trim().is_empty() && owner.len() <= MAX_OWNER && !owner.chars().any(char::is_control) {
        return Ok(());
    }
    let name = owner.chars().filter(|letter| !letter.is_control()).take(MAX_NAME).collect();
    Err(PruneError::BadName { name, rule: OWNER })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(name: &str, order: u64, ttl_ms: Option<u64>) -> NamedPin {
        NamedPin { name: name.to_owned(), owner: "me".to_owned(), order, since_ms: 1000, ttl_ms }
    }

    fn consumer(name: &str, order: u64) -> Consumer {
        Consumer { name: name.to_owned(), order, heard_ms: 1000, ttl_ms: 500 }
    }

    #[test]
    fn the_bytes_of_the_record_of_pins_and_consumers_are_pinned() {
        let holds = Holds::default().with_pin(pin("a", 7, Some(9))).unwrap();
        let holds = holds.with_consumer(consumer("b", 8)).unwrap();
        let bytes = record::encode(&holds).unwrap();
        let payload = [
            &[1, 1, b'a', 2, b'm', b'e'][..],
            &[7, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0, 0, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, b'b', 8, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0, 0, 0, 0, 0, 0xf4, 1, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes[14..bytes.len() - 4], payload.concat());
        assert_eq!(bytes[..10], *b"SPR1HOLD\x01\0");
        assert_eq!(record::decode::<Holds>("holds", &bytes).unwrap(), holds);
    }

    #[test]
    fn a_name_belongs_to_one_order_and_is_free_again_once_removed() {
        let holds = Holds::default().with_pin(pin("b", 7, None)).unwrap().with_pin(pin("a", 3, None)).unwrap();
        assert!(holds.pins.is_sorted_by_key(|pin| pin.name.clone()));
        let taken = holds.with_pin(pin("b", 8, None)).unwrap_err();
        assert!(matches!(&taken, PruneError::NameTaken { order: 7, .. }), "{taken}");
        let taken = holds.with_pin(NamedPin { owner: "bob".to_owned(), ..pin("b", 7, Some(1)) }).unwrap_err();
        assert!(
            matches!(&taken, PruneError::NameTaken { owner, .. } if owner == "me"),
            "whom it was promised to: {taken}"
        );
        for owner in ["", "  "] {
            let nobody = holds.with_pin(NamedPin { owner: owner.to_owned(), ..pin("c", 7, None) }).unwrap_err();
            assert!(matches!(nobody, PruneError::BadName { .. }), "{nobody}");
        }
        let renewed = holds.with_pin(NamedPin { since_ms: 2000, ..pin("b", 7, Some(5)) }).unwrap();
        assert_eq!(renewed.pins.len(), 2);
        let (left, gone) = renewed.without_pin("b").unwrap();
        assert_eq!((left.pins.len(), gone.ttl_ms), (1, Some(5)));
        assert!(matches!(left.without_pin("b"), Err(PruneError::UnknownName { what: "pin", .. })));
        assert!(left.with_pin(pin("b", 8, None)).is_ok());
    }

    #[test]
    fn names_fit_into_addresses_and_lists_are_bounded() {
        let long = "x".repeat(65);
        for bad in ["", ".", "..", "a/b", "a b", "\u{e4}", &long] {
            let refused = Holds::default().with_pin(pin(bad, 1, None));
            assert!(matches!(refused, Err(PruneError::BadName { .. })), "{bad:?}");
            assert!(Holds::default().with_consumer(consumer(bad, 1)).is_err(), "{bad:?}");
            let told = refused.unwrap_err().to_string();
            assert!(told.contains("is no name: ") && !told.contains("owner"), "{told}");
        }
        let owned = NamedPin { owner: "o".repeat(129), ..pin("a", 1, None) };
        let told = Holds::default().with_pin(owned).unwrap_err().to_string();
        assert!(told.contains("is no owner: ") && !told.contains("name"), "{told}");
        let names = |count: usize| (0..count).map(|n| format!("n{n:05}"));
        let holds = Holds {
            pins: names(MAX_HOLDS).map(|name| pin(&name, 1, None)).collect(),
            consumers: names(MAX_HOLDS).map(|name| consumer(&name, 1)).collect(),
        };
        assert!(matches!(holds.with_pin(pin("z", 1, None)), Err(PruneError::TooManyNames { .. })));
        assert!(matches!(holds.with_consumer(consumer("z", 1)), Err(PruneError::TooManyNames { .. })));
        assert!(holds.with_consumer(consumer("n00003", 9)).is_ok(), "one that is there may go on");
    }

    #[test]
    fn a_wall_clock_from_before_the_beginning_of_a_time_says_nothing_of_its_end() {
        let rows = [(Some(500), 1499, false), (Some(500), 1500, true), (Some(500), 999, true), (None, u64::MAX, false)];
        for (ttl, now, expired) in rows {
            assert_eq!(pin("a", 1, ttl).may_be_past(now), expired, "ttl {ttl:?} at {now}");
        }
        assert!(!pin("a", 1, Some(u64::MAX)).may_be_past(u64::MAX - 1), "no sum wraps");
        assert!(consumer("c", 1).may_be_past(1500) && !consumer("c", 1).may_be_past(1100));
    }
}
