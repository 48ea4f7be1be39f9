//! The coordinator as a function of what it is told: C16, F10, P16.

mod books;

use std::collections::BTreeSet;

use state_tree::Order;

use super::*;
use crate::outcome::{Ended, Outcome};

const HOUR: Duration = Duration::from_secs(3600);

/// Every trigger configured, in the way most tests want them.
fn config() -> TriggerConfig {
    TriggerConfig {
        node: "a".to_owned(),
        every: Some(24 * HOUR),
        jitter: Share::NONE,
        garbage_ratio: Share::new(0.5),
        low_disk: NonZeroU64::new(1000),
        cooldown: HOUR,
    }
}

fn rules(config: TriggerConfig) -> Rules {
    Rules { config, every_orders: 100, keep_last: 10 }
}

fn coordinator(config: TriggerConfig) -> Coordinator {
    Coordinator::new(rules(config), Ledger::new(0, 0), Duration::ZERO, 0)
}

fn facts() -> Facts {
    Facts {
        now: Duration::ZERO,
        head: 50,
        nodes_stored: Some(0),
        synced: None,
        asked: Asked::No,
        counts: None,
        floor: None,
        filling: false,
        waiting: Some(0),
        held: None,
    }
}

fn run(coordinator: &mut Coordinator, trigger: Trigger, facts: &Facts) {
    let (at, nodes_stored) = (facts.now.as_millis() as u64, facts.nodes_stored.unwrap());
    let figure = coordinator.figure(trigger, facts);
    let beginning = Beginning { trigger, at, head: facts.head, nodes_stored, figure, requests: Vec::new() };
    coordinator.begin(beginning, facts.now);
}

/// Free space is told; whatever arms the trigger is in the ledger, and is to be saved.
fn measure(coordinator: &mut Coordinator, now: Duration, free: Option<u64>) {
    let had_fired = coordinator.ledger.low_disk.is_some();
    let rearmed = coordinator.measured(now, free);
    assert_eq!(rearmed == Rearmed::Now, had_fired && coordinator.ledger.low_disk.is_none());
}

fn end(coordinator: &mut Coordinator, head: u64, live: Option<u64>) {
    let outcome = Outcome { cycle: None, at: 0, head_order: None, ended: Ended::Cancelled };
    let now = coordinator.last.unwrap().after(Duration::ZERO); // a run takes no time here
    coordinator.end(Ending { snapshot_head: Some(head), live, duration_ms: 0, outcome }, now).unwrap();
}

/// A coordinator whose last run began at zero, counted to 50, and found 500 nodes live where 500 were ever put.
fn settled(config: TriggerConfig) -> Coordinator {
    let mut coordinator = coordinator(config);
    run(&mut coordinator, Trigger::Operator, &Facts { nodes_stored: Some(500), ..facts() });
    end(&mut coordinator, 50, Some(500));
    coordinator
}

fn standing(coordinator: &Coordinator, trigger: Trigger, facts: &Facts) -> TriggerState {
    let look = coordinator.look(facts);
    look.standings.iter().find(|(of, _)| *of == trigger).unwrap().1
}

#[test]
fn each_trigger_fires_when_its_condition_is_met_and_not_before() {
    use Trigger::{Garbage, LowDisk, Operator, Orders, Schedule};
    let after = Facts { now: HOUR, head: 60, ..facts() };
    let full = Some(5000);
    let rows: [(Facts, Option<u64>, Option<Trigger>, &str); 17] = [
        (after, full, None, "nothing has changed"),
        (Facts { head: 149, ..after }, full, None, "99 orders"),
        (Facts { head: 150, ..after }, full, Some(Orders), "a hundred orders"),
        (Facts { nodes_stored: Some(999), ..after }, full, None, "499 new beside 500 live ones"),
        (Facts { nodes_stored: Some(1000), ..after }, full, Some(Garbage), "500 new beside 500 live ones"),
        (
            Facts { nodes_stored: Some(1000), head: 59, ..after },
            full,
            None,
            "the same, less than a window after the last run",
        ),
        (Facts { nodes_stored: Some(1100), waiting: Some(101), ..after }, full, None, "most of it is about to go"),
        (
            Facts { nodes_stored: Some(1200), waiting: Some(100), ..after },
            full,
            Some(Garbage),
            "600 that do not go by themselves",
        ),
        (Facts { nodes_stored: Some(5000), waiting: None, ..after }, full, None, "no round tells what is about to go"),
        (Facts { nodes_stored: None, ..after }, full, None, "nobody tells"),
        (Facts { now: 24 * HOUR - Duration::from_millis(1), ..after }, full, None, "a moment too early"),
        (Facts { now: 24 * HOUR, ..after }, full, Some(Schedule), "a day after the last run began"),
        (after, Some(999), Some(LowDisk), "below the bound"),
        (after, Some(1000), None, "at the bound"),
        (after, None, None, "no device"),
        (Facts { asked: Asked::Yes, ..after }, full, Some(Operator), "asked"),
        (Facts { head: 150, asked: Asked::Yes, ..after }, Some(1), Some(Operator), "who waits comes first"),
    ];
    for (facts, free, begin, why) in rows {
        let mut coordinator = settled(config());
        measure(&mut coordinator, facts.now, free);
        assert_eq!(coordinator.look(&facts).begin, begin, "{why}");
    }
}

