"""The types of the fixtures."""

from collections.abc import Callable

from disks import Disk
from fault_parts import Station

Make = Callable[..., Station]
"""Makes archives with mountpoints; the arguments are those of ``Station`` without the folder."""
MakeDisk = Callable[..., Disk]
"""Makes small file systems; the arguments are those of ``Disk`` without the folder."""
