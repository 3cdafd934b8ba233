"""How busy the machine and its GPUs are, in MLflow's names for it."""

import contextlib
from functools import cache
from typing import Any

import psutil
import pynvml


def system_metrics() -> dict[str, float]:
    """Means since the last call, and the memory now; takes no time of its own."""
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(interval=None),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
        **_gpu_metrics(),
    }


def _gpu_metrics() -> dict[str, float]:
    found: dict[str, float] = {}
    for number, gpu in enumerate(_gpus()):
        name = f"system/gpu_{number}"
        with contextlib.suppress(pynvml.NVMLError):  # a GPU that is shared out in parts tells less
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            found[f"{name}_memory_usage_megabytes"] = int(memory.used) / 1e6
            found[f"{name}_memory_usage_percentage"] = 100 * int(memory.used) / int(memory.total)
        with contextlib.suppress(pynvml.NVMLError):
            found[f"{name}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
        with contextlib.suppress(pynvml.NVMLError):
            found[f"{name}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return found


@cache
def _gpus() -> list[Any]:
    """NVIDIA's GPUs of this machine; none where its driver is not there."""
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
