#!/bin/sh
# Create or update .venv-docs so that it holds exactly envs/docs.lock. It is apart from .venv, so
# that the pages can be built without torch. PYTHON names the interpreter.
set -eu
cd "$(dirname "$0")/.."

STAMP=.venv-docs/recap.stamp
python=${PYTHON:-python3}

want=$(cat envs/setup_docs.sh envs/docs.lock | sha256sum | cut -d' ' -f1)
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$want" ]; then
    exit 0
fi
if ! "$python" -m venv --clear .venv-docs 2>/dev/null &&
    ! "$python" -m virtualenv --clear .venv-docs >/dev/null 2>&1; then
    echo "docs: this Python cannot create virtual environments; install python3-venv, or name" \
        "another one with PYTHON=/path/to/python" >&2
    exit 1
fi
.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/docs.lock
echo "$want" > "$STAMP"
