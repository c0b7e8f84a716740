#!/usr/bin/env bash
# One picture of at most 3 MiB with grpcurl: examples/grpcurl.sh 127.0.0.1:7700 photo.jpg
# The contract comes from the service's reflection. Heat maps make answers larger than grpcurl's limit of 4 MiB.
set -euo pipefail
address=$1 picture=$2
printf '{"image": {"data": "%s", "file_name": "%s"}, "options": {"skip_llm": true}}' \
  "$(base64 -w0 "$picture")" "$(basename "$picture")" |
  grpcurl -plaintext -max-msg-sz 16777216 -d @ "$address" maifs.coordinator.v1.CoordinatorService/Analyze
