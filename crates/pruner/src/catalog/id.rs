//! Ids of snapshots: when one was begun, and a number that nobody else draws.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::CatalogError;
use crate::clock::Clock;

const MS_DIGITS: usize = 13;
const RANDOM_DIGITS: usize = 16;

/// The id of a snapshot: milliseconds since 1970 and 64 random bits, so that names sort by age and never come again (F4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId {
    ms: u64,
    random: u64,
}

impl SnapshotId {
    /// An id that nothing has yet.
    pub fn draw(clock: &dyn Clock) -> Self {
        Self { ms: clock.unix_ms() % 10_u64.pow(MS_DIGITS as u32), random: rand::random() }
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0ms$}-{:0random$x}", self.ms, self.random, ms = MS_DIGITS, random = RANDOM_DIGITS)
    }
}

impl FromStr for SnapshotId {
    type Err = CatalogError;

    fn from_str(text: &str) -> Result<Self, CatalogError> {
        let bad = || CatalogError::BadId { id: text.to_owned() };
        let (ms, random) = text.split_once('-').ok_or_else(bad)?;
        let id =
            Self { ms: ms.parse().map_err(|_| bad())?, random: u64::from_str_radix(random, 16).map_err(|_| bad())? };
        // One text per id: a name that reads as this id is this id.
        if id.to_string() == text { Ok(id) } else { Err(bad()) }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = CatalogError;

    fn try_from(text: String) -> Result<Self, CatalogError> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn an_id_has_one_text_and_two_draws_differ() {
        let clock = ManualClock::default();
        clock.set_unix_ms(1_764_162_097_123);
        let (one, other) = (SnapshotId::draw(&clock), SnapshotId::draw(&clock));
        assert_ne!(one, other);
        assert_eq!(one.to_string().parse::<SnapshotId>().unwrap(), one);
        assert_eq!(one.to_string().len(), 30);
        let text = one.to_string();
        let twisted =
            [text.to_uppercase(), format!("0{text}"), format!("{text}0"), text.replace('-', "/"), String::new()];
        for bad in twisted.iter().filter(|twisted| **twisted != text) {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad}");
        }
        assert!("../../../etc".parse::<SnapshotId>().is_err());
    }
}
