#!/usr/bin/env bash
# Bill of materials of .venv as CycloneDX JSON, validated before it is written. Usage: scripts/sbom.sh [FILE]
# The tool lives in an environment of its own, so that it is not listed among what the product needs.
set -euo pipefail
cd "$(dirname "$0")/.."
env=.venv-sbom
if [ ! -e $env/.ready ] || [ requirements/sbom.txt -nt $env/.ready ]; then
  rm -rf $env && "${PYTHON:-python3}" -m venv $env
  $env/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/sbom.txt
  touch $env/.ready
fi
out=${1:-build/sbom.cdx.json}
mkdir -p "$(dirname "$out")"
env -u SOURCE_DATE_EPOCH $env/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
  --output-reproducible --validate --sv 1.6 -o "$out" .venv/bin/python
echo "$out"
