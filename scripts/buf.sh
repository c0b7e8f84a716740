#!/usr/bin/env bash
# buf without a network. Usage: scripts/buf.sh lint | breaking | release | COMMAND...
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/googleapis/google/rpc
package=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("google.rpc.status_pb2").origin)')
cp "$(dirname "$package")"/{status,error_details}.proto build/googleapis/google/rpc/
buf=$PWD/.venv/bin/buf
released=protos/released.binpb
case ${1:-} in
  lint) exec "$buf" lint protos ;;
  breaking) exec "$buf" breaking protos --against "$released" ;;
  release) exec "$buf" build protos --as-file-descriptor-set --exclude-source-info -o "$released" ;;
  *) exec "$buf" "$@" ;;
esac
