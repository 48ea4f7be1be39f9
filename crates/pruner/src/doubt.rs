//! Whether live nodes may be damaged, as far as is known: what was found in them stays in doubt for longer than deletes are
//! frozen for it.
//!
//! An operator lifts a freeze by word; only a later cycle knows. It settles the doubt if it began after the fault was found
//! and read what the fault was of: a node that hashes to another key is found by hashing every live node, the others by any
//! mark. Until then older copies of the store are needed (I11). Unknown counts as doubt (I8): a record that is unusable says
//! neither since when nor of what, so the first cycle that finishes writes it anew, as of itself and of either kind.

use serde::{Deserialize, Serialize};
use state_store::{
    StoreError,
    record::{self, Record},
};

use crate::{
    certificate::Certificate,
    control::Settled,
    error::PruneError,
    log_cut::Lost,
    mark::{MarkReport, RehashChoice},
    outcome::Freeze,
    phase,
    records::{self, RecordKey, Records},
};

/// The last fault that was found in live nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doubt {
    /// The newest cycle by then: a later one settles it.
    pub(crate) cycle: u64,
    /// Whether only hashing finds such a fault.
    pub(crate) of_hash: bool,
    /// The fault.
    pub(crate) why: String,
}

/// A fault that may lie in live nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveFault {
    of_hash: bool,
    /// In words.
    pub(crate) why: String,
}

impl LiveFault {
    /// Nothing if the error says nothing of live nodes.
    pub(crate) fn of(error: &PruneError) -> Option<Self> {
        let of_hash = matches!(error, PruneError::WrongHash { .. });
        error.is_live_fault().then(|| Self { of_hash, why: error.to_string() })
    }

    /// Whether the record keeps no more of both than of the later one.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.of_hash == other.of_hash
    }
}

impl Record for Doubt {
    const KIND: [u8; 4] = *b"DOUB";
    const VERSION: u16 = 1;
}

/// Why older copies of a store may be needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubted {
    /// Its word: `frozen` while deletes are, `engine_damaged` while the engine takes no write, `log_cut` where it has
    /// lost acknowledged ones, else `unproven`.
    pub code: &'static str,
    /// What was found.
    pub why: String,
}

impl Doubted {
    /// Deletes are frozen.
    pub fn frozen(why: String) -> Self {
        Self { code: "frozen", why }
    }

    /// The engine met damage.
    pub fn engine(why: String) -> Self {
        Self { code: "engine_damaged", why }
    }

    /// The engine lost acknowledged writes when it opened the store.
    pub fn log_cut(why: String) -> Self {
        Self { code: "log_cut", why }
    }

    /// A fault was found, or may have been: on record, not there yet, or in one that cannot be read.
    pub fn unproven(why: String) -> Self {
        Self { code: "unproven", why }
    }

    pub(crate) fn of(doubt: &Doubt) -> Self {
        Self::unproven(doubt.told())
    }

    pub(crate) fn unknown(error: &PruneError) -> Self {
        Self::unproven(error.to_string())
    }

    /// Remembers a fault that somebody found in live nodes who has no pruner to tell.
    ///
    /// Errors: a failed read or write.
    pub fn remember(error: &PruneError, records: &dyn Records) -> Result<(), PruneError> {
        Doubt::remember(error, records)
    }

    /// What the records of a store say.
    pub fn recorded(records: &dyn Records) -> Option<Self> {
        match (Freeze::load(records), Doubt::load(records)) {
            (Ok(Some(freeze)), _) => Some(Self::frozen(freeze.why)),
            (Err(error), _) | (Ok(None), Err(error)) => Some(Self::unknown(&error)),
            (Ok(None), Ok(Some(doubt))) => Some(Self::of(&doubt)),
            (Ok(None), Ok(None)) => match Lost::load(records) {
                Ok(lost) => lost.map(|lost| Self::log_cut(lost.told())),
                Err(error) => Some(Self::unknown(&error)),
            },
        }
    }
}

