#!/usr/bin/env bash
# Run the tests that take minutes: compiled kernels, the full METEOR table.
set -euo pipefail
cd "$(dirname "$0")/.."
exec pytest -m slow "$@"
