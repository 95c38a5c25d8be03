#!/usr/bin/env bash
# Run the tests that take minutes: compiled kernels, decoders and encoders against the plain forms,
# which needs a C++ compiler; the full METEOR table; the commands and examples of the
# README and the documentation as they are written.
set -euo pipefail
cd "$(dirname "$0")/.."
exec pytest -m slow "$@"
