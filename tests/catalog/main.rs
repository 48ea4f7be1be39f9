//! The snapshot catalog with real processes: many at once, killed ones, damaged copies, and copies of a running node.

mod clock;
mod damage;
mod disk;
mod elsewhere;
mod ground;
mod killed;
mod many;
mod owner;
mod points;
mod power;
mod reading;
mod running;
mod support;
mod unread;
