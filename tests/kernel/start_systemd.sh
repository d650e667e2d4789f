# Inside the virtual machine: systemd as process 1 of a namespace of its own, with nothing to start but journald and udev.
# Prints the number that the machine's own process 1 knows it by. Arguments: the checkout, Python, its packages and an archive of udev.
set -e
checkout=$1 python=$2 packages=$3 udev=$4

# /bin and /lib may be links here; what hardware there is in the world is not needed
tar -xf "$udev" -C / --keep-directory-symlink --exclude='*/hwdb.d'

# the units do not see the places where a checkout and its environment mostly are
mkdir -p /opt/cvqd/python /opt/cvqd/packages /opt/cvqd/daemon
mount --bind "$python" /opt/cvqd/python
mount --bind "$packages" /opt/cvqd/packages
mount --bind "$checkout/daemon" /opt/cvqd/daemon
cat >/opt/cvqd/main.py <<X
import sys
sys.path += ["/opt/cvqd/daemon", "/opt/cvqd/packages"]
from cvqd.cli import main
sys.exit(main())
X
# a Python that was built elsewhere looks for its library there
cat >/opt/cvqd/cvqd <<X
#!/bin/sh
LD_LIBRARY_PATH=/opt/cvqd/python/lib exec /opt/cvqd/python/bin/python3 -IS /opt/cvqd/main.py "\$@"
X
chmod 755 /opt/cvqd/cvqd

# what an instance on the host left behind is not that of the one in here
rm -rf /etc/cvqd /var/lib/cvqd /var/lib/private/cvqd

units=/run/systemd/system
mkdir -p $units
rm -rf /etc/systemd/system/*.wants /lib/systemd/system/*.target.wants
# what every unit waits for by default is there already
for target in sysinit basic sockets shutdown; do
    printf '[Unit]\nDefaultDependencies=no\n' >$units/$target.target
done
printf '[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service systemd-udev-trigger.service\nAllowIsolate=yes\n' >$units/test.target
printf '' >/etc/machine-id
systemd-id128 new >/etc/machine-id
mount -t cgroup2 none /sys/fs/cgroup
env -i PATH="$PATH" unshare --pid --fork --mount-proc --mount --propagation slave \
    /lib/systemd/systemd --unit=test.target --show-status=no </dev/null >/run/systemd.log 2>&1 &
until [ -S /run/systemd/private ] && [ -S /run/udev/control ]; do sleep 0.1; done
pgrep -x systemd
