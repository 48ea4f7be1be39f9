//! One question to a running node, and its answer or its error as it gave it.

use std::time::Duration;

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{render::Failure, token::TokenArgs, work};
use crate::load::Client;

/// A node that does not answer within this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked of a node.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<&'a Value>,
    /// What a node that wants a token needs of a command.
    pub(super) token: Option<&'a TokenArgs>,
}

impl<'a> Request<'a> {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, token: None }
    }

    pub(super) fn post(path: impl Into<String>, token: &'a TokenArgs) -> Self {
        Self { method: Method::POST, token: Some(token), ..Self::get(path) }
    }

    pub(super) fn delete(path: impl Into<String>, token: &'a TokenArgs) -> Self {
        Self { method: Method::DELETE, token: Some(token), ..Self::get(path) }
    }

    pub(super) fn with(self, body: &'a Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// Asks, and takes the error that the node answers as it is.
    pub(super) fn ask<T: DeserializeOwned>(self, url: &str) -> Result<T, Failure> {
        self.ask_within(url, PATIENCE)
    }

    /// [`Request::ask`], of what may take longer.
    pub(super) fn ask_within<T: DeserializeOwned>(self, url: &str, patience: Duration) -> Result<T, Failure> {
        let unreachable = |error: &dyn std::fmt::Display| Failure::new("unreachable", error);
        let runtime = work::runtime().map_err(|error| unreachable(&error))?;
        let client = match self.token {
            Some(token) => token.client(url)?,
            None => Client::new(url).map_err(|error| unreachable(&error))?,
        };
        let asked = client.call(self.method, &self.path, self.body, patience);
        let answer = runtime.block_on(async { tokio::time::timeout(patience, asked).await });
        let answer = answer.map_err(|_| Failure::late(url, patience))?;
        let (status, answer) = answer.map_err(|error| unreachable(&error))?;
        if !status.is_success() {
            let told = |name: &str| answer.get("error").and_then(|error| error.get(name)).and_then(Value::as_str);
            let code = told("code").map_or("unreachable", |code| code);
            return Err(Failure::new(code, told("message").map_or_else(|| answer.to_string(), str::to_owned)));
        }
        let strange = |error| Failure::new("unreachable", format!("not an answer of a node: {error}"));
        serde_json::from_value(answer).map_err(strange)
    }
}
