//! The server: it has threads of its own, because only the end of a runtime ends every connection and gives up what still
//! works for one.
//!
//! Promises: open connections are bounded, and so are the time that one has until it brings a request and the time that it may
//! take nothing of an answer, so that clients which hold some take no file from the engine and keep nobody out for ever; what
//! is at work on one is not touched by these bounds.
//! Draining waits for clients, ending does not; after the end no connection is served, and whatever a request holds is let go,
//! unless it is at work on a blocking thread and does not come back within the time given.

use std::{io, mem, sync::Arc, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinHandle, spawn_blocking},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

/// Connections that are open at once, where the system lets the process open as many files.
const MOST: usize = 1024;
/// The fewest with which a node can be asked anything.
const FEWEST: usize = 16;
/// Files for what is no connection and no table: logs, events, marks, copies, and what is read for requests.
const OTHER_FILES: u64 = 256;
/// Idle connections that take every place make the node deaf for so long. A client whose kept connection was closed opens another.
const HEAD: Duration = Duration::from_secs(10);
/// Longer than a network takes that comes back.
const STALLED: Duration = Duration::from_secs(60);

/// What clients may take of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections that are open at once; further ones wait until one ends.
    pub connections: usize,
    /// How long a connection may take until the head of its next request is there; then it is closed.
    pub head: Duration,
    /// How long a client may take nothing of an answer, once the system holds no more of it; then its connection is closed.
    pub stalled: Duration,
}

impl Bounds {
    /// Of the files that the system lets the process open, if it has a limit, those that the engine may open are left to it.
    pub fn within(files: Option<u64>, of_the_engine: u64) -> Self {
        let left = files.map(|files| files.saturating_sub(of_the_engine).saturating_sub(OTHER_FILES));
        let connections = left.map_or(MOST as u64, |left| left.clamp(FEWEST as u64, MOST as u64)) as usize;
        if let Some(files) = files.filter(|_| connections < MOST) {
            tracing::warn!(
                files,
                connections,
                "the system lets this process open few files, so few connections are open at once: raise the limit \
                 (LimitNOFILE of systemd, ulimit -n)"
            );
        }
        Self { connections, head: HEAD, stalled: STALLED }
    }
}

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
    pub fn start(listener: TcpListener, router: Router, stop: CancellationToken, bounds: Bounds) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().thread_name("http").enable_all().build()?;
        let listener = listener.into_std()?;
        let serving = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener)?; // events of its socket come to this runtime from now on
            let places = Arc::new(Semaphore::new(bounds.connections));
            serve(Door { listener, places, was_full: false }, router, stop, bounds).await
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

