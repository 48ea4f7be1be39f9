//! The store on the real engine: opening, the gate, sweeps and what a reopen finds.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod copy;
mod counted;
mod crash;
mod ended;
mod foreign;
mod full;
mod gate;
mod judged;
mod kept;
mod look;
mod open;
mod space;
mod support;
mod sweep;
