//! What is kept of validations, durably: what the last one came to, and what earlier ones found that is not over.
//!
//! Promise: what was found is over when its check passes and has read as much as that takes, and gives way when it fails and has
//! read as much. One that is skipped, or reads less, ends nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};

use super::result::{Check, Checked, Depth, ValidationReport, ValidationResult};
use crate::{
    error::PruneError,
    records::{RecordKey, Records},
};

/// So many findings of one check that need as much are kept, the first ones beside the last: they are over together.
const MOST_ALIKE: usize = 16;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Milliseconds since 1970 when its validation ended.
    pub at: u64,
    /// The word of the check.
    pub check: String,
    /// How much the check has to read so that it is over when that passes.
    pub needs: Depth,
    /// What it found.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.what)
    }
}

/// What validations came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// Milliseconds since 1970 when the last one ended.
    pub at: u64,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that could not run.
    pub skipped: u64,
    /// What those that failed found.
    pub failed: Vec<Finding>,
    /// What earlier validations found and no later one has looked at again, or not at as much.
    pub open: Vec<Finding>,
}

impl Record for Validated {
    const KIND: [u8; 4] = *b"VALI";
    const VERSION: u16 = 2; // 1 did not say how much had been read, and kept nothing of earlier ones
}

/// Version 1 of the record.
#[derive(Serialize, Deserialize)]
struct FirstValidated {
    at: u64,
    passed: u64,
    skipped: u64,
    failed: Vec<String>,
}

impl Record for FirstValidated {
    const KIND: [u8; 4] = Validated::KIND;
    const VERSION: u16 = 1;
}

impl From<FirstValidated> for Validated {
    fn from(FirstValidated { at, passed, skipped, failed }: FirstValidated) -> Self {
        let failed = failed.iter().map(|text| {
            let (check, what) = text.split_once(": ").map_or((Check::Integrity.label(), text.as_str()), |parts| parts);
            // It may have been a deep one; every other check reads all that it asks for.
            let needs = if check == Check::Integrity.label() { Depth::All } else { Depth::Newest };
            Finding { at, check: check.to_owned(), needs, what: what.to_owned() }
        });
        Self { at, passed, skipped, failed: failed.collect(), open: Vec::new() }
    }
}

impl Validated {
    /// What is kept, if there was a validation.
    ///
    /// Errors: a record that cannot be read.
    pub fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        let name = records.place(RecordKey::Validation).to_string();
        records.load(RecordKey::Validation)?.map(|bytes| Self::decode(&name, &bytes)).transpose()
    }

    /// `name` is for the message.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self, PruneError> {
        match record::decode::<Self>(name, bytes) {
            Ok(kept) => Ok(kept),
            Err(error) => {
                let Ok(first) = record::decode::<FirstValidated>(name, bytes) else { return Err(error.into()) };
                Ok(first.into())
            }
        }
    }

    /// Keeps it.
    ///
    /// Errors: a failed write.
    pub fn save(&self, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::Validation, &record::encode(self)?)
    }

    /// In the place of a record that cannot be used: what it held may have been what only a deep validation finds.
    pub(crate) fn unusable(error: &PruneError, now_ms: u64) -> Self {
        let what = format!("what the last validation came to is unusable: {error}");
        let lost = Finding { at: now_ms, check: Check::Integrity.label().to_owned(), needs: Depth::All, what };
        Self { at: now_ms, passed: 0, skipped: 0, failed: Vec::new(), open: vec![lost] }
    }

    /// Everything that is not over.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.failed.iter().chain(&self.open)
    }

    /// The same beside what was kept earlier and not known when this was made: whether that is over nobody knows.
    pub(crate) fn beside(mut self, earlier: &Self) -> Self {
        earlier.findings().for_each(|finding| self.leave_open(finding));
        self
    }

    /// Keeps an earlier finding too, unless the same is kept, or as many like it as may be.
    fn leave_open(&mut self, earlier: &Finding) {
        let is_alike = |known: &&Finding| (&known.check, known.needs) == (&earlier.check, earlier.needs);
        let alike = || self.findings().filter(is_alike);
        if alike().count() < MOST_ALIKE && alike().all(|known| known.what != earlier.what) {
            self.open.push(earlier.clone());
        }
    }
}

impl Checked {
    /// Whether a finding is over, or told anew. How much a new one needs does not say how much was read.
    fn ends(&self, finding: &Finding) -> bool {
        self.check.label() == finding.check
            && match self.result {
                ValidationResult::Passed { .. } | ValidationResult::Failed { .. } => self.depth >= finding.needs,
                ValidationResult::Skipped { .. } => false,
            }
    }
}

