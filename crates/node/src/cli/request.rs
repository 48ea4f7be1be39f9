//! One question to a running node, and its answer or its error as it gave it.

use std::{convert::Infallible, time::Duration};

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    render::{ASK_AGAIN, Failure, meanwhile},
    token::TokenArgs,
    work,
};
use crate::load::Client;

/// A node that does not answer within this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long people are told what is waited for.
const TELL_AFTER: Duration = Duration::from_secs(3);
/// A node takes a request before it answers: one that hangs meanwhile does what it was asked for once it goes on.
const IT_MAY_DO_IT: &str =
    "it may do what it was asked for all the same, once it goes on: look at `/v1/status` before you ask again";
/// How a node is watched that works for as long as its store is large. What it is asked meanwhile needs no disk.
const WATCH: Watch = Watch { every: Duration::from_secs(5), patience: Duration::from_secs(5), misses: 4 };

/// What is asked of a node.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<&'a Value>,
    /// What a node that wants a token needs of a command.
    pub(super) token: Option<&'a TokenArgs>,
    /// What to do where no answer comes.
    advice: String,
}

impl<'a> Request<'a> {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, token: None, advice: ASK_AGAIN.to_owned() }
    }

    pub(super) fn post(path: impl Into<String>, token: &'a TokenArgs) -> Self {
        Self { method: Method::POST, token: Some(token), ..Self::get(path) }.advising(IT_MAY_DO_IT)
    }

    pub(super) fn delete(path: impl Into<String>, token: &'a TokenArgs) -> Self {
        Self { method: Method::DELETE, token: Some(token), ..Self::get(path) }.advising(IT_MAY_DO_IT)
    }

    pub(super) fn with(self, body: &'a Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// What to do where no answer comes, if it is more than to ask again.
    pub(super) fn advising(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }

    /// Asks, and takes the error that the node answers as it is.
    pub(super) fn ask<T: DeserializeOwned>(self, url: &str) -> Result<T, Failure> {
        self.ask_within(url, PATIENCE)
    }

    /// [`Request::ask`], of what is to be waited for so long.
    pub(super) fn ask_within<T: DeserializeOwned>(self, url: &str, patience: Duration) -> Result<T, Failure> {
        self.ask_until(url, patience, async move |_| {
            tokio::time::sleep(patience).await;
            Over::Silent(patience)
        })
    }

    /// [`Request::ask`], of what takes as long as the store is large: waited for so long at most, and as long as the node
    /// answers others. One that does may still hang in what it was asked for.
    pub(super) fn ask_while_it_lives<T: DeserializeOwned>(self, url: &str, within: Duration) -> Result<T, Failure> {
        self.ask_until(url, within, async |client: &Client| {
            tokio::select! {
                silent = WATCH.until_silent(client) => Over::Silent(silent),
                () = tokio::time::sleep(within) => Over::Unfinished(within),
            }
        })
    }

    /// [`Request::ask`], until it is over, which it is after so long at the latest.
    fn ask_until<T: DeserializeOwned>(
        self,
        url: &str,
        most: Duration,
        over: impl AsyncFnOnce(&Client) -> Over,
    ) -> Result<T, Failure> {
        let Self { method, path, body, token, advice } = self;
        let asked = format!("`{method} /{path}`");
        let unreachable = |error: &dyn std::fmt::Display| Failure::new("unreachable", error);
        let runtime = work::runtime().map_err(|error| unreachable(&error))?;
        let client = match token {
            Some(token) => token.client(url)?,
            None => Client::new(url).map_err(|error| unreachable(&error))?,
        };
        let answer = runtime.block_on(async {
            tokio::select! {
                biased;
                answer = client.call(method, &path, body) => answer.map_err(|error| {
                    if error.is_break() { unreachable(&format!("{error}: {advice}")) } else { unreachable(&error) }
                }),
                over = over(&client) => Err(match over {
                    Over::Silent(patience) => {
                        Failure::late(url, patience, &format!("{asked} has no answer: {advice}"))
                    }
                    Over::Unfinished(within) => Failure::unfinished(url, within, &advice),
                }),
                never = tell_of_wait(url, &asked, most) => match never {},
            }
        });
        let (status, answer) = answer?;
        if !status.is_success() {
            let told = |name: &str| answer.get("error").and_then(|error| error.get(name)).and_then(Value::as_str);
            let code = told("code").map_or("unreachable", |code| code);
            return Err(Failure::new(code, told("message").map_or_else(|| answer.to_string(), str::to_owned)));
        }
        let strange = |error| Failure::new("unreachable", format!("not an answer of a node: {error}"));
        serde_json::from_value(answer).map_err(strange)
    }
}

