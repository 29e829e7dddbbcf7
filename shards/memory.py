"""Memory that is freed stays with the process, so that the next batch of the same size finds it."""

import ctypes

# names and numbers of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
KEPT_BYTES = 2**31 - 1  # the most that mallopt takes


def keep_memory() -> None:
    """Have this process keep what it frees, where its C library is glibc; elsewhere nothing changes.

    By default glibc hands blocks of a batch's size back to the system as soon as they are free, and the system
    clears every page again when the next batch asks for it. With this, memory goes back only from the end of the
    heap, where more than 2 GB of it are free.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
