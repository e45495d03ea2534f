#!/bin/sh
# Ask a running gateway with curl: sh examples/query.sh 血压高怎么办 http://127.0.0.1:8080
set -eu
query=${1:-血压高怎么办}
gateway=${2:-http://127.0.0.1:8080}

# The query is put into JSON as it is: it must not contain quotes or backslashes.
curl --fail-with-body -sS "$gateway/v1/search" -H 'Content-Type: application/json' -d "{\"query\": \"$query\", \"k\": 3}"
echo
curl --fail-with-body -sS "$gateway/v1/embeddings" -H 'Content-Type: application/json' \
  -d '{"model": "care-mini", "input": "高血压患者应低盐饮食。", "input_type": "document", "dimensions": 4}'
echo
