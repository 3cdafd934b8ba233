"""What each swept key does, with all else equal."""

from collections.abc import Mapping

import numpy as np

from orchestrator.analysis.design import Design, Term
from orchestrator.analysis.findings import STRAIGHT, Effect, Effects, Estimate, Group, Level, Nested
from orchestrator.analysis.intervals import far_out
from orchestrator.analysis.model import LEAST_FREEDOM, Fit, Together, fit_effects
from orchestrator.analysis.plain import level_mean, stratified
from orchestrator.analysis.table import Table
from orchestrator.space.distribution import conditions

NAMED = 5
"""Trials far from all others that are named."""


def effects(table: Table, design: Design) -> Effects:
    """The effects of all keys at the last epoch that enough trials reached."""
    fit = fit_effects(table, design.columns_NP)
    epoch = fit.epoch if fit is not None else table.epochs[0]
    together = _together(design, fit) if fit is not None else {}
    return Effects(
        epoch=epoch,
        seed=None if "seed" in table.sweep.config.space else table.sweep.base.seed,
        common_epoch=table.epochs[0],
        trials=len(table.records),
        reached=table.reached(),
        keys=tuple(_effect(table, design, term, fit, epoch, together) for term in design.terms),
        freedom=fit.freedom if fit is not None else None,
        nested=tuple(_nested(table, design, term) for term in design.terms if term.within),
        note=_note(table, design, fit),
    )


def _together(design: Design, fit: Fit) -> dict[tuple[str, str], Together]:
    """By key and level, or column of weights: its difference, with all that are looked at reckoned with."""
    contrasts = {
        (term.key, name): _wide(contrast_C, design.place(term), fit)
        for term in design.terms
        for name, contrast_C in _compared(term).items()
    }
    if not contrasts:
        return {}
    return dict(zip(contrasts, fit.together(np.array(list(contrasts.values()))), strict=True))


def _compared(term: Term) -> dict[str, np.ndarray]:
    """What is compared with the reference: levels that somebody tried; of a list of weights its columns."""
    columns = term.columns_NC.shape[1]
    if term.kind == "weights":
        return {str(place): contrast_C for place, contrast_C in enumerate(np.eye(columns))}
    known = {name: c for name, c in term.levels.items() if name != term.reference and columns}
    # A value that is alone with its own values of the keys that it determines has all zeros.
    return {name: c for name, c in known.items() if not np.isnan(c).any() and c.any()}


def _nested(table: Table, design: Design, term: Term) -> Nested:
    terms = [*(other for other in design.terms if other.key in term.within), term]

    def place(row: int) -> list[int]:
        return [list(one.levels).index(str(one.level_N[row])) for one in terms]

    values: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in sorted(range(len(table.records)), key=place):
        *labels, name = (str(one.level_N[row]) for one in terms)
        values.setdefault(tuple(labels), {}).setdefault(name, []).append(float(table.values_NS[row, 0]))
    groups = (
        Group(labels, tuple((name, float(np.mean(found)), len(found)) for name, found in own.items()))
        for labels, own in values.items()
    )
    return Nested(term.key, term.within, tuple(groups))


def _note(table: Table, design: Design, fit: Fit | None) -> str:
    columns = design.columns_NP.shape[1]
    least = 1 + columns + LEAST_FREEDOM
    differences = "1 difference" if columns == 1 else f"{columns} differences"
    if fit is None and not columns:
        return "No effects: no two values of a key were tried in trials that came to a value."
    if fit is None and np.ptp(table.values_NS[:, 0]) == 0:
        return f"No effects: all {len(table.records)} trials have the same value at epoch {table.epochs[0]}."
    if fit is None:
        return (
            f"No effects: {len(table.records)} trials tell too little of {differences}; "
            f"at least {least} are needed, and every value without the others."
        )
    far = _far_out(table, fit)
    if fit.epoch == table.epochs[-1]:
        return far
    later = table.epochs[table.epochs.index(fit.epoch) + 1]
    return (
        f"The effects are those at epoch {fit.epoch} of {table.epochs[-1]}: the "
        f"{table.reached()[later]} trials that reached epoch {later} are too few, or too alike, to tell "
        f"{differences} there.{far and ' '}{far}"
    )


def _far_out(table: Table, fit: Fit) -> str:
    """Which trials lie so far from the others that the intervals are theirs."""
    values_N = table.values_NS[:, table.epochs.index(fit.epoch)]
    there_N = np.flatnonzero(~np.isnan(values_N))
    ids = [table.records[row].id for row in there_N[far_out(values_N[there_N])]]
    if not ids:
        return ""
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return (
        f"The intervals are so wide because of {', '.join(ids[:NAMED])}{more}, which at epoch {fit.epoch} "
        "lay far from all others, as runs that diverge do: a space without such values tells more."
    )


def _effect(
    table: Table,
    design: Design,
    term: Term,
    fit: Fit | None,
    epoch: int,
    together: Mapping[tuple[str, str], Together],
) -> Effect:
    fit = fit if term.columns_NC.shape[1] else None
    place, active = design.place(term), sum(level is not None for level in term.level_N)
    trend = None
    if fit is not None and term.slope_C is not None:
        trend = Estimate(*fit.spread(_wide(term.slope_C, place, fit)), active)
    own = {name: found for (key, name), found in together.items() if key == term.key}
    return Effect(
        key=term.key,
        reference=term.reference,
        levels=tuple(_level(table, term, level, fit, place, epoch, own.get(level)) for level in term.levels),
        trend=trend,
        trend_unit=term.unit,
        straight=term.straight,
        trials=active,
        p=fit.nothing(place) if fit is not None else None,
        p_together=min((found.p for found in own.values()), default=None),
        plain_difference=stratified(table, design, term),
        within=term.within,
        note=_key_note(table, term),
    )


def _level(
    table: Table,
    term: Term,
    level: str,
    fit: Fit | None,
    place: slice,
    epoch: int,
    together: Together | None,
) -> Level:
    own_N = np.array([name == level for name in term.level_N], dtype=bool)
    trials = int(own_N.sum())
    effect = wide = None
    if fit is not None and together is not None:
        effect = Estimate(*fit.spread(_wide(term.levels[level], place, fit)), trials)
        wide = Estimate(together.value, together.low, together.high, trials)
    return Level(
        label=level,
        is_reference=level == term.reference,
        trials=trials,
        finished=int((own_N & table.reached_NS[:, table.epochs.index(epoch)]).sum()),
        collapsed=sum(
            record.outcome == "collapsed" for record, own in zip(table.records, own_N, strict=True) if own
        ),
        effect=effect,
        together=wide,
        plain=level_mean(term, level, table.values_NS[:, 0]),
    )


def _wide(contrast_C: np.ndarray, place: slice, fit: Fit) -> np.ndarray:
    contrast_P = np.zeros(fit.draws_DP.shape[1])
    contrast_P[place] = contrast_C
    return contrast_P


def _key_note(table: Table, term: Term) -> str:
    space, notes = table.sweep.config.space, []
    if parents := [key for key in conditions(space[term.key]) if key in space]:
        notes.append(f"told from the trials in which {' and '.join(parents)} let it matter")
    if hanging := [key for key in space if term.key in conditions(space[key])]:
        notes.append(f"with {', '.join(hanging)} at the value that others are compared with")
    if term.kind == "weights":
        notes.append("a list of weights has no levels; p is that of all of them together")
    if term.straight:
        notes.append(STRAIGHT)
    if term.within:
        notes.append(f"determines {' and '.join(term.within)}")
    elif not term.columns_NC.shape[1]:
        notes.append("no two values were tried")
    return "; ".join(notes)