impl Doubt {
    /// What was found, when, and what ends the doubt.
    fn told(&self) -> String {
        let when = match self.cycle {
            0 => "before any cycle ran".to_owned(),
            cycle => format!("when cycle {cycle} was the newest"),
        };
        let why = &self.why;
        format!(
            "a fault was found {when}, and whether it is gone is not known until a later cycle finishes (of a store at rest `prune`), \
             which ends this doubt. What was said then: {why}"
        )
    }

    pub(crate) fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        records::read(records, RecordKey::Doubt)
    }

    /// Remembers a fault, if it may lie in live data.
    ///
    /// Errors: a failed read or write.
    pub(crate) fn remember(error: &PruneError, records: &dyn Records) -> Result<(), PruneError> {
        LiveFault::of(error).map_or(Ok(()), |fault| Self::add(&fault, records))
    }

    /// Remembers a fault beside what is in doubt.
    ///
    /// Errors: a failed read or write.
    pub(crate) fn add(fault: &LiveFault, records: &dyn Records) -> Result<(), PruneError> {
        let was_of_hash = match Self::load(records) {
            Ok(old) => old.is_some_and(|old| old.of_hash),
            Err(error @ PruneError::Store(StoreError::Newer { .. })) => return Err(error), // C17
            Err(_) => true,                                                                // nobody knows
        };
        let cycle = phase::last_cycle(records)?;
        Self { cycle, of_hash: fault.of_hash || was_of_hash, why: fault.why.clone() }.save(records)
    }

    /// Remembers what a freeze was for that is being lifted: that of the freeze, where it could be written.
    ///
    /// Errors: a failed read or write.
    pub(crate) fn remember_freeze(why: &str, records: &dyn Records) -> Result<(), PruneError> {
        let of_hash = match Self::load(records) {
            Ok(known) => known.is_none_or(|known| known.of_hash || known.why != why),
            Err(PruneError::Store(StoreError::Record { .. })) => true, // nobody knows, and it would hold the freeze for ever
            Err(error) => return Err(error),
        };
        Self { cycle: phase::last_cycle(records)?, of_hash, why: why.to_owned() }.save(records)
    }

    /// What a mark is to hash again: everything, where what is on record may be of the kind that only hashing finds. Else
    /// what such a node names in place of its own children would be kept, and its own would go.
    ///
    /// Errors: a failed read, a record that a newer program wrote.
    pub(crate) fn rehash(asked: RehashChoice, records: &dyn Records) -> Result<RehashChoice, PruneError> {
        let of_hash = Self::may_be_of_hash(records)?;
        if of_hash && asked != RehashChoice::All {
            tracing::warn!("a node that hashes to another key may be among the live ones: all of them are hashed");
        }
        Ok(if of_hash { RehashChoice::All } else { asked })
    }

    /// Whether a mark that was made before may have believed a node that hashes to another key: its own children are not in it.
    ///
    /// Errors: as above.
    pub(crate) fn was_believed_by(mark: &MarkReport, records: &dyn Records) -> Result<bool, PruneError> {
        Ok(!hashed_all(mark) && Self::may_be_of_hash(records)?)
    }

    fn may_be_of_hash(records: &dyn Records) -> Result<bool, PruneError> {
        Self::may_be(records, |doubt| doubt.of_hash)
    }

    /// Whether something is in doubt that a mark of this cycle says nothing of: it was found since, or is of another kind.
    ///
    /// Errors: a failed read, a record that a newer program wrote.
    pub(crate) fn stands_beside(cycle: u64, mark: &MarkReport, records: &dyn Records) -> Result<bool, PruneError> {
        Self::may_be(records, |doubt| !doubt.is_settled_by(cycle, Some(mark)))
    }

    /// Whether something was found since this cycle began: a walk of it may have passed what it was found in before.
    ///
    /// Errors: a failed read, a record that a newer program wrote.
    pub(crate) fn was_found_since(cycle: u64, records: &dyn Records) -> Result<bool, PruneError> {
        Self::may_be(records, |doubt| doubt.cycle >= cycle)
    }

    /// Whether what is in doubt, if anything is, may be such.
    fn may_be(records: &dyn Records, such: impl FnOnce(&Self) -> bool) -> Result<bool, PruneError> {
        match Self::load(records) {
            Ok(doubt) => Ok(doubt.as_ref().is_some_and(such)),
            Err(PruneError::Store(StoreError::Record { .. })) => Ok(true), // nobody knows
            Err(error) => Err(error),
        }
    }

    fn save(&self, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::Doubt, &record::encode(self)?)
    }

    /// A cycle has finished. What cannot be read or written only keeps more.
    pub(crate) fn settle(by: &Certificate, records: &dyn Records) -> Settled {
        Self::settled((by.cycle, by.mark.as_ref()), records).unwrap_or_else(|error| {
            tracing::warn!(%error, "whether what was found in live nodes is gone is not known; older snapshots are held");
            Settled::No
        })
    }

    fn settled((cycle, mark): (u64, Option<&MarkReport>), records: &dyn Records) -> Result<Settled, PruneError> {
        match Self::load(records) {
            Ok(Some(doubt)) if doubt.is_settled_by(cycle, mark) => {
                records.remove(RecordKey::Doubt).map(|()| Settled::Now)
            }
            Ok(Some(_) | None) => Ok(Settled::No),
            Err(unusable @ PruneError::Store(StoreError::Record { .. })) => {
                // What it told may have been found while this cycle was at work: only a later one knows.
                tracing::warn!(%unusable, cycle, "it is written anew: a later cycle that hashes every live node ends it");
                let why = format!("what it was is not known, because {unusable}");
                Self { cycle, of_hash: true, why }.save(records).map(|()| Settled::No)
            }
            Err(error) => Err(error),
        }
    }

    fn is_settled_by(&self, cycle: u64, mark: Option<&MarkReport>) -> bool {
        cycle > self.cycle && (mark.is_some_and(hashed_all) || !self.of_hash)
    }
}

