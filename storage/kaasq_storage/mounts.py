"""Which kind of file system a folder lies on: LMDB's shared memory and locks need a local one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_NETWORK: Final = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs"),
    *("smb2", "smb3", "smbfs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
}
MEMORY: Final = {"tmpfs", "ramfs"}
_MOUNTS: Final = Path("/proc/self/mountinfo")


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The kind of network file system that the folder lies on, or None; None also where the system does not tell."""
    kind = file_system(path, mounts)
    return kind if kind in _NETWORK else None


def file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The kind of file system that the folder lies on; None where the system does not tell."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    best, kind = "", None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split()[4])  # blanks are \040
        if len(point) >= len(best) and os.path.commonpath([point, path]) == point:
            best, kind = point, rest.split()[0]
    return kind
