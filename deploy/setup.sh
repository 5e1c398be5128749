#!/usr/bin/env bash
# Sets up what a target of the Makefile needs, on a machine with nothing installed; in seconds when it is there already.
#   deploy/setup.sh run | test | bench
# PIP_ARGS is passed to pip, for instance to name an index with CPU builds of torch.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?run, test or bench}

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }

debian() { # debian PACKAGE...: install what is missing
    local missing=()
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || { echo "please install: ${missing[*]}" >&2; exit 1; }
    local sudo=""
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    say "installing ${missing[*]}"
    $sudo apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends "${missing[@]}" | grep -E '^Setting up' || true
}

servers() { # servers PACKAGE...: for the tests, which start their own: the services neither run nor start at boot
    local missing=() policy=/usr/sbin/policy-rc.d sudo=""
    for package in "$@"; do installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    if [ -e "$policy" ]; then # a container's, as a rule, which starts no service at all
        debian "${missing[@]}"
    else
        printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
        $sudo chmod 755 "$policy"
        (debian "${missing[@]}") || { $sudo rm -f "$policy"; exit 1; }
        $sudo rm -f "$policy"
    fi
    if command -v systemctl >/dev/null; then $sudo systemctl disable --now "${missing[@]}" >/dev/null 2>&1 || true; fi
}

find_python() {
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
            { echo "$candidate"; return; }
    done
    return 0 # none: the caller sees to it
}

make_venv() { # make_venv DIR STAMP COMMAND...: a venv in which the command has succeeded for this stamp
    local dir=$1 stamp=$2
    shift 2
    [ "$(cat "$dir/.stamp" 2>/dev/null)" = "$stamp" ] && return
    if [ ! -x "$dir/bin/python" ]; then
        python=$(find_python)
        [ -n "$python" ] || { debian python3 python3-venv; python=$(find_python); }
        [ -n "$python" ] || { echo "Python 3.11 or newer with venv is needed" >&2; exit 1; }
        say "making $dir with $($python --version)"
        "$python" -m venv "$dir"
    fi
    say "installing Python packages into $dir (some minutes the first time: torch is large)"
    "$@"
    echo "$stamp" >"$dir/.stamp"
}

pip_install() { # pip_install DIR ARGS...
    local dir=$1
    shift
    # shellcheck disable=SC2086
    "$dir/bin/python" -m pip install --disable-pip-version-check ${PIP_ARGS:-} "$@" |
        grep --line-buffered -E '^(Collecting|Installing collected|Successfully)' || [ "${PIPESTATUS[0]}" -eq 0 ]
}

packages() {
    # torch first and by itself, so that nothing else decides which build is taken.
    pip_install .venv -c constraints.txt torch==2.13.0
    pip_install .venv -c constraints.txt -e "$1"
}

digest=$(cat pyproject.toml constraints.txt deploy/setup.sh | sha256sum | cut -c1-16)
case $what in
run)
    [ "$(cat .venv/.stamp 2>/dev/null)" = "$digest dev" ] || make_venv .venv "$digest" packages .
    ;;
test)
    debian flite chromium openssl sip-tester
    servers redis-server kamailio
    debian dnsmasq-base # without its service
    make_venv .venv "$digest dev" packages '.[dev]'
    # A second SIP stack, for the tests only and in a process of its own: it is under the GPL.
    make_venv .venv-pjsua "pjsua2 2.15.1" pip_install .venv-pjsua pjsua2-python==2.15.1.post1
    ;;
bench)
    "$0" test
    make_venv .venv-pipecat "pipecat 1.14.0" pip_install .venv-pipecat \
        'pipecat-ai[silero,websocket]==1.14.0' uvicorn==0.54.0 uvloop==0.23.0 httptools==0.9.0
    ;;
*)
    echo "what is '$what'?" >&2
    exit 2
    ;;
esac

# The type checker needs the folders under one package name.
mkdir -p .types/fastagent
for source in fastagent/*.py fastagent/py.typed afsm connectors examples gateway media; do
    ln -sfn "../../$source" ".types/fastagent/$(basename "$source")"
done
