//! Threads that work begins and waits for.
//!
//! A system may have no thread to give for a moment (EAGAIN: pids of a cgroup, TasksMax of a service). That lack passes: it is
//! an error of its own, and never a panic.

use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::error::PruneError;

/// Begins a thread of the scope.
///
/// Errors: the system has none to give; nothing of the work was done.
pub(crate) fn begin<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, PruneError> {
    let builder = Builder::new().name(name.to_owned());
    #[cfg(test)]
    let builder = lack::meet(builder);
    builder.spawn_scoped(scope, work).map_err(|source| PruneError::NoThread { name, source })
}

/// Begins at most so many threads that share work, each with its number: as many as the system gives.
///
/// Errors: it gives none; nothing of the work was done.
pub(crate) fn begin_some<'scope, T, W>(
    scope: &'scope Scope<'scope, '_>,
    name: &'static str,
    most: usize,
    work: impl Fn(usize) -> W,
) -> Result<Vec<ScopedJoinHandle<'scope, T>>, PruneError>
where
    T: Send + 'scope,
    W: FnOnce() -> T + Send + 'scope,
{
    let mut begun = Vec::with_capacity(most);
    for number in 0..most {
        match begin(scope, name, work(number)) {
            Ok(thread) => begun.push(thread),
            Err(error) if begun.is_empty() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "{number} of {most} threads do the work");
                break;
            }
        }
    }
    Ok(begun)
}

/// A system that has no thread to give.
#[cfg(test)]
pub(crate) mod lack {
    use std::cell::Cell;

    use super::Builder;

    thread_local! {
        /// Threads that this one still gets before one is not to be had.
        static PASSING: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// While it lives, one of the threads that this thread begins is not to be had.
    pub(crate) struct Lack(());

    impl Lack {
        /// The one after so many.
        pub(crate) fn after(passing: usize) -> Self {
            PASSING.set(Some(passing));
            Self(())
        }

        pub(crate) fn is_met(&self) -> bool {
            PASSING.get().is_none()
        }
    }

    impl Drop for Lack {
        fn drop(&mut self) {
            PASSING.set(None);
        }
    }

    /// The system itself refuses: no address space has room for such a stack.
    pub(super) fn meet(builder: Builder) -> Builder {
        let passing = PASSING.get();
        PASSING.set(passing.and_then(|passing| passing.checked_sub(1)));
        if passing == Some(0) { builder.stack_size(usize::MAX / 8) } else { builder }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, thread};

    use state_store::Disposition;

    use super::{lack::Lack, *};
    use crate::recovery::{Remedy, remedy};

    #[test]
    fn a_thread_that_is_not_to_be_had_is_a_lack_that_passes() {
        let lack = Lack::after(1);
        thread::scope(|scope| {
            assert_eq!(begin(scope, "first", || 7).unwrap().join().unwrap(), 7);
            let error = begin(scope, "second", || panic!("it is not begun")).map(|_| ()).unwrap_err();
            let PruneError::NoThread { name: "second", source } = &error else { panic!("{error}") };
            assert_eq!(source.kind(), ErrorKind::WouldBlock, "the system's own word, EAGAIN");
            assert_eq!((error.disposition(), remedy(&error)), (Disposition::Resource, Remedy::Retry));
            assert!(lack.is_met());
            assert_eq!(begin(scope, "third", || 8).unwrap().join().unwrap(), 8);
        });
    }

    #[test]
    fn work_that_is_shared_is_done_by_as_many_threads_as_there_are() {
        for (passing, expected) in [(0, None), (1, Some(vec![0])), (2, Some(vec![0, 1])), (3, Some(vec![0, 1, 2]))] {
            let _lack = Lack::after(passing);
            thread::scope(|scope| match begin_some(scope, "some", 3, |number| move || number) {
                Ok(begun) => {
                    let done = begun.into_iter().map(|thread| thread.join().unwrap()).collect();
                    assert_eq!(Some(done), expected, "{passing}");
                }
                Err(error) => assert!(expected.is_none() && error.code() == "no_thread", "{passing}: {error}"),
            });
        }
    }
}