/// What a trigger holds back by itself comes later than the cooldown ends, and is no cycle that follows.
#[test]
fn a_trigger_is_met_again_if_a_cycle_is_due_for_it_or_will_be_when_the_cooldown_ends() {
    use Trigger::{Counts, Garbage, Orders, Schedule};
    let coordinator = settled(config());
    let (owed, full) = (Some(super::Counts::Owed), Some(1000));
    let after = Facts { now: HOUR, head: 60, ..facts() };
    let early = Facts { now: HOUR - Duration::from_millis(1), ..after };
    let rows: [(Facts, &[Trigger], &str); 8] = [
        (after, &[], "nothing is met"),
        (Facts { head: 150, ..after }, &[Orders], "due"),
        (Facts { head: 150, ..early }, &[Orders], "due when the cooldown ends"),
        (Facts { counts: owed, nodes_stored: full, ..early }, &[Counts, Garbage], "a window after the last run"),
        (Facts { counts: owed, nodes_stored: full, head: 59, ..early }, &[], "less than a window after it"),
        (Facts { head: 150, held: Some(HeldBy::Frozen), ..after }, &[], "nothing begins"),
        (Facts { head: 150, asked: Asked::Yes, ..after }, &[Orders], "who asked was answered"),
        (Facts { now: 24 * HOUR, ..after }, &[Schedule], "by time"),
    ];
    for (facts, met, why) in rows {
        assert_eq!(coordinator.met(&facts), met, "{why}");
    }
}

#[test]
fn what_is_put_into_a_state_that_had_become_smaller_counts_as_new() {
    let after = Facts { now: HOUR, head: 60, ..facts() };
    let mut coordinator = settled(config());
    coordinator.stored(200); // so that 200 nodes are live at most
    let share = |coordinator: &Coordinator, stored| {
        let turnover = coordinator.turnover(&Facts { nodes_stored: Some(stored), ..after }).unwrap();
        (turnover.live, turnover.added)
    };
    assert_eq!(share(&coordinator, 400), (200, 200));
    coordinator.stored(300);
    assert_eq!(share(&coordinator, 400), (200, 200), "growing moves nothing");
    assert_eq!(
        standing(&coordinator, Trigger::Garbage, &Facts { nodes_stored: Some(400), ..after }),
        TriggerState::Due
    );
}

#[test]
fn what_is_not_configured_or_not_known_never_fires() {
    let off = coordinator(TriggerConfig::default());
    let much = Facts { now: 1000 * HOUR, head: 99, nodes_stored: Some(u64::MAX), ..facts() };
    for trigger in [Trigger::LowDisk, Trigger::Garbage, Trigger::Schedule] {
        assert_eq!(standing(&off, trigger, &much), TriggerState::Off, "{trigger:?}");
    }
    assert_eq!((off.look(&much).begin, off.look(&much).again), (None, None), "nothing to wait for either");
    let on = coordinator(config());
    for trigger in [Trigger::LowDisk, Trigger::Garbage] {
        assert_eq!(standing(&on, trigger, &much), TriggerState::Unmeasured, "{trigger:?}");
    }
    assert_eq!(
        on.turnover(&Facts { nodes_stored: Some(7), ..facts() }),
        None,
        "no cycle has finished: there is no figure (I13)"
    );
}

/// What holds back which trigger. An operator is held back by a freeze and by a run at work alone.
#[test]
fn each_reason_holds_back_the_triggers_it_is_meant_for() {
    use HeldBy::{CatchingUp, Cooldown, Frozen, Running, ShortChain, WorkerGone};
    use Trigger::{Garbage, LowDisk, Operator, Orders, Schedule};
    let met = Facts { now: 24 * HOUR, head: 150, nodes_stored: Some(5000), asked: Asked::Yes, ..facts() };
    let all = [Operator, LowDisk, Orders, Garbage, Schedule];
    let rows: [(Facts, HeldBy, &[Trigger]); 4] = [
        (Facts { held: Some(Frozen), ..met }, Frozen, &all),
        (Facts { held: Some(WorkerGone), ..met }, WorkerGone, &all),
        (Facts { held: Some(Running), ..met }, Running, &all),
        (Facts { synced: Some(false), ..met }, CatchingUp, &[Orders, Garbage, Schedule]),
    ];
    let mut coordinator = settled(config());
    measure(&mut coordinator, met.now, Some(1));
    for (facts, by, held) in rows {
        for trigger in all {
            let expected = if held.contains(&trigger) { TriggerState::Held { by } } else { TriggerState::Due };
            assert_eq!(standing(&coordinator, trigger, &facts), expected, "{trigger:?}, {by:?}");
        }
    }
    for synced in [None, Some(true)] {
        assert_eq!(standing(&coordinator, Orders, &Facts { synced, ..met }), TriggerState::Due, "{synced:?}");
    }
    let cooling = Facts { now: HOUR - Duration::from_millis(1), ..met };
    for (trigger, expected) in
        [(Operator, TriggerState::Due), (LowDisk, TriggerState::Due), (Orders, TriggerState::Held { by: Cooldown })]
    {
        assert_eq!(standing(&coordinator, trigger, &cooling), expected, "{trigger:?}");
    }
    for (short, met) in [(Facts { head: 9, ..met }, &all[..2]), (Facts { filling: true, ..met }, &all[..])] {
        for trigger in met.iter().copied() {
            let expected = if trigger == Operator { TriggerState::Due } else { TriggerState::Held { by: ShortChain } };
            assert_eq!(standing(&coordinator, trigger, &short), expected, "{trigger:?}");
        }
    }
}

