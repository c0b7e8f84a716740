#!/usr/bin/env bash
# Generates the typed stubs in maifs/ from protos/. Uses a virtual environment of its own, because stubs refuse a
# protobuf or grpcio older than the generator: the generator is therefore the oldest one that vLLM allows.
set -euo pipefail
cd "$(dirname "$0")/.."
env=.venv-protos
if [ ! -e $env/.ready ] || [ requirements/protos.txt -nt $env/.ready ]; then
  rm -rf $env && "${PYTHON:-python3}" -m venv $env
  $env/bin/pip install --quiet --disable-pip-version-check -r requirements/protos.txt
  touch $env/.ready
fi
out=${1:-.}
rm -rf "$out/maifs" && mkdir -p "$out/maifs"
common=$($env/bin/python -c 'import google.rpc, os; print(os.path.dirname(os.path.dirname(os.path.dirname(google.rpc.__file__))))' 2>/dev/null ||
  $env/bin/python -c 'import google.rpc; print(list(google.rpc.__path__)[0].removesuffix("/google/rpc"))')
mapfile -t files < <(cd protos && find maifs -name '*.proto' | sort)
PATH="$PWD/$env/bin:$PATH" $env/bin/python -m grpc_tools.protoc -I protos -I "$common" \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" "${files[@]}"
# A file without a service needs no gRPC module.
for stub in $(grep -L 'Servicer' $(find "$out/maifs" -name '*_pb2_grpc.py')); do rm -f "$stub" "${stub}i"; done
find "$out/maifs" -type d -exec sh -c 'touch "$1/__init__.py"' _ {} \;
touch "$out/maifs/py.typed"
