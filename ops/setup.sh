# shellcheck shell=bash
# What ops/demo and ops/test need on a fresh machine. Sourced by both; every function does nothing when its work is
# done already, and says what a person has to install where it may not do so itself.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python
STAMP=$VENV/.kaasq-installed # what was installed: a line with the state of the project, then one line per extra
LOG=$ROOT/.venv.log

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0
unset PYTHONHOME

# Dim on a terminal.
say() { if [ -t 2 ]; then printf '\033[2m> %s\033[0m\n' "$*"; else printf '> %s\n' "$*"; fi >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Run a command quietly; show what it printed only if it failed.
quietly() {
    "$@" >"$LOG" 2>&1 </dev/null && return 0
    tail -n 30 "$LOG" >&2
    return 1
}

# Two set-ups in one folder wait for each other.
lock() { exec 9<"$ROOT" && { ! command -v flock >/dev/null || flock 9; }; }
unlock() { exec 9<&-; }

# apt_install PACKAGE...: install Debian packages where this user may; 1 where it may not or cannot.
apt_install() {
    command -v apt-get >/dev/null || return 1
    local as=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as=(sudo -n)
    fi
    say "installing $* with apt-get"
    # A service that comes with a package is not started: we want the program, not something on its default port.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ] && printf '#!/bin/sh\nexit 101\n' | "${as[@]}" tee $policy >/dev/null; then
        made=1
        "${as[@]}" chmod +x $policy
    fi
    local get=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120) status=0
    quietly "${get[@]}" install -y --no-install-recommends "$@" || {
        quietly "${get[@]}" update && quietly "${get[@]}" install -y --no-install-recommends "$@"
    } || status=1
    [ -z "$made" ] || "${as[@]}" rm -f $policy
    return $status
}

# The newest installed Python that will do.
find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

# state: changes whenever the environment has to be installed anew. The path is part of it: an environment cannot move.
state() { { echo "$ROOT"; cat "$ROOT/pyproject.toml"; } | sha256sum | cut -d' ' -f1; }

has_extra() { [ -f "$STAMP" ] && grep -qx "$1" "$STAMP"; }

ensure_venv() {
    if [ -f "$STAMP" ] && ! grep -qxF "path $ROOT" "$STAMP"; then
        say "the folder has moved: making its environment anew"
        rm -rf "$VENV"
    fi
    if [ -x "$PYTHON" ] && "$PYTHON" -c 'import pip' 2>/dev/null; then return 0; fi
    local python
    python=$(find_python) || { apt_install python3 && python=$(find_python); } ||
        die "kaasq needs Python 3.11 or newer: apt-get install python3"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then # Debian ships them apart from Python
        local package
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        apt_install "$package" || die "Python's venv module is missing: apt-get install $package"
    fi
    say "making .venv with $("$python" -V)"
    rm -rf "$VENV"
    quietly "$python" -m venv "$VENV" || die "could not make $VENV"
}

# install_extras EXTRA...: kaasq itself, editable, with these extras; nothing if that was done with this pyproject.toml.
install_extras() {
    local current extra missing=
    current=$(state)
    for extra in "$@"; do
        has_extra "$extra" || missing=1
    done
    if [ -z "$missing" ] && [ -x "$PYTHON" ] && grep -qx "state $current" "$STAMP"; then return 0; fi
    lock
    ensure_venv
    say "installing kaasq[$(IFS=,; echo "$*")] into .venv"
    quietly "$PYTHON" -m pip install --quiet --editable "${ROOT}[$(IFS=,; echo "$*")]" || {
        unlock
        return 1
    }
    if ! [ -f "$STAMP" ] || ! grep -qx "state $current" "$STAMP"; then
        printf 'path %s\nstate %s\n' "$ROOT" "$current" >"$STAMP"
    fi
    for extra in "$@"; do
        echo "$extra"
        [ "$extra" != dev ] || printf '%s\n' demo bench test
    done >>"$STAMP"
    rm -f "$LOG"
    unlock
}

# The extra for this machine's GPU, or nothing. The driver's version decides which CUDA it can run.
cuda_extra() {
    compgen -G '/dev/nvidia[0-9]*' >/dev/null || [ -e /dev/dxg ] || return 0
    local extra driver
    for extra in cuda13 cuda12; do
        if has_extra $extra; then
            echo $extra
            return 0
        fi
    done
    driver=$(timeout 20 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1)
    case $driver in
    '' | *[!0-9]*) ;;
    *) if [ "$driver" -ge 580 ]; then echo cuda13; elif [ "$driver" -ge 525 ]; then echo cuda12; fi ;;
    esac
}

# The cpu device compiles the kernels of requests with the machine's C++ compiler.
ensure_compiler() {
    local name
    for name in ${KAASQ_COMPILER:+"$KAASQ_COMPILER"} g++ clang++; do
        command -v "$name" >/dev/null && return 0
    done
    ! has_extra ziglang || return 0
    apt_install g++ && return 0
    say "no C++ compiler: trying the one on PyPI (ziglang; large, and slow the first time)"
    if quietly "$PYTHON" -m pip install --quiet 'ziglang>=0.13'; then
        echo ziglang >>"$STAMP"
        return 0
    fi
    die "no C++ compiler found: apt-get install g++ (or clang)"
}

# A RabbitMQ for the tests: the given one, docker's, or a private node of the installed package. Some tests stop and
# start a broker of their own, so one of the latter two is wanted in any case.
ensure_rabbitmq() {
    local own
    own=$("$PYTHON" "$ROOT/ops/real_broker.py" own | tail -n 1)
    if [ "$own" != none ] || apt_install rabbitmq-server; then return 0; fi
    [ -n "${KAASQ_TEST_BROKER_URL:-}" ] ||
        die "no RabbitMQ for the tests: apt-get install rabbitmq-server, or start docker, or set KAASQ_TEST_BROKER_URL"
    say "only KAASQ_TEST_BROKER_URL: the tests that stop and start a broker of their own will fail"
}

# The fault tests freeze and kill a private node, also where a docker engine answers.
ensure_rabbitmq_node() {
    [ -n "${KAASQ_TEST_RABBITMQ_ROOT:-}" ] || compgen -G '/usr/lib/rabbitmq/bin/rabbitmq-server' >/dev/null ||
        apt_install rabbitmq-server || say "no rabbitmq-server is installed: the fault tests will fail"
}

# What the tests of other languages need: Node.js with the packages of its example and of the tests, curl and jq.
ensure_other_languages() {
    local name folder
    for name in curl jq; do
        command -v $name >/dev/null || apt_install $name || die "$name is missing: apt-get install $name"
    done
    if ! { command -v node && command -v npm; } >/dev/null; then
        apt_install nodejs npm || die "Node.js is missing: apt-get install nodejs npm"
    fi
    node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || die "Node.js $(node --version) is too old: 18 or newer"
    for folder in examples/nodejs tests/nodejs; do
        [ ! "$ROOT/$folder/node_modules/.package-lock.json" -nt "$ROOT/$folder/package-lock.json" ] || continue
        say "installing the packages of $folder with npm"
        quietly npm ci --prefix "$ROOT/$folder" --ignore-scripts --no-audit --no-fund ||
            die "npm ci failed in $folder; see above"
    done
}
