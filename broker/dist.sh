#!/bin/sh
# Builds the binary that is run in production and compared with other brokers: across crates, and by profile
# (https://doc.rust-lang.org/rustc/profile-guided-optimization.html). It is built with counters and put under the loads
# of `pointsman bench` and `pointsman demo`; then it is built once more, laid out for what was counted.
# What has not changed since the last time is neither built nor counted again.
set -eu

cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
work=$target/dist-profile
counting=$work/dist/pointsman
counts=$work/counts
profile=$work/pointsman.profdata

say() {
    echo "$*" >&2
}

# Whether the program $1 reads what this compiler's counters write; an older LLVM's does not.
fits() {
    mkdir -p "$work/try"
    echo 'fn main() {}' >"$work/try/main.rs"
    rm -rf "$work/try/counts"
    rustc --codegen profile-generate="$work/try/counts" -o "$work/try/main" "$work/try/main.rs" &&
        "$work/try/main" &&
        "$1" merge -o "$work/try/profile" "$work/try/counts" &&
        rustc --codegen profile-use="$work/try/profile" -o "$work/try/main" "$work/try/main.rs"
}

find_profdata() {
    for profdata in \
        "$(rustc --print sysroot)/lib/rustlib/$(rustc --print host-tuple)/bin/llvm-profdata" \
        llvm-profdata llvm-profdata-22 llvm-profdata-21 llvm-profdata-20 llvm-profdata-19; do
        if command -v "$profdata" >/dev/null && fits "$profdata" >/dev/null 2>&1; then
            return 0
        fi
    done
    return 1
}

build() {
    RUSTFLAGS="${RUSTFLAGS-} $1" CARGO_TARGET_DIR="$2" "$cargo" build --workspace --bin pointsman --profile dist
}

# The broker with $1 as its promise of syncs, under each of the loads that are its arguments after that.
load() {
    fsync=$1
    shift
    "$counting" serve --listen 127.0.0.1:0 --data-dir "$scratch/$fsync" --fsync "$fsync" >/dev/null &
    broker=$!
    until [ -s "$POINTSMAN_CONTEXTS_FILE" ]; do
        kill -0 "$broker" 2>/dev/null || exit 1
        sleep 0.1
    done
    for bench in "$@"; do
        say "  --fsync $fsync: bench $bench"
        # shellcheck disable=SC2086 # the options are words
        "$counting" bench $bench --duration 3s >/dev/null
    done
    kill "$broker"
    wait "$broker"
    broker=
}

count() {
    rm -rf "$counts"
    scratch=$(mktemp -d)
    broker=
    trap 'test -z "$broker" || kill "$broker" 2>/dev/null || :; rm -rf "$scratch"' EXIT
    trap 'exit 130' INT TERM
    # No broker but this one may get the load, whatever the caller's environment names.
    for name in $(env | sed -n 's/^\(POINTSMAN_[A-Z_]*\)=.*/\1/p'); do
        unset "$name"
    done
    export POINTSMAN_CONTEXTS_FILE="$scratch/contexts" POINTSMAN_LOG=error
    for fsync in always interval:1000ms; do
        rm -f "$POINTSMAN_CONTEXTS_FILE"
        load "$fsync" 'consume --rate 2000' 'consume --size 100B' 'consume --size 1KiB --publishers 4 --consumers 4' \
            'consume --size 16KiB' 'publish --window 1' 'publish --size 1KiB' fanout topic
    done
    say "  demo, through a router"
    awk 'BEGIN { for (i = 0; i < 100000; i++) printf "{\"id\": %d, \"region\": \"r%d\", \"total\": %d}\n", i, i % 7, i * 37 % 1000 }' \
        >"$scratch/orders.jsonl"
    # A child that compiles a module may write no file, and would be killed for writing its counts.
    (
        trap '' XFSZ
        export LLVM_PROFILE_FILE="$counts/%p.profraw"
        "$counting" demo --input "$scratch/orders.jsonl" --key region >/dev/null
    )
    find "$counts" -empty -delete
    "$profdata" merge -o "$profile.new" "$counts"
    mv "$profile.new" "$profile"
    rm -rf "$counts" "$scratch"
    trap - EXIT INT TERM
}

if ! find_profdata && ! { command -v rustup >/dev/null && rustup component add llvm-tools >&2 && find_profdata; }; then
    say "There is no llvm-profdata here that fits the compiler: add rustup's (rustup component add llvm-tools), or install LLVM $(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p') or one little older, on Debian the package llvm-19."
    exit 1
fi
say "building pointsman with counters"
build "-Cprofile-generate=$counts" "$work"
if [ ! "$profile" -nt "$counting" ]; then
    say "counting what it does under load"
    count
fi
say "building pointsman for what was counted"
build "-Cprofile-use=$profile" "$target"
