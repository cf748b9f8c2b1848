#!/bin/sh
# Create or update .venv so that it holds exactly envs/requirements.lock.
# Does nothing, at once, when it already does. PYTHON names the interpreter.
set -eu
cd "$(dirname "$0")/.."

TORCH="torch==2.13.0"
UV="uv==0.13.9"
LOCK=envs/requirements.lock
STAMP=.venv/recap.stamp

say() { echo "setup: $*" >&2; }

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    say "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python"
    return 1
}

create_venv() {
    if "$1" -m venv --clear .venv 2>/dev/null; then
        return
    fi
    if "$1" -m virtualenv --clear .venv >/dev/null 2>&1; then
        return
    fi
    rm -rf .venv
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing python3-venv"
        apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >&2
        "$1" -m venv --clear .venv || python3 -m venv --clear .venv
        return
    fi
    say "this Python cannot create virtual environments; do one of:"
    say "  sudo apt-get install python3-venv"
    say "  $1 -m pip install --user --break-system-packages virtualenv"
    return 1
}

python=$(find_python)
want=$(cat envs/setup.sh "$LOCK" | sha256sum | cut -d' ' -f1)
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$want" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

exec 9>.venv.lock
if command -v flock >/dev/null 2>&1 && ! flock -n 9; then
    say "another set-up is running here; waiting for it"
    flock 9
    if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$want" ]; then
        exit 0
    fi
fi

say "creating .venv with $("$python" --version); this takes a minute or two"
create_venv "$python"
pip=".venv/bin/python -m pip"
$pip install --quiet --disable-pip-version-check "$UV" "$TORCH"
# uv does not read pip's configuration: hand it the index, where one is set.
index=$($pip config get global.index-url 2>/dev/null || true)
index=${PIP_INDEX_URL:-$index}
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps -r "$LOCK"
# Every job is a process of its own: without byte code each would spend seconds compiling.
.venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
echo "$want" > "$STAMP"
say "done"
