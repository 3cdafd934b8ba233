"""What `resources.pack` comes to: on the device of this machine, or on a cluster."""

from orchestrator.doctor.finding import Finding
from orchestrator.engine.capacity import require_number
from orchestrator.planning.settlement import daemon_words, device_kind
from orchestrator.space import ConfigError, Sweep


def packing(sweep: Sweep, address: str | None) -> Finding:
    """Whether trials can be packed, and by whom a GPU is shared. Measures nothing."""
    pack = sweep.config.resources.pack
    if address is not None:
        try:
            require_number(sweep.config.resources)
        except ConfigError as error:
            return Finding("packing", False, str(error).rstrip("."), "write a number for resources.pack")
        return Finding("packing", True, f"{pack} to a GPU")
    try:
        kind = device_kind(sweep)
    except ConfigError as error:
        return Finding("packing", False, str(error).rstrip("."), "leave resources.pack out")
    if kind == "cuda":
        many = "as many to a GPU as will be measured" if pack == "auto" else f"{pack} to a GPU"
        return Finding("packing", True, f"{many}; {daemon_words()}")
    if pack == "auto":
        return Finding("packing", True, "no GPU here: the threads of each trial will be measured")
    fix = "leave resources.pack out; resources.cpus_per_worker says how many share the cores"
    return Finding("packing", False, f"resources.pack is {pack}, and there is no CUDA GPU here", fix)
