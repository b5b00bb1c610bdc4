#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Score an image without a stub, by reflection: sh grpcurl.sh MODEL IMAGE
set -eu
server=${BLEMISH_SERVER:-localhost:50051}
{
  printf '{"model": "models/%s", "outputs": {"regions": true}, "image": {"encoded": "' "$1"
  base64 < "$2" | tr -d '\n'
  printf '"}}'
} | grpcurl -plaintext -d @ "$server" blemish.v1.InspectionService/Score
