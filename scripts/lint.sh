#!/usr/bin/env bash
# Every static check; stops at the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
scripts/buf.sh lint
scripts/buf.sh breaking
scripts/check-stubs.sh
