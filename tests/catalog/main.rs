//! The snapshot catalog with real processes: many at once, killed ones, damaged copies, and copies of a running node.

mod damage;
mod killed;
mod many;
mod owner;
mod running;
mod support;
