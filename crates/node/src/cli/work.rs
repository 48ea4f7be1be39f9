//! Runs work that blocks beside the signals that may end it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use state_pruner::Control;
use tokio::runtime::{Builder, Runtime};

use super::render::{Failure, Output};
use crate::shutdown::Signals;

/// The exit code of work that a signal stopped.
pub(super) const STOPPED: u8 = 130;

/// The answer of work that a second signal ended: one object, as of any other failure.
pub(super) fn cut_short() -> Failure {
    Failure::whole("stopped", "a second signal ended the process at once")
}

/// A runtime of the command.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}

/// Runs a future on a runtime of its own, and leaves behind what blocks a thread then: work that a disk holds would be waited for
/// without a limit.
pub(super) fn to_its_end<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime()?;
    let ended = runtime.block_on(work);
    runtime.shutdown_background();
    ended
}

/// Time between two looks at whether something is to be told.
const TICK: Duration = Duration::from_secs(1);

/// Runs blocking work on a thread of its own; the first signal stops it at its next checkpoint, the second at once.
/// Meanwhile `tick` is called every second.
pub(super) fn steered<T: Send + 'static>(
    output: Output,
    control: &Arc<Control>,
    work: impl FnOnce() -> T + Send + 'static,
    tick: impl Fn(),
) -> Result<T, ExitCode> {
    let failed = |error: &dyn std::fmt::Display| output.failed(&Failure::new("internal", error));
    let runtime = runtime().map_err(|error| failed(&error))?;
    let done = runtime.block_on(async {
        let signals = Signals::listen(move || output.fail(&cut_short()))?;
        let mut job = tokio::task::spawn_blocking(work);
        let mut timer = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                done = &mut job => return Ok::<_, std::io::Error>(done),
                () = signals.told() => break,
                _ = timer.tick() => tick(),
            }
        }
        tracing::warn!("stopping at the next checkpoint; a second signal ends the process at once");
        control.stop();
        Ok(job.await)
    });
    match done {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}