impl ValidationReport {
    /// What is kept of it, and of those before it.
    pub fn validated(&self, before: Option<&Validated>) -> Validated {
        let failed = self.checks.iter().filter(|checked| matches!(checked.result, ValidationResult::Failed { .. }));
        let failed = failed.map(|checked| Finding {
            at: self.at,
            check: checked.check.label().to_owned(),
            needs: checked.needs,
            what: checked.result.told(),
        });
        let mut kept = Validated {
            at: self.at,
            passed: self.count("passed"),
            skipped: self.count("skipped"),
            failed: failed.collect(),
            open: Vec::new(),
        };
        let is_open = |finding: &&Finding| !self.checks.iter().any(|checked| checked.ends(finding));
        let earlier = before.into_iter().flat_map(|before| before.open.iter().chain(&before.failed));
        earlier.filter(is_open).for_each(|finding| kept.leave_open(finding));
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Depth::{All, Newest};

    fn passed() -> ValidationResult {
        ValidationResult::Passed { evidence: "it".to_owned() }
    }

    fn failed() -> ValidationResult {
        ValidationResult::failed("again")
    }

    fn skipped() -> ValidationResult {
        ValidationResult::skipped("why")
    }

    /// A validation with one check of integrity that read so much, and whose fault needs as much to be over.
    fn report(result: ValidationResult, depth: Depth, needs: Depth) -> ValidationReport {
        ValidationReport { at: 2, checks: vec![Checked { check: Check::Integrity, depth, needs, result }] }
    }

    fn found(check: Check, needs: Depth) -> Validated {
        let finding = Finding { at: 1, check: check.label().to_owned(), needs, what: "it".to_owned() };
        Validated { at: 1, passed: 0, skipped: 0, failed: vec![finding], open: Vec::new() }
    }

    #[test]
    fn what_a_check_found_is_over_when_it_passes_and_has_read_as_much_as_that_takes() {
        let rows = [
            (Newest, report(passed(), Newest, Newest), 0),
            (Newest, report(passed(), All, Newest), 0),
            (All, report(passed(), Newest, Newest), 1),
            (All, report(passed(), All, Newest), 0),
            (Newest, report(skipped(), All, Newest), 1),
            (All, report(skipped(), All, Newest), 1),
            (Newest, report(failed(), Newest, Newest), 0), // told anew
            (All, report(failed(), Newest, Newest), 1),    // something else is wrong too
            (All, report(failed(), All, Newest), 0),       // what needed all of it was looked for
            (All, report(failed(), All, All), 0),          // told anew
            (All, report(failed(), Newest, All), 1),       // it was another row, perhaps
        ];
        for (needs, report, open) in rows {
            let kept = report.validated(Some(&found(Check::Integrity, needs)));
            assert_eq!(kept.open.len(), open, "{needs:?}: {report:?}");
            assert!(kept.open.iter().all(|finding| finding.at == 1), "when it was found stays");
            let again = report.validated(Some(&kept));
            assert_eq!(again, kept, "the same once more: {report:?}");
            let other = report.validated(Some(&found(Check::Locking, needs)));
            assert_eq!(other.open.len(), 1, "a check that did not run says nothing of another: {report:?}");
        }
    }

    #[test]
    fn what_is_kept_beside_another_is_all_of_both_once() {
        let (shallow, deep) = (found(Check::Integrity, Newest), found(Check::Integrity, All));
        let other = report(failed(), Newest, All).validated(None);
        let all = shallow.clone().beside(&deep).beside(&other);
        let told = all.findings().map(|finding| (finding.needs, finding.what.as_str()));
        assert_eq!(told.collect::<Vec<_>>(), [(Newest, "it"), (All, "it"), (All, "again")]);
        assert_eq!(all.clone().beside(&deep).beside(&other).beside(&shallow), all);
    }

    /// Each look finds something of its own among rows that later ones do not come to.
    #[test]
    fn what_was_found_first_stays_beside_whatever_looks_that_read_less_find_later() {
        let deep = found(Check::Integrity, All);
        let mut kept = deep.clone();
        for look in 0..100 {
            let result = ValidationResult::failed(format!("row {look}"));
            kept = report(result, Newest, All).validated(Some(&kept));
            assert_eq!(kept.failed[0].what, format!("row {look}"));
            assert_eq!(kept.open[0], deep.failed[0], "{look}");
            assert_eq!(kept.findings().count(), MOST_ALIKE.min(look + 2), "{look}");
        }
        let same = report(ValidationResult::failed("row 99"), Newest, All).validated(Some(&kept));
        assert_eq!(same, kept, "the same is kept once");
        let all = report(passed(), All, Newest).validated(Some(&kept));
        assert_eq!(all.findings().count(), 0, "they are over together");
    }

    #[test]
    fn a_record_of_version_1_is_read_as_what_may_have_needed_all_of_it() {
        let failed = vec!["integrity: order 5: it: is damaged".to_owned(), "locking: two".to_owned()];
        let first = FirstValidated { at: 7, passed: 3, skipped: 2, failed };
        let bytes = record::encode(&first).unwrap();
        let pinned = concat!(
            "5350523156414c490100490000000700000000000000030000000000000002000000000000000222",
            "696e746567726974793a206f7264657220353a2069743a2069732064616d616765640c6c6f636b69",
            "6e673a2074776f",
        );
        assert_eq!(hex::encode(&bytes[..bytes.len() - 4]), pinned);
        let read = Validated::decode("it", &bytes).unwrap();
        assert_eq!((read.at, read.passed, read.skipped, read.open.len()), (7, 3, 2, 0));
        let told = read.failed.iter().map(|finding| (finding.to_string(), finding.needs));
        assert!(told.eq(first.failed.into_iter().zip([All, Newest])), "{read:?}");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Validated::decode("it", &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_bytes_of_what_is_kept_of_validations_are_pinned() {
        let kept = Validated { open: found(Check::Locking, Newest).failed, ..found(Check::Integrity, All) };
        let bytes = record::encode(&kept).unwrap();
        let pinned = concat!(
            "5350523156414c490200440000000100000000000000000000000000000000000000000000000101",
            "0000000000000009696e7465677269747901026974010100000000000000076c6f636b696e670002",
            "6974",
        );
        assert_eq!(hex::encode(&bytes[..bytes.len() - 4]), pinned);
        assert_eq!(Validated::decode("it", &bytes).unwrap(), kept);
    }
}
