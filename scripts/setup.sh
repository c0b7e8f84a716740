#!/usr/bin/env bash
# Makes .venv with the pinned packages for a machine without a GPU. Does nothing when it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.venv/.maifs-ready
want=$(cat requirements/cpu.txt requirements/dev.txt pyproject.toml | sha256sum)
[ "$(cat $stamp 2>/dev/null)" = "$want" ] && exit 0
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "CPython 3.11 or later is needed (PYTHON=...)" >&2; exit 2; }
echo "Setting up .venv (about two minutes, 2.5 GB)" >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/cpu.txt -r requirements/dev.txt
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
.venv/bin/python scripts/check_environment.py
echo "$want" > $stamp
