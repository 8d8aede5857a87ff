"""Which kernels run."""

from enum import IntEnum


class Level(IntEnum):
    """XLA's own kernels, or the native ones for a family of processors (numbers as in kernels/cpu/src/kernels.h)."""

    XLA = 0
    AVX2 = 1
    AVX512 = 2
    AVX512_BF16 = 3
    AMX = 4
    NEON = 5
    DOTPROD = 6
