//! Which threads give way to commits where processors are scarce (I12): those that mark, for they are busy for long and never
//! hold the commit gate. Whoever takes the gate does not: a thread that is kept from a processor while it holds it keeps
//! every commit waiting.

use std::panic::resume_unwind;

/// Niceness of a thread that gives way.
const NICENESS: i32 = 10;

/// Lowers the priority of this thread for good: without privileges it cannot be raised again.
pub(crate) fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::warn!(%error, "a thread that marks could not lower its priority; it competes with commits");
    }
}

/// Does work on a thread of its own, which gives way, as do those that it begins.
pub(crate) fn giving_way<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            give_way();
            work()
        });
        thread.join()
    });
    match done {
        Ok(done) => done,
        Err(panic) => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn work_that_gives_way_leaves_whoever_waits_for_it_at_its_own_priority() {
        let before = getpriority_process(None).unwrap();
        assert_eq!(giving_way(|| getpriority_process(None).unwrap()), before.max(NICENESS));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
