"""Two sweeps or more side by side, and whether their figures may be compared."""

from collections.abc import Sequence

from orchestrator.analysis.findings import Confirmed
from orchestrator.definition import flat
from orchestrator.reporting.caption import NONE, number
from orchestrator.reporting.material import Material
from orchestrator.reporting.tables import Table

MEASURING = ("data.", "evaluation.")
"""Keys of what is measured, and on what."""
SHOWN = 20


def side_by_side(sweeps: Sequence[Material]) -> Table:
    """What each has found."""
    rows = [
        ["state", *(s.state for s in sweeps)],
        ["objective", *(s.metric for s in sweeps)],
        ["trials", *(str(len(s.records)) for s in sweeps)],
        ["epochs of a full trial", *(str(s.sweep.max_epochs) for s in sweeps)],
        ["base config", *(number(s.value(s.base)) if s.base else NONE for s in sweeps)],
        ["best of the search", *(_best(s) for s in sweeps)],
        ["base, fresh seeds", *(_base(s) for s in sweeps)],
        ["best finalist, fresh seeds", *(_finalist(s) for s in sweeps)],
    ]
    note = "The best of a search was chosen for being high; means over fresh seeds were not."
    return Table("Sweeps compared", note, ["", *(s.name for s in sweeps)], rows)


def obstacles(sweeps: Sequence[Material]) -> list[str]:
    """Why the objectives of these sweeps do not compare; empty where they do."""
    found = []
    if len({s.metric for s in sweeps}) > 1:
        found.append(f"the objectives differ: {', '.join(s.metric for s in sweeps)}")
    if len({s.sweep.max_epochs for s in sweeps}) > 1:
        found.append(f"full trials have {', '.join(str(s.sweep.max_epochs) for s in sweeps)} epochs")
    differing = base_differences(sweeps)
    found += [f"{key}: {', '.join(v)}" for key, v in differing.items() if key.startswith(MEASURING)]
    swept = {key for s in sweeps for key in s.sweep.config.space if key.startswith(MEASURING)}
    return found + [f"{key} is swept: not even trials of one sweep compare" for key in sorted(swept)]


def base_differences(sweeps: Sequence[Material]) -> dict[str, list[str]]:
    """The base configs' keys that are not the same in all, and their values in each."""
    bases = [flat(s.sweep.base_data) for s in sweeps]
    keys = sorted({key for base in bases for key in base})
    values = {key: [base.get(key, "absent") for base in bases] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def words(sweeps: Sequence[Material]) -> list[str]:
    """What is common and what is not."""
    keys = [set(s.sweep.config.space) for s in sweeps]
    common = sorted(set.intersection(*keys))
    lines = [f"swept in all: {', '.join(common) if common else 'no key'}"]
    for sweep, own in zip(sweeps, keys, strict=True):
        if own - set(common):
            lines.append(f"swept in {sweep.name} besides: {', '.join(sorted(own - set(common)))}")
    found = {key: values for key, values in base_differences(sweeps).items() if key != "training.epochs"}
    lines += [f"bases differ in {key}: {', '.join(values)}" for key, values in list(found.items())[:SHOWN]]
    lines += [f"and in {len(found) - SHOWN} keys more"] if len(found) > SHOWN else []
    why = obstacles(sweeps)
    if why:
        return [*lines, "The objectives do not compare:", *(f"  {reason}" for reason in why)]
    return [*lines, "The objectives compare: same metric, data, evaluation and epochs."]


def _best(sweep: Material) -> str:
    return f"{number(sweep.value(sweep.best))} (trial {sweep.best.id})" if sweep.best else NONE


def _base(sweep: Material) -> str:
    found = sweep.findings.confirmation
    return _mean(found.base) if found else NONE


def _finalist(sweep: Material) -> str:
    """The finalist with the best mean."""
    found = sweep.findings.confirmation
    known = [(sweep.sign * c.mean, c) for c in (found.configs if found else ()) if c.mean is not None]
    if not known:
        return NONE
    _, best = max(known, key=lambda pair: pair[0])
    return f"{_mean(best)} (trial {best.trial:04d})"


def _mean(config: Confirmed) -> str:
    found = config.interval
    return f"{found.value:.4f}, {found.low:.4f} to {found.high:.4f}" if found else number(config.mean)
