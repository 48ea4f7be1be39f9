//! `pin`, `consumer` and `explain`: what stays readable, changed through a running node; asked of a node or of its store.

use std::{num::NonZeroU64, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{ArgGroup, Args, Subcommand};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use state_pruner::{
    Asked, Consumer, ConsumerStatus, Explanation, LOOK_LIMIT, NamedPin, PinState, PinStatus, RetentionStatus,
    SystemClock,
    offline::{self, StoreLayout},
};

use super::{
    OutputArgs,
    render::{Failure, Output, told},
    request::Request,
    token::TokenArgs,
    values::{address, layout, name, positive, time, whole},
};
use crate::http::Watermark;

/// `pin`.
#[derive(Debug, Args)]
pub(super) struct PinArgs {
    #[command(subcommand)]
    command: PinCommand,
}

#[derive(Debug, Subcommand)]
enum PinCommand {
    /// Keep an order, which must still be readable; the same name on the same order begins its time anew.
    Add {
        /// Name of the pin: letters, digits, dots, dashes, underscores.
        #[arg(value_parser = name)]
        name: String,
        /// The order.
        #[arg(long, value_name = "ORDER", value_parser = whole)]
        order: u64,
        /// How long, such as 12h or 30d; without it until the pin is removed.
        #[arg(long, value_name = "TIME", value_parser = time)]
        ttl: Option<Duration>,
        /// Who asks; without it the user that $USER names.
        #[arg(long, value_name = "WHO")]
        owner: Option<String>,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// List the pins, each with its owner and its age.
    List(ListArgs),
    /// Let an order go: it goes with the next round or cycle, unless somebody else keeps it.
    Remove {
        /// Name of the pin.
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// `consumer`.
#[derive(Debug, Args)]
pub(super) struct ConsumerArgs {
    #[command(subcommand)]
    command: ConsumerCommand,
}

#[derive(Debug, Subcommand)]
enum ConsumerCommand {
    /// Say the oldest order that a consumer still needs, and that it is alive.
    Set {
        /// Name of the consumer: letters, digits, dots, dashes, underscores.
        #[arg(value_parser = name)]
        name: String,
        /// The oldest order it needs.
        #[arg(long, value_name = "ORDER", value_parser = whole)]
        order: u64,
        /// After so long without another word, such as 10m, it is not waited for; without it after a day.
        #[arg(long, value_name = "TIME", value_parser = time)]
        ttl: Option<Duration>,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// List the consumers, each with its watermark and whether it is silent.
    List(ListArgs),
    /// Forget a consumer.
    Remove {
        /// Name of the consumer.
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// `explain`.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("asked").required(true).args(["url", "db"])))]
pub(super) struct ExplainArgs {
    /// An order, or the hash of a state root or of a node.
    #[arg(value_name = "ORDER|HASH")]
    what: Asked,
    /// Address of a running node.
    #[arg(long, value_name = "URL", value_parser = address)]
    url: Option<String>,
    /// Folder of a node's database, in use or not.
    #[arg(long, value_name = "DIR")]
    db: Option<PathBuf>,
    /// Whose records it holds: native, and nothing else. A Rooch store has no policy of its own, its window is given to each prune.
    #[arg(long, value_parser = native, requires = "db", conflicts_with = "url")]
    layout: Option<StoreLayout>,
    /// Most nodes to look at for the hash of a node; 100,000 unless told, and through a node a million at most.
    #[arg(long, value_name = "N", value_parser = positive)]
    limit: Option<NonZeroU64>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which node or store is asked, and how to answer.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("asked").required(true).args(["url", "db"])))]
struct ListArgs {
    /// Address of a running node.
    #[arg(long, value_name = "URL", value_parser = address)]
    url: Option<String>,
    /// Folder of a node's database, in use or not.
    #[arg(long, value_name = "DIR")]
    db: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

impl ListArgs {
    /// Asks the node at this path, or takes it from what the store has on record.
    fn ask<T: DeserializeOwned>(
        &self,
        path: &'static str,
        on_record: impl FnOnce(RetentionStatus) -> T,
    ) -> Result<T, Failure> {
        match (&self.url, &self.db) {
            (Some(url), _) => Request::get(path).ask(url),
            (None, Some(db)) => {
                let status = offline::retention(db, Arc::new(SystemClock::new()));
                status.map(on_record).map_err(|error| Failure::new(error.code(), &error))
            }
            (None, None) => Err(Failure::new("usage", "give --url or --db")),
        }
    }
}

/// Which node is told, and how to answer.
#[derive(Debug, Args)]
struct NodeArgs {
    /// Address of the node.
    #[arg(long, value_name = "URL", value_parser = address)]
    url: String,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl PinArgs {
    pub(super) fn output(&self) -> OutputArgs {
        match &self.command {
            PinCommand::Add { node, .. } | PinCommand::Remove { node, .. } => node.output,
            PinCommand::List(list) => list.output,
        }
    }
}

impl ConsumerArgs {
    pub(super) fn output(&self) -> OutputArgs {
        match &self.command {
            ConsumerCommand::Set { node, .. } | ConsumerCommand::Remove { node, .. } => node.output,
            ConsumerCommand::List(list) => list.output,
        }
    }
}

impl ExplainArgs {
    pub(super) fn output(&self) -> OutputArgs {
        self.output
    }
}

fn native(name: &str) -> Result<StoreLayout, String> {
    match layout(name)? {
        StoreLayout::Native => Ok(StoreLayout::Native),
        StoreLayout::Rooch => Err("a Rooch store has no policy of its own: only native is explained".to_owned()),
    }
}

pub(super) fn millis(time: Option<Duration>) -> Option<u64> {
    time.map(|time| u64::try_from(time.as_millis()).map_or(u64::MAX, |ms| ms))
}

/// A time as people read it, to the second.
fn readable(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms / 1000)).to_string()
}

#[derive(Deserialize, serde::Serialize)]
struct Pins {
    floor: u64,
    pins: Vec<PinStatus>,
}

#[derive(Deserialize, serde::Serialize)]
struct Consumers {
    head: u64,
    consumers: Vec<ConsumerStatus>,
}

/// Adds, lists or removes pins.
pub(super) fn pin(args: &PinArgs, output: Output) -> ExitCode {
    match &args.command {
        PinCommand::Add { name, order, ttl, owner, node } => {
            let user = std::env::var_os("USER").map(|user| user.to_string_lossy().into_owned());
            let owner = owner.clone().or(user);
            let body = json!({ "order": order, "ttl_ms": millis(*ttl), "owner": owner });
            let path = format!("v1/pins/{name}");
            let answer = Request::post(path, &node.token).with(&body).ask(&node.url);
            told(output, answer, |pin: &NamedPin| format!("order {} is kept by pin {}", pin.order, pin.name))
        }
        PinCommand::List(list) => {
            let listed = list.ask("v1/pins", |RetentionStatus { floor, pins, .. }| Pins { floor, pins });
            told(output, listed, list_pins)
        }
        PinCommand::Remove { name, node } => {
            let answer = Request::delete(format!("v1/pins/{name}"), &node.token).ask(&node.url);
            told(output, answer, removed)
        }
    }
}

/// Another pin, a consumer, the window: any of them may keep the order, and the answer does not tell.
fn removed(pin: &NamedPin) -> String {
    let NamedPin { name, order, .. } = pin;
    format!("pin {name} is removed; unless something else keeps order {order}, it goes with the next round or cycle")
}

fn list_pins(listed: &Pins) -> String {
    let pin = |listed: &PinStatus| {
        let (pin, age) = (&listed.pin, readable(listed.age_ms));
        let left = pin.ttl_ms.map_or_else(String::new, |ttl_ms| format!(", of {}", readable(ttl_ms)));
        let state = match listed.state {
            PinState::Kept => "",
            PinState::Expired => ", expired",
            PinState::Gone => ", GONE",
        };
        format!("{}  order {}  by {}  since {age}{left}{state}", pin.name, pin.order, pin.owner)
    };
    if listed.pins.is_empty() {
        "no pins".to_owned()
    } else {
        listed.pins.iter().map(pin).collect::<Vec<_>>().join("\n")
    }
}

/// Sets, lists or removes consumers.
pub(super) fn consumer(args: &ConsumerArgs, output: Output) -> ExitCode {
    match &args.command {
        ConsumerCommand::Set { name, order, ttl, node } => {
            let body = json!({ "order": order, "ttl_ms": millis(*ttl) });
            let path = format!("v1/consumers/{name}");
            let answer = Request::post(path, &node.token).with(&body).ask(&node.url);
            told(output, answer, set)
        }
        ConsumerCommand::List(list) => {
            let listed =
                list.ask("v1/consumers", |RetentionStatus { head, consumers, .. }| Consumers { head, consumers });
            told(output, listed, list_consumers)
        }
        ConsumerCommand::Remove { name, node } => {
            let path = format!("v1/consumers/{name}");
            let answer = Request::delete(path, &node.token).ask(&node.url);
            told(output, answer, |consumer: &Consumer| format!("consumer {} is forgotten", consumer.name))
        }
    }
}

fn set(watermark: &Watermark) -> String {
    let Watermark { consumer, ahead } = watermark;
    let yet = match ahead {
        0 => String::new(),
        1 => ", the next one: it has come up with the head".to_owned(),
        ahead => format!(", which is {ahead} AHEAD of the head: nothing is kept for it until the chain is there"),
    };
    format!("consumer {} needs every order from {} on{yet}", consumer.name, consumer.order)
}

fn list_consumers(listed: &Consumers) -> String {
    let consumer = |listed: &ConsumerStatus| {
        let (consumer, age) = (&listed.consumer, readable(listed.age_ms));
        let silent = if listed.silent { ", SILENT: not waited for" } else { "" };
        let way = match listed.ahead {
            0 => format!("{} behind", listed.behind),
            1 => "caught up".to_owned(), // it waits for the next order
            ahead => format!("{ahead} AHEAD of the head"),
        };
        format!("{}  from order {}  {way}  heard {age} ago{silent}", consumer.name, consumer.order)
    };
    let lines: Vec<String> = listed.consumers.iter().map(consumer).collect();
    if lines.is_empty() { "no consumers".to_owned() } else { lines.join("\n") }
}

/// Explains.
pub(super) fn explain(args: &ExplainArgs, output: Output) -> ExitCode {
    let explained = match (&args.url, &args.db) {
        (Some(url), _) => {
            let asked = match args.what {
                Asked::Order(order) => format!("order={order}"),
                Asked::Hash(hash) => format!("hash={hash}"),
            };
            let limit = args.limit.map_or_else(String::new, |limit| format!("&limit={limit}"));
            Request::get(format!("v1/explain?{asked}{limit}")).ask(url)
        }
        (None, Some(db)) => {
            let limit = args.limit.map_or(LOOK_LIMIT, NonZeroU64::get);
            let explained = offline::explain(db, args.what, limit, Arc::new(SystemClock::new()));
            explained.map_err(|error| Failure::new(error.code(), &error))
        }
        (None, None) => Err(Failure::new("usage", "give --url or --db")),
    };
    told(output, explained, Explanation::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_is_ahead_of_the_head_is_told_so_when_it_speaks() {
        let consumer = Consumer { name: "a".to_owned(), order: 118, heard_ms: 1, ttl_ms: 2 };
        let told = |ahead| set(&Watermark { consumer: consumer.clone(), ahead });
        assert_eq!(told(0), "consumer a needs every order from 118 on");
        assert!(told(1).ends_with("it has come up with the head") && !told(1).contains("AHEAD"), "{}", told(1));
        assert!(told(7).contains("from 118 on, which is 7 AHEAD of the head"), "{}", told(7));
    }

    #[test]
    fn a_pin_that_is_removed_promises_the_end_of_its_order_only_if_nothing_else_keeps_it() {
        let pin = NamedPin { name: "a".to_owned(), owner: "me".to_owned(), order: 118, since_ms: 1, ttl_ms: None };
        assert_eq!(
            removed(&pin),
            "pin a is removed; unless something else keeps order 118, it goes with the next round or cycle"
        );
    }
}
