# Sourced by the scripts beside this folder: installs what the build needs and
# exports where the one compiled RocksDB lies. RocksDB takes about ten minutes
# to compile on two cores, so it is built once per machine and shared by every
# profile, test, bench and checkout. Unset ROCKSDB_LIB_DIR and a plain cargo
# build compiles it from source instead.

ROCKSDB_SYS_VERSION="0.19.0"
ROCKSDB_SYS_FEATURES='"bindgen-runtime", "lz4", "zstd"'

say() { printf '== %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The library itself: libclang-cpp, which other packages bring, is not it.
libclang_present() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    ldconfig -p 2>/dev/null | grep -q 'libclang\(-[0-9.]*\)\?\.so' && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null ||
        compgen -G '/usr/lib/llvm-*/lib/libclang-[0-9]*.so*' >/dev/null
}

# Installs the Debian packages of which a probe command fails.
install_packages() {
    local missing=()
    command -v g++ >/dev/null || missing+=(g++)
    command -v make >/dev/null || missing+=(make)
    command -v zstd >/dev/null || missing+=(zstd)
    command -v curl >/dev/null || missing+=(curl)
    libclang_present || missing+=(libclang-dev)
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing ${missing[*]}"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null ||
            fail "apt-get could not install: ${missing[*]}"
    else
        fail "missing packages; install them with: sudo apt-get install ${missing[*]}"
    fi
}

cache_dir() { printf '%s/state-pruner' "${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}"; }

# What RocksDB may ask of this machine's processor: its checksums (CRC32C) take several times as long without. A node that
# is built here runs wherever the processor has the same, as those of servers have since 2011.
rocksdb_processor() {
    local feature
    [ "$(uname -m)" = x86_64 ] || return 0
    for feature in sse4_2 pclmulqdq; do
        grep -qw "$feature" /proc/cpuinfo || return 0
    done
    printf '%s' '-Ctarget-feature=+sse4.2,+pclmulqdq'
}

# One folder per crate version, feature set, processor and compiler.
rocksdb_dir() {
    local key
    key=$(printf '%s|%s|%s|%s' "$ROCKSDB_SYS_VERSION" "$ROCKSDB_SYS_FEATURES" "$(rocksdb_processor)" \
        "$(g++ --version | head -n 1)" | sha256sum | cut -c1-12)
    printf '%s/rocksdb-%s-%s' "$(cache_dir)" "$ROCKSDB_SYS_VERSION" "$key"
}

# Compiles RocksDB in a package of its own and puts the archive in place by rename. A subshell: its folder goes with it.
build_rocksdb() (
    target="$1"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    say "compiling RocksDB once for this machine (about ten minutes on two cores)"
    mkdir -p "$work/src"
    : >"$work/src/lib.rs"
    cat >"$work/Cargo.toml" <<TOML
[package]
name = "rocksdb-archive"
version = "0.0.0"
edition = "2021"
[dependencies]
librocksdb-sys = { version = "=$ROCKSDB_SYS_VERSION", default-features = false, features = [$ROCKSDB_SYS_FEATURES] }
[workspace]
TOML
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC -u CARGO_TARGET_DIR RUSTFLAGS="$(rocksdb_processor)" \
        cargo build --release --quiet --manifest-path "$work/Cargo.toml" --target-dir "$work/target" ||
        fail "RocksDB did not compile; the output above says why"
    archive=$(find "$work/target/release/build" -path '*/out/librocksdb.a' | head -n 1)
    [ -n "$archive" ] || fail "the RocksDB build left no archive"
    mkdir -p "$target"
    cp "$archive" "$target/.librocksdb.a.$$"
    sync -f "$target" 2>/dev/null || true
    mv "$target/.librocksdb.a.$$" "$target/librocksdb.a"
)

prepare_rocksdb() {
    local target
    target=$(rocksdb_dir)
    mkdir -p "$target"
    exec 9>"$target/.lock"
    flock 9
    [ -f "$target/librocksdb.a" ] || build_rocksdb "$target"
    exec 9>&-
    export ROCKSDB_LIB_DIR="$target" ROCKSDB_STATIC=1
}

command -v cargo >/dev/null || fail "cargo is missing; install the stable Rust toolchain (rustup) first"
install_packages
prepare_rocksdb
