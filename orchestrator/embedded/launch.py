"""Become another program, bound to the life of whoever started it: run by path with a bare interpreter, never imported.

    python -I -S launch.py <parent pid> <options as JSON> <program> <argument>...

A program of its own instead of a `preexec_fn`: forking Python code from a process with threads may deadlock.

Options, each may be missing:
  lock    a file to hold an exclusive lock on while the program and its children live; waited for `wait` seconds
  account [uid, gid] to drop to
  userns  a uid: enter a user namespace in which root appears as that uid (Postgres refuses to run as root)
  die     the signal that the kernel sends to the program when the parent dies, even by kill -9 (Linux only). What
          counts is the parent's *thread* that started us: start programs from a thread that lives as long as they shall
"""

import ctypes
import fcntl
import json
import os
import sys
import time

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
LOCKED, DENIED = 75, 77


def fail(code: int, why: str) -> None:
    """Leave with a sentence on stderr, which is the program's log."""
    sys.stderr.write(f"launch: {why}\n")
    sys.stderr.flush()
    os._exit(code)


def hold(path: str, wait: float) -> None:
    """Take the lock on a descriptor that survives exec: the server and every process it forks keep it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    deadline = time.monotonic() + wait
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return fail(LOCKED, f"{path} is held by another process")
            time.sleep(0.02)


def enter_user_namespace(libc: ctypes.CDLL, uid: int) -> None:
    """Appear as `uid` to ourselves while nothing on disk changes owner or mode."""
    if libc.unshare(CLONE_NEWUSER):
        return fail(DENIED, f"no user namespace: {os.strerror(ctypes.get_errno())}")
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} 0 1"), ("gid_map", f"{uid} 0 1")):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123  # pathlib costs milliseconds of start-up
                file.write(text)
    except OSError as error:
        return fail(DENIED, f"no user namespace: {error}")


def main() -> None:
    """Do what the options say, then become the program."""
    parent, options, argv = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    if "lock" in options:
        hold(options["lock"], options.get("wait", 0))
    if "account" in options:
        uid, gid = options["account"]
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if "userns" in options:
        enter_user_namespace(libc, options["userns"])
    if "die" in options and sys.platform == "linux":  # after every change of identity, which would clear it
        libc.prctl(PR_SET_PDEATHSIG, options["die"], 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    try:
        os.execv(argv[0], argv)  # noqa: S606  # that is what we are for
    except OSError as error:
        fail(126, f"{argv[0]}: {error}")


main()
