//! Store and pruner together, in one process: what a cycle keeps, deletes, survives and says.

mod aged;
mod blind;
mod certificate;
mod counts;
mod crash;
mod entries;
mod events;
mod forks;
mod health;
mod incremental;
mod left;
mod locks;
mod race;
mod reclaim;
mod recovery;
mod resume;
mod retention;
mod rollback;
mod roots;
mod shared;
mod steady;
mod triggers;
mod validate;
mod window;
mod worker;
