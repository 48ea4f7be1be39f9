//! Whether the rows of a store of our own are what was written: each decoded by the code that uses it.
//!
//! Costs: [`check_rows`] reads a constant number of rows, however large the store is: every record of which there is one,
//! those of the cursor in a tree that is swept, as many as it is deep, the first sixteen kept orders, the first 65,536
//! marks (20 bytes each) and every bundle of them, and the journal rows of the last sixteen orders. [`check_all_rows`] reads
//! every one, in pieces of 4,096 or 16 MiB, each of a view of its own: between two of them nothing is held, and no lock is taken.
//! Whoever asked may end it within 32 rows; what was found until then is told.

use std::sync::Arc;

use state_tree::Order;

use crate::{
    backend::{Flow, KeyRange, View, visit_rows},
    bundle,
    chain::{FloorRecord, RootRecord, native},
    counting::CountsRecord,
    ending::{Ending, GoesOn},
    error::StoreError,
    journal::{self, JournalRecord},
    kept,
    lost::CountsLost,
    many,
    record::{self, Record},
    schema::Table,
    store::{ExpiryRecord, LayerRecord, Store, cursor_layers},
    stored::StoredRecord,
};

/// Rows of each kind of which there are many.
const SAMPLE: u64 = 16;
/// Marks, which are small.
const MARKS: u64 = 1 << 16;
/// Rows under one view, and their bytes, where all of them are read.
const PIECE: u64 = 4096;
const PIECE_BYTES: u64 = 16 << 20;
/// Faults that are told one by one.
const MOST_FAULTS: usize = 64;

/// Rows of which there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Journal,
    Roots,
    Kept,
    Marks,
    Bundles,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Journal, Self::Roots, Self::Kept, Self::Marks, Self::Bundles];

    fn table(self) -> Table {
        match self {
            Self::Journal => Table::JOURNAL,
            Self::Roots => Table::ROOT,
            Self::Kept => Table::CHAIN,
            Self::Marks => Table::MANY,
            Self::Bundles => Table::META,
        }
    }

    fn range(self) -> KeyRange {
        match self {
            Self::Kept => kept::range(),
            Self::Bundles => bundle::range(),
            Self::Journal | Self::Roots | Self::Marks => KeyRange::ALL,
        }
    }

    fn check(self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Journal => {
                journal::order_of(key).and_then(|_| record::decode::<JournalRecord>("journal", value)).map(|_| ())
            }
            Self::Roots => record::decode::<RootRecord>("root", value).map(|_| ()),
            Self::Kept => kept::decode(key, value).map(|_| ()),
            Self::Marks => many::check(key, value),
            Self::Bundles => bundle::decode(key, value).map(|_| ()),
        }
    }

    /// What is wrong with a row, and which one it is, where its key tells.
    fn told(self, key: &[u8], error: &StoreError) -> String {
        match self {
            Self::Journal | Self::Roots => format!("order {}: {error}", journal::place_of(key)),
            Self::Kept | Self::Marks | Self::Bundles => error.to_string(),
        }
    }
}

/// How much of what there is many of was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Extent {
    #[default]
    Sample,
    All,
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowsChecked {
    /// Those that are not what was written, each with why, and how many more there are beyond the first few.
    pub faults: Vec<String>,
    further: u64,
    extent: Extent,
    /// Whether it was ended before the last row.
    is_ended: bool,
    single: u64,
    journal: u64,
    roots: u64,
    kept: u64,
    marks: u64,
    bundles: u64,
}

impl RowsChecked {
    /// How many rows were read.
    pub fn rows(&self) -> u64 {
        self.single + self.journal + self.roots + self.kept + self.marks + self.bundles
    }

    /// Whether it was told to end before the last row.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// How much was read, as told to people.
    pub fn told(&self) -> String {
        let Self { single, journal, roots, kept, marks, bundles, .. } = self;
        match self.extent {
            _ if self.rows() == 0 => "no rows of ours, for there are none".to_owned(),
            Extent::All if self.is_ended => format!("the first {} rows", self.rows()),
            Extent::Sample => format!(
                "{single} single rows, {journal} rows of the commit journal (of the newest {SAMPLE} orders, no others), \
                 {kept} kept orders (the first {SAMPLE} at most), {marks} marks of shared nodes (the first {MARKS} at \
                 most), {bundles} bundles of those"
            ),
            Extent::All => format!(
                "{single} single rows, all {journal} rows of the commit journal, all {roots} roots of orders, \
                 all {kept} kept orders, all {marks} marks of shared nodes, all {bundles} bundles of those"
            ),
        }
    }

    fn fault(&mut self, why: String) {
        if self.faults.len() < MOST_FAULTS { self.faults.push(why) } else { self.further += 1 }
    }

