//! The clock of the machine is set back and forth between snapshots. The story: two were made in 2030, the clock was corrected,
//! and from then on each run with `--keep 2` deleted the snapshot of the run before.

use std::{fs, num::NonZeroU64, path::Path, sync::Arc, time::Duration};

use state_pruner::{
    Clock as _, Control, ManualClock, Unobserved,
    catalog::{self, CatalogRetention, CreateRequest, SnapshotId, Source},
    offline::{Steering, StoreLayout},
};

use crate::support::Place;

const HOUR: u64 = 3_600_000;
/// Milliseconds since 1970 in the two years.
const IN_2026: u64 = 1_767_225_600_000;
const IN_2030: u64 = 1_893_456_000_000;

/// Makes a snapshot at a moment of the wall clock.
fn create(place: &Place, unix_ms: u64, retention: CatalogRetention) -> SnapshotId {
    let clock = Arc::new(ManualClock::default());
    clock.set_unix_ms(unix_ms);
    let id = SnapshotId::draw(&*clock);
    let source = Source::Rest { db: place.db(), layout: StoreLayout::Native, orders: NonZeroU64::MIN };
    let request = CreateRequest { catalog: &place.catalog_dir(), id, retention };
    assert_eq!(clock.unix_ms(), unix_ms);
    let steering = Steering { control: Arc::new(Control::default()), observer: Arc::new(Unobserved), clock };
    catalog::create(&request, &source, &steering).unwrap();
    id
}

fn keep(n: u64) -> CatalogRetention {
    CatalogRetention { keep: NonZeroU64::new(n), max_age: None }
}

fn listed(place: &Place) -> Vec<SnapshotId> {
    place.catalog().list().unwrap().snapshots.iter().map(|listed| listed.id).collect()
}

#[test]
fn snapshots_made_while_the_clock_was_ahead_are_the_first_to_go() {
    let place = Place::native();
    let mut made: Vec<SnapshotId> =
        (0..2).map(|hour| create(&place, IN_2030 + hour * HOUR, CatalogRetention::ALL)).collect();
    for hour in 0..3 {
        made.push(create(&place, IN_2026 + hour * HOUR, keep(2)));
        assert_eq!(listed(&place), made[made.len() - 2..], "hour {hour}: the newest two, in their order");
    }
}

#[test]
fn a_snapshot_dated_in_the_future_or_before_an_older_one_has_no_such_age() {
    let place = Place::native();
    let ahead = create(&place, IN_2030, CatalogRetention::ALL);
    let before = create(&place, IN_2026, CatalogRetention::ALL);
    let behind = create(&place, HOUR, CatalogRetention::ALL); // a machine that has forgotten the time
    let day = CatalogRetention { keep: None, max_age: Some(Duration::from_hours(24)) };
    let now = create(&place, IN_2026 + HOUR, day);
    assert_eq!(listed(&place), [ahead, before, behind, now]);
    let later = create(&place, IN_2026 + 48 * HOUR, day);
    assert_eq!(listed(&place), [ahead, later], "what is to come is kept, what is old goes");
}

/// What a power cut may leave of the number in the lock file.
#[test]
fn an_ordinal_that_a_power_cut_took_back_is_not_given_again() {
    let place = Place::native();
    let lock = place.catalog_dir().join("catalog.lock");
    let mut made = vec![create(&place, IN_2030, CatalogRetention::ALL)];
    let first = fs::read(&lock).unwrap();
    let spoil = |bytes: &[u8], lock: &Path| fs::write(lock, bytes).unwrap();
    for left in [&first[..], b"", b"garbage", &first[..7]] {
        made.push(create(&place, IN_2026, CatalogRetention::ALL));
        spoil(left, &lock);
    }
    made.push(create(&place, IN_2026, CatalogRetention::ALL));
    assert_eq!(listed(&place), made);
    let ordinals = place.catalog().list().unwrap().snapshots.into_iter().map(|listed| listed.ordinal.unwrap().get());
    assert_eq!(ordinals.collect::<Vec<_>>(), (1..=made.len() as u64).collect::<Vec<_>>());
}
