//! The token that a command brings to a node.

use std::path::PathBuf;

use clap::Args;

use super::render::Failure;
use crate::{
    load::Client,
    token::{AdminToken, TokenError},
};

/// Where the token is.
#[derive(Debug, Clone, Args)]
pub(super) struct TokenArgs {
    /// File with the admin token, where the node wants one (node.admin_token_file of its configuration).
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// The token, if one is given.
    pub(super) fn read(&self) -> Result<Option<AdminToken>, TokenError> {
        self.token_file.as_deref().map(AdminToken::read).transpose()
    }

    /// A client that brings it.
    pub(super) fn client(&self, url: &str) -> Result<Client, Failure> {
        let token = self.read().map_err(|error| Failure::new("token", error))?;
        Client::commanding(url, token.as_ref()).map_err(|error| Failure::new("unreachable", error))
    }
}
