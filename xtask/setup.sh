#!/usr/bin/env bash
# Installs what is missing to build and try ring3 on Debian, then becomes the command given as arguments, with cargo on PATH.
#
# RING3_PROGRAMS may name more programs that are wanted, each in a Debian package of its name, or of another: PROGRAM=PACKAGE.
# Only what is missing is installed: Debian packages by apt-get (through sudo unless root), and Rust by rustup, minimal and
# without touching shell profiles. A Rust that is new enough is used as it is; one that is too old stays the default,
# and a newer one from rustup is used beside it. Settings of apt, rustup and cargo are the user's own and stay so.
set -euo pipefail
cd "$(dirname "$0")/.."

# What xtask is to do, if that is the command.
task=${3-}

# The oldest Rust that ring3 is checked with.
rust=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
cargo_home=${CARGO_HOME:-~/.cargo}
# Debian leaves sbin out of an ordinary user's PATH, and no new shell has read what rustup wrote.
PATH="$PATH:$cargo_home/bin:/usr/sbin:/sbin"

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }
is_there() { command -v "$1" >/dev/null; }
links() { echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2>/dev/null; }
has_lints() { cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1; }

new_enough() {
    local have
    have=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
    [ -n "$have" ] && [ "$(printf '%s\n' "$rust" "$have" | sort -V | head -n 1)" = "$rust" ]
}

rust_is_there() { new_enough && has_lints; }

install_packages() {
    local packages=()
    links || packages+=(gcc libc6-dev)
    is_there qemu-system-x86_64 || packages+=(qemu-system-x86)
    is_there xz || packages+=(xz-utils)
    is_there make || packages+=(make)
    # Another C library, for static programs that tests make.
    [ "$task" = demo ] || is_there musl-gcc || packages+=(musl-tools)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
    rust_is_there || is_there curl || packages+=(curl)
    local program
    for program in ${RING3_PROGRAMS:-}; do
        is_there "${program%%=*}" || packages+=("${program#*=}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0

    is_there apt-get || die "this is no Debian; install by hand: ${packages[*]}"
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        is_there sudo || die "run as root, or install sudo; missing are the packages ${packages[*]}"
        as_root=(sudo)
    fi
    say "installing ${packages[*]}"
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update || die "apt-get update failed"
    "${apt[@]}" install -y --no-install-recommends "${packages[@]}" || die "apt-get install failed"
}

install_rustup() {
    local from scratch
    from=${RUSTUP_UPDATE_ROOT:-https://static.rust-lang.org/rustup}/dist/$(uname -m)-unknown-linux-gnu
    scratch=$(mktemp -d)
    say "installing Rust $rust by rustup, from $from"
    for file in rustup-init rustup-init.sha256; do
        curl -fsSL --retry 3 --connect-timeout 30 "$from/$file" -o "$scratch/$file" || die "no $from/$file"
    done
    [ "$(sha256sum <"$scratch/rustup-init" | cut -d' ' -f1)" = "$(cut -d' ' -f1 <"$scratch/rustup-init.sha256")" ] ||
        die "rustup-init is not what its checksum says"
    chmod +x "$scratch/rustup-init"
    RUSTUP_INIT_SKIP_PATH_CHECK=yes "$scratch/rustup-init" -y --no-modify-path --profile minimal \
        --default-toolchain "$rust" --component rustfmt --component clippy || die "rustup failed"
    rm -rf "$scratch"
    say "\`. $cargo_home/env\` puts cargo on the PATH of a shell"
}

install_rust() {
    rust_is_there && return
    if ! is_there rustup; then
        install_rustup
        PATH="$cargo_home/bin:$PATH"
    elif new_enough; then
        say "adding rustfmt and clippy to the Rust that is here"
        rustup component add rustfmt clippy || die "rustup failed"
    else
        say "installing Rust $rust beside the one that is here"
        rustup toolchain install "$rust" --profile minimal --component rustfmt --component clippy --no-self-update ||
            die "rustup failed"
        export RUSTUP_TOOLCHAIN=$rust
    fi
    new_enough || die "cargo is still not $rust or newer: $(cargo --version 2>&1)"
}

install_packages
install_rust
export PATH
# `cargo xtask` builds itself without a word; the first time takes long enough to be worth watching.
cargo build --package xtask
exec "$@"