/// S13 is about a chain that is shorter than its window, not about a window that was made wider.
#[test]
fn a_window_that_is_wider_than_before_holds_nothing_back_once_orders_have_left_it() {
    use Trigger::{Garbage, LowDisk, Orders, Schedule};
    let wide = Rules { config: config(), every_orders: 100, keep_last: 1000 };
    let moved = Some(Order::new(51));
    let mut coordinator = Coordinator::new(wide, settled(config()).ledger, Duration::ZERO, 0);
    measure(&mut coordinator, Duration::ZERO, Some(999));
    let met = Facts { now: 24 * HOUR, head: 150, nodes_stored: Some(5000), ..facts() };
    for (floor, orders) in [(None, 1000), (Some(Order::GENESIS), 1000), (moved, 150)] {
        assert_eq!(coordinator.next_at(floor), orders, "{floor:?}");
        let expected = if floor == moved { TriggerState::Due } else { TriggerState::Held { by: HeldBy::ShortChain } };
        for trigger in [LowDisk, Schedule] {
            assert_eq!(standing(&coordinator, trigger, &Facts { floor, ..met }), expected, "{trigger:?}, {floor:?}");
        }
    }
    let moved = Facts { floor: moved, ..met };
    assert_eq!(standing(&coordinator, Orders, &moved), TriggerState::Due);
    assert_eq!(
        standing(&coordinator, Garbage, &moved),
        TriggerState::Held { by: HeldBy::Window },
        "of the wide window"
    );
    let filling = Facts { filling: true, ..moved };
    assert_eq!(standing(&coordinator, Orders, &filling), TriggerState::Held { by: HeldBy::ShortChain }, "by time");
}

/// One cycle serves all: whoever sets it off, it is the one that the disk needs.
#[test]
fn a_run_that_begins_on_a_low_disk_is_not_followed_by_one_for_low_disk() {
    let full = Facts { now: HOUR, head: 150, ..facts() };
    for trigger in [Trigger::Operator, Trigger::Orders, Trigger::Schedule, Trigger::LowDisk] {
        let mut coordinator = settled(config());
        measure(&mut coordinator, full.now, Some(999));
        run(&mut coordinator, trigger, &full);
        measure(&mut coordinator, full.now, Some(998));
        end(&mut coordinator, 150, Some(500));
        let held = TriggerState::Held { by: HeldBy::Fired };
        assert_eq!(standing(&coordinator, Trigger::LowDisk, &full), held, "{trigger:?}");
        let shown = coordinator.status(&full).disk.unwrap();
        assert_eq!((shown.fired_at, shown.again_below, shown.low), (Some(999), Some(499), true), "{trigger:?}");
        measure(&mut coordinator, full.now, Some(498));
        assert_eq!(standing(&coordinator, Trigger::LowDisk, &full), TriggerState::Due, "{trigger:?}: half is lost");
    }
    // The disk becomes low while a run works, and an operator asks: one more run, not two.
    let mut coordinator = settled(config());
    measure(&mut coordinator, full.now, Some(5000));
    run(&mut coordinator, Trigger::Orders, &full);
    measure(&mut coordinator, full.now, Some(999));
    end(&mut coordinator, 150, Some(500));
    let asked = Facts { asked: Asked::Yes, ..full };
    assert_eq!(coordinator.look(&asked).begin, Some(Trigger::Operator));
    run(&mut coordinator, Trigger::Operator, &asked);
    end(&mut coordinator, 150, Some(500));
    assert_eq!(coordinator.look(&full).begin, None, "the operator's run was it");
}

