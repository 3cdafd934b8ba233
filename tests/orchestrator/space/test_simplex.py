"""Weights on a simplex, and priors."""

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.space import simplex
from tests.orchestrator.space.spaces import drawn, load, refusal

WEIGHTS = {"loss.hierarchy_weights": {"simplex": 3}}


def test_weights_are_drawn_evenly_from_all_that_sum_to_one() -> None:
    """Each weight of three is Beta(1, 2): mean 1/3, variance 1/18, and all three alike."""
    found = np.array([v["loss.hierarchy_weights"] for v in drawn(load(WEIGHTS), 0, 2000)])
    assert found.shape == (2000, 3)
    assert np.abs(found.sum(1) - 1).max() < 1e-9
    assert found.min() >= 0
    np.testing.assert_allclose(found.mean(0), 1 / 3, atol=0.02)
    np.testing.assert_allclose(found.var(0), 1 / 18, atol=0.006)
    np.testing.assert_allclose(np.cov(found.T)[np.triu_indices(3, 1)], -1 / 36, atol=0.005)


@given(st.integers(2, 8).flatmap(lambda n: st.lists(st.floats(0.001, 1), min_size=n, max_size=n)))
def test_weights_come_back_from_optunas_parameters(raw: list[float]) -> None:
    weights = [weight / sum(raw) for weight in raw]
    again = simplex.weights(simplex.sticks(weights))
    np.testing.assert_allclose(again, weights, atol=1e-5)
    assert simplex.holds(again, len(raw))


def test_an_optimizer_sees_one_parameter_less_than_there_are_weights() -> None:
    sweep = load(WEIGHTS)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    values = sweep.suggest(trial)
    assert list(trial.params) == ["loss.hierarchy_weights[0]", "loss.hierarchy_weights[1]"]
    assert sweep.params(values) == pytest.approx(trial.params, abs=1e-4)


def test_a_simplex_must_fit_its_key() -> None:
    assert refusal({"loss.hierarchy_weights": {"simplex": 2}}).startswith(
        "s.yaml: space.loss.hierarchy_weights: loss.hierarchy_weights = "
    )
    assert "is not allowed" in refusal({"training.lr": {"simplex": 2}})
    assert "simplex: 1 is not allowed" in refusal({"loss.hierarchy_weights": {"simplex": 1}})
    assert "has no list of values" in refusal(WEIGHTS, search={"algorithm": "grid"})


def test_a_prior_must_be_a_value_of_its_key() -> None:
    lr = {"loguniform": [1e-4, 1e-2]}
    prior = load({"training.lr": lr | {"prior": {"value": 0.001, "confidence": 0.5}}}).config.space
    assert prior["training.lr"].prior is not None
    assert refusal({"training.lr": lr | {"prior": {"value": 0.1, "confidence": 0.5}}}) == (
        "s.yaml: space.training.lr.prior.value: 0.1 is outside of loguniform: [0.0001, 0.01]."
    )
    assert "prior.confidence: 2 is not allowed" in refusal(
        {"training.lr": lr | {"prior": {"value": 0.001, "confidence": 2}}}
    )
    assert "prior: the trials are listed, not proposed" in refusal(
        {"loss.type": {"choice": ["mse", "cosine"], "prior": {"value": "mse", "confidence": 1}}},
        search={"algorithm": "grid"},
    )
