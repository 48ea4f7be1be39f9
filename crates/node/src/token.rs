//! The admin token: what proves that a command comes from somebody who may give it (O20).
//!
//! Promises: it is read from a file and never from a configuration, an argument or the environment, which others can see; it
//! is shown by nothing, not by `Debug`; it is compared in a time that does not depend on how much of it is right.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use axum::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// Fewer characters can be guessed.
const FEWEST: usize = 16;
/// More are no token.
const MOST: usize = 1024;
/// Access of users who are neither the owner nor of the group of a file.
const OTHERS: u32 = 0o007;
const SCHEME: &str = "Bearer ";

/// Why a file gives no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("{path} cannot be read for the admin token: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Every user of the machine has access to it.
    #[error("{path} has the admin token, and every user of this machine has access to it: `chmod o= {path}`")]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// What it holds is no token.
    #[error(
        "{path} holds no admin token: {FEWEST} to {MOST} letters, digits or characters of -._~+/= are expected on one line, as \
         `openssl rand -hex 32` makes them"
    )]
    Bad {
        /// The file.
        path: PathBuf,
    },
}

/// A token. Nothing prints it.
#[derive(Clone)]
pub struct AdminToken(HeaderValue);

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(hidden)")
    }
}

impl AdminToken {
    /// Reads it from a file that not every user of the machine may read.
    ///
    /// Errors: such a file, one that cannot be read, one that holds something else.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?;
        if found.is_dir() {
            return Err(unreadable(io::ErrorKind::IsADirectory.into()));
        }
        if found.permissions().mode() & OTHERS != 0 {
            return Err(TokenError::Open { path: path.to_owned() });
        }
        let mut bytes = Vec::new();
        file.take(MOST as u64 + 2).read_to_end(&mut bytes).map_err(unreadable)?; // with the end of its line
        Self::parse(&bytes).ok_or_else(|| TokenError::Bad { path: path.to_owned() })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let token = bytes.trim_ascii_end();
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
        if !(FEWEST..=MOST).contains(&token.len()) || !token.iter().all(is_token) {
            return None;
        }
        let value = HeaderValue::from_bytes(&[SCHEME.as_bytes(), token].concat());
        value.map_or(None, |mut value| {
            value.set_sensitive(true);
            Some(Self(value))
        })
    }

    /// What a client sends as `Authorization`.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Whether a request brings it.
    pub fn is_brought_by(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|given| given.as_bytes().split_at_checked(SCHEME.len()));
        given.is_some_and(|(scheme, token)| {
            let ours = self.0.as_bytes().get(SCHEME.len()..);
            scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) && ours.is_some_and(|ours| bool::from(token.ct_eq(ours)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    const GOOD: &str = "0123456789abcdef";

    fn brought(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn only_the_whole_token_is_brought_and_nothing_shows_it() {
        let token = AdminToken::parse(format!("{GOOD}\n").as_bytes()).unwrap();
        assert!(["Bearer", "bearer"].iter().all(|scheme| token.is_brought_by(&brought(&format!("{scheme} {GOOD}")))));
        assert!(!token.is_brought_by(&HeaderMap::new()));
        let wrong =
            [GOOD, "", "Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdeF", "Basic 0123456789abcdef"];
        for wrong in wrong.map(str::to_owned).into_iter().chain([format!("Bearer {GOOD}0")]) {
            assert!(!token.is_brought_by(&brought(&wrong)), "{wrong}");
        }
        assert!(!format!("{token:?} {:?}", token.header()).contains(GOOD));
    }

    #[test]
    fn a_file_without_a_token_or_that_everybody_may_read_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(matches!(AdminToken::read(folder.path()), Err(TokenError::Unreadable { .. })), "a folder");
        assert!(matches!(AdminToken::read(&path), Err(TokenError::Unreadable { .. })));
        let long = "x".repeat(MOST + 1);
        for bad in
            ["", "0123456789abcde\n", "0123456789 abcdef", "0123456789abcdef\nmore", "0123456789abcd\u{e9}", &long]
        {
            fs::write(&path, bad).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            let error = AdminToken::read(&path).unwrap_err();
            assert!(matches!(error, TokenError::Bad { .. }) && error.to_string().contains("token"), "{bad}: {error}");
            assert!(bad.is_empty() || !error.to_string().contains(bad), "{error}");
        }
        for good in [GOOD.to_owned(), format!("{GOOD}\r\n"), "x".repeat(MOST)] {
            fs::write(&path, &good).unwrap();
            assert!(AdminToken::read(&path).is_ok(), "{good}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = AdminToken::read(&path).unwrap_err();
        assert!(matches!(error, TokenError::Open { .. }) && error.to_string().contains("chmod"), "{error}");
    }
}
