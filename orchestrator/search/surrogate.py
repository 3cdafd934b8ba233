"""What to expect of a trial at the end, told from what others did on their way, and from where they lie.

At the first look a trial's value follows from its point, and at each later one from its point and from its
value at the look before: a Gaussian process each, of a line in each coordinate, of a line in the value
before, and of a Matérn kernel of smoothness 5/2 for what lines do not tell. So where early values mislead, as
of a key that helps at first and harms later, the trials that went on tell. Who went on was chosen by values
at looks and by draws, so those that were stopped are missing at random given what they told (Little & Rubin
2002, chapter 7). Lengths and variances are those of the largest posterior (Rasmussen & Williams 2006,
chapters 2, 4 and 5).

Shape letters: N trials, M other points, P coordinates of a point, L looks.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

LENGTH = (math.log(0.7), 0.9)
"""What is supposed of a length's logarithm beforehand: mean and standard deviation. Points lie in [0, 1]."""
FIRST = np.log([0.7, 0.3, 0.02]), np.array([1.0, 1.0, 1.2])
"""The same of variances at the first look, of values whose best tenth is 1 above the median: of all lines
together, of what they do not tell, and of noise."""
LATER = np.log([0.15, 0.06, 0.02]), np.array([1.0, 1.0, 1.2])
"""The same of what a later look adds."""
SLOPE, SLOPE_VARIANCE = 0.8, 0.25
"""What is supposed of how a value follows from the one before."""
BOUNDS = [(-8.0, 6.0), (-8.0, 6.0), (-10.0, 4.0)]
LENGTH_BOUNDS = (math.log(0.02), math.log(50))
"""Of the logarithms. Beyond, nothing can be told apart, and a matrix would lose its root."""
ITERATIONS = 25
FITTED_TO = 100
"""Values that lengths and variances are told from, at most."""
FAR_ABOVE = 5.0
"""Distance above the median, in that of the best tenth, from which on values are told by their logarithm."""
JITTER = 1e-6