fn hashed_all(mark: &MarkReport) -> bool {
    mark.nodes_rehashed >= mark.nodes_read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mark::MarkStrategy, records::FolderRecords};

    fn mark(nodes_read: u64, nodes_rehashed: u64) -> MarkReport {
        MarkReport {
            strategy: MarkStrategy::Scan,
            why: String::new(),
            live_nodes: 1,
            nodes_read,
            nodes_rehashed,
            present_nodes: None,
            foreign_rows: None,
            peak_bytes: 0,
            live_digest: String::new(),
            seconds: 0.0,
        }
    }

    #[test]
    fn a_later_fault_takes_nothing_back_of_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let records = FolderRecords(dir.path().to_owned());
        let hash = state_tree::NodeHash::new([1; 32]);
        let wrong = PruneError::WrongHash { hash, actual: hash, path: Vec::new() };
        let missing = PruneError::MissingLiveNode { hash, path: Vec::new() };
        let known = || Doubt::load(&records).unwrap().map(|doubt| (doubt.cycle, doubt.of_hash));
        Doubt::remember(&PruneError::NoHead, &records).unwrap();
        assert_eq!(known(), None, "no fault of a live node");
        Doubt::remember(&missing, &records).unwrap();
        assert_eq!(known(), Some((0, false)));
        let freeze = Freeze { cycle: 1, at: 0, why: missing.to_string() };
        Doubt::remember_freeze(&freeze.why, &records).unwrap();
        assert_eq!(known(), Some((0, false)), "the same fault");
        phase::new_cycle(&records).unwrap();
        Doubt::remember(&wrong, &records).unwrap();
        Doubt::remember(&missing, &records).unwrap();
        assert_eq!(known(), Some((1, true)), "the first one is not found by what finds the second");
        records.remove(RecordKey::Doubt).unwrap();
        Doubt::remember_freeze(&freeze.why, &records).unwrap();
        assert_eq!(known(), Some((1, true)), "of a freeze alone nobody knows what finds its fault");
        records.save(RecordKey::Doubt, b"torn").unwrap();
        assert!(Doubt::load(&records).is_err());
        freeze.save(&records).unwrap();
        freeze.lift(&records).unwrap();
        assert_eq!((known(), Freeze::load(&records).unwrap()), (Some((1, true)), None), "a torn doubt holds no freeze");
    }

    #[test]
    fn a_mark_hashes_everything_and_none_is_gone_on_with_while_a_doubt_asks_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let records = FolderRecords(dir.path().to_owned());
        let asks = || Doubt::rehash(RehashChoice::Sample, &records).unwrap();
        let stands = |cycle, rehashed| Doubt::stands_beside(cycle, &mark(64, rehashed), &records).unwrap();
        assert_eq!((asks(), stands(1, 0)), (RehashChoice::Sample, false));
        let doubt = |of_hash| Doubt { cycle: 4, of_hash, why: "why".to_owned() };
        doubt(false).save(&records).unwrap();
        assert_eq!((asks(), stands(4, 64), stands(5, 1)), (RehashChoice::Sample, true, false));
        doubt(true).save(&records).unwrap();
        assert_eq!((asks(), stands(4, 64), stands(5, 1), stands(5, 64)), (RehashChoice::All, true, true, false));
        records.save(RecordKey::Doubt, b"torn").unwrap();
        assert_eq!((asks(), stands(5, 64)), (RehashChoice::All, true), "nobody knows");
    }

    /// It would hold older snapshots for ever.
    #[test]
    fn a_doubt_that_is_unusable_ends_with_the_second_cycle_that_finishes_if_that_hashes_everything() {
        let dir = tempfile::tempdir().unwrap();
        let records = FolderRecords(dir.path().to_owned());
        let settled = |cycle, rehashed| Doubt::settled((cycle, Some(&mark(64, rehashed))), &records).unwrap();
        records.save(RecordKey::Doubt, b"torn").unwrap();
        assert_eq!(settled(7, 64), Settled::No, "it may have been found behind the mark");
        let known = Doubt::load(&records).unwrap().unwrap();
        assert_eq!((known.cycle, known.of_hash), (7, true));
        assert!(known.why.contains("is unusable"), "{known:?}");
        assert_eq!((settled(7, 64), settled(8, 1)), (Settled::No, Settled::No));
        assert_eq!((settled(8, 64), Doubt::load(&records).unwrap()), (Settled::Now, None));

        let mut newer = record::encode(&known).unwrap();
        let body = newer.len() - 4;
        newer[8] = 9; // its version
        let sum = crc32fast::hash(&newer[..body]);
        newer[body..].copy_from_slice(&sum.to_le_bytes());
        records.save(RecordKey::Doubt, &newer).unwrap();
        let refused = Doubt::settled((9, Some(&mark(64, 64))), &records);
        assert!(matches!(refused, Err(PruneError::Store(StoreError::Newer { .. }))), "{refused:?}");
        assert_eq!(records.load(RecordKey::Doubt).unwrap(), Some(newer), "it is left as it is (C17)");
    }

    #[test]
    fn a_doubt_is_settled_by_a_later_cycle_that_looked_at_what_it_is_of() {
        let doubt = |of_hash| Doubt { cycle: 4, of_hash, why: "why".to_owned() };
        let (all, sample) = (mark(64, 64), mark(64, 1));
        let rows = [
            (false, 5, Some(&sample), true),
            (false, 5, None, true),
            (false, 4, Some(&all), false), // its mark is older than the fault
            (true, 5, Some(&sample), false),
            (true, 5, None, false),
            (true, 5, Some(&all), true),
        ];
        for (of_hash, cycle, mark, expected) in rows {
            assert_eq!(doubt(of_hash).is_settled_by(cycle, mark), expected, "{of_hash} {cycle} {mark:?}");
        }
    }
}
