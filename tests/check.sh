#!/usr/bin/env bash
# Everything that must hold before a change lands: `bash tests/check.sh`, from anywhere. On a Debian machine with Rust it
# installs what is missing. It fails when a step fails, and when a step that tests ran no test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TERM_COLOR=never
features=(rayon serde croner hyper tower axum actix-web)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
total=0

step() {
    printf '\n== %s\n' "$1"
}

# Runs a command that tests, and counts what passed: `N passed` of cargo test and nextest, `Success` of criterion.
tests() {
    "$@" 2>&1 | tee "$log"
    local ran
    ran=$(awk '/[0-9]+ passed/ { for (i = 2; i <= NF; i++) if ($i ~ /^passed/) n += $(i - 1) } /^Success$/ { n++ } END { print n + 0 }' "$log")
    if [ "$ran" -eq 0 ]; then
        echo "this step ran no test: $*" >&2
        exit 1
    fi
    total=$((total + ran))
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

install_package() {
    as_root apt-get update -q
    as_root apt-get install -y -q "$1"
}

# Without its service, which is started neither now nor with the machine: the tests start servers of their own.
install_redis() {
    local policy=/usr/sbin/policy-rc.d failed=0
    if [ -e "$policy" ]; then
        install_package redis-server
    else
        # 101: services may not be started.
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
        (install_package redis-server) || failed=1
        as_root rm "$policy"
        [ "$failed" -eq 0 ] || exit 1
    fi
    ! command -v systemctl >/dev/null || as_root systemctl disable redis-server
}

install_missing() {
    command -v cargo >/dev/null || { echo 'cargo is missing: install Rust with rustup first' >&2; exit 1; }
    command -v cc >/dev/null || install_package build-essential
    command -v redis-server >/dev/null || install_redis
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
}

step 'install what is missing'
install_missing

step 'format'
cargo fmt --check

step 'lint without features'
cargo clippy --locked --lib --no-default-features -- -D warnings
for feature in "${features[@]}"; do
    step "lint with $feature"
    cargo clippy --locked --lib --no-default-features --features "$feature" -- -D warnings
done
step 'lint everything'
cargo clippy --locked --all-targets --all-features -- -D warnings

step 'test'
if cargo nextest --version >/dev/null 2>&1; then
    tests cargo nextest run --locked --all-features --no-fail-fast
else
    tests cargo test --locked --all-features --lib --tests --examples
fi

step 'test the examples of the documentation and of the README'
tests cargo test --locked --all-features --doc

step 'check the models with loom'
RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom tests cargo test --locked --release --lib --no-default-features

step 'run each benchmark once'
tests cargo test --locked --all-features --benches

step 'document'
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --all-features

printf '\n%d passed, 0 failed\n' "$total"
