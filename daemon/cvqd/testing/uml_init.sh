# First process of a User Mode Linux test guest; run by the host's /bin/sh.
#
# It mounts what a shell needs, then serves commands from the serial line
# ttyS0, which the host holds as one end of a socket pair.  A command arrives
# as a line with a nonce, the command's lines, and the nonce again; its output
# goes out as it appears, followed by "\n<nonce> <exit code>\n".  The nonce is
# new each time, so any byte may be in the output.
#
# The root is the host's file system, read-only; the host's own /proc and /dev
# are in it until ours cover them, so applets are named by path: a busybox that
# starts applets through /proc/self/exe would start linux.uml.
# /run/host is the root without our tmpfs on /run and /tmp.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C TERM=dumb
cd /
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t tmpfs tmpfs /run
/bin/busybox mkdir /run/host
/bin/busybox mount --bind / /run/host
/bin/busybox mount -t tmpfs tmpfs /tmp

exec </dev/ttyS0 3>/dev/ttyS0
/bin/busybox stty raw -echo
read -r release </proc/sys/kernel/osrelease
printf 'ready %s\n' "$release" >&3

while IFS= read -r nonce; do
    command=
    while IFS= read -r line && [ "$line" != "$nonce" ]; do
        command="$command$line
"
    done
    (eval "$command") </dev/null >&3 2>&3 3>&-
    printf '\n%s %d\n' "$nonce" $? >&3
done

# The host closed its end: nobody is left to serve.
/bin/busybox poweroff -f
