//! For how long a thread worked, beside for how long something took: the rest the machine kept it from a processor, or it waited.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// For how long this thread was on a processor so far.
pub(crate) fn on_processor() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    match (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) {
        (Ok(seconds), Ok(nanoseconds)) => Duration::new(seconds, nanoseconds),
        (Err(_), _) | (_, Err(_)) => Duration::ZERO, // the system never tells a time below nothing
    }
}
