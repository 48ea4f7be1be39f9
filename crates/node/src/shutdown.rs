//! Ending on a signal: the first asks, the second insists.
//!
//! Signals that come together are one: `timeout`, for instance, tells a process and then its whole group. Of a process that
//! could not run meanwhile all that came count as together, and the next one insists.
//!
//! Promises: signals have a thread of their own, so the second one counts also while the store is being opened, while a
//! disk hangs, and after the runtime of the command is gone. The process then ends without any teardown, not that of its
//! libraries either: the engine would wait in it for the compactions at work. What was acknowledged is on disk.

use std::{io, thread::Builder, time::Duration};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals as Incoming,
    low_level,
};
use state_pruner::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;

/// The exit code of a process that was told twice to end.
const INTERRUPTED: i32 = 130;
/// Signals within this time were not sent by somebody who has waited.
const TOGETHER: Duration = Duration::from_millis(100);

/// SIGINT and SIGTERM from now on, for the rest of the process.
#[derive(Debug)]
pub struct Signals {
    told: CancellationToken,
}

impl Signals {
    /// Listens. The second signal that does not come with the first ends the process at once after these last words.
    ///
    /// Errors: the system refuses a handler or a thread.
    pub fn listen(last_words: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let mut incoming = Incoming::new([SIGINT, SIGTERM])?;
        let told = CancellationToken::new();
        let tell = told.clone();
        Builder::new().name("signals".to_owned()).spawn(move || {
            let mut signals = incoming.forever();
            if signals.next().is_some() {
                tell.cancel();
            }
            let clock = SystemClock::new(); // counts from here on
            if signals.any(|_| clock.monotonic() > TOGETHER) {
                last_words();
                leave(INTERRUPTED);
            }
        })?;
        Ok(Self { told })
    }

    /// Waits for the first one; returns at once if it has come.
    pub async fn told(&self) {
        self.told.cancelled().await;
    }
}

/// Ends the process without any teardown. For when what would have to be torn down still works, and all that counts is
/// on disk.
pub fn leave(code: i32) -> ! {
    low_level::exit(code)
}
