#!/bin/sh
# Sets up what is missing and runs every check and test; nothing is skipped for want of a package.
set -eu
. "$(dirname "$0")/setup.sh"
# systemd checks its units, mandoc the manuals, the shells their completions and tshark a capture; the C compiler compares numbers with the kernel's headers and builds the virtual machine's modules
need systemd mandoc fish zsh tshark gcc libc6-dev linux-libc-dev make patch tar xz-utils zstd qemu-system-x86
environment test
PATH="$PWD/.venv/bin:$PATH"
# as root nothing may be skipped; others cannot make network interfaces, and are told so by the skipped tests
[ "$(id -u)" -ne 0 ] || export CVQD_REQUIRE=all

echo "== format, lint, types, architecture"
ruff format --check --quiet .
ruff check --quiet .
mypy
lint-imports --no-logo
echo "== fast tests"
pytest -q -n auto --maxprocesses 8 -m "not guest and not kernel" "$@"
echo "== tests with a Linux guest, and in a virtual machine with the kernel's vhost-vdpa"
pytest -q -m "guest or kernel" "$@"
