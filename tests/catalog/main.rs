//! The snapshot catalog with real processes: many at once, killed ones, damaged copies, and copies of a running node.

mod clock;
mod damage;
mod elsewhere;
mod killed;
mod many;
mod owner;
mod points;
mod running;
mod support;
