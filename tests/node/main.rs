//! The real binary: under load, killed, stopped, asked from outside.

mod commands;
mod kill;
mod load;
