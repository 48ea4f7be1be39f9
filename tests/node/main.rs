//! The real binary: under load, killed, stopped, asked from outside.

mod admin;
mod commands;
mod connections;
mod damage;
mod disk;
mod fields;
mod hang;
mod heartbeat;
mod journal;
mod kill;
mod load;
mod plan;
mod points;
mod reload;
mod retain;
mod stop;
mod triggers;
mod validate;
