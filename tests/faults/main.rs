//! Faults survived: each is injected on purpose, its disposition is the right one, and every retained root is whole
//! afterwards, by a full read against the archive.

mod aside;
mod counters;
mod files;
mod kill;
mod marks;
mod operations;
mod panics;
mod room;
mod worker;
