"""What is left to run."""

from pathlib import Path

from orchestrator.search.agenda import reruns_left
from tests.recorded import begun, space


def test_a_fresh_seed_is_none_that_a_finalist_was_chosen_with(tmp_path: Path) -> None:
    sweep = space(tmp_path, space={"seed": {"choice": [42, 43, 44, 45]}}, confirm={"top_k": 2, "seeds": 3})
    _, study = begun(tmp_path / "results", sweep)
    study.ask("base", sweep.base_values())
    for number, value in ((1, 0.9), (2, 0.5), (3, 0.8)):
        study.ask("search", {"seed": 42 + number})
        study.report(number, sweep.max_epochs, {study.metric: value}, None)
        study.end(number, "completed")
    assert [(record.number, seed) for record, seed in reruns_left(sweep, study)] == [
        (number, seed) for seed in (44, 46, 47) for number in (0, 1, 3)
    ]
