"""Lambda's restrictions of a function, applied to the process that is about to run it. Standard library only.

    descriptors    1,024
    code           read-only, by the files' modes: root obeys these, too, without the capability to override them
    /tmp           its own, of the configured size, gone with the process: a file system in memory, mounted in a mount
                   namespace of its own; a user other than root needs a user namespace for that

Containers and hardened kernels often allow no namespaces. Then a function sees this machine's /tmp.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterable

_TMP = "/tmp"
_DESCRIPTORS = 1_024

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_KEPT_FLAGS = 0xC0F
"""Flags of a mount that a remount has to keep: the same bits in `os.statvfs` and for mount(2)."""
_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION = 0x20080522

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def confine(tmp_bytes: int | None, needed: Iterable[str]) -> str | None:
    """Restrict this process, which has one thread; return why it has no /tmp of its own, None if it has one.

    Args:
        tmp_bytes: size of its own /tmp; None: it sees the machine's.
        needed: folders that it needs; those below /tmp stay there, read-only.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
    why = None
    if tmp_bytes is not None:
        try:
            _own_tmp(tmp_bytes, needed)
        except OSError as error:
            why = str(error)
    _obey_modes()
    return why


def _own_tmp(size_bytes: int, needed: Iterable[str]) -> None:
    if _LIBC is None:
        raise OSError("only Linux has mount namespaces")
    uid, gid = os.getuid(), os.getgid()
    try:
        _do(_LIBC.unshare(_CLONE_NEWNS), "unshare")
    except OSError:
        _do(_LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWUSER), "unshare")
        for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    _mount("", "/", _MS_REC | _MS_PRIVATE)
    real = {os.path.realpath(path) for path in needed}
    below = sorted(path for path in real if path.startswith(_TMP + "/") and os.path.isdir(path))
    folders = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in below}
    _mount("tmpfs", _TMP, _MS_NOSUID | _MS_NODEV, "tmpfs", f"size={size_bytes},mode=1777")
    for path, folder in folders.items():
        os.makedirs(path, exist_ok=True)
        _mount(f"/proc/self/fd/{folder}", path, _MS_BIND | _MS_REC)
        flags = os.statvfs(path).f_flag & _KEPT_FLAGS
        _mount("", path, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | flags)
        os.close(folder)


def _mount(source: str, target: str, flags: int, kind: str = "", options: str = "") -> None:
    assert _LIBC is not None
    arguments = [text.encode() or None for text in (source, target, kind)]
    _do(_LIBC.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def _do(answer: int, what: str) -> None:
    if answer:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _obey_modes() -> None:
    """Give up the capability to write against the modes of files, also for programs that this process executes."""
    if _LIBC is None:
        return
    header, rights = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if _LIBC.capget(header, rights) or not rights[0] >> _CAP_DAC_OVERRIDE & 1:
        return
    _LIBC.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)
    for i in range(3):  # effective, permitted, inheritable
        rights[i] &= ~(1 << _CAP_DAC_OVERRIDE)
    _LIBC.capset(header, rights)
