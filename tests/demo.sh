#!/bin/sh
# Sets up what is missing and runs `cvqd demo`: a real Linux guest on the embedded device.
set -eu
. "$(dirname "$0")/setup.sh"
[ -x .venv/bin/cvqd ] || environment run
exec .venv/bin/cvqd demo "$@"
