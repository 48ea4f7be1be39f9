//! Who may ask: programs, and no web page; and who may command (O20).
//!
//! Promises: a request that names an origin, as browsers do for pages, is refused before anything is read of it; on this
//! machine also one that came to another name than one of this machine, as one does whose name a page has made to point
//! here. Where a token is set, whatever does not only read needs it, at every address there is and will be; beyond this machine
//! nobody is served without one.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, Method, StatusCode,
        header::{AUTHORIZATION, HOST, ORIGIN},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use thiserror::Error;

use super::{Node, error::ApiError};
use crate::token::AdminToken;

/// Browsers say in it for whom they ask; nobody has to.
const FETCHED_BY: HeaderName = HeaderName::from_static("sec-fetch-site");

/// From where the interface is reached, and the token that commands need.
#[derive(Debug, Clone)]
pub enum Callers {
    /// From this machine only.
    Local(Option<AdminToken>),
    /// From elsewhere, too.
    Anywhere(AdminToken),
}

/// An address that others reach, and no token.
#[derive(Debug, Error)]
#[error(
    "{0} is reached from other machines, so commands need a token: set node.admin_token_file, or use a loopback address"
)]
pub struct NoToken(pub IpAddr);

impl Callers {
    /// Those that reach an address.
    ///
    /// Errors: other machines do, and there is no token.
    pub fn of(address: SocketAddr, token: Option<AdminToken>) -> Result<Self, NoToken> {
        match token {
            token if address.ip().is_loopback() => Ok(Self::Local(token)),
            Some(token) => Ok(Self::Anywhere(token)),
            None => Err(NoToken(address.ip())),
        }
    }

    /// What commands need.
    pub fn token(&self) -> Option<&AdminToken> {
        match self {
            Self::Local(token) => token.as_ref(),
            Self::Anywhere(token) => Some(token),
        }
    }

    fn refusal(&self, method: &Method, headers: &HeaderMap) -> Option<ApiError> {
        let page = of_a_page(headers).or_else(|| match self {
            Self::Local(_) => to_another_name(headers),
            Self::Anywhere(_) => None, // it has whatever names its network gives it
        });
        if let Some(message) = page {
            return Some(ApiError::new(StatusCode::FORBIDDEN, "caller", message));
        }
        let token = self.token().filter(|_| method != Method::GET && method != Method::HEAD)?;
        let message = if headers.contains_key(AUTHORIZATION) {
            "the token that came is not the admin token of this node: give the file that its node.admin_token_file names, or a copy"
        } else {
            "a command needs the admin token of this node: send it as `Authorization: Bearer TOKEN`, or give the command the file \
             that has it with --token-file"
        };
        (!token.is_brought_by(headers)).then(|| ApiError::new(StatusCode::UNAUTHORIZED, "token", message))
    }
}

pub(super) async fn admit(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    match node.callers.refusal(request.method(), request.headers()) {
        None => next.run(request).await,
        Some(refusal) => refusal.into_response(),
    }
}

fn of_a_page(headers: &HeaderMap) -> Option<&'static str> {
    let by_a_page = headers.get(FETCHED_BY).is_some_and(|site| site != "none" && site != "same-origin");
    (by_a_page || headers.contains_key(ORIGIN))
        .then_some("a web page is not answered: leave the headers `Origin` and `Sec-Fetch-Site` out")
}

fn to_another_name(headers: &HeaderMap) -> Option<&'static str> {
    let host = headers.get(HOST)?; // no browser leaves it out
    let is_ours = Authority::try_from(host.as_bytes()).is_ok_and(|name| is_of_this_machine(name.host()));
    (!is_ours).then_some("the header `Host` has to name this machine: localhost, or a loopback address")
}

fn is_of_this_machine(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(headers: &[(HeaderName, &'static str)]) -> Option<&'static str> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        of_a_page(&headers).or_else(|| to_another_name(&headers))
    }

    #[test]
    fn a_request_of_a_web_page_or_to_another_name_is_refused() {
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.8.8.8"] {
            assert_eq!(asked(&[(HOST, host)]), None, "{host}");
            assert!(asked(&[(HOST, host), (ORIGIN, "null")]).unwrap().contains("Origin"), "{host}");
        }
        assert_eq!(asked(&[]), None);
        let fetched = ["none", "same-origin", "cross-site", "same-site"].map(|by| asked(&[(FETCHED_BY, by)]).is_some());
        assert_eq!(fetched, [false, false, true, true]);
        for host in
            ["evil.example:8080", "localhost.evil.example", "10.0.0.1:8080", "[::2]", "", "a b", "127.0.0.1.evil"]
        {
            assert!(asked(&[(HOST, host)]).unwrap().contains("Host"), "{host}");
        }
    }

    #[test]
    fn only_an_address_of_this_machine_is_served_without_a_token() {
        for address in ["127.0.0.1:0", "127.8.8.8:1", "[::1]:80"] {
            assert!(matches!(Callers::of(address.parse().unwrap(), None), Ok(Callers::Local(None))), "{address}");
        }
        for address in ["0.0.0.0:0", "[::]:0", "10.0.0.1:1", "[::ffff:127.0.0.1]:1"] {
            assert!(Callers::of(address.parse().unwrap(), None).is_err(), "{address}");
        }
    }
}
