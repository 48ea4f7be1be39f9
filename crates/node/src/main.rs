//! The binary: everything is in the library, so that tests can use it.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Also of the engine. A commit allocates thousands of nodes, and takes about a tenth longer with that of the system.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    state_node::cli::main(std::env::args_os())
}
