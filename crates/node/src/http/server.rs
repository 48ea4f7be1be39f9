//! The server: it has threads of its own, because only the end of a runtime ends every connection and gives up what still
//! works for one.
//!
//! Promises: draining waits for clients, ending does not; after the end no connection is served, and whatever a request
//! holds is let go, unless it is at work on a blocking thread and does not come back within the time given.

use std::{io, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

/// A server at work. Dropping it ends it without waiting for anybody.
#[derive(Debug)]
pub struct Server {
    runtime: Option<Runtime>,
    serving: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Serves until told to stop: then it takes no more connections, and goes on with those there are.
    ///
    /// Errors: the system gives no threads.
    pub fn start(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().thread_name("http").enable_all().build()?;
        let listener = listener.into_std()?;
        let serving = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener)?; // events of its socket come to this runtime from now on
            axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
        });
        Ok(Self { runtime: Some(runtime), serving })
    }

    /// Waits for the open connections, once it was told to stop.
    ///
    /// Errors: serving had failed, or had panicked.
    pub async fn drain(&mut self, patience: Duration) -> io::Result<()> {
        match tokio::time::timeout(patience, &mut self.serving).await {
            Ok(served) => served?,
            Err(_) => {
                tracing::warn!("some connections did not end in time: they are cut off");
                Ok(())
            }
        }
    }

    /// Ends what is left, and waits so long for the reads at work.
    ///
    /// Errors: ending had panicked.
    pub async fn end(mut self, patience: Duration) -> io::Result<()> {
        let Some(runtime) = self.runtime.take() else { return Ok(()) };
        Ok(spawn_blocking(move || runtime.shutdown_timeout(patience)).await?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // a runtime that is dropped waits, which no asynchronous thread may
        }
    }
}
