//! Who may ask: programs, and no web page (O20). Nothing here authenticates anybody, so the interface is on loopback; but a
//! browser of this machine would carry the requests of any page there.
//!
//! Promise: a request that names an origin, as browsers do for pages, or that came to another name than one of this machine,
//! as one does whose name a page has made to point here, is refused before anything is read of it.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{HOST, ORIGIN},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::error::ApiError;

/// Browsers say in it for whom they ask; nobody has to.
const FETCHED_BY: HeaderName = HeaderName::from_static("sec-fetch-site");

pub(super) async fn refuse_pages(request: Request, next: Next) -> Response {
    match refusal(request.headers()) {
        None => next.run(request).await,
        Some(message) => ApiError::new(StatusCode::FORBIDDEN, "caller", message).into_response(),
    }
}

fn refusal(headers: &HeaderMap) -> Option<&'static str> {
    let by_a_page = headers.get(FETCHED_BY).is_some_and(|site| site != "none" && site != "same-origin");
    if by_a_page || headers.contains_key(ORIGIN) {
        return Some("a web page is not answered: leave the headers `Origin` and `Sec-Fetch-Site` out");
    }
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
        refusal(&headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect())
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
}