/// P16: a run that failed or was cancelled gave nothing back. It comes again, also in a later process, and does not spin.
#[test]
fn a_run_on_a_low_disk_that_did_not_succeed_comes_again_a_cooldown_after_its_end() {
    let begun = Facts { now: HOUR, ..facts() };
    let mut coordinator = settled(config());
    measure(&mut coordinator, begun.now, Some(999));
    run(&mut coordinator, Trigger::LowDisk, &begun);
    let outcome = Outcome { cycle: None, at: 9_000_000, head_order: None, ended: Ended::Cancelled };
    coordinator.end(Ending { snapshot_head: None, live: None, duration_ms: 0, outcome }, 2 * HOUR).unwrap();
    let at = |now| Facts { now, ..begun };
    for moment in [2 * HOUR, 3 * HOUR - Duration::from_millis(1)] {
        measure(&mut coordinator, moment, Some(999));
        assert_eq!(coordinator.look(&at(moment)).begin, None, "{moment:?}");
        let status = coordinator.status(&at(moment)).triggers;
        let shown = status.iter().find(|status| status.trigger == Trigger::LowDisk).unwrap();
        assert_eq!(shown.standing, TriggerState::Held { by: HeldBy::Cooldown });
        assert_eq!(shown.in_ms, Some(millis(3 * HOUR - moment)), "{moment:?}");
    }
    // The same in another process that starts half an hour later by the wall clock, an hour after its machine.
    let mut after = Coordinator::new(rules(config()), coordinator.ledger.clone(), HOUR, 9_000_000 + 1_800_000);
    for (now, begin) in [(HOUR, None), (3 * HOUR / 2, Some(Trigger::LowDisk))] {
        measure(&mut after, now, Some(999));
        assert_eq!(after.look(&at(now)).begin, begin, "{now:?}");
    }
    measure(&mut coordinator, 3 * HOUR, Some(999));
    assert_eq!(coordinator.look(&at(3 * HOUR)).begin, Some(Trigger::LowDisk));
    run(&mut coordinator, Trigger::LowDisk, &at(3 * HOUR));
    end(&mut coordinator, 50, Some(500));
    measure(&mut coordinator, 9 * HOUR, Some(999));
    assert_eq!(coordinator.look(&at(9 * HOUR)).begin, None, "one that succeeded is not repeated");
}

/// What a process learns of the disk is known to the next one.
#[test]
fn low_disk_is_armed_in_a_later_process_by_room_in_an_earlier_one_and_by_another_bound() {
    let mut coordinator = settled(config());
    let again = |ledger: &Ledger, bound| {
        let config = TriggerConfig { low_disk: NonZeroU64::new(bound), ..config() };
        let mut after = Coordinator::new(rules(config), ledger.clone(), HOUR, 0);
        measure(&mut after, HOUR, Some(990));
        after.look(&Facts { now: HOUR, ..facts() }).begin
    };
    measure(&mut coordinator, Duration::ZERO, Some(999));
    run(&mut coordinator, Trigger::LowDisk, &facts());
    end(&mut coordinator, 50, Some(500));
    assert_eq!(again(&coordinator.ledger, 1000), None, "it has fired");
    assert_eq!(again(&coordinator.ledger, 2000), Some(Trigger::LowDisk), "under another bound");
    measure(&mut coordinator, Duration::ZERO, Some(1250));
    assert_eq!(again(&coordinator.ledger, 1000), Some(Trigger::LowDisk), "there was room");
}

/// Why a cycle begins, and why none does, is shown with the figures.
#[test]
fn what_decides_about_garbage_is_shown_while_it_is_held_and_told_of_the_run() {
    let jitter = TriggerConfig { jitter: Share::ALL, ..config() };
    let mut coordinator = settled(jitter);
    let much = Facts { now: HOUR, head: 55, nodes_stored: Some(5000), waiting: Some(500), ..facts() };
    let status = coordinator.status(&much);
    let shown = status.triggers.iter().find(|status| status.trigger == Trigger::Garbage).unwrap();
    assert_eq!(shown.standing, TriggerState::Held { by: HeldBy::Window });
    let at = shown.at_order.unwrap();
    assert!((60..70).contains(&at), "a window after order 50, and what keeps this node apart: {at}");
    let garbage = status.garbage.unwrap();
    assert_eq!(garbage.share, Some(0.8), "4000 of 5000");
    assert_eq!(garbage.due_from, coordinator.of_this_node(Share::new(0.5).unwrap()));
    assert!(garbage.due_from > Share::new(0.5).unwrap(), "of this node, not of the configuration");
    assert_eq!(standing(&coordinator, Trigger::Garbage, &Facts { head: at - 1, ..much }), shown.standing);
    let due = Facts { head: at, nodes_stored: Some(1_000_000), ..much };
    assert_eq!(coordinator.look(&due).begin, Some(Trigger::Garbage));
    run(&mut coordinator, Trigger::Garbage, &due);
    let figure = Some(Figure::Garbage { nodes: 999_000, of: 1_000_000 });
    assert_eq!(coordinator.ledger().figure(), figure);
    end(&mut coordinator, at, Some(500));
    assert_eq!(coordinator.ledger().runs().last().unwrap().figure, figure);
    measure(&mut coordinator, HOUR, Some(7));
    run(&mut coordinator, Trigger::LowDisk, &due);
    assert_eq!(coordinator.ledger().figure(), Some(Figure::Free { bytes: 7 }));
    run(&mut coordinator, Trigger::Schedule, &due);
    assert_eq!(coordinator.ledger().figure(), None, "no measurement decided");
}

