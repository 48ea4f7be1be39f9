//! Section `[health]`: the bounds by which the node judges itself.

use state_pruner::HealthConfig;

use super::source::Source;

/// Takes every key of the section.
pub(super) fn read(source: &mut Source, health: &mut HealthConfig) {
    let HealthConfig { lock_idle, lag_cycles, cycle_age, pin_age } = health;
    source.take_duration("health.lock_idle", lock_idle);
    source.take_count("health.lag_cycles", lag_cycles);
    source.take_optional_duration("health.cycle_age", cycle_age);
    source.take_optional_duration("health.pin_age", pin_age);
}

/// Notes bounds under which nothing is ever well.
pub(super) fn check(health: &HealthConfig, wrong: &mut dyn FnMut(&str, String)) {
    if health.lock_idle.is_zero() {
        wrong("health.lock_idle", "every lock would be held for too long; give a time".to_owned());
    }
    for (key, age) in [("health.cycle_age", health.cycle_age), ("health.pin_age", health.pin_age)] {
        if age.is_some_and(|age| age.is_zero()) {
            wrong(key, "everything is older; write \"none\" to look at no age".to_owned());
        }
    }
}
