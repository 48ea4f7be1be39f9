//! Nodes of a view for the walk: sorted batches, read by several threads side by side (P19).
//!
//! Contract: what a reader thread could not read is an error of the whole batch; a node is shown as absent only if the
//! view said so (S6, S45). Memory: a few chunks of nodes per thread, however large the batch.

use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc::{self, SyncSender},
};

use state_store::{StoreError, View};
use state_tree::{NodeHash, NodeSource, TreeError};

use crate::{control::Control, error::PruneError, mark::joined, threads};

/// Nodes that one thread reads before it hands them over.
const CHUNK: usize = 256;

/// Reads nodes of one view.
#[derive(Clone, Copy)]
pub(crate) struct ViewSource<'a> {
    /// The instant.
    pub(crate) view: &'a dyn View,
    /// Threads that read.
    pub(crate) threads: usize,
    /// Pause and cancel, once per batch.
    pub(crate) control: &'a Control,
}

/// The nodes of one chunk, one after the other.
#[derive(Default)]
struct Answers {
    first: usize,
    bytes: Vec<u8>,
    /// For each node where its bytes end, or nothing when it is absent.
    ends: Vec<Option<usize>>,
}

impl Answers {
    fn replay(&self, each: &mut dyn FnMut(usize, Option<&[u8]>)) {
        let mut start = 0;
        for (index, end) in self.ends.iter().enumerate() {
            let bytes = end.and_then(|end| self.bytes.get(start..end));
            start = end.map_or(start, |end| end);
            each(self.first + index, bytes);
        }
    }
}

impl NodeSource for ViewSource<'_> {
    fn read(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| TreeError::ReadBatch { nodes: hashes.len(), source };
        self.control.checkpoint().map_err(|error| failed(Box::new(error)))?;
        if !hashes.is_sorted() {
            return self.read_sorted(hashes, each);
        }
        if self.threads <= 1 || hashes.len() <= CHUNK {
            return self.view.nodes(hashes, each).map_err(|error| failed(Box::new(error)));
        }
        self.read_side_by_side(hashes, each).map_err(|error| failed(Box::new(error)))
    }
}

impl ViewSource<'_> {
    /// Views take sorted hashes only; a search for a path asks in the order of discovery.
    fn read_sorted(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError> {
        let mut order: Vec<(NodeHash, usize)> = hashes.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let sorted: Vec<NodeHash> = order.iter().map(|(hash, _)| *hash).collect();
        self.read(&sorted, &mut |index, bytes| {
            if let Some((_, asked)) = order.get(index) {
                each(*asked, bytes);
            }
        })
    }

    fn read_side_by_side(
        &self,
        hashes: &[NodeHash],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), PruneError> {
        let next = AtomicUsize::new(0);
        let (send, receive) = mpsc::sync_channel(self.threads);
        std::thread::scope(|scope| {
            let reader = |_| {
                let (next, send) = (&next, send.clone());
                move || self.read_chunks(hashes, next, &send)
            };
            let readers = match threads::begin_some(scope, "pruner-read", self.threads, reader) {
                Ok(readers) => readers,
                Err(error) => {
                    tracing::debug!(%error, "whoever asks for a batch reads it alone");
                    return self.view.nodes(hashes, each).map_err(PruneError::Store);
                }
            };
            drop(send);
            // Ends when every reader has dropped its sender: each is then done or failed (S8).
            for answers in receive {
                Answers::replay(&answers, each);
            }
            let ended: Vec<Result<(), StoreError>> = readers.into_iter().map(joined).collect();
            ended.into_iter().try_for_each(|read| read.map_err(PruneError::Store))
        })
    }

    fn read_chunks(
        &self,
        hashes: &[NodeHash],
        next: &AtomicUsize,
        send: &SyncSender<Answers>,
    ) -> Result<(), StoreError> {
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            let Some(chunk) = hashes.get(first..hashes.len().min(first + CHUNK)).filter(|chunk| !chunk.is_empty())
            else {
                return Ok(());
            };
            let mut answers = Answers { first, ..Answers::default() };
            self.view.nodes(chunk, &mut |_, bytes| {
                let end = bytes.map(|bytes| {
                    answers.bytes.extend_from_slice(bytes);
                    answers.bytes.len()
                });
                answers.ends.push(end);
            })?;
            if send.send(answers).is_err() {
                return Ok(()); // the receiver is gone, and with it whoever would look at the answers
            }
        }
    }
}