#[test]
fn the_next_look_comes_when_something_can_have_changed() {
    let mut coordinator = settled(config());
    let second = Duration::from_secs(1);
    measure(&mut coordinator, second, Some(5000));
    let again = |facts: Facts, coordinator: &Coordinator| coordinator.look(&facts).again;
    let idle = Facts { now: second, ..facts() };
    assert_eq!(again(idle, &coordinator), Some(second + LOOK_EVERY), "free space changes by itself");
    coordinator.disk = None;
    assert_eq!(again(idle, &coordinator), Some(24 * HOUR), "the schedule");
    assert_eq!(again(Facts { head: 150, ..idle }, &coordinator), Some(HOUR), "the end of the cooldown");
    let catching = Facts { now: HOUR, head: 150, synced: Some(false), ..facts() };
    assert_eq!(again(catching, &coordinator), Some(HOUR + LOOK_EVERY), "the node tells nobody that it has caught up");
    for facts in [idle, catching, Facts { head: 150, ..idle }, Facts { now: 25 * HOUR, synced: Some(false), ..facts() }]
    {
        assert!(again(facts, &coordinator).is_none_or(|at| at > facts.now), "never at once, or the worker would spin");
    }
}

/// The cooldown over a restart, whatever the wall clock does meanwhile.
#[test]
fn the_cooldown_survives_restarts_and_steps_of_the_clock() {
    const HOUR_MS: u64 = 3_600_000;
    let mut before = coordinator(config());
    run(&mut before, Trigger::Operator, &facts());
    before.ledger.last_at = Some(100 * HOUR_MS);
    end(&mut before, 50, None);
    let due = Facts { head: 150, ..facts() };
    // The wall clock at the restart, then how long a cycle that is due still waits.
    let rows = [
        (100 * HOUR_MS, HOUR, "restarted at once"),
        (100 * HOUR_MS + HOUR_MS / 4, 3 * HOUR / 4, "a quarter of it has passed"),
        (101 * HOUR_MS, Duration::ZERO, "it has passed"),
        (5000 * HOUR_MS, Duration::ZERO, "the clock went forward, or the machine was off"),
        (99 * HOUR_MS, HOUR, "the clock went back a little"),
        (0, HOUR, "the clock went back to 1970: one cooldown, not more"),
    ];
    for (unix_ms, left, why) in rows {
        let now = 7 * HOUR; // the monotonic clock of the new process begins anywhere
        let mut after = Coordinator::new(rules(config()), before.ledger.clone(), now, unix_ms);
        let at = |now| Facts { now, ..due };
        if left > Duration::ZERO {
            let until = after.look(&at(now)).again;
            assert_eq!((after.look(&at(now)).begin, until), (None, Some(now + left)), "{why}");
        }
        assert_eq!(after.look(&at(now + left)).begin, Some(Trigger::Orders), "{why}");
        run(&mut after, Trigger::Orders, &at(now + left));
        end(&mut after, 150, None);
        let next = Facts { head: 250, ..at(now + left) };
        assert_eq!(after.look(&next).begin, None, "{why}: and then the cooldown holds, so there is no storm");
    }
}

/// C16: a node that is restarted more often than its cooldown would else wait for as long as its clock was ahead.
#[test]
fn what_happened_in_the_future_has_just_happened_for_every_later_process() {
    let mut ledger = Ledger::new(900, 0);
    (ledger.last_at, ledger.scheduled_from) = (Some(800), 900);
    ledger.low_disk = Some(disk::Fired { below: 7, at: 3, failed_at: Some(850) });
    let times =
        |ledger: &Ledger| (ledger.last_at, ledger.scheduled_from, ledger.low_disk.and_then(|fired| fired.failed_at));
    assert!(!ledger.take_for_new(900), "nothing is ahead");
    assert_eq!(times(&ledger), (Some(800), 900, Some(850)));
    assert!(ledger.take_for_new(820));
    assert_eq!(times(&ledger), (Some(800), 820, Some(820)));
    assert!(ledger.take_for_new(10));
    assert_eq!(times(&ledger), (Some(10), 10, Some(10)));
    assert!(!ledger.take_for_new(11), "once");
}

