//! Where a journal is damaged: the first places, and the events around each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Counted;

/// So many places are told; all of them are counted.
pub(super) const MOST: usize = 8;

/// Bytes of a journal that are no event. The numbers between those of its neighbours are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPlace {
    /// Where it begins in the file. Only a header that cannot be read begins at 0.
    pub from: u64,
    /// How many bytes it has; none where the header is missing and nothing is in its place.
    pub length: u64,
    /// The number of the last event before it; absent where there is none.
    pub after: Option<u64>,
    /// The number of the first event behind it; absent where there is none.
    pub before: Option<u64>,
}

impl DamagedPlace {
    fn neighbours(&self) -> String {
        match (self.after, self.before) {
            (None, None) => "no event around".to_owned(),
            (None, Some(before)) => format!("before event {before}"),
            (Some(after), None) => format!("behind event {after}"),
            (Some(after), Some(before)) => match before.saturating_sub(after) {
                0 | 1 => format!("between events {after} and {before}"),
                2 => format!("where event {} is missing", after + 1),
                _ => format!("where events {} to {} are missing", after + 1, before - 1),
            },
        }
    }
}

impl fmt::Display for DamagedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, length) = (self.from, self.length);
        match (from, length) {
            (0, 0) => write!(f, "no header at byte 0, ")?,
            (0, _) => write!(f, "{length} bytes at byte 0, where the header should be, ")?,
            (_, _) => write!(f, "{length} bytes at byte {from}, ")?,
        }
        f.write_str(&self.neighbours())
    }
}

/// What a journal lacks, in words: how many places are damaged, the first of them, how many numbers are missing.
pub(super) fn told(places: &[DamagedPlace], damaged: u64, missing: u64) -> String {
    let mut words: Vec<String> = places.iter().map(DamagedPlace::to_string).collect();
    let more = damaged.saturating_sub(places.len() as u64);
    if more > 0 && !words.is_empty() {
        words.push(format!("{more} more"));
    }
    let places = if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) };
    format!("{}{places}, {} missing", Counted(damaged, "damaged place"), Counted(missing, "number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_place_is_told_by_its_bytes_and_by_the_events_that_are_missing_around_it() {
        let place = |from, length, after, before| DamagedPlace { from, length, after, before };
        let rows = [
            (place(0, 0, None, None), "no header at byte 0, no event around"),
            (place(0, 40, None, Some(1)), "40 bytes at byte 0, where the header should be, before event 1"),
            (place(40, 63, None, Some(2)), "63 bytes at byte 40, before event 2"),
            (place(103, 7, Some(2), Some(3)), "7 bytes at byte 103, between events 2 and 3"),
            (place(103, 63, Some(2), Some(4)), "63 bytes at byte 103, where event 3 is missing"),
            (place(103, 163, Some(2), Some(6)), "163 bytes at byte 103, where events 3 to 5 are missing"),
            (place(903, 20, Some(11), None), "20 bytes at byte 903, behind event 11"),
        ];
        for (place, words) in rows {
            assert_eq!(place.to_string(), words);
        }
        let two = [place(40, 63, None, Some(2)), place(903, 20, Some(11), None)];
        let words = "63 bytes at byte 40, before event 2; 20 bytes at byte 903, behind event 11";
        assert_eq!(told(&two, 2, 1), format!("2 damaged places ({words}), 1 number missing"));
        assert_eq!(told(&two, 5, 0), format!("5 damaged places ({words}; 3 more), 0 numbers missing"));
        assert_eq!(told(&two[..1], 1, 0), "1 damaged place (63 bytes at byte 40, before event 2), 0 numbers missing");
        assert_eq!(told(&[], 3, 2), "3 damaged places, 2 numbers missing", "an earlier program told only how many");
    }
}
