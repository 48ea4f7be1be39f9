//! The binary: everything is in the library, so that tests can use it.

use std::process::ExitCode;

fn main() -> ExitCode {
    state_node::cli::main(std::env::args_os())
}