/// The whole fleet at once: each node alone would be right, and together they would be gone (F10). The pruning half;
/// publishing has a lease.
#[test]
fn a_fleet_never_prunes_or_publishes_in_step() {
    let mut fleet = Fleet::new(TriggerConfig { every: Some(100 * HOUR), ..named(0) });
    // The orders trigger: all nodes see the same orders, and began the same history.
    let first: Vec<u64> = fleet.0.iter().map(|node| node.next_at(None) - EVERY).collect();
    apart(&first, EVERY / 4, "first cycles");
    // The schedule: all were started together, and run as soon as it comes round.
    let mut began = [Duration::ZERO; NODES];
    for round in 0..20 {
        let at: Vec<Duration> = fleet.0.iter().map(|node| node.scheduled_at().unwrap()).collect();
        let early: Vec<u64> =
            at.iter().zip(&began).map(|(at, began)| (100 * HOUR - (*at - *began)).as_secs()).collect();
        apart(&early, 25 * 3600, &format!("round {round}"));
        for ((node, at), began) in fleet.0.iter_mut().zip(&at).zip(&mut began) {
            let facts = Facts { now: *at, head: 650, ..facts() };
            assert_eq!(node.look(&Facts { now: *at - Duration::from_millis(1), ..facts }).begin, None);
            assert_eq!(node.look(&facts).begin, Some(Trigger::Schedule));
            run(node, Trigger::Schedule, &facts);
            end(node, 650, None);
            *began = *at;
        }
    }
    // Runs that something else set off leave their orders where all nodes have the same ones: they are still to be spread.
    let first: Vec<u64> = fleet.0.iter().map(|node| node.next_at(None) - 650 - EVERY).collect();
    apart(&first, EVERY / 4, "first cycles for orders after other ones");
    // So they are when all of them had a run for orders before, and are then brought to one order again.
    for node in &mut fleet.0 {
        run(node, Trigger::Orders, &Facts { head: 1900, ..facts() });
        end(node, 1900, None);
        assert_eq!(node.next_at(None), 1900 + EVERY, "one that is apart stays so by itself");
    }
    let mut back = Fleet(fleet.0.clone());
    back.0.iter_mut().for_each(|node| node.rolled_back(1850, Fate::GivenUp));
    let next: Vec<u64> = back.0.iter().map(|node| node.next_at(None) - 1850 - EVERY).collect();
    apart(&next, EVERY / 4, "cycles for orders after a rollback of all nodes");
    for node in &mut fleet.0 {
        run(node, Trigger::Operator, &Facts { head: 1950, ..facts() });
        end(node, 1950, None);
    }
    let next: Vec<u64> = fleet.0.iter().map(|node| node.next_at(None) - 1950 - EVERY).collect();
    apart(&next, EVERY / 4, "cycles for orders after an operator asked all nodes");
    // Afterwards their orders stay apart by themselves, unless a node takes over the data of another one.
    let mut one = fleet.0.remove(0);
    run(&mut one, Trigger::Orders, &Facts { head: 2000, ..facts() });
    end(&mut one, 2000, None);
    let other =
        |node| Coordinator::new(Rules { config: named(node), ..Fleet::rules() }, one.ledger.clone(), Duration::ZERO, 0);
    assert_eq!(other(0).next_at(None), 2000 + EVERY, "the node itself");
    assert_ne!(other(1).next_at(None), other(2).next_at(None), "two nodes made from its backup");
}

/// A ratio near all of the store, with much jitter, is one that every node still comes to.
#[test]
fn no_node_waits_for_a_store_of_nothing_but_garbage() {
    for node in 0..NODES {
        let config = TriggerConfig { garbage_ratio: Share::new(0.9), jitter: Share::ALL, ..named(node) };
        let coordinator = Coordinator::new(Rules { config, ..Fleet::rules() }, Ledger::new(0, 0), Duration::ZERO, 0);
        let due_from = coordinator.of_this_node(Share::new(0.9).unwrap());
        assert!(due_from <= Share::new(0.95).unwrap(), "{node}: {due_from:?}");
    }
}

/// What all nodes owe at one head: counts from the beginning, garbage that grows in all of them, a branch that was left. Each
/// trigger comes round twice, and no run of it uses up what keeps the next one apart.
#[test]
fn a_fleet_that_owes_the_same_cycle_does_not_run_it_in_step() {
    let owed = Facts { counts: Some(Counts::Owed), ..facts() };
    let mut fleet = Fleet::new(named(0));
    let first = fleet.begins(Trigger::Counts, 1, |head| Facts { head, ..owed });
    apart(&since(&first, WINDOW), EVERY / 4, "counts");
    assert!(fleet.0.iter().all(|node| node.next_at(None) > node.ledger.counted + EVERY), "and orders are still apart");
    let again = fleet.begins(Trigger::Counts, 1, |head| Facts { head, ..owed });
    let waits: Vec<u64> = again.iter().zip(&first).map(|(again, first)| again - first - WINDOW).collect();
    apart(&waits, EVERY / 4, "counts after a run that failed");

    let ratio = Share::new(0.5);
    let mut fleet = Fleet::new(TriggerConfig { garbage_ratio: ratio, ..named(0) });
    for node in &mut fleet.0 {
        run(node, Trigger::Operator, &Facts { nodes_stored: Some(100_000), ..facts() });
        end(node, 50, Some(100_000)); // the same of all: an operator asked them
    }
    let grown = |head: u64| Facts { head, nodes_stored: Some(100_000 + 50 * head), ..facts() };
    let first = fleet.begins(Trigger::Garbage, 10, grown);
    let (from, to) = (2000, 3334); // garbage is half of the nodes present, or five eighths
    apart(&since(&first, from), to - from, "garbage");
    let mut fleet = Fleet::new(TriggerConfig { garbage_ratio: ratio, ..named(0) });
    for node in &mut fleet.0 {
        run(node, Trigger::Operator, &Facts { nodes_stored: Some(100), ..facts() });
        end(node, 50, Some(100));
    }
    let much = fleet.begins(Trigger::Garbage, 1, |head| Facts { head, nodes_stored: Some(100_000), ..facts() });
    apart(&since(&much, 50 + WINDOW), EVERY / 4, "garbage that is there before a run may come");

    let mut fleet = Fleet::new(named(0));
    fleet.0.iter_mut().for_each(|node| node.rolled_back(300, Fate::GivenUp));
    let first = fleet.begins(Trigger::Rollback, 1, |head| Facts { head, ..facts() });
    apart(&since(&first, 300), EVERY / 4, "rollback");
    let again = fleet.begins(Trigger::Rollback, 1, |head| Facts { head, ..facts() });
    let waits: Vec<u64> = again.iter().zip(&first).map(|(again, first)| again - first - WINDOW).collect();
    apart(&waits, EVERY / 4, "rollback after a run that failed");
}

