#!/usr/bin/env bash
# Checks everything that must hold before a change lands: `bash tests/check.sh`, from any folder. On a Debian machine
# with Rust, it installs missing tools. It fails if a step fails, or if a step that runs tests ran none.
#
# Steps that build all members pass `--workspace --all-features`, so that they share one set of dependencies: without
# `--workspace`, cargo builds some of them again with other features.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TERM_COLOR=never
features=(guard host offload background watch backtrace cpu process process,process-constructor landlock serde cron probe-listener tower axum ws actix-web actix-ws redis tokio-postgres)
pairs=(
    guard,offload guard,background offload,background axum,background axum,offload axum,watch actix-web,background
    actix-web,offload actix-web,watch
)
all=(--locked --workspace --all-features)
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
total=0

step() {
    printf '\n== %s\n' "$1"
}

# Runs a command that runs tests, and counts the tests that passed: `N passed` of cargo test and nextest, `Success` of
# criterion.
tests() {
    local log=$temporary/log ran
    "$@" 2>&1 | tee "$log"
    ran=$(awk '/[0-9]+ passed/ { for (i = 2; i <= NF; i++) if ($i ~ /^passed/) n += $(i - 1) } /^Success$/ { n++ } END { print n + 0 }' "$log")
    if [ "$ran" -eq 0 ]; then
        echo "this step ran no tests: $*" >&2
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

# Installs a server without starting its service, now or at boot: the tests start servers themselves.
install_server() {
    local package=$1 policy=/usr/sbin/policy-rc.d failed=0
    if [ -e "$policy" ]; then
        install_package "$package"
    else
        # Exit code 101 forbids starting services.
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
        (install_package "$package") || failed=1
        as_root rm "$policy"
        [ "$failed" -eq 0 ] || exit 1
    fi
    ! command -v systemctl >/dev/null || as_root systemctl disable "$package"
}

install_missing() {
    command -v cargo >/dev/null || { echo 'cargo is missing: install Rust with rustup first' >&2; exit 1; }
    command -v cc >/dev/null || install_package build-essential
    command -v redis-server >/dev/null || install_server redis-server
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || install_server postgresql
    command -v pgbouncer >/dev/null || install_server pgbouncer
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
}

# Checks that the oldest dependencies that Cargo.toml allows suffice. Runs in a copy, because it changes Cargo.lock.
check_lower_bounds() {
    local copy=$temporary/copy
    mkdir "$copy"
    # Copies the files that belong to the project, committed or not.
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || printf '%s\0' "$file"
    done | tar --null --files-from - -cf - | tar -xf - -C "$copy"
    (
        cd "$copy"
        # Without the other members, because peers that benchmarks compare with need newer dependencies.
        sed -i '/^members = \[$/,/^\]$/d; /^default-members = /d' Cargo.toml
        export CARGO_TARGET_DIR=$temporary/target
        cargo +nightly update -q -Zdirect-minimal-versions
        cargo +nightly check -q -p onelane --lib --all-features
    )
    rm -r "$copy" "$temporary/target"
}

step 'install what is missing'
install_missing

step 'format'
cargo fmt --all --check

step 'lint the library without features'
cargo clippy --locked -p onelane --lib --no-default-features -- -D warnings
for set in "${features[@]}" "${pairs[@]}"; do
    step "lint the library with $set"
    cargo clippy --locked -p onelane --lib --no-default-features --features "$set" -- -D warnings
done
step 'lint all targets of all members'
cargo clippy "${all[@]}" --all-targets -- -D warnings
step 'lint the library for macOS'
if rustup target add aarch64-apple-darwin >/dev/null 2>&1; then
    cargo clippy --locked -p onelane --lib --all-features --target aarch64-apple-darwin -- -D warnings
else
    echo 'skipped: the standard library for macOS cannot be installed'
fi
# The commands of the README select these features.
step 'lint the examples as users build them'
cargo clippy --locked --examples -- -D warnings
cargo clippy --locked --examples --features host,cluster -- -D warnings

# Includes the tests that drive the examples, so this step builds the examples first.
step 'test'
if cargo nextest --version >/dev/null 2>&1; then
    tests cargo nextest run "${all[@]}" --no-fail-fast
else
    tests cargo test "${all[@]}" --lib --tests --examples
fi

# Alone, the package has programs without the constructor that `--all-features` adds.
step 'test programs whose workers begin in main'
tests cargo test --locked -p onelane-worker-guard

step 'test the examples of the documentation and of the README'
tests cargo test "${all[@]}" --doc

step 'check the models with loom'
RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom tests cargo test --locked -p onelane --release --lib --no-default-features \
    --features guard,offload

step 'run each benchmark once'
tests cargo test "${all[@]}" --benches

step 'document'
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps -p onelane --all-features

step 'check the lower bounds of the dependencies'
if cargo +nightly --version >/dev/null 2>&1; then
    check_lower_bounds
else
    echo 'skipped: no nightly toolchain is installed'
fi

printf '\n%d passed, 0 failed\n' "$total"
