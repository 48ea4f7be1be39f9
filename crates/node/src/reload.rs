//! The configuration read again while the node runs, when it is told to by SIGHUP.
//!
//! One value counts at once: a change of `pruner.enabled` switches pruning off or on, as the commands do, so also for later
//! starts. A node that was started without its pruner has none to switch on. Every other change is told and takes a restart,
//! and a configuration with a problem changes nothing.

use std::{io, path::PathBuf, sync::Arc};

use state_pruner::{Command, Pruner, Reply};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
};

use crate::config::Config;

/// Where the configuration of a running node comes from.
#[derive(Debug)]
pub(crate) struct Reload {
    hangup: Signal,
    source: Source,
}

#[derive(Debug, Clone)]
struct Source {
    file: PathBuf,
    assignments: Vec<String>,
    /// As the process was started, but for `pruner.enabled`, which is as it was read last.
    running: Config,
}

impl Reload {
    /// Listens. From here on SIGHUP ends no process.
    ///
    /// Errors: the system refuses a handler.
    pub(crate) fn listen(file: PathBuf, assignments: Vec<String>, running: Config) -> io::Result<Self> {
        let source = Source { file, assignments, running };
        Ok(Self { hangup: signal(SignalKind::hangup())?, source })
    }

    /// Reads it again each time, for as long as this is waited for. Signals that come together are one.
    pub(crate) async fn forever(mut self, pruner: Option<Arc<Pruner>>) {
        while self.hangup.recv().await.is_some() {
            let (mut source, pruner) = (self.source.clone(), pruner.clone());
            let read = spawn_blocking(move || {
                source.read(pruner.as_deref());
                source
            });
            match read.await {
                Ok(source) => self.source = source,
                Err(error) => {
                    tracing::error!(%error, "reading the configuration again panicked, which is a bug of ours")
                }
            }
        }
        std::future::pending().await // a runtime that ends hears of no signal, and the node goes on ending
    }
}

impl Source {
    fn read(&mut self, pruner: Option<&Pruner>) {
        let read = match Config::load(&self.file, &self.assignments) {
            Ok(read) => read,
            Err(problems) => {
                problems.iter().for_each(|problem| tracing::error!("the configuration is not read again: {problem}"));
                return;
            }
        };
        tracing::info!(file = %self.file.display(), "the configuration was read again");
        match (self.running.pruner.enabled, read.pruner.enabled) {
            (true, false) => self.switch(Command::Disable, pruner),
            (false, true) => self.switch(Command::Enable, pruner),
            (true, true) | (false, false) => {}
        }
        let others = self.running.sections_beside_the_switch(&read);
        if !others.is_empty() {
            let sections = others.join(", ");
            tracing::warn!(
                "the configuration has changed in {sections}: that takes a restart; the node goes on as it was"
            );
        }
    }

    fn switch(&mut self, command: Command, pruner: Option<&Pruner>) {
        let Some(pruner) = pruner else {
            return tracing::warn!("pruner.enabled: the node was started without its pruner, so that takes a restart");
        };
        match pruner.command(command) {
            Reply::Refused { why } | Reply::Unsaved { why, .. } => {
                tracing::error!("pruner.enabled: {why}; send SIGHUP again")
            }
            Reply::Accepted
            | Reply::Unchanged
            | Reply::FollowUp
            | Reply::AlreadyRunning
            | Reply::AlreadyServed { .. }
            | Reply::Ending
            | Reply::NotRunning => self.running.pruner.enabled = command == Command::Enable,
        }
    }
}