/// Nothing keeps a node apart that is low on disk, or whose operator asks; and a window is the most that it waits otherwise.
#[test]
fn a_node_that_is_kept_apart_waits_for_a_window_at_most_and_not_where_somebody_waits() {
    let every_orders = 1_000_000;
    for node in 0..NODES {
        let jitter = TriggerConfig { jitter: Share::ALL, garbage_ratio: Share::new(0.5), ..config() };
        let rules =
            Rules { config: TriggerConfig { node: format!("node-{node}"), ..jitter }, every_orders, keep_last: 10 };
        let mut coordinator = Coordinator::new(rules, Ledger::new(0, 0), Duration::ZERO, 0);
        measure(&mut coordinator, Duration::ZERO, Some(5000));
        let owed = Facts { head: 19, counts: Some(Counts::Owed), ..facts() };
        assert_eq!(standing(&coordinator, Trigger::Counts, &owed), TriggerState::Due, "{node}");
        let at = coordinator.status(&owed).triggers;
        let at = |trigger| at.iter().find(|status| status.trigger == trigger).unwrap().at_order;
        assert_eq!((at(Trigger::Counts), at(Trigger::Rollback)), (Some(coordinator.window_later()), None));
        coordinator.rolled_back(12, Fate::GivenUp);
        assert_eq!(standing(&coordinator, Trigger::Rollback, &Facts { head: 21, ..owed }), TriggerState::Due, "{node}");
        let early = Facts { head: 10, ..facts() };
        measure(&mut coordinator, Duration::ZERO, Some(999));
        assert_eq!(coordinator.look(&early).begin, Some(Trigger::LowDisk), "{node}");
        let asked = Facts { asked: Asked::Yes, ..early };
        assert_eq!(coordinator.look(&asked).begin, Some(Trigger::Operator), "{node}");
    }
}

const NODES: usize = 40;
const EVERY: u64 = 1000;
const WINDOW: u64 = 600;

fn named(node: usize) -> TriggerConfig {
    TriggerConfig { node: format!("node-{node}"), jitter: Share::new(0.25).unwrap(), ..TriggerConfig::default() }
}

/// Moments that are spread over a width.
fn apart(moments: &[u64], width: u64, what: &str) {
    let tenths: Vec<u64> = moments.iter().map(|moment| moment * 10 / width).collect();
    let most = (0..10).map(|tenth| tenths.iter().filter(|at| **at == tenth).count()).max().unwrap();
    assert!(most <= NODES / 4, "{what}: {most} of {NODES} in the same tenth: {moments:?}");
    assert!(moments.iter().all(|moment| *moment < width), "{what}: {moments:?}");
    assert!(moments.iter().collect::<BTreeSet<_>>().len() > NODES * 3 / 4, "{what}: {moments:?}");
}

fn since(heads: &[u64], from: u64) -> Vec<u64> {
    heads.iter().map(|head| head - from).collect()
}

/// Nodes that differ by their name only.
struct Fleet(Vec<Coordinator>);

impl Fleet {
    fn rules() -> Rules {
        Rules { config: named(0), every_orders: EVERY, keep_last: WINDOW }
    }

    fn new(config: TriggerConfig) -> Self {
        let node = |node| {
            let config = TriggerConfig { node: named(node).node, ..config.clone() };
            Coordinator::new(Rules { config, ..Self::rules() }, Ledger::new(0, 0), Duration::ZERO, 0)
        };
        Self((0..NODES).map(node).collect())
    }

    /// The chain grows: the head at which each node begins a run for a trigger, which fails.
    fn begins(&mut self, trigger: Trigger, step: usize, at: impl Fn(u64) -> Facts) -> Vec<u64> {
        let begins = |node: &mut Coordinator| {
            let from = node.ledger.counted.max(node.ledger.owed_from.map_or(0, |from| from));
            let due = |head: &u64| standing(node, trigger, &at(*head)) == TriggerState::Due;
            let head = (from..from + 10_000).step_by(step).find(due).unwrap();
            run(node, trigger, &at(head));
            end(node, head, None);
            head
        };
        self.0.iter_mut().map(begins).collect()
    }
}

