//! The reference node: a single-sequencer chain over the pruned store, with HTTP, load and operator commands.
//!
//! No consensus and no signatures: whoever reaches the port may submit, with the admin token where one is set. It proves what
//! `state-pruner` promises to a chain that embeds it.

pub mod app;
mod caretaker;
pub mod chain;
pub mod cli;
pub mod config;
mod damage;
mod health;
pub mod http;
pub mod load;
mod reload;
pub mod shutdown;
pub mod telemetry;
pub mod token;
