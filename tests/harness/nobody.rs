//! Another user than root, who owns nothing.

use std::{ffi::OsStr, process::Command};

/// His number, and that of his group.
pub const NOBODY: u32 = 65_534;

/// A program that is run as him.
pub fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]).arg(program);
    command
}
