"""A Gaussian process that tells, from noisy values at some points, what to expect at others.

Matérn kernel of smoothness 5/2 with a length for each coordinate; lengths, height and noise are those of the
largest posterior (Rasmussen & Williams 2006, chapters 2, 4 and 5).
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

LENGTH, HEIGHT, NOISE = (math.log(0.7), 0.9), (0.0, 0.7), (math.log(0.02), 1.2)
"""What is supposed of their logarithms beforehand: mean and standard deviation. Points lie in [0, 1]."""
ITERATIONS = 25
FITTED_TO = 100
"""Values that lengths, height and noise are told from, at most."""
JITTER = 1e-6


class Surrogate:
    """What is known of a function by `values_N`, of `variances_N` each beside the noise that they share."""

    def __init__(self, points_NP: Array, values_N: Array, variances_N: Array):
        self._points_NP = points_NP
        self._values_N, self._variances_N = _scaled(values_N, variances_N)
        self._mean = float(self._values_N.mean())
        some = slice(None)
        if len(values_N) > FITTED_TO:
            best, rest = np.split(np.argsort(-values_N, kind="stable"), [FITTED_TO // 2])
            some = np.concatenate([best, rest[:: math.ceil(2 * len(rest) / FITTED_TO)]])
        self._lengths_P, self._height, self._noise = _fitted(
            points_NP[some], (self._values_N - self._mean)[some], self._variances_N[some]
        )
        self._condition()

    def suppose(self, points_MP: Array) -> None:
        """Take points for tried whose values are not known yet: as if they came to what is expected there."""
        expected_M, _ = self.at(points_MP)
        self._points_NP = np.vstack([self._points_NP, points_MP])
        self._values_N = np.append(self._values_N, expected_M)
        self._variances_N = np.append(self._variances_N, np.zeros(len(points_MP)))
        self._condition()

    def at(self, points_MP: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function at other points, on a scale of its own."""
        kernel_MN = self._kernel(points_MP, self._points_NP)
        means_M = self._mean + kernel_MN @ self._weights_N
        known_NM = solve_triangular(self._root_NN, kernel_MN.T, lower=True)
        variances_M = self._height - np.einsum("nm,nm->m", known_NM, known_NM)
        return means_M, np.sqrt(np.maximum(variances_M, 1e-9))

    def _condition(self) -> None:
        kernel_NN = self._kernel(self._points_NP, self._points_NP)
        kernel_NN[np.diag_indices(len(kernel_NN))] += self._noise + self._variances_N + JITTER
        self._root_NN = np.linalg.cholesky(kernel_NN)
        self._weights_N = cho_solve((self._root_NN, True), self._values_N - self._mean)

    def _kernel(self, a_NP: Array, b_MP: Array) -> Array:
        squares_NM = cdist(a_NP / self._lengths_P, b_MP / self._lengths_P, "sqeuclidean")
        return self._height * _kernel(np.asarray(squares_NM, np.float64))[0]


def _scaled(values_N: Array, variances_N: Array) -> tuple[Array, Array]:
    """Values told in distances from their median to their best tenth; what lies far below it is drawn closer,
    since how bad the bad ones are says little of the good ones."""
    middle = float(np.median(values_N))
    unit = float(np.quantile(values_N, 0.9)) - middle or float(values_N.std()) or 1.0
    told_N = (values_N - middle) / unit
    below_N = np.maximum(0.0, -1 - told_N)
    closer_N = np.where(below_N > 0, -1 - np.log1p(below_N), told_N)
    return closer_N, variances_N / (unit * (1 + below_N)) ** 2


def _kernel(squares_NM: Array) -> tuple[Array, Array]:
    """The kernel of squared scaled distances, and its derivative by them times -2."""
    r_NM = np.sqrt(5 * squares_NM)
    fall_NM = np.exp(-r_NM)
    return (1 + r_NM + 5 / 3 * squares_NM) * fall_NM, 5 / 3 * (1 + r_NM) * fall_NM


def _fitted(points_NP: Array, values_N: Array, variances_N: Array) -> tuple[Array, float, float]:
    """Lengths, height and noise of the largest posterior, from where they are supposed to be."""
    squares_NNP = (points_NP[:, None] - points_NP[None]) ** 2
    places = points_NP.shape[1]
    means = np.array([*[LENGTH[0]] * places, HEIGHT[0], NOISE[0]])
    deviations = np.array([*[LENGTH[1]] * places, HEIGHT[1], NOISE[1]])
    diagonal = np.diag_indices(len(values_N))

    def loss(logs: Array) -> tuple[float, Array]:
        lengths_P, height, noise = np.exp(logs[:-2]), math.exp(logs[-2]), math.exp(logs[-1])
        kernel_NN, slope_NN = _kernel(squares_NNP @ lengths_P**-2)
        sum_NN = height * kernel_NN
        sum_NN[diagonal] += noise + variances_N + JITTER
        root_NN = np.linalg.cholesky(sum_NN)
        inverse_NN = cho_solve((root_NN, True), np.eye(len(values_N)))
        weights_N = inverse_NN @ values_N
        off = (logs - means) / deviations
        value = 0.5 * values_N @ weights_N + np.log(root_NN[diagonal]).sum() + 0.5 * off @ off
        pull_NN = inverse_NN - np.outer(weights_N, weights_N)
        by_lengths_P = 0.5 * height * np.einsum("nm,nmp->p", pull_NN * slope_NN, squares_NNP) / lengths_P**2
        by_height = 0.5 * height * np.sum(pull_NN * kernel_NN)
        by_noise = 0.5 * noise * np.trace(pull_NN)
        return float(value), np.array([*by_lengths_P, by_height, by_noise]) + off / deviations

    # Beyond these nothing can be told apart, and a matrix would lose its root.
    bounds = [(math.log(0.02), math.log(50))] * places + [(-6.0, 6.0), (-14.0, 4.0)]
    found = minimize(
        loss, means, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS}
    ).x
    return np.exp(found[:-2]), math.exp(found[-2]), math.exp(found[-1])
