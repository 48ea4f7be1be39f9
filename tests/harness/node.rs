//! The real binary as a child process, and what can be asked of it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use reqwest::blocking::{Client, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use state_pruner::{Clock, SystemClock};
use state_store::{HANG_AT, KILL_AT, Point};
use state_tree::{Key, NodeHash, ObjectState, Proof, StateRoot};

/// The longest wait for a state that a node reaches by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// The binary beside the tests: `scripts/test` builds it first, because a test package cannot.
pub fn binary() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let built = here.ancestors().nth(2).unwrap().join("state-node");
    assert!(built.exists(), "{} is not there; run: cargo build --bin state-node", built.display());
    built
}

/// Runs a command to its end. Who asks for the health of a store means the store, however long that takes on a busy machine.
pub fn run(arguments: &[&str]) -> Output {
    let of_store = arguments.first() == Some(&"health-check") && arguments.contains(&"--db");
    let is_hasty = arguments.iter().any(|argument| ["--within", "--heartbeat-after"].contains(argument));
    let patience: &[&str] = if of_store && !is_hasty { &["--within", "10m", "--heartbeat-after", "10m"] } else { &[] };
    Command::new(binary()).args(arguments).args(patience).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command with `--json`, and returns its exit code with the one object it printed.
pub fn json(arguments: &[&str]) -> (i32, Value) {
    let output = run(&[arguments, &["--json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?} printed {text:?}: {error}"));
    (output.status.code().unwrap(), value)
}

/// The folder that holds the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn starting() -> Command {
    starting_by(&repository().join("config/node.toml"))
}

fn starting_by(config: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("start").arg("--config").arg(config);
    command
}

/// A running node; killed when it goes out of scope.
pub struct Node {
    process: Child,
    url: String,
    client: Client,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    /// Disconnected once it has closed its log, so when it has ended.
    ended: Mutex<Receiver<()>>,
}

type Lines = std::io::Lines<BufReader<ChildStderr>>;

impl Node {
    /// Starts a node from the shipped configuration with its data in `data` and these settings.
    pub fn start(data: &Path, settings: &[&str]) -> Self {
        Self::spawn(starting(), data, settings)
    }

    /// The same from another configuration.
    pub fn configured(config: &Path, data: &Path, settings: &[&str]) -> Self {
        Self::spawn(starting_by(config), data, settings)
    }

    /// The same with a load of its own.
    pub fn driven(data: &Path, settings: &[&str], load: &str) -> Self {
        let mut command = starting();
        command.args(["--load", load]);
        Self::spawn(command, data, settings)
    }

    /// The same, killed by itself when it has passed a named point so many times and comes there again.
    pub fn killed_at(data: &Path, settings: &[&str], (point, passes): (Point, u64)) -> Self {
        let mut command = starting();
        command.env(KILL_AT, format!("{} {passes}", point.name()));
        Self::spawn(command, data, settings)
    }

    /// The same, of which a thread hangs when it comes to a point first; with a load of its own if one is given.
    pub fn hung_at(data: &Path, settings: &[&str], point: Point, load: Option<&str>) -> Self {
        let mut command = starting();
        command.env(HANG_AT, point.name());
        command.args(load.into_iter().flat_map(|load| ["--load", load]));
        Self::spawn(command, data, settings)
    }

    /// The same in a shell with this limit of open files, as `ulimit` takes it.
    pub fn limited(data: &Path, settings: &[&str], limit: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
        command.arg(binary()).args(starting().get_args());
        Self::spawn(command, data, settings)
    }

    /// Starts one that is held before it serves: nothing can be asked of it.
    pub fn held(data: &Path, settings: &[&str]) -> Self {
        let (process, lines) = Self::process(starting(), data, settings);
        Self::logging(process, String::new(), (Arc::default(), lines))
    }

    fn process(mut command: Command, data: &Path, settings: &[&str]) -> (Child, Lines) {
        command.arg("--set").arg(format!("node.data_dir={}", data.display()));
        command.args(["--set", "node.listen=127.0.0.1:0"]);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        (process, lines)
    }

    fn spawn(command: Command, data: &Path, settings: &[&str]) -> Self {
        let (process, mut lines) = Self::process(command, data, settings);
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let url = lines.by_ref().map(Result::unwrap).find_map(|line| {
            let url = line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned);
            log.lock().push(line);
            url
        });
        let url = url.unwrap_or_else(|| panic!("the node does not serve: {:#?}", log.lock()));
        Self::logging(process, url, (log, lines))
    }

    fn logging(process: Child, url: String, (log, lines): (Arc<Mutex<Vec<String>>>, Lines)) -> Self {
        let (kept, (alive, ended)) = (Arc::clone(&log), mpsc::channel());
        let reader = thread::Builder::new().spawn(move || {
            lines.map(Result::unwrap).for_each(|line| kept.lock().push(line));
            drop(alive);
        });
        let (reader, client) = (Some(reader.unwrap()), Client::builder().no_proxy().timeout(PATIENCE).build().unwrap());
        Self { process, url, client, log, reader, ended: Mutex::new(ended) }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().join("\n")
    }

    /// Asks; the answer may be an error.
    pub fn ask(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.url)).send().unwrap()
    }

    /// Asks for something that must be there.
    pub fn get(&self, path: &str) -> Value {
        let response = self.ask(path);
        assert!(response.status().is_success(), "{path}: {}", response.text().unwrap());
        response.json().unwrap()
    }

    /// Sends a body.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(format!("{}{path}", self.url)).json(body).send().unwrap()
    }

    /// Sends a body to a node that may be gone by now.
    pub fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<Value> {
        let sent = self.client.post(format!("{}{path}", self.url)).json(body).send();
        sent.and_then(Response::json)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// Submits one transaction and returns the order that has it.
    pub fn submit(&self, transaction: &Value) -> u64 {
        let answer: Value = self.post("/v1/transactions", transaction).json().unwrap();
        answer["order"].as_u64().unwrap_or_else(|| panic!("{transaction}: {answer}"))
    }

    /// What it does now.
    pub fn status(&self) -> Value {
        self.get("/v1/status")
    }

    /// Sends a command to its pruner; whether it was accepted.
    pub fn prune(&self, command: &str) -> bool {
        self.post(&format!("/v1/prune/{command}"), &Value::Null).status().is_success()
    }

    /// Waits until its status is as wanted, and returns it.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let (clock, mut status) = (SystemClock::new(), self.status());
        while !wanted(&status) {
            assert!(clock.monotonic() < PATIENCE, "waiting for {what}: {status:#}\n{}", self.log());
            thread::yield_now();
            status = self.status();
        }
        status
    }

    /// Waits until its journal has an event of this code, and returns the first.
    pub fn until_told(&self, code: &str) -> Value {
        let (clock, path) = (SystemClock::new(), format!("/v1/events?code={code}"));
        loop {
            if let Some(event) = self.get(&path)["events"].get(0) {
                return event.clone();
            }
            assert!(clock.monotonic() < PATIENCE, "waiting for an event {code}\n{}", self.log());
            thread::yield_now();
        }
    }

    /// Runs a cycle and waits for its end.
    pub fn cycle(&self) -> Value {
        let is_idle =
            |status: &Value| status["pruner"]["running"] == false && status["pruner"]["triggers"]["requested"] == false;
        let finished = |status: &Value| status["pruner"]["cycles_finished"].as_u64().unwrap();
        let before = finished(&self.until("an idle pruner", is_idle));
        let accepted = |_: &Value| {
            let reply = &self.post("/v1/prune/run", &Value::Null).json::<Value>().unwrap()["reply"];
            *reply == "accepted" || *reply == "follow_up"
        };
        self.until("a pruner that takes the request", accepted);
        self.until("a finished cycle", |status| is_idle(status) && finished(status) > before)
    }

    /// Kills it at once, as a crash of the process does.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Sends a signal and waits for the end; what it logged comes with its exit status.
    pub fn stop(self, signal: Signal) -> (ExitStatus, String) {
        self.signal(signal);
        self.wait()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Holds it; returns once it is held.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        while !state().contains(") T ") {
            thread::yield_now();
        }
    }

    /// Sends a signal again and again until it has ended; what it logged comes with its exit status.
    pub fn insist(mut self, signal: Signal) -> (ExitStatus, String) {
        while self.process.try_wait().unwrap().is_none() {
            self.signal(signal);
            thread::yield_now();
        }
        self.wait()
    }

    /// Waits until it has logged this.
    pub fn until_logged(&self, text: &str) {
        self.until_logged_often(text, 1);
    }

    /// Waits until it has logged this so often.
    pub fn until_logged_often(&self, text: &str, times: usize) {
        let clock = SystemClock::new();
        while self.log().matches(text).count() < times {
            assert!(clock.monotonic() < PATIENCE, "waiting for {text:?}\n{}", self.log());
            thread::yield_now();
        }
    }

    /// Waits for its end; what it logged comes with its exit status.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let ended = self.ended.get_mut().recv_timeout(PATIENCE);
        assert_eq!(ended, Err(RecvTimeoutError::Disconnected), "it does not end\n{}", self.log());
        let status = self.process.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A process that has ended already cannot be killed, and need not be.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A load in the background; ended when it goes out of scope.
pub struct Load(Child);

impl Load {
    /// Sends transactions of a profile to the node until it is dropped.
    pub fn on(node: &Node, profile: &str, seed: &str) -> Self {
        let mut command = Command::new(binary());
        command.args(["load", "--url", node.url(), "--profile", profile, "--rate", "800", "--connections", "2"]);
        command.args(["--seed", seed]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended by itself when its node died.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Checks the proof of an answer with nothing but the pure verifier, and returns what it shows.
pub fn proven(proof: &Value, keys: &[Key]) -> Option<ObjectState> {
    let bytes = |item: &Value| hex::decode(item.as_str().unwrap()).unwrap();
    let segments = proof["segments"].as_array().unwrap().iter();
    let segments = segments.map(|items| items.as_array().unwrap().iter().map(bytes).collect());
    let root = NodeHash::from_hex(proof["root"].as_str().unwrap()).unwrap();
    Proof { segments: segments.collect() }.verify(StateRoot::new(root), keys).unwrap()
}
