"""Which kernels run."""

from enum import IntEnum


class Level(IntEnum):
    """XLA's own kernels, or the native ones for a family of processors (numbers as in kernels/cpu/src/kernels.h)."""

    XLA = 0
    AVX2 = 1
    AVX512 = 2
    AMX = 3
    NEON = 4
    DOTPROD = 5
