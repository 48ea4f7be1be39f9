//! Values that contradict each other, or that no node should run with.

use std::time::Duration;

use bytesize::ByteSize;
use state_pruner::Share;
use state_store::RocksConfig;

use super::{Config, health, source::Source};
use crate::http::{MAX_BODY, NoToken};

/// The longest block interval that makes sense; beyond it a duration was probably mistyped.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);

/// The longest time for a request that makes sense; far beyond it no clock has an instant at which it would be over.
const LONGEST_REQUEST: Duration = Duration::from_secs(24 * 3600);

/// Below this a schedule was probably mistyped.
const LEAST_SCHEDULE: Duration = Duration::from_secs(1);

/// The longest cooldown that makes sense: beyond it pruning was probably meant to be disabled.
const LONGEST_COOLDOWN: Duration = Duration::from_secs(24 * 3600);

/// Below this marking refuses to begin.
const LEAST_BUDGET: ByteSize = ByteSize::mib(1);

/// With less room than a memtable needs RocksDB does not go on, so less than that is of no use as a reserve.
fn least_reserve() -> ByteSize {
    ByteSize::b(RocksConfig::default().write_buffer_bytes as u64)
}

/// Notes every contradiction.
pub(super) fn contradictions(config: &Config, source: &mut Source) {
    let mut wrong = |key: &str, message: String| source.problem(Some(key), message);
    node(config, &mut wrong);
    chain(config, &mut wrong);
    pruner(config, &mut wrong);
    triggers(config, &mut wrong);
    config.events.check(&mut wrong);
    health::check(&config.health, &mut wrong);
    for (key, message) in config.pruner.recovery.problems() {
        wrong(&format!("pruner.recovery.{key}"), message);
    }
    if let Err(message) = filter(&config.log.filter) {
        wrong("log.filter", message);
    }
}

/// A word by itself that is no level would be the name of a target, and silence all others, errors too.
fn filter(text: &str) -> Result<(), String> {
    use tracing_subscriber::{EnvFilter, filter::LevelFilter};
    EnvFilter::try_new(text).map_err(|error| format!("`{text}`: {error}"))?;
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty() && !word.contains(['=', '[']));
    let words: Vec<&str> = words.collect();
    match words.iter().find(|word| word.parse::<LevelFilter>().is_err()) {
        Some(word) => Err(format!(
            "`{word}` is no level: give error, warn, info, debug, trace or off; for the lines of one target `{word}=debug` beside a level"
        )),
        None if words.is_empty() => Err(format!(
            "`{text}` has no level for all other lines, which would silence errors: put one first, `error,{text}`"
        )),
        None => Ok(()),
    }
}

fn too_small_a_reserve(bytes: u64) -> String {
    let (given, least) = (ByteSize::b(bytes).display().iec(), least_reserve().display().iec());
    format!(
        "pruner.reserve is {given}, and on a full device RocksDB writes again only where {least} are free: less is kept for \
         nothing; give at least {least}, or \"none\""
    )
}

impl Config {
    /// What is allowed, and hardly meant.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let Self { node, chain, pruner, .. } = self;
        let is_drawn = pruner.enabled && pruner.jitter > Share::NONE;
        let of_all = is_drawn && node.id == Self::default().node.id;
        let message = || {
            format!(
                "node.id is \"{}\", as in every node that has none of its own: in a fleet all of them would prune in step, \
                 because pruner.jitter is drawn from it; give each node its own",
                node.id
            )
        };
        let small = pruner.reserve.filter(|bytes| *bytes < least_reserve().as_u64()).map(too_small_a_reserve);
        let blocks_stay = chain.keep_blocks.is_some() && !pruner.enabled;
        let stay = || {
            "chain.keep_blocks does nothing while pruner.enabled is false: blocks go with the readable range, which does not move"
                .to_owned()
        };
        of_all.then(message).into_iter().chain(small).chain(blocks_stay.then(stay)).collect()
    }
}

fn node(config: &Config, wrong: &mut dyn FnMut(&str, String)) {
    let node = &config.node;
    if !node.listen.ip().is_loopback() && node.admin_token_file.is_none() {
        wrong("node.listen", NoToken(node.listen.ip()).to_string());
    }
    if node.data_dir.as_os_str().is_empty() {
        wrong("node.data_dir", "a folder is needed".to_owned());
    }
    if node.id.is_empty() {
        wrong("node.id", "a name is needed".to_owned());
    }
    if node.request_timeout > LONGEST_REQUEST {
        let given = humantime::format_duration(node.request_timeout);
        wrong(
            "node.request_timeout",
            format!("at most a day is allowed, not {given}: nobody waits longer for an answer"),
        );
    }
    if config.node.stop_timeout.is_zero() {
        wrong("node.stop_timeout", "more than nothing is needed: a node could not end in order".to_owned());
    }
}

