"""What is left to run."""

from pathlib import Path

from orchestrator.analysis.confirm import confirmation
from orchestrator.search.agenda import reruns_left
from orchestrator.study.record import Outcome
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


def test_a_base_that_is_taken_up_again_keeps_the_fresh_seeds_that_it_has_had(tmp_path: Path) -> None:
    sweep = space(tmp_path, confirm={"top_k": 1, "seeds": 3})
    _, study = begun(tmp_path / "results", sweep)

    def end(number: int, outcome: Outcome = "completed") -> None:
        study.report(number, sweep.max_epochs, {study.metric: 0.5}, None)
        study.end(number, outcome)

    end(study.ask("base", sweep.base_values()).number, "failed")
    end(study.ask().number)
    for _ in range(5):
        end(study.ask_again(*reruns_left(sweep, study)[0]).number)
    again = study.take_up(study.trials[0])
    ((finalist, seed),) = reruns_left(sweep, study)
    assert (finalist.number, seed) == (1, 45)
    end(again.number)
    end(study.ask_again(finalist, seed).number)
    assert reruns_left(sweep, study) == []
    found = confirmation(sweep, list(study.trials.values()))
    assert found is not None
    assert len(found.base.values) == 3
