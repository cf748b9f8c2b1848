"""Energy that GPUs used, from the counter in the driver (NVML, Volta and later)."""

import ctypes
import os
from collections.abc import Mapping
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"


def gpu_energy_joules(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return the energy that this process's GPUs have used since the driver was loaded.

    The counter is the card's: what other processes on it use counts, too.

    Args:
        environment: whose ``CUDA_VISIBLE_DEVICES`` names the GPUs by index or UUID; all if unset.

    Returns:
        The sum over the GPUs in joules; None where NVML or its counter is missing.
    """
    try:
        nvml = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    if nvml.nvmlInit_v2():
        return None
    try:
        handles = [_handle(nvml, name) for name in _visible(nvml, environment)]
        joules = [_joules(nvml, handle) for handle in handles if handle is not None]
    finally:
        nvml.nvmlShutdown()
    known = [value for value in joules if value is not None]
    return sum(known) if known and len(known) == len(handles) else None


def _visible(nvml: Any, environment: Mapping[str, str]) -> list[str]:
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    count = ctypes.c_uint()
    return (
        []
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        else list(map(str, range(count.value)))
    )


def _handle(nvml: Any, name: str) -> Any:
    handle = ctypes.c_void_p()
    if name.isdigit():
        failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(name)), ctypes.byref(handle))
    else:
        failed = nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
    return None if failed else handle


def _joules(nvml: Any, handle: Any) -> float | None:
    millijoules = ctypes.c_ulonglong()
    failed = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
    return None if failed else millijoules.value / 1000