fn chain(config: &Config, wrong: &mut dyn FnMut(&str, String)) {
    let chain = &config.chain;
    if chain.block_interval.is_zero() || chain.block_interval > LONGEST_INTERVAL {
        wrong("chain.block_interval", "more than nothing and at most an hour is allowed".to_owned());
    } else if chain.block_interval >= config.node.request_timeout {
        let message = format!(
            "a submission could not wait for its block: node.request_timeout is {}",
            humantime::format_duration(config.node.request_timeout)
        );
        wrong("chain.block_interval", message);
    }
    if chain.mempool_limit < chain.max_block_transactions {
        let message = format!(
            "the mempool holds {} transactions, less than the {} of one block in chain.max_block_transactions",
            chain.mempool_limit, chain.max_block_transactions
        );
        wrong("chain.mempool_limit", message);
    }
    if chain.mempool_bytes < MAX_BODY as u64 {
        let (given, most) = (ByteSize::b(chain.mempool_bytes).display().iec(), ByteSize::b(MAX_BODY as u64));
        let message =
            format!("at least {} are needed, the longest body of a request, not {given}", most.display().iec());
        wrong("chain.mempool_bytes", message);
    }
    let Some(keep) = chain.keep_blocks else { return };
    if keep < config.pruner.keep_last {
        let message =
            format!("{keep} blocks are fewer than the {} readable orders of pruner.keep_last", config.pruner.keep_last);
        wrong("chain.keep_blocks", message);
    }
}

fn pruner(config: &Config, wrong: &mut dyn FnMut(&str, String)) {
    let pruner = &config.pruner;
    if pruner.keep_time.is_some_and(|time| time < Duration::from_millis(1)) {
        wrong("pruner.keep_time", "no order would be younger; write \"none\" for no such bound".to_owned());
    }
    if pruner.keep_every.is_some_and(|every| every.get() == 1) {
        let message = "every order would stay for ever; set pruner.enabled = false to keep all of them";
        wrong("pruner.keep_every", message.to_owned());
    }
    if pruner.io_limit == Some(0) {
        wrong("pruner.io_limit", "nothing could move; write \"none\" for no brake".to_owned());
    }
    if pruner.memory_budget < LEAST_BUDGET.as_u64() {
        let given = ByteSize::b(pruner.memory_budget).display().iec();
        wrong("pruner.memory_budget", format!("marking needs at least {}, not {given}", LEAST_BUDGET.display().iec()));
    }
    if pruner.note_every.is_some_and(|every| every.is_zero()) {
        wrong("pruner.note_every", "more than nothing is needed; write \"none\" to write nothing down".to_owned());
    }
    if pruner.lock_timeout < Duration::from_millis(1) {
        wrong("pruner.lock_timeout", "at least a millisecond is needed".to_owned());
    }
    if pruner.max_snapshot_age < pruner.lock_timeout {
        let message = format!(
            "a snapshot would be too old ({}) before its lock times out ({} in pruner.lock_timeout)",
            humantime::format_duration(pruner.max_snapshot_age),
            humantime::format_duration(pruner.lock_timeout)
        );
        wrong("pruner.max_snapshot_age", message);
    }
}

fn triggers(config: &Config, wrong: &mut dyn FnMut(&str, String)) {
    let pruner = &config.pruner;
    if let Some(every) = pruner.every.filter(|every| *every < pruner.cooldown.max(LEAST_SCHEDULE)) {
        let message = format!(
            "a cycle every {} would be held back: at least {} and the {} of pruner.cooldown are needed; write \"none\" for \
             no schedule",
            humantime::format_duration(every),
            humantime::format_duration(LEAST_SCHEDULE),
            humantime::format_duration(pruner.cooldown)
        );
        wrong("pruner.every", message);
    }
    if pruner.cooldown > LONGEST_COOLDOWN {
        wrong("pruner.cooldown", "at most a day is allowed: what is due may wait no longer".to_owned());
    }
    if pruner.garbage_ratio.is_some_and(|ratio| ratio == Share::NONE || ratio == Share::ALL) {
        let message = "a share above 0 and below 1 is expected; write \"none\" to look at no share";
        wrong("pruner.garbage_ratio", message.to_owned());
    }
    if pruner.reserve == Some(0) {
        wrong("pruner.reserve", "nothing would be kept; write \"none\" for no reserve".to_owned());
    }
    if pruner.low_disk == Some(0) {
        wrong("pruner.low_disk", "no disk has less; write \"none\" to look at no disk".to_owned());
    }
}
