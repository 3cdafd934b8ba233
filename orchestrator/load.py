"""How busy the machine is, in MLflow's names for it."""

import psutil


def system_metrics() -> dict[str, float]:
    """Means since the last call, and the memory now; takes no time of its own."""
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(interval=None),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
    }
