# What both of the README's commands need, sourced by them: Debian packages and a virtual environment in .venv.
# `need PACKAGE…` installs what is missing, as root; otherwise it says what to install and stops.

cd "$(dirname "$0")/.."

need() {
    missing=
    for package; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^.i' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "These Debian packages are missing; run this command as root or install them:" >&2
        echo "  apt-get install --no-install-recommends$missing" >&2
        exit 69
    fi
    echo "== installing Debian packages:$missing"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $missing >/dev/null
}

# a Python that can make virtual environments may be there without Debian's packages
python3 -c 'import ensurepip, venv' 2>/dev/null || need python3 python3-venv ca-certificates

# the guest: a Linux kernel that is a process, and what runs inside it
need user-mode-linux busybox-static ethtool iproute2

environment() {
    stamp=$(cksum pyproject.toml)
    if [ "$(cat .venv/cvqd-stamp 2>/dev/null)" != "$1 $stamp" ]; then
        echo "== making the virtual environment .venv ($1)"
        python3 -m venv .venv
        # Debian 12's pip knows no dependency groups
        .venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
        if [ "$1" = test ]; then
            .venv/bin/python -m pip install --quiet --editable . --group dev
        else
            .venv/bin/python -m pip install --quiet --editable .
        fi
        echo "$1 $stamp" > .venv/cvqd-stamp
    fi
}
