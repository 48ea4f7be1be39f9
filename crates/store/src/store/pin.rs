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
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(chain) = self.chain.write().as_mut() {
            chain.unpin(self.order, self.id);
        }
    }
}