/// An interrupted run gives back what it was begun for, so that the next one is due.
#[test]
fn an_interrupted_run_leaves_every_trigger_as_it_found_it() {
    for (facts, free, trigger) in [
        (Facts { now: HOUR, head: 150, ..facts() }, Some(5000), Trigger::Orders),
        (Facts { now: HOUR, head: 60, nodes_stored: Some(5000), ..facts() }, Some(5000), Trigger::Garbage),
        (Facts { now: 24 * HOUR, ..facts() }, Some(5000), Trigger::Schedule),
        (Facts { now: HOUR, ..facts() }, Some(10), Trigger::LowDisk),
    ] {
        let mut coordinator = settled(config());
        measure(&mut coordinator, facts.now, free);
        assert_eq!(coordinator.look(&facts).begin, Some(trigger));
        run(&mut coordinator, trigger, &facts);
        let later = Facts { now: facts.now + HOUR, ..facts };
        assert_eq!(coordinator.ledger().open(), Some(trigger));
        // The process dies, and another one finds the ledger.
        let mut after =
            Coordinator::new(rules(config()), coordinator.ledger.clone(), later.now, later.now.as_millis() as u64);
        measure(&mut after, later.now, free);
        after.interrupt().unwrap();
        assert_eq!(after.look(&later).begin, Some(trigger), "{trigger:?} is owed");
        run(&mut after, trigger, &later);
        end(&mut after, later.head, None);
        let next = Facts { now: later.now + HOUR, ..later };
        assert_eq!(after.look(&next).begin, None, "{trigger:?} is not owed twice");
    }
}

/// L9: at the next opportunity, whatever else is due when; once a cycle that began since has finished, no more.
#[test]
fn a_rollback_owes_one_cycle_that_finishes() {
    let mut coordinator = coordinator(TriggerConfig { cooldown: Duration::ZERO, ..config() });
    run(&mut coordinator, Trigger::Operator, &facts());
    end(&mut coordinator, 50, Some(1));
    assert_eq!(standing(&coordinator, Trigger::Rollback, &facts()), TriggerState::Armed);
    coordinator.rolled_back(40, Fate::GivenUp);
    let back = Facts { head: 40, ..facts() };
    assert_eq!(coordinator.look(&back).begin, Some(Trigger::Rollback), "no order was committed since");
    measure(&mut coordinator, Duration::ZERO, Some(999));
    run(&mut coordinator, Trigger::LowDisk, &back);
    coordinator.rolled_back(40, Fate::GivenUp);
    assert_eq!(coordinator.look(&back).begin, Some(Trigger::LowDisk), "a run that it gave up is owed");
    measure(&mut coordinator, Duration::ZERO, Some(5000));
    let mut short = coordinator.clone();
    short.rolled_back(3, Fate::GivenUp);
    assert_eq!(short.look(&Facts { head: 3, ..facts() }).begin, Some(Trigger::Rollback), "a window is not asked for");
    let held = Facts { held: Some(HeldBy::RollingBack), ..back };
    assert_eq!(standing(&coordinator, Trigger::Rollback, &held), TriggerState::Held { by: HeldBy::RollingBack });
    run(&mut coordinator, Trigger::Rollback, &back);
    end(&mut coordinator, 40, None);
    assert_eq!(coordinator.look(&back).begin, None, "after one that failed not at once");
    assert_eq!(coordinator.look(&Facts { head: 50, ..back }).begin, Some(Trigger::Rollback), "but a window later");
    run(&mut coordinator, Trigger::Operator, &Facts { head: 50, ..back });
    end(&mut coordinator, 50, Some(1));
    assert_eq!(standing(&coordinator, Trigger::Rollback, &Facts { head: 70, ..back }), TriggerState::Armed);
}

/// L9: what a branch left beside an open cycle is created since its view for that one, also if another process ends it.
#[test]
fn a_cycle_beside_which_the_chain_went_back_does_not_pay_for_it() {
    for with_restart in [false, true] {
        let mut coordinator = coordinator(TriggerConfig { cooldown: Duration::ZERO, ..config() });
        run(&mut coordinator, Trigger::Operator, &facts());
        coordinator.rolled_back(48, Fate::GoesOn);
        if with_restart {
            let saved = Ledger::decode(&coordinator.ledger.encode().unwrap()).unwrap();
            coordinator = Coordinator::new(coordinator.rules, saved, Duration::ZERO, 0);
        }
        end(&mut coordinator, 45, Some(1));
        let at = |head| Facts { head, ..facts() };
        assert_eq!(coordinator.look(&at(54)).begin, None, "not at once");
        assert_eq!(coordinator.look(&at(55)).begin, Some(Trigger::Rollback), "a window later");
        run(&mut coordinator, Trigger::Rollback, &at(55));
        end(&mut coordinator, 55, Some(1));
        assert_eq!(standing(&coordinator, Trigger::Rollback, &at(90)), TriggerState::Armed);
    }
}

/// L9: a run that is recorded at its end may be older than the rollback.
#[test]
fn a_cycle_whose_beginning_is_not_on_record_pays_for_no_rollback() {
    let mut coordinator = coordinator(config());
    coordinator.rolled_back(40, Fate::GoesOn);
    run(&mut coordinator, Trigger::Resumed, &facts());
    end(&mut coordinator, 40, Some(1));
    assert_eq!(coordinator.ledger.owed_from, Some(50));
}
