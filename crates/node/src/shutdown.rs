//! Ending on a signal: the first asks, the second insists.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of a process that was told twice to end.
const INTERRUPTED: i32 = 130;

/// SIGINT and SIGTERM from now on.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens; call within a runtime.
    ///
    /// Errors: the system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Ends the process at the next one after these last words, without any teardown: what was acknowledged is on disk.
    pub fn exit_at_next(mut self, last_words: impl FnOnce() + Send + 'static) {
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("told twice to stop: exiting at once");
            last_words();
            std::process::exit(INTERRUPTED);
        });
    }
}
