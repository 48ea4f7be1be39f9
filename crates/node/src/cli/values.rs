//! Values of the command line that need more than their type: what is wrong with one is said in words of the command.

use std::{
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use clap::ValueEnum as _;
use state_pruner::{check_name, offline::StoreLayout};

use crate::{
    http::is_id,
    load::{Client, Profile, Rate},
};

/// A load of `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnLoad {
    pub(super) profile: Profile,
    pub(super) rate: Rate,
}

/// What a machine of two cores carries beside the pruner; `max` is there for more.
const OWN_RATE: u32 = 2000;

impl std::str::FromStr for OwnLoad {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (profile, rate) = match text.split_once(':') {
            Some((profile, rate)) => (profile, rate.parse()?),
            None => (text, Rate::PerSecond(NonZeroU32::MIN.saturating_add(OWN_RATE - 1))),
        };
        Ok(Self { profile: profile_of(profile)?, rate })
    }
}

pub(super) fn layout(name: &str) -> Result<StoreLayout, String> {
    StoreLayout::named(name).ok_or_else(|| format!("the layouts are {}", StoreLayout::NAMES.join(" and ")))
}

/// The address of a node.
pub(super) fn address(text: &str) -> Result<String, String> {
    let known = Client::new(text).map(|_| text.to_owned());
    known.map_err(|_| "the address of a node is expected, such as http://127.0.0.1:8645".to_owned())
}

/// The name of a pin or a consumer. It becomes a part of the address that is asked, so no other text is ever sent.
pub(super) fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// A folder that was made by somebody: one that is not there was mistyped.
pub(super) fn folder(text: &str) -> Result<PathBuf, String> {
    let is_gone = std::fs::metadata(text).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    if is_gone { Err("there is no such folder".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// A whole number, which may be zero.
pub(super) fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a whole number is expected, such as 1200".to_owned())
}

/// `section.key=value`; what the key means is judged with the file.
pub(super) fn setting(text: &str) -> Result<String, String> {
    let is_one = text.split_once('=').is_some_and(|(key, _)| key.contains('.'));
    is_one.then(|| text.to_owned()).ok_or_else(|| {
        "a key with its section and a value is expected, such as pruner.keep_last=1000; `state-node config \
         print-default` lists the keys"
            .to_owned()
    })
}

/// A number from 1 to `most`: what is reserved for each is bounded.
pub(super) fn at_most<N: TryFrom<NonZeroU32>>(text: &str, most: u32) -> Result<N, String> {
    let wrong = || format!("a number from 1 to {most} is expected");
    let number = text.parse::<NonZeroU32>().map_err(|_| wrong())?;
    if number.get() > most {
        return Err(wrong());
    }
    N::try_from(number).map_err(|_| wrong())
}

/// A number that is not zero.
pub(super) fn positive(text: &str) -> Result<NonZeroU64, String> {
    text.parse().map_err(|_| "a whole number of at least 1 is expected".to_owned())
}

/// A time with its unit.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "a time such as 12h or 30d is expected".to_owned())?;
    if time < Duration::from_millis(1) { Err("it would be over at once".to_owned()) } else { Ok(time) }
}

/// A name for a request.
pub(super) fn request_id(text: &str) -> Result<String, String> {
    let wrong = || "1 to 64 letters, digits, `-`, `_` or `.` are expected".to_owned();
    is_id(text).then(|| text.to_owned()).ok_or_else(wrong)
}

/// A number of bytes, with a unit or without.
pub(super) fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "a size such as 512MiB or 1GiB is expected".to_owned())
}

pub(super) fn positive_size(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(size(text)?.as_u64()).ok_or_else(|| "nothing could move; leave it out for no limit".to_owned())
}

fn profile_of(name: &str) -> Result<Profile, String> {
    let known = Profile::value_variants().iter().filter_map(Profile::to_possible_value);
    let known: Vec<String> = known.map(|value| value.get_name().to_owned()).collect();
    Profile::from_str(name, true).map_err(|_| format!("`{name}` is no profile: there are {}", known.join(", ")))
}
