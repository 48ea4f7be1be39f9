//! The reserve of room that a store may be given.

use super::Store;
use crate::{
    backend::{Batch, Durability},
    error::StoreError,
    reserve::{Reserve, Room},
};

impl Store {
    /// A commit that finds no room lets the reserve go, so that those after it find some; so do the marks of a cycle, which come
    /// before it can give space back.
    pub(super) fn write_or_make_room(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        let written = self.backend().write(batch, durability);
        if matches!(written, Err(StoreError::DiskFull { .. })) {
            self.reserve().into_iter().for_each(Reserve::let_go_or_tell);
        }
        written
    }

    /// Gives the store a reserve of room, and takes it. The first one stays.
    ///
    /// Errors: a failed write other than for want of room.
    pub fn keep_room(&self, reserve: Reserve) -> Result<Room, StoreError> {
        Ok(self.reserve.get_or_init(|| reserve).take()?.now)
    }

    /// The reserve, if it was given one.
    pub fn reserve(&self) -> Option<&Reserve> {
        self.reserve.get()
    }
}
