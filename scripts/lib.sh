# What the scripts share. Source it; it does nothing by itself.
# shellcheck shell=bash disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' green='' red='' plain=''
fi

say() { printf '%s\n' "$*"; }
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fail() {
    printf '%serror:%s %s\n' "$red" "$plain" "$1" >&2
    shift
    [[ $# -eq 0 ]] || printf '  %s\n' "$@" >&2
    exit 1
}

# Rust cannot be installed by a script that does not know how its user wants it.
need_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    command -v cargo >/dev/null || fail "Rust is not installed (cargo is not in PATH)" \
        "install Rust $wanted or newer, with rustup (https://rustup.rs) or from your distribution, and run this again"
    found=$(cargo --version | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
    [[ $(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] ||
        fail "Rust $found is too old, $wanted or newer is needed" "with rustup: rustup update stable"
}

# need COMMAND PACKAGE: installs the Debian package when the command is missing and we may.
need() {
    local command=$1 package=$2
    if command -v "$command" >/dev/null; then return; fi
    if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
        say "${dim}installing $package (for $command)${plain}"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -y -qq "$package" >/dev/null; } ||
            fail "$package cannot be installed" "install what gives you \`$command\`, and run this again"
    else
        fail "$command is not installed" "on Debian or Ubuntu: sudo apt-get install $package"
    fi
}