class Surrogate:
    """What is known of the ends of trials by `values_NL`, larger ones better; NaN where one told nothing.

    Everything is told on a scale of its own.
    """

    def __init__(self, points_NP: Array, values_NL: Array):
        self._steps: list[_Step] = []
        self.ends_N = np.zeros(len(points_NP))
        """What each of the trials is expected to come to, or to have come to without the noise."""
        told_N: Array | None = None
        for values_N in values_NL.T:
            here = np.isfinite(values_N)
            scaled_N = _scaled(values_N[here])
            step = _Step(points_NP[here], None if told_N is None else told_N[here], scaled_N)
            self._steps.append(step)
            self.ends_N, _ = step.at(points_NP, told_N)
            told_N = self.ends_N.copy()  # where nothing was told, what is expected stands for it
            told_N[here] = scaled_N

    def suppose(self, points_MP: Array) -> None:
        """Take points for tried whose values are not known yet: as if they came to what is expected there."""
        before_M = None
        for step in self._steps:
            expected_M, _ = step.at(points_MP, before_M)
            step.suppose(points_MP, before_M, expected_M)
            before_M = expected_M

    def at(self, points_MP: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the end at other points, without the noise of a trial by itself."""
        before_M, variances_M = None, np.zeros(len(points_MP))
        for step in self._steps:
            before_M, added_M = step.at(points_MP, before_M)
            variances_M = step.slope**2 * variances_M + added_M
        assert before_M is not None, "there is one look at least"
        return before_M, np.sqrt(variances_M)


class _Step:
    """What values at a look follow from. `before_N` are those at the look before; None: there is none."""

    def __init__(self, points_NP: Array, before_N: Array | None, values_N: Array):
        self._points_NP, self._before_N, self._values_N = points_NP, before_N, values_N
        self._mean = float(self._left_N.mean()) if len(values_N) else 0.0
        self._prior = FIRST if before_N is None else LATER
        self._lengths_P = np.full(points_NP.shape[1], math.exp(LENGTH[0]))
        self._lines, self._rest, self._noise = np.exp(self._prior[0]).tolist()
        if len(values_N) > 2:
            self._fit()
        self._condition()

    @property
    def slope(self) -> float:
        """How a value follows from the one before."""
        if self._before_N is None:
            return 0.0
        return SLOPE + SLOPE_VARIANCE * float(self._before_N @ self._weights_N)

    def at(self, points_MP: Array, before_M: Array | None) -> tuple[Array, Array]:
        """Mean and variance, given what was before."""
        means_M = np.full(len(points_MP), self._mean)
        variances_M = self._rest + self._lines * (_features(points_MP) ** 2).sum(axis=1)
        if before_M is not None:
            means_M += SLOPE * before_M
            variances_M += SLOPE_VARIANCE * before_M**2
        if len(self._values_N):
            kernel_MN = self._kernel(points_MP, before_M)
            means_M += kernel_MN @ self._weights_N
            known_NM = solve_triangular(self._root_NN, kernel_MN.T, lower=True)
            variances_M -= np.einsum("nm,nm->m", known_NM, known_NM)
        return means_M, np.maximum(variances_M, 1e-9)

    def suppose(self, points_MP: Array, before_M: Array | None, values_M: Array) -> None:
        """Take these for values that were told."""
        self._points_NP = np.vstack([self._points_NP, points_MP])
        self._values_N = np.append(self._values_N, values_M)
        if self._before_N is not None and before_M is not None:
            self._before_N = np.append(self._before_N, before_M)
        self._condition()

    @property
    def _left_N(self) -> Array:
        """The values less what was supposed of them beforehand."""
        return self._values_N if self._before_N is None else self._values_N - SLOPE * self._before_N

    def _condition(self) -> None:
        if not len(self._values_N):
            self._weights_N = np.zeros(0)
            return
        kernel_NN = self._kernel(self._points_NP, self._before_N)
        kernel_NN[np.diag_indices(len(kernel_NN))] += self._noise + JITTER
        self._root_NN = np.linalg.cholesky(kernel_NN)
        self._weights_N = cho_solve((self._root_NN, True), self._left_N - self._mean)

    def _kernel(self, points_MP: Array, before_M: Array | None) -> Array:
        """Of other points and those of the values, M x N."""
        squares_MN = cdist(points_MP / self._lengths_P, self._points_NP / self._lengths_P, "sqeuclidean")
        kernel_MN = self._rest * _matern(np.asarray(squares_MN, np.float64))[0]
        kernel_MN += self._lines * (_features(points_MP) @ _features(self._points_NP).T)
        if before_M is not None and self._before_N is not None:
            kernel_MN += SLOPE_VARIANCE * np.outer(before_M, self._before_N)
        return kernel_MN

    def _fit(self) -> None:
        """Take the lengths and variances of the largest posterior, from where they are supposed to be."""
        some: slice | NDArray[np.intp] = slice(None)
        if len(self._values_N) > FITTED_TO:
            order = np.argsort(-self._values_N, kind="stable")
            best, others = np.split(order, [FITTED_TO // 2])
            some = np.concatenate([best, others[:: math.ceil(2 * len(others) / FITTED_TO)]])
        points_NP, values_N = self._points_NP[some], (self._left_N - self._mean)[some]
        squares_NNP = (points_NP[:, None] - points_NP[None]) ** 2
        lines_NN = _features(points_NP) @ _features(points_NP).T
        fixed_NN = np.zeros_like(lines_NN)
        if self._before_N is not None:
            fixed_NN = SLOPE_VARIANCE * np.outer(self._before_N[some], self._before_N[some])
        places, diagonal = points_NP.shape[1], np.diag_indices(len(values_N))
        means = np.array([*[LENGTH[0]] * places, *self._prior[0]])
        deviations = np.array([*[LENGTH[1]] * places, *self._prior[1]])

        def loss(logs: Array) -> tuple[float, Array]:
            lengths_P, (lines, rest, noise) = np.exp(logs[:-3]), np.exp(logs[-3:])
            kernel_NN, slope_NN = _matern(squares_NNP @ lengths_P**-2)
            sum_NN = rest * kernel_NN + lines * lines_NN + fixed_NN
            sum_NN[diagonal] += noise + JITTER
            root_NN = np.linalg.cholesky(sum_NN)
            inverse_NN = cho_solve((root_NN, True), np.eye(len(values_N)))
            weights_N = inverse_NN @ values_N
            off = (logs - means) / deviations
            value = 0.5 * values_N @ weights_N + np.log(root_NN[diagonal]).sum() + 0.5 * off @ off
            pull_NN = inverse_NN - np.outer(weights_N, weights_N)
            pulled_P = np.tensordot(pull_NN * slope_NN, squares_NNP)
            by_lengths_P = 0.5 * rest * pulled_P / lengths_P**2
            by_lines = 0.5 * lines * np.sum(pull_NN * lines_NN)
            by_rest = 0.5 * rest * np.sum(pull_NN * kernel_NN)
            by_noise = 0.5 * noise * np.trace(pull_NN)
            return float(value), np.array([*by_lengths_P, by_lines, by_rest, by_noise]) + off / deviations

        bounds, options = [LENGTH_BOUNDS] * places + BOUNDS, {"maxiter": ITERATIONS}
        found = minimize(loss, means, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
        self._lengths_P = np.exp(found[:-3])
        self._lines, self._rest, self._noise = np.exp(found[-3:]).tolist()


def _scaled(values_N: Array) -> Array:
    """Values told in distances from their median to their best tenth. What lies far below is drawn closer,
    since how bad the bad ones are says little of the good ones; so is what lies beyond all measure above."""
    if not len(values_N):
        return values_N
    middle = float(np.median(values_N))
    unit = float(np.quantile(values_N, 0.9)) - middle or float(values_N.std()) or 1.0
    told_N = (values_N - middle) / unit
    within_N = np.clip(told_N, -1, FAR_ABOVE)
    beyond_N = told_N - within_N
    return within_N + np.sign(beyond_N) * np.log1p(np.abs(beyond_N))


def _features(points_NP: Array) -> Array:
    """What lines are drawn in: coordinates from their middle, such that all together count as one."""
    return (2 * points_NP - 1) / math.sqrt(points_NP.shape[1])


def _matern(squares_NM: Array) -> tuple[Array, Array]:
    """The kernel of squared scaled distances, and its derivative by them times -2."""
    r_NM = np.sqrt(5 * squares_NM)
    fall_NM = np.exp(-r_NM)
    return (1 + r_NM + 5 / 3 * squares_NM) * fall_NM, 5 / 3 * (1 + r_NM) * fall_NM
