//! One-bit counts never lose what a retained root reaches: random histories of clones, moves, toggles, deletions at any
//! depth, pins, rollbacks, sweeps in steps and major cycles, on deltas alone (S21, S22, S28, S36).

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use state_tree::{Change, Changes, FieldsBase, Key, Put};

use crate::{
    counted_chain::{CountedChain, Without},
    model::{Pool, object},
};

/// One random history: who draws, from what, for how long, and what is left out.
struct History {
    seed: u64,
    pool: fn(&mut ChaCha8Rng) -> Pool,
    most_window: usize,
    steps: usize,
    without: Without,
}

/// What a history did.
#[derive(Default)]
struct Seen {
    swept: usize,
    deepest: usize,
}

impl History {
    fn short(seed: u64, without: Without) -> Self {
        Self { seed, pool: Pool::random, most_window: 6, steps: 120, without }
    }

    /// Runs it; the error names the step after which a retained root misses a node, or a promise is broken.
    fn run(&self) -> Result<Seen, String> {
        let rng = &mut ChaCha8Rng::seed_from_u64(self.seed);
        let mut chain = CountedChain::new(rng.random_range(1..=self.most_window), self.without);
        let pool = (self.pool)(rng);
        let mut deepest = 0;
        for step in 0..self.steps {
            act(&mut chain, &pool, rng);
            let at = || format!("seed {} step {step}", self.seed);
            if let Some(hash) = chain.lost() {
                return Err(format!("{}: {hash} is gone", at()));
            }
            if let Some(hash) = chain.broken().filter(|_| self.without == Without::Nothing) {
                return Err(format!("{}: {hash} is not counted as promised", at()));
            }
            deepest = chain.states[chain.head()].1.depth().max(deepest);
        }
        Ok(Seen { swept: chain.swept, deepest })
    }
}

/// One step of a history.
fn act(chain: &mut CountedChain, pool: &Pool, rng: &mut ChaCha8Rng) {
    let head = chain.head();
    let retained: Vec<usize> = chain.retained().into_iter().collect();
    match rng.random_range(0..100) {
        0..65 => chain.commit(&pool.changes(rng, &chain.states[head].1)),
        65..75 => drop(chain.sweep_step(rng.random_range(1..=4).try_into().unwrap())),
        75..85 => chain.incremental_sweep(),
        85..90 => chain.major_cycle(),
        90..94 => drop(chain.pins.insert(*retained.choose(rng).unwrap())),
        94..97 => drop(chain.pins.pop_first()),
        _ => chain.rollback(rng.random_range(chain.floor().min(head)..=head)),
    }
}

#[test]
fn one_bit_counts_fed_by_deltas_alone_lose_nothing() {
    let swept: usize = (0..count(120)).map(|seed| History::short(seed, Without::Nothing).run().unwrap().swept).sum();
    assert!(swept > 1000, "only {swept} nodes were ever swept: the histories test nothing");
}

#[test]
fn one_bit_counts_hold_for_objects_nested_in_objects() {
    let deep = |seed| History { pool: Pool::deep, ..History::short(seed, Without::Nothing) };
    let seen: Vec<Seen> = (0..count(40)).map(|seed| deep(seed).run().unwrap()).collect();
    assert!(seen.iter().filter(|seen| seen.deepest > 3).count() > seen.len() / 2);
    assert!(seen.iter().map(|seen| seen.swept).sum::<usize>() > 1000);
}

#[test]
fn one_bit_counts_hold_over_thousands_of_steps() {
    for (pool, seed) in [(Pool::random as fn(&mut ChaCha8Rng) -> Pool, 1), (Pool::deep, 2)] {
        let steps = count(3000).max(3000) as usize;
        let seen = History { seed, pool, most_window: 30, steps, without: Without::Nothing }.run().unwrap();
        assert!(seen.swept > 1000, "only {} nodes were swept", seen.swept);
    }
}

#[test]
fn each_part_of_a_delta_is_needed() {
    for without in NEEDED {
        let lost = (0..count(200)).find_map(|seed| History::short(seed, without).run().err());
        assert!(lost.is_some(), "{without:?}: no history noticed");
    }
}

const NEEDED: [Without; 9] = [
    Without::Adoption,
    Without::SharedPlaces,
    Without::PushDown,
    Without::Multiplicity,
    Without::Presence,
    Without::HeldMany,
    Without::HeldPins,
    Without::Settling,
    Without::RecentMarks,
];

/// An object is cloned while one of its fields moves away: the clone still has that field, so nothing moved.
#[test]
fn a_field_that_moves_out_of_an_object_being_cloned_is_shared() {
    for (without, survives) in [(Without::Nothing, true), (Without::DropsBelowCopies, false)] {
        let mut chain = CountedChain::new(1, without);
        clone_while_a_field_moves().iter().for_each(|changes| chain.commit(changes));
        chain.incremental_sweep();
        assert_eq!(chain.lost().is_none(), survives, "{without:?}");
    }
}

fn clone_while_a_field_moves() -> [Changes; 3] {
    let key = |first: u8| Key::new([first; 32]);
    let put = |value: Option<u64>, base, fields| Change::Put(Put { object: value.map(object), base, fields });
    let of = |list: Vec<(u8, Change)>| Changes(list.into_iter().map(|(first, change)| (key(first), change)).collect());
    let none = Changes::default;
    let plain = |value| put(Some(value), FieldsBase::Keep, none());
    let inner = of(vec![(0x10, plain(1)), (0x20, plain(2))]);
    let outer = of(vec![(0x60, put(Some(0), FieldsBase::Keep, inner))]);
    let adopt = |path: Vec<Key>| put(Some(0), FieldsBase::Adopt(path), none());
    let copies = vec![
        (0x30, put(None, FieldsBase::Keep, of(vec![(0x60, Change::Remove)]))),
        (0x70, adopt(vec![key(0x30)])),
        (0x80, adopt(vec![key(0x30), key(0x60)])),
    ];
    let later = vec![(0x80, put(None, FieldsBase::Keep, of(vec![(0x10, plain(3))])))];
    [of(vec![(0x30, put(Some(0), FieldsBase::Keep, outer))]), of(copies), of(later)]
}

/// More histories than a test run needs: `STATE_TREE_HISTORIES=5000`.
pub(crate) fn count(usual: u64) -> u64 {
    std::env::var("STATE_TREE_HISTORIES").map_or(usual, |text| text.parse().unwrap())
}