async fn serve(mut door: Door, router: Router, stop: CancellationToken, bounds: Bounds) -> io::Result<()> {
    let Bounds { head, stalled, .. } = bounds;
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head);
    while let Some(taken) = stop.run_until_cancelled(door.next()).await {
        let (stream, place) = taken?;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(stalled));
        let connection =
            http.serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router.clone()));
        let connection = open.watch(connection);
        tokio::spawn(async move {
            let _place = place; // until the connection ends
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(door); // whoever comes now is refused
    open.shutdown().await;
    Ok(())
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    /// Whether that was told.
    was_full: bool,
}

impl Door {
    /// The next connection, once there is a place for it: until then the system keeps it, and it costs no file of ours.
    async fn next(&mut self) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let is_full = self.places.available_permits() == 0;
        if !mem::replace(&mut self.was_full, is_full) && is_full {
            tracing::warn!("as many connections are open as are served at once: further ones wait until one ends");
        }
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = Listener::accept(&mut self.listener).await; // goes on after a failure, which it tells
        Ok((stream, place))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{self, SocketAddr},
    };

    use axum::{body::Body, routing::get};
    use futures_util::stream;
    use reqwest::{Client, Response, StatusCode};
    use state_pruner::events::{Event, EventSink as _};
    use tokio::time::timeout;

    use super::{
        super::{Node, router, tests::node},
        *,
    };

    const LONG: Duration = Duration::from_secs(60);

    struct Serving {
        node: Arc<Node>,
        address: SocketAddr,
        server: Server,
        /// Has one connection for itself.
        events: Response,
    }

    impl Serving {
        async fn start(connections: usize, head: Duration) -> Self {
            Self::with(Bounds { connections, head, stalled: LONG }, Router::new()).await
        }

        async fn with(bounds: Bounds, further: Router) -> Self {
            let node = Arc::new(node());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = router(Arc::clone(&node)).merge(further);
            let server = Server::start(listener, router, node.stop.clone(), bounds).unwrap();
            let events = timeout(LONG, heard(address)).await.unwrap();
            Self { node, address, server, events }
        }

        fn idle(&self, said: &str) -> net::TcpStream {
            let mut idle = net::TcpStream::connect(self.address).unwrap();
            idle.write_all(said.as_bytes()).unwrap();
            idle
        }

        /// What is told last is heard on the connection that was there first; then the node stops.
        async fn ends_in_order(mut self) {
            self.node.events.emit(Event::ReserveTaken { bytes: 77 });
            let mut heard = String::new();
            while !heard.contains("reserve_taken") {
                let chunk = timeout(LONG, self.events.chunk()).await.unwrap();
                heard.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
            }
            self.node.stop.cancel();
            timeout(LONG, &mut self.server.serving).await.unwrap().unwrap().unwrap();
            self.server.end(LONG).await.unwrap();
        }
    }

    async fn ask(address: SocketAddr, path: &str) -> Response {
        asked(address, path).await.unwrap()
    }

    /// The stream of events, also where a request or two were not quick enough for the bound.
    async fn heard(address: SocketAddr) -> Response {
        loop {
            if let Ok(events) = asked(address, "v1/events/stream").await {
                return events;
            }
        }
    }

    async fn asked(address: SocketAddr, path: &str) -> reqwest::Result<Response> {
        let client = Client::builder().no_proxy().build().unwrap();
        client.get(format!("http://{address}/{path}")).send().await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_brings_no_request_is_closed_and_one_with_a_long_answer_is_not() {
        let serving = Serving::start(3, Duration::from_millis(100)).await;
        let idle = [serving.idle(""), serving.idle("GET /healthz HTTP/1.1\r\nhost: local")];
        let answer = timeout(LONG, ask(serving.address, "healthz")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "there is a place again");
        for idle in idle {
            idle.set_read_timeout(Some(LONG)).unwrap();
            let closed = spawn_blocking(move || io::read_to_string(idle)).await.unwrap();
            assert!(closed.is_ok(), "{closed:?}");
        }
        serving.ends_in_order().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_takes_nothing_of_a_long_answer_is_cut_off_and_one_that_waits_for_events_is_not() {
        let given_up = CancellationToken::new();
        let told = given_up.clone();
        let endless = get(|| async move {
            let told = told.drop_guard();
            Body::from_stream(stream::repeat_with(move || {
                let _until_it_is_given_up = &told;
                Ok::<_, io::Error>(vec![0; 1 << 16])
            }))
        });
        let bounds = Bounds { connections: 3, head: LONG, stalled: Duration::from_millis(300) };
        let serving = Serving::with(bounds, Router::new().route("/endless", endless)).await;
        let takes_nothing = serving.idle("GET /endless HTTP/1.1\r\nhost: local\r\n\r\n");
        timeout(LONG, given_up.cancelled()).await.expect("the connection is closed");
        serving.ends_in_order().await;
        drop(takes_nothing);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_beyond_the_bound_waits_until_one_ends_and_harms_none() {
        let serving = Serving::start(20, Duration::from_secs(3600)).await;
        let mut idle: Vec<net::TcpStream> = (0..19).map(|_| serving.idle("")).collect();
        let asked = timeout(Duration::from_millis(200), ask(serving.address, "healthz")).await;
        assert!(asked.is_err(), "one more than the bound is served: {asked:?}");
        idle.pop();
        let answer = timeout(LONG, ask(serving.address, "healthz")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        serving.ends_in_order().await;
    }

    #[test]
    fn idle_connections_cannot_make_a_node_deaf_for_longer_than_its_clients_wait() {
        assert!(Bounds::within(None, 512).head <= Duration::from_secs(10));
    }

    #[test]
    fn the_engine_has_its_files_before_any_connection_has_one() {
        for (files, connections, why) in [
            (None, 1024, "no limit"),
            (Some(1 << 20), 1024, "a usual limit of those that are raised"),
            (Some(512 + 256 + 1024), 1024, "just enough"),
            (Some(1024), 256, "a usual limit that is not"),
            (Some(700), 16, "too few for the engine itself: a node that cannot be asked is worse"),
        ] {
            assert_eq!(Bounds::within(files, 512).connections, connections, "{why}");
        }
    }
}
