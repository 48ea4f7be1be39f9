//! Compiles the file system that the engine's own tests lose power with, from the sources of the engine's crate.

#![expect(clippy::unwrap_used, reason = "a build that meets the unexpected has failed")]

use std::{env, path::PathBuf};

fn main() {
    for source in ["src/shim.cc", "src/failing.h"] {
        println!("cargo:rerun-if-changed={source}");
    }
    if env::var("CARGO_CFG_TARGET_OS").unwrap() != "linux" {
        return;
    }
    // Told by the build of librocksdb-sys, also where it links a library that was compiled before.
    let sources = PathBuf::from(env::var_os("DEP_ROCKSDB_CARGO_MANIFEST_DIR").unwrap()).join("rocksdb");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").warnings(false).opt_level(1).debug(false);
    build.include(&sources).include(sources.join("include"));
    // As librocksdb-sys defines them: they decide the layout of the engine's classes.
    for name in ["NDEBUG", "OS_LINUX", "ROCKSDB_PLATFORM_POSIX", "ROCKSDB_LIB_IO_POSIX"] {
        build.define(name, None);
    }
    build.file("src/shim.cc").file(sources.join("utilities/fault_injection_fs.cc"));
    build.compile("powerloss");
}
