#!/usr/bin/env bash
# Fails when maifs/ is not what protos/ generate.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
scripts/protos.sh "$fresh"
diff -r --exclude=__pycache__ "$fresh/maifs" maifs || { echo "Stubs differ from protos/: run 'make protos' and commit." >&2; exit 1; }
