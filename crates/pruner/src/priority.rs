//! Which threads give way to commits where processors are scarce (I12): those that mark, for they are busy for long and never
//! hold the commit gate. Whoever takes the gate does not: a thread that is kept from a processor while it holds it keeps
//! every commit waiting.

use std::{panic::resume_unwind, thread::ScopedJoinHandle};

use crate::{error::PruneError, threads};

/// Niceness of a thread that gives way.
const NICENESS: i32 = 10;

/// Lowers the priority of this thread for good: without privileges it cannot be raised again.
pub(crate) fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::warn!(%error, "a thread that marks could not lower its priority; it competes with commits");
    }
}

/// Does work on a thread of its own, which gives way, as do those that it begins.
///
/// Errors: the system has no thread to give; nothing of the work was done.
pub(crate) fn giving_way<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, PruneError> {
    let work = || {
        give_way();
        work()
    };
    let done = std::thread::scope(|scope| threads::begin(scope, "pruner-walk", work).map(ScopedJoinHandle::join))?;
    Ok(done.unwrap_or_else(|panic| resume_unwind(panic)))
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;
    use crate::threads::lack::Lack;

    #[test]
    fn work_that_gives_way_leaves_whoever_waits_for_it_at_its_own_priority() {
        let before = getpriority_process(None).unwrap();
        assert_eq!(giving_way(|| getpriority_process(None).unwrap()).unwrap(), before.max(NICENESS));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }

    #[test]
    fn work_for_which_there_is_no_thread_that_gives_way_is_not_begun() {
        let (lack, before) = (Lack::after(0), getpriority_process(None).unwrap());
        let error = giving_way::<()>(|| panic!("it was begun")).unwrap_err();
        assert!(lack.is_met() && matches!(error, PruneError::NoThread { name: "pruner-walk", .. }), "{error}");
        assert_eq!(getpriority_process(None).unwrap(), before);
        assert_eq!(giving_way(|| 7).unwrap(), 7, "it passes");
    }
}
