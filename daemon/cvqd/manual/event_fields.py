"""What the fields of log lines mean, wherever they occur: cvqd-events(7) has these sentences."""

from __future__ import annotations

from typing import Final

#: in every line, in this order
COMMON: Final = {
    "schema": "Version of the line's form, a number; it changes when the meaning of a field does.",
    "ts": "When it happened: UTC, ISO 8601 with milliseconds.",
    "mono_ns": "The same on the monotonic clock, in nanoseconds: take this to measure with.",
    "seq": "Number of the line within the run, from 1. A gap is a lost line.",
    "run_id": "12 hexadecimal digits, new at each start of the daemon.",
    "instance": "Name of the instance.",
    "device": "Path or name of the device as it was configured, or `simulator`.",
    "level": "`debug`, `info`, `warning` or `error`; it is the event's own, see below.",
    "event": "Name of the event.",
}

#: with some events
FIELDS: Final = {
    "ack": "Status byte that the device answered: 0 is OK, 1 is ERR. null where there was no answer.",
    "action": "What the simulator does to the command, see `device.faults` in `cvqd.yaml`(5).",
    "added": "How many regions of guest memory were mapped that were not before.",
    "back": "Whether it is to come back each time.",
    "backend": "Names of the back-end features of the kernel's vhost-vdpa.",
    "blackout_us": "For how long no device served the data queues, in microseconds.",
    "blame": "Who is to blame, as a class of error: `ConfigError`, `DeviceError`, `SocketError` and so on.",
    "bytes": "Length in bytes.",
    "call": "Name of the system call or ioctl.",
    "changed": "Keys of the configuration that took effect, with dots.",
    "command": "Name of the control command, such as `mac.addr_set`.",
    "command_id": "Number of the control command within the run; all lines about one command have the same.",
    "commands": "How many control commands were sent.",
    "control": "Path of the control socket.",
    "detail": "What exactly is wrong, for people.",
    "digest": "16 hexadecimal digits; tracked states that are equal have equal digests, on other hosts too.",
    "digest_after": "Digest of what the target was told, or of what it read.",
    "digest_before": "Digest of the tracked state when the move began.",
    "dry": "Whether it only is to be asked.",
    "elapsed_us": "How long it took, in microseconds.",
    "errno": "Error number, see `errno`(3).",
    "exit_code": "Exit status of the daemon, see `cvqd`(8).",
    "failed": "How many of them failed.",
    "feature": "Name of a virtio feature.",
    "features": "Names of virtio features.",
    "guest_on": "Where the guest is after a move that failed: `source`, `target`, or `neither` until its"
    " next start.",
    "how": "Of a stop `suspend`, or `reset` where the device cannot be suspended; of a snapshot whose doing"
    " it is: `operator` or `front-end`.",
    "keys": "Keys of the configuration, with dots.",
    "kind": "Kind of the device, `vhost-vdpa` or `simulator`; of a move `switchover` or `dry`.",
    "late": "true where the answer came after the deadline, when the guest had its ERR already.",
    "lines": "How many lines were left out.",
    "masked": "Features that the device has and the guest is not offered, each with the reason.",
    "message": "What the service manager was told, see `sd_notify`(3).",
    "move": "8 hexadecimal digits; all lines about one move have the same.",
    "moves": "How many moves were begun.",
    "multicast": "How many multicast addresses the guest's table has.",
    "of": "Name of the event that was left out.",
    "pairs": "Number of queue pairs in use.",
    "path": "Path of the device's node.",
    "phase": "Of a switchover `prepare`, `suspend`, `indices`, `replay` or `start`; of a dry move"
    " `suspend`, `snapshot`, `compare` or `resume`.",
    "problems": "Every mistake in the file, each with its line and column.",
    "promiscuous": "Whether the device was told to receive everything.",
    "queue": "Index of the virtqueue.",
    "queues": "Each queue with its virtqueue group and its address space.",
    "reason": "Why, for people; with `cvq.command.refused` a stable word such as `site.mac`.",
    "regions": "How many regions of guest memory are mapped.",
    "rehearsal": "8 hexadecimal digits; both lines about one rehearsal have the same.",
    "removed": "How many regions of guest memory are mapped no longer.",
    "request": "Name of the vhost-user request.",
    "rings": "Indices of the rings that run.",
    "rule": "Rule of the site's policy, such as `site.vlan`.",
    "rules": "Rules of the site's policy.",
    "seconds": "How long, in seconds.",
    "signal": "Name of the signal.",
    "socket": "Path of the vhost-user socket, or `fd N` where it was handed over.",
    "status": "What `cvqd status --json` would say; with `device.config_changed` the link and announce bits.",
    "source": "The device that the guest leaves, by its name among the targets, or `device`.",
    "target": "The device that it goes to, by name as `source`.",
    "times": "How many rounds.",
    "to": "The device that the guest is to go to, by name.",
    "unicast": "How many unicast addresses the guest's table has.",
    "verdict": "`isolated`, `shared`, or `none` where there is no control queue; of a rehearsal `passed` or"
    " `failed`.",
    "version": "Version of cvqd.",
}
