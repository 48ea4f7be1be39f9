//! The real binary: under load, killed, stopped, asked from outside.

mod commands;
mod damage;
mod journal;
mod kill;
mod load;
mod points;
mod stop;
