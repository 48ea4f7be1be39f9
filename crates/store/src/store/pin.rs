//! Reading by order: roots, and pins that hold them.

use std::sync::Arc;

use parking_lot::RwLock;
use state_tree::{Order, StateRoot};

use super::Store;
use crate::{
    error::StoreError,
    gate::{ChainState, PinOwner},
};

impl Store {
    /// The root of a retained order; distinguishes pruned from never committed (O19). Does not wait for a commit.
    pub fn root(&self, order: Order) -> Result<StateRoot, StoreError> {
        self.look(|chain| chain.root(order))?
    }

    /// Pins a retained order for reading: its root stays retained until the pin is dropped (S41). Does not wait for a
    /// commit.
    pub fn pin(&self, order: Order, owner: &str) -> Result<Pin, StoreError> {
        let (root, id) = self.change(|chain| chain.pin(order, owner))??;
        Ok(Pin { chain: Arc::clone(&self.chain), order, root, id })
    }

    /// Orders that readers hold, with their owners. Read it AFTER the floor was raised: no pin below it can appear.
    pub fn pins(&self) -> Vec<(Order, Vec<PinOwner>)> {
        self.chain.read().as_ref().map_or_else(Vec::new, ChainState::pins)
    }
}

impl Store {
    /// Takes a reader's pin away: its order is retained no longer for it, and [`Pin::check`] says so. Nothing happens if
    /// the reader has let go.
    pub fn end_pin(&self, order: Order, id: u64) -> Result<(), StoreError> {
        self.change(|chain| chain.unpin(order, id))
    }
}

/// A pin on one order; dropping it lets the order go.
#[derive(Debug)]
pub struct Pin {
    chain: Arc<RwLock<Option<ChainState>>>,
    order: Order,
    root: StateRoot,
    id: u64,
}

impl Pin {
    /// The pinned order.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Its root.
    pub fn root(&self) -> StateRoot {
        self.root
    }

    /// Whether it still holds its order. A reader that may take long asks when a read has failed: what it reads is there as
    /// long as the pin is, and what it has read is right in any case, because nodes are found by their hash.
    ///
    /// Errors: [`StoreError::Pruned`] once the pin was taken away.
    pub fn check(&self) -> Result<(), StoreError> {
        let chain = self.chain.read();
        match chain.as_ref() {
            Some(chain) if !chain.is_pinned(self.order, self.id) => {
                Err(StoreError::Pruned { order: self.order, floor: chain.floor() })
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(chain) = self.chain.write().as_mut() {
            chain.unpin(self.order, self.id);
        }
    }
}
