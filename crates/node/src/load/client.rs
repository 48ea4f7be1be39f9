//! The requests of a load over HTTP.

use std::time::Duration;

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, RETRY_AFTER},
};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    chain::{ObjectPath, Transaction},
    http::{Submitted, WireAnswer, WireBlock, WireProof},
    token::AdminToken,
};

/// The longest a request may take before it counts as an error.
const PATIENCE: Duration = Duration::from_secs(70);
/// The longest that a stream may take, and what its asker bounds.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Where a busy node does not say when to come back.
const PAUSE: Duration = Duration::from_secs(1);

/// A request without the answer that was hoped for.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The node could not be reached, or answered something that is not its JSON.
    ///
    /// It tells its causes itself, so it names no source: who prints the chain would print them twice.
    #[error("{}", failed(.0))]
    Http(reqwest::Error),
    /// An address that is none.
    #[error("`{0}` is no address of a node: one such as http://127.0.0.1:8645 is expected")]
    Url(String),
    /// The node has no room now.
    #[error("the node is busy for {0:?}")]
    Busy(Duration),
    /// A fault of the load itself.
    #[error("internal error: {0}")]
    Broken(String),
    /// Any other error of the node.
    #[error("the node answered {status}: {}", .refusal.message)]
    Refused {
        /// The status.
        status: StatusCode,
        /// What it said.
        refusal: Refusal,
    },
    /// An answer that no node gives.
    #[error("{at} answers {status} as no node does: see what listens there")]
    Strange {
        /// Where.
        at: String,
        /// The status.
        status: StatusCode,
    },
}

/// An error as a node tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// Its code.
    pub code: String,
    /// What it says.
    pub message: String,
}

impl ClientError {
    /// Whether nobody is at the address.
    pub fn is_absence(&self) -> bool {
        self.of_http().is_some_and(reqwest::Error::is_connect)
    }

    /// Whether somebody took the request and gave no answer.
    pub fn is_break(&self) -> bool {
        self.of_http().is_some_and(is_break)
    }

    /// Whether no answer came: nobody is there, or who is there says nothing.
    pub fn is_silence(&self) -> bool {
        self.of_http().is_some_and(|error| error.is_connect() || error.is_timeout())
    }

    fn of_http(&self) -> Option<&reqwest::Error> {
        match self {
            Self::Http(error) => Some(error),
            Self::Url(_) | Self::Busy(_) | Self::Broken(_) | Self::Refused { .. } | Self::Strange { .. } => None,
        }
    }
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error)
    }
}

/// What failed, where, and what to do about it.
fn failed(error: &reqwest::Error) -> String {
    let Some(node) = error.url().map(|url| url.origin().ascii_serialization()) else { return chain_of(error) };
    if error.is_connect() {
        let (why, what) = (root_of(error), "start it, or give --url the address that it logs when it serves");
        format!("no node answers at {node} ({why}): {what}")
    } else if error.is_timeout() {
        format!("the node at {node} does not answer in time: its log tells what it does; ask again")
    } else if is_break(error) {
        format!("the node at {node} broke the connection off ({}); its log tells whether it has ended", root_of(error))
    } else {
        chain_of(error)
    }
}

fn is_break(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

/// The innermost cause.
fn root_of(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// An error with its causes: the outermost one alone does not say why a connection failed. Some of them repeat the text
/// of theirs, which is told once.
pub(crate) fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = error.source();
    }
    text
}

/// One client of one node; connections are kept and shared.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// A client of the node at an address such as `http://127.0.0.1:8645`.
    ///
    /// Errors: no address.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        Self::commanding(url, None)
    }

    /// One that brings the token which commands need, if the node has one.
    ///
    /// Errors: no address.
    pub fn commanding(url: &str, token: Option<&AdminToken>) -> Result<Self, ClientError> {
        let bad = || ClientError::Url(url.to_owned());
        let mut base = Url::parse(url).map_err(|_| bad())?;
        if base.scheme() != "http" || base.host().is_none() || base.path() != "/" {
            return Err(bad());
        }
        base.set_path("/");
        let headers: HeaderMap = token.map(|token| (AUTHORIZATION, token.header())).into_iter().collect();
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().default_headers(headers).build()?;
        Ok(Self { http, base })
    }

    fn url(&self, path: &str) -> Result<Url, ClientError> {
        self.base.join(path).map_err(|_| ClientError::Url(path.to_owned()))
    }

    /// Submits transactions and waits for their receipts.
    ///
    /// Errors: a busy node, any other refusal, no connection.
    pub async fn submit(&self, transactions: &[Transaction]) -> Result<Submitted, ClientError> {
        let response = self.http.post(self.url("v1/transactions")?).json(transactions).send().await?;
        json_of(accepted(response).await?).await
    }

    /// Reads the newest state of one object with its proof.
    ///
    /// Errors: a refusal, no connection.
    pub async fn prove(&self, path: &ObjectPath) -> Result<WireProof, ClientError> {
        let response = self.http.get(self.url(&format!("v1/objects/{path}?proof=true"))?).send().await?;
        if response.status() == StatusCode::NOT_FOUND {
            let body: Absent = json_of(response).await?;
            return Ok(body.error.proof);
        }
        let answer: WireAnswer = json_of(accepted(response).await?).await?;
        let missing = || ClientError::Broken(format!("the answer has no proof of {path}, which was asked for"));
        answer.proof.ok_or_else(missing)
    }

    /// Reads one block.
    ///
    /// Errors: a refusal, no connection.
    pub async fn block(&self, order: u64) -> Result<WireBlock, ClientError> {
        let response = self.http.get(self.url(&format!("v1/blocks/{order}"))?).send().await?;
        json_of(accepted(response).await?).await
    }

    /// Reads any JSON of the node, whatever the status.
    ///
    /// Errors: no connection, no JSON.
    pub async fn json(&self, path: &str) -> Result<serde_json::Value, ClientError> {
        json_of(self.http.get(self.url(path)?).send().await?).await
    }
}

impl Client {
    /// Opens a stream that goes on until the node ends it.
    ///
    /// Errors: a refusal, no connection.
    pub async fn stream(&self, path: &str) -> Result<Response, ClientError> {
        accepted(self.http.get(self.url(path)?).timeout(FOR_EVER).send().await?).await
    }

    /// Asks for anything, with a body or without, and returns the JSON of the answer, whatever the status. How long that may
    /// take is bounded by who asks.
    ///
    /// Errors: no connection, no JSON.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<(StatusCode, serde_json::Value), ClientError> {
        let request = self.http.request(method, self.url(path)?).timeout(FOR_EVER);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await?;
        Ok((response.status(), json_of(response).await?))
    }
}

#[derive(Deserialize)]
struct Absent {
    error: AbsentError,
}

#[derive(Deserialize)]
struct AbsentError {
    proof: WireProof,
}

async fn accepted(response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        let header = response.headers().get(RETRY_AFTER).map(|value| value.to_str().map(str::parse::<u64>));
        let pause = match header {
            Some(Ok(Ok(seconds))) => Duration::from_secs(seconds),
            Some(_) | None => PAUSE,
        };
        return Err(ClientError::Busy(pause));
    }
    #[derive(Deserialize)]
    struct Told {
        error: Refusal,
    }
    let Told { error: refusal } = json_of(response).await?;
    Err(ClientError::Refused { status, refusal })
}

async fn json_of<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let (at, status) = (response.url().origin().ascii_serialization(), response.status());
    serde_json::from_slice(&response.bytes().await?).map_err(|_| ClientError::Strange { at, status })
}