    fn count(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Journal => &mut self.journal,
            Kind::Roots => &mut self.roots,
            Kind::Kept => &mut self.kept,
            Kind::Marks => &mut self.marks,
            Kind::Bundles => &mut self.bundles,
        }
    }

    fn take(&mut self, checked: Result<(), StoreError>) {
        self.single += 1;
        if let Err(error) = checked {
            self.fault(error.to_string());
        }
    }

    fn one<R: Record>(&mut self, name: &str, row: Option<Vec<u8>>) -> Option<R> {
        let decoded = record::decode::<R>(name, &row?);
        let (record, checked) = match decoded {
            Ok(record) => (Some(record), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.take(checked);
        record
    }

    /// Looks at the records of which there is one, and returns the newest order.
    fn singles(&mut self, view: &dyn View) -> Result<Option<u64>, StoreError> {
        let head: Option<native::HeadRecord> = self.one("head", view.row(&Table::CHAIN, native::HEAD_KEY)?);
        self.one::<FloorRecord>("floor", view.row(&Table::CHAIN, native::FLOOR_KEY)?);
        self.one::<CountsRecord>("counts", view.row(&Table::META, CountsRecord::KEY)?);
        self.one::<StoredRecord>("stored", view.row(&Table::META, StoredRecord::KEY)?);
        self.one::<CountsLost>("counts_lost", view.row(&Table::META, CountsLost::KEY)?);
        let cursor: Option<ExpiryRecord> = self.one("expiry", view.row(&Table::META, ExpiryRecord::KEY)?);
        match cursor.and_then(|cursor| cursor.group).map(|group| group.left(view).map(|_| ())) {
            Some(Err(error)) if !matches!(error, StoreError::Record { .. }) => return Err(error),
            Some(layers) => self.take(layers),
            None => {}
        }
        let Some(head) = head else { return Ok(None) };
        let root: Option<RootRecord> = self.one("root", view.row(&Table::ROOT, &Order::new(head.order).to_key())?);
        if root != Some(head.at) {
            self.fault(format!("the record of order {} is not the one that the head has", head.order));
        }
        Ok(Some(head.order))
    }

    /// The first rows of a range, at most so many; returns the key of the last one if there may be more.
    fn read(
        &mut self,
        view: &dyn View,
        (kind, range): (Kind, &KeyRange),
        (most, goes_on): (u64, GoesOn<'_>),
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let (mut left, mut last, mut bytes, mut ending) = (most, None, 0, Ending::new(goes_on));
        let mut places = Places { newest: if kind == Kind::Journal { newest(view)? } else { None }, last: None };
        view.scan(&kind.table(), range, &mut |key, value| {
            if ending.go_on().is_err() {
                self.is_ended = true;
                return Flow::Break(());
            }
            *self.count(kind) += 1;
            if let Err(error) = kind.check(key, value).and_then(|()| places.check(key)) {
                self.fault(kind.told(key, &error));
            }
            left -= 1;
            bytes += value.len() as u64;
            if left > 0 && (bytes < PIECE_BYTES || self.extent == Extent::Sample) {
                return Flow::Continue(());
            }
            last = Some(key.to_vec());
            Flow::Break(())
        })?;
        Ok(last)
    }

    fn end(mut self) -> Self {
        if self.further > 0 {
            self.faults.push(format!("{} further rows are not what was written", self.further));
        }
        self
    }
}

/// Looks at the rows of a view; a store that is not ours has none.
///
/// Errors: a failed read.
pub fn check_rows(view: &dyn View) -> Result<RowsChecked, StoreError> {
    let mut seen = RowsChecked::default();
    if !is_ours(view) {
        return Ok(seen);
    }
    if let Some(head) = seen.singles(view)? {
        let start = Some(Order::new(head.saturating_sub(SAMPLE - 1)).to_key().to_vec());
        seen.read(view, (Kind::Journal, &KeyRange { start, end: None }), (SAMPLE, &|| true))?;
    }
    for (kind, most) in [(Kind::Kept, SAMPLE), (Kind::Marks, MARKS), (Kind::Bundles, MARKS)] {
        seen.read(view, (kind, &kind.range()), (most, &|| true))?;
    }
    Ok(seen.end())
}

/// Looks at every row of a store, as long as somebody wants it; one that is not ours has none.
///
/// Errors: a failed read.
pub fn check_all_rows(store: &Store, goes_on: GoesOn<'_>) -> Result<RowsChecked, StoreError> {
    all_rows(&|| store.view(), goes_on)
}

fn all_rows(
    view: &dyn Fn() -> Result<Arc<dyn View>, StoreError>,
    goes_on: GoesOn<'_>,
) -> Result<RowsChecked, StoreError> {
    let mut seen = RowsChecked { extent: Extent::All, ..RowsChecked::default() };
    let first = view()?;
    if !is_ours(&*first) {
        return Ok(seen);
    }
    seen.singles(&*first)?;
    drop(first);
    for kind in Kind::ALL {
        let mut range = kind.range();
        loop {
            let Some(mut key) = seen.read(&*view()?, (kind, &range), (PIECE, goes_on))? else { break };
            key.push(0); // the first key behind the last row
            range.start = Some(key);
        }
        if seen.is_ended {
            break;
        }
    }
    Ok(seen.end())
}

/// The newest order; none where the record of the head, which is told by itself, cannot be read.
fn newest(view: &dyn View) -> Result<Option<Order>, StoreError> {
    match native::read_head(view) {
        Ok(head) => Ok(head.map(|head| Order::new(head.order))),
        Err(StoreError::Record { .. } | StoreError::Newer { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where rows of the journal may lie: one for each order up to the newest one.
struct Places {
    /// Absent where it is not known, and for rows of any other kind.
    newest: Option<Order>,
    last: Option<Order>,
}

impl Places {
    /// A row whose key a commit may have given.
    fn check(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let Some(newest) = self.newest else { return Ok(()) };
        let bad = |why| Err(StoreError::Record { name: "journal key".to_owned(), why });
        let place = journal::place_of(key);
        if place > newest {
            return bad(format!("no commit wrote it, for the newest order is {newest}"));
        }
        match self.last.replace(place) {
            Some(last) if last == place => bad("it is a second row of its order".to_owned()),
            Some(_) | None => Ok(()),
        }
    }
}

fn is_ours(view: &dyn View) -> bool {
    view.has_table(&Table::CHAIN) && view.has_table(&Table::META)
}

/// Looks for rows of a newer program among those that are not read when a store is opened.
///
/// Errors: [`StoreError::Newer`], a failed read.
pub(crate) fn refuse_newer(view: &dyn View, head: Option<Order>) -> Result<(), StoreError> {
    if let Some(cursor) = view.row(&Table::META, ExpiryRecord::KEY)? {
        record::refuse_newer::<ExpiryRecord>("expiry", &cursor)?;
    }
    visit_rows(view, &Table::META, &cursor_layers(), &mut |_, value| {
        record::refuse_newer::<LayerRecord>("expiry layer", value)
    })?;
    let Some(head) = head else { return Ok(()) };
    let newest = KeyRange { start: Some(head.to_key().to_vec()), end: None };
    visit_rows(view, &Table::JOURNAL, &newest, &mut |_, value| record::refuse_newer::<JournalRecord>("journal", value))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{
        backend::{Backend, Batch, Durability, MemoryBackend},
        bundle::BundleRecord,
        lost::LostBy,
        many::Mark,
    };

    const AT: RootRecord = RootRecord { root: [1; 32], timestamp_ms: 2, block_hash: [3; 32], trail: [4; 32] };

    /// Every way in which a row differs by one bit.
    fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        (0..bytes.len() * 8).map(move |bit| {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped
        })
    }

    fn every_flip_is_found<R: Record>(record: &R) {
        let bytes = record::encode(record).unwrap();
        assert!(record::decode::<R>("it", &bytes).is_ok());
        for (bit, flipped) in flips(&bytes).enumerate() {
            assert!(record::decode::<R>("it", &flipped).is_err(), "bit {bit}");
        }
    }

    fn journal_record() -> JournalRecord {
        JournalRecord { timestamp_ms: 1, created: vec![2, 3], stale: vec![[4; 32]], dropped: vec![[5; 32]] }
    }

    #[test]
    fn every_single_flipped_bit_of_a_row_of_ours_is_found() {
        every_flip_is_found(&AT);
        every_flip_is_found(&native::HeadRecord { order: 5, at: AT, commits: 6, nodes_put: 7, bytes_put: 8 });
        every_flip_is_found(&FloorRecord { order: 9 });
        every_flip_is_found(&CountsRecord { since: 1, cycle: Some(2) });
        every_flip_is_found(&StoredRecord { nodes: 12, has_no_strays: true });
        every_flip_is_found(&CountsLost { by: LostBy::Gap, order: 10 });
        every_flip_is_found(&ExpiryRecord { done: Some(3), group: None });
        every_flip_is_found(&LayerRecord { nodes: vec![[4; 32]] });
        every_flip_is_found(&journal_record());
        every_flip_is_found(&BundleRecord { order: 2, marked: vec![5, 6] });
        let (order, root) = (Order::new(11), record::encode(&AT).unwrap());
        let kept = kept::key(order);
        Kind::Kept.check(&kept, &root).unwrap();
        for (bit, flipped) in flips(&root).enumerate() {
            assert!(Kind::Kept.check(&kept, &flipped).is_err(), "kept order, bit {bit}");
        }
    }

    /// A store with more rows of each kind than a look reads, and more marks than a piece has.
    struct Grown(MemoryBackend);

    impl Grown {
        const ORDERS: u64 = 40;

        fn new() -> Self {
            let (mut batch, root) = (Batch::new(), record::encode(&AT).unwrap());
            let newest = Self::ORDERS - 1;
            let head = native::HeadRecord { order: newest, at: AT, commits: newest, nodes_put: 0, bytes_put: 0 };
            batch.put(Table::CHAIN, native::HEAD_KEY, record::encode(&head).unwrap());
            for order in (0..Self::ORDERS).map(Order::new) {
                batch.put(Table::ROOT, order.to_key(), root.clone());
                batch.put(Table::CHAIN, kept::key(order), root.clone());
                batch.put(Table::JOURNAL, journal::key(order, order.get()), record::encode(&journal_record()).unwrap());
            }
            (0..=MARKS).for_each(|n| many::put(&mut batch, n, Mark::first(Order::new(1))));
            let bundle = BundleRecord { order: 2, marked: vec![MARKS + 1] };
            batch.put(Table::META, bundle::key(Order::new(2)), record::encode(&bundle).unwrap());
            let store = Self(MemoryBackend::new());
            store.0.write(&batch, Durability::Logged).unwrap();
            store
        }

        fn flip(&self, kind: Kind, key: &[u8]) {
            let mut bytes = self.0.view().unwrap().row(&kind.table(), key).unwrap().unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            let mut batch = Batch::new();
            batch.put(kind.table(), key, bytes);
            self.0.write(&batch, Durability::Logged).unwrap();
        }

        fn look(&self) -> RowsChecked {
            check_rows(&*self.0.view().unwrap()).unwrap()
        }

        fn all(&self) -> RowsChecked {
            all_rows(&|| self.0.view(), &|| true).unwrap()
        }
    }

    #[test]
    fn a_flipped_bit_beyond_what_a_look_reads_is_found_when_every_row_is_read() {
        let store = Grown::new();
        let (look, all) = (store.look(), store.all());
        assert_eq!((look.rows(), look.faults.len()), (3 + 2 * SAMPLE + MARKS, 0), "{look:?}");
        assert_eq!((all.rows(), all.faults.len()), (3 + 3 * Grown::ORDERS + MARKS + 1, 0), "{all:?}");
        assert!(look.told().contains("of the newest 16 orders, no others"), "{}", look.told());
        assert!(all.told().contains("all 40 rows of the commit journal"), "{}", all.told());
        let sixteenth = Order::new(Grown::ORDERS - SAMPLE); // the oldest that a look reads
        let beyond = [
            (Kind::Journal, journal::key(Order::new(sixteenth.get() - 1), sixteenth.get() - 1)),
            (Kind::Roots, Order::new(3).to_key().to_vec()),
            (Kind::Kept, kept::key(Order::new(SAMPLE))),
            (Kind::Marks, MARKS.to_be_bytes().to_vec()),
        ];
        for (kind, key) in beyond {
            store.flip(kind, &key);
            assert_eq!(store.look().faults, Vec::<String>::new(), "{kind:?}");
            assert_eq!(store.all().faults.len(), 1, "{kind:?}: {:?}", store.all().faults);
            store.flip(kind, &key);
        }
        let within = [
            (Kind::Journal, journal::key(sixteenth, sixteenth.get())),
            (Kind::Kept, kept::key(Order::new(SAMPLE - 1))),
            (Kind::Marks, (MARKS - 1).to_be_bytes().to_vec()),
            (Kind::Bundles, bundle::key(Order::new(2))),
        ];
        for (kind, key) in within {
            store.flip(kind, &key);
            assert_eq!((store.look().faults.len(), store.all().faults.len()), (1, 1), "{kind:?}");
            store.flip(kind, &key);
        }
    }

    #[test]
    fn reading_every_row_ends_when_told_to_and_tells_no_more_faults_than_a_few() {
        let store = Grown::new();
        let asked = AtomicU64::new(0);
        store.flip(Kind::Journal, &journal::key(Order::new(0), 0));
        let ended = all_rows(&|| store.0.view(), &|| asked.fetch_add(1, Ordering::SeqCst) < 5).unwrap();
        assert!(ended.is_ended() && ended.faults.len() == 1, "what was found until then is told: {ended:?}");
        store.flip(Kind::Journal, &journal::key(Order::new(0), 0));
        assert_eq!(asked.into_inner(), 6, "it was not asked again");
        (0..MOST_FAULTS as u64 + 3).for_each(|n| store.flip(Kind::Marks, &n.to_be_bytes()));
        let faults = store.all().faults;
        assert_eq!(faults.len(), MOST_FAULTS + 1);
        assert_eq!(faults.last().unwrap(), "3 further rows are not what was written");
    }
}
