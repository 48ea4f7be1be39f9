//! Faults survived: each is injected on purpose, its disposition is the right one, and every retained root is whole
//! afterwards, by a full read against the archive.

mod counters;
mod files;
mod kill;
mod operations;
mod room;
mod worker;
