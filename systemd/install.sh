#!/bin/sh
# Installs what systemd needs: sh systemd/install.sh [PROGRAM]
#
# The units run PROGRAM, by default the cvqd that the shell finds. Files go to $PREFIX/lib, /usr/local/lib if unset, where
# systemd, udev, sysusers and tmpfiles all look; /etc stays the operator's. With DESTDIR set they go below it, for a
# package, and nothing on this machine is changed.
set -eu

here=$(dirname "$0")
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}

if [ $# -gt 0 ]; then
    program=$1
elif [ -n "$root" ]; then
    program=$prefix/bin/cvqd
else
    program=$(command -v cvqd) || { echo "install.sh: no cvqd in PATH; name it: sh $0 /opt/cvqd/bin/cvqd" >&2; exit 64; }
fi
case $program in
    /home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/*)
        echo "install.sh: $program: the units do not see home and temporary directories" >&2; exit 64 ;;
    /*) ;;
    *) echo "install.sh: $program: not an absolute path" >&2; exit 64 ;;
esac

units=$root$prefix/lib/systemd/system
mkdir -p "$units"
for unit in "$here"/*.service "$here"/*.socket "$here"/*.target; do
    sed "s|^ExecStart=/usr/bin/cvqd |ExecStart=$program |" "$unit" >"$units/${unit##*/}"
    chmod 644 "$units/${unit##*/}"
done
install -D -m 644 "$here/70-cvqd.rules" "$root$prefix/lib/udev/rules.d/70-cvqd.rules"
install -D -m 644 "$here/sysusers.conf" "$root$prefix/lib/sysusers.d/cvqd.conf"
install -D -m 644 "$here/tmpfiles.conf" "$root$prefix/lib/tmpfiles.d/cvqd.conf"
[ -z "$root" ] || exit 0

mkdir -p /etc/cvqd
systemd-sysusers "$prefix/lib/sysusers.d/cvqd.conf"
systemd-tmpfiles --create "$prefix/lib/tmpfiles.d/cvqd.conf"
systemctl daemon-reload
# a machine without udev, such as a container, needs no reload
if [ -S /run/udev/control ]; then
    udevadm control --reload
    udevadm trigger --action=change --subsystem-match=vdpa --settle
fi
echo "installed; write /etc/cvqd/NAME.yaml, then: systemctl enable --now cvqd@NAME"
