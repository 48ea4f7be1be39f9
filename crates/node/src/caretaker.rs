//! Who looks after the store of a node: its pruner, or what takes its place where it is disabled.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use state_pruner::{Facts, Pruner, Unpruned, validate::Validated};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::app::Watch;

/// How often the reserve is looked at that was let go.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// Who looks after the store.
#[derive(Debug)]
pub enum Caretaker {
    /// The pruner.
    Pruner(Arc<Pruner>),
    /// Nobody prunes.
    Unpruned(Box<Unpruned>),
}

impl Caretaker {
    /// The pruner, if it is enabled.
    pub fn pruner(&self) -> Option<&Arc<Pruner>> {
        match self {
            Self::Pruner(pruner) => Some(pruner),
            Self::Unpruned(_) => None,
        }
    }

    /// What health is judged by.
    pub(crate) fn facts(&self) -> Facts {
        match self {
            Self::Pruner(pruner) => pruner.facts(),
            Self::Unpruned(unpruned) => unpruned.facts(),
        }
    }

    /// What validations came to, if there was one; where nobody prunes, those of earlier processes.
    pub(crate) fn validated(&self) -> Option<Validated> {
        match self {
            Self::Pruner(pruner) => pruner.validated(),
            Self::Unpruned(unpruned) => unpruned.validated(),
        }
    }

    fn take_reserve(&self) {
        match self {
            Self::Pruner(pruner) => pruner.take_reserve(),
            Self::Unpruned(unpruned) => unpruned.take_reserve(),
        }
    }

    /// Takes the reserve again at times where it was let go, until told to stop or the caretaker is gone: no worker that is frozen,
    /// switched off or gone does, and none that is not there. Each time the watch looks, too. One look at a time, however long the
    /// disk takes.
    pub(crate) async fn keep(caretaker: Weak<Self>, mut watch: Watch, stop: CancellationToken) {
        let mut timer = interval(BETWEEN_LOOKS);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
            }
            let Some(looks) = caretaker.upgrade() else { return };
            let looked = spawn_blocking(move || {
                looks.take_reserve();
                drop(looks);
                watch.look();
                watch
            });
            watch = match looked.await {
                Ok(watch) => watch,
                Err(_) => {
                    return tracing::error!(
                        "looking after the reserve panicked, which is a bug of ours; restart to have it taken again"
                    );
                }
            };
        }
    }
}
