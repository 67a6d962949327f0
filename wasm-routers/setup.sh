#!/bin/sh
# Makes sure that routers can be compiled here: Rust's target wasm32-unknown-unknown from rustup or, where rustup cannot
# download, Debian's compiler with the source of its standard library. Does nothing when one of the two is there.
set -eu

target=wasm32-unknown-unknown
std_source=/usr/lib/rustlib/src/rust/library/std/Cargo.toml

installed() {
    libdir=$(rustc --print target-libdir --target "$target" 2>/dev/null) && [ -d "$libdir" ]
}

linker() {
    sysroot=$(rustc --print sysroot 2>/dev/null) && host=$(rustc --print host-tuple 2>/dev/null) &&
        [ -x "$sysroot/lib/rustlib/$host/bin/rust-lld" ] || command -v wasm-ld >/dev/null
}

debian() {
    [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && [ -f "$std_source" ] && linker
}

install_debian() {
    command -v apt-get >/dev/null || return 1
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null || return 1
        as_root="sudo -n"
    fi
    packages="rustc-web cargo-web rust-web-src"
    linker || packages="$packages lld"
    echo "installing $packages" >&2
    # shellcheck disable=SC2086 # the packages are words
    { $as_root apt-get update -qq && $as_root apt-get install -qq -y --no-install-recommends $packages; } >/dev/null
}

if installed || debian; then
    exit 0
fi
if command -v rustup >/dev/null; then
    echo "adding the target $target with rustup" >&2
    if rustup target add "$target" >&2 && installed; then
        exit 0
    fi
fi
if install_debian && debian; then
    exit 0
fi
echo "Routers cannot be compiled here: add the Rust target $target (rustup target add $target), or on Debian install rustc-web, cargo-web, rust-web-src and lld as root." >&2
exit 1
