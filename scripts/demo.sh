#!/usr/bin/env bash
# Makes the example pictures (or takes one of yours) and analyses them with the three services.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${1:-}" ]; then
  pictures=("$1")
else
  .venv/bin/python -m benchmarks.example_pictures build/examples
  pictures=(build/examples)
fi
.venv/bin/coordinator-cli analyze "${pictures[@]}" --out demo-output
echo "Reports, heat maps and HTML pages: demo-output/"
