//! Query strings: every parameter is read once, and one that nobody reads is an error.

use std::collections::BTreeMap;

use axum::http::Uri;
use state_tree::Order;

use super::error::ApiError;
use crate::chain::At;

/// The parameters of one request.
#[derive(Debug)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// Splits the query of an address. Values here are numbers and words, so nothing is percent-encoded.
    pub(super) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let mut values = BTreeMap::new();
        let query = uri.query().map_or("", |query| query);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').map_or((pair, ""), |pair| pair);
            if values.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(ApiError::bad_request(format!("parameter {key} is given twice")));
            }
        }
        Ok(Self(values))
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, ApiError> {
        match self.0.remove(key).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(ApiError::bad_request(format!("parameter {key} is true or false"))),
        }
    }

    pub(super) fn order(&mut self) -> Result<At, ApiError> {
        self.0.remove("order").map_or(Ok(At::Head), |text| position(&text))
    }

    /// One parameter as it stands.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    /// The name that a caller gives to its request, so that asking again does nothing twice.
    pub(super) fn id(&mut self) -> Result<Option<String>, ApiError> {
        let id = self.0.remove("id");
        if id.as_deref().is_none_or(is_id) {
            return Ok(id);
        }
        Err(ApiError::bad_request(format!("an id has 1 to {LONGEST_ID} letters, digits, `-`, `_` or `.`")))
    }

    /// Refuses parameters that nobody took.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.0.keys().next() {
            Some(key) => Err(ApiError::bad_request(format!("unknown parameter {key}"))),
            None => Ok(()),
        }
    }
}

/// The longest id of a request.
const LONGEST_ID: usize = 64;

/// Whether a text can name a request.
pub(crate) fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(plain)
}

/// An order, or the word for the newest one.
pub(super) fn position(text: &str) -> Result<At, ApiError> {
    if text == "head" {
        return Ok(At::Head);
    }
    let number = text.parse::<u64>().map(|number| At::Order(Order::new(number)));
    number.map_err(|_| ApiError::bad_request(format!("`{text}` is no order: a number or `head` is expected")))
}