/// Tells people what is waited for, once it takes long.
async fn tell_of_wait(url: &str, asked: &str, most: Duration) -> Infallible {
    tokio::time::sleep(TELL_AFTER).await;
    let most = humantime::format_duration(most);
    meanwhile(&format!(
        "waiting for the node at {url} to answer {asked}, for up to {most}; Ctrl-C ends the wait, and not what the node does"
    ));
    std::future::pending().await
}

/// Why an answer is waited for no longer, and for how long it was.
enum Over {
    /// The node answers nothing.
    Silent(Duration),
    /// It has not ended what it was asked for.
    Unfinished(Duration),
}

/// How often a node is asked whether it lives, how long each answer may take, and how many may fail to come in a row.
#[derive(Debug, Clone, Copy)]
struct Watch {
    every: Duration,
    patience: Duration,
    misses: u32,
}

impl Watch {
    /// Returns when the node answers nothing any more, whatever that would be, and says for how long it has not.
    async fn until_silent(self, client: &Client) -> Duration {
        let mut timer = tokio::time::interval(self.every);
        let mut missed = 0;
        while missed < self.misses {
            timer.tick().await;
            let asked = client.call(Method::GET, "readyz", None);
            let is_alive = matches!(tokio::time::timeout(self.patience, asked).await, Ok(Ok(_)));
            missed = if is_alive { 0 } else { missed + 1 };
        }
        self.patience.saturating_mul(self.misses)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const EVERY: Duration = Duration::from_millis(1);
    /// Questions after which the node of a test has done its work.
    const LOOKS: usize = 12;

    /// Reads one request, and returns its path.
    fn asked(stream: &TcpStream) -> String {
        let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
        let first = lines.next().unwrap();
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        first.split(' ').nth(1).unwrap().to_owned()
    }

    fn answer(mut stream: &TcpStream) {
        stream.write_all(b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    }

    /// Does its work while it is asked many times whether it lives; any answer to that will do.
    fn slow(listener: &TcpListener) {
        let mut work = None;
        for _ in 0..=LOOKS {
            let (stream, _) = listener.accept().unwrap();
            if asked(&stream) == "/readyz" { answer(&stream) } else { work = Some(stream) }
        }
        answer(&work.unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_works_long_is_waited_for_while_it_answers_others_and_no_longer() {
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            (listener, client)
        };
        let (_mute, client) = listen();
        let hasty = Watch { every: EVERY, patience: Duration::from_millis(20), misses: 3 };
        assert_eq!(hasty.until_silent(&client).await, Duration::from_millis(60));

        let (listener, client) = listen();
        let patient = Watch { every: EVERY, patience: Duration::from_secs(60), misses: 1 };
        let node = tokio::task::spawn_blocking(move || {
            slow(&listener);
            listener // whoever asks now waits, and is not refused
        });
        let worked = tokio::select! {
            worked = client.call(Method::POST, "work", None) => worked,
            _ = patient.until_silent(&client) => panic!("it answered all the time"),
        };
        assert_eq!(worked.unwrap().0, 503);
        drop(node.await.unwrap());
    }
}
