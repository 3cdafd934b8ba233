"""What a sweep says, as plain data: `dataclasses.asdict` of a `Findings` is JSON-serialisable.

All values are in the objective's own unit and direction: of a metric that is minimised, less is better.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "no difference shown", "survivors only", "no spread", "too few runs"]
"""`survivors only`: a difference is seen, in favour of a side whose lost runs might have undone it.
`no spread`: the differences of all seeds are the same, which tells nothing of how sure they are."""


STRAIGHT = "a straight line, of too few trials for a bend: a best value in the middle does not show"
"""What the effect of a range is where it is `straight`."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, and how many trials or runs are behind it."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Confirmed:
    """A config that was run again with fresh seeds."""

    trial: int
    """Number of the trial that was run again."""
    labels: dict[str, str]
    """Its swept values, as short texts."""
    search_value: float | None
    """The figure that it had in the search. It was chosen for being the best: never an estimate."""
    asked: int
    """Fresh seeds that it was to be run with."""
    values: dict[int, float]
    """Last value of each run that came to its end, by seed."""
    failed: int
    collapsed: int
    """Runs whose features collapsed: without a value, and no less telling for it."""
    mean: float | None
    """Mean of the values; None without any. Where runs were lost, that of the survivors."""
    interval: Estimate | None
    """The mean with its 95% interval by Student's t; None under two values and without spread."""
    shrinkage: float | None
    """How much worse the mean is than the search's figure: the selection bias that was seen."""
    gain: float | None
    """Mean of own value less the base's, paired by seed; None of the base itself and under two pairs."""
    difference: Estimate | None
    """The same with its interval, for whoever asked of this one config; None without spread too."""
    together: Estimate | None
    """The same with an interval that holds at once with those of all configs compared (Bonferroni)."""
    p: float | None
    """Of the paired t test against the base."""
    p_together: float | None
    """The same, corrected likewise: at most 0.05 exactly where `together` leaves 0 out."""
    detectable: float | None
    """Least difference that so many runs show with 80% power, at a deviation that the true one lies below in
    80% of sweeps: that which was seen may be small by chance."""
    verdict: Verdict | None
    """By whether `together` leaves 0 out; None of the base itself."""

    @property
    def shown(self) -> bool:
        """Whether it differs from the base, all that were compared reckoned with."""
        return self.together is not None and not self.together.low <= 0 <= self.together.high

    @property
    def lost(self) -> int:
        """Runs that failed or collapsed."""
        return self.failed + self.collapsed


@dataclass(frozen=True)
class Confirmation:
    """The base and the search's best, with fresh seeds that the search has not seen."""

    base: Confirmed
    configs: tuple[Confirmed, ...]


@dataclass(frozen=True)
class Level:
    """One value of a swept key, or one point of a range."""

    label: str
    is_reference: bool
    trials: int
    """Trials that had it; of a range: nearer to it than to its other points."""
    finished: int
    """Those of them with a value at the effects' epoch."""
    collapsed: int
    effect: Estimate | None
    """Difference from the reference with all else equal, for whoever asked of this one value before the
    sweep; None of the reference and of what nobody tried."""
    together: Estimate | None
    """The same with an interval that holds at once with those of all values of all keys, and so holds for
    the largest of them too."""
    plain: Estimate | None
    """Plain mean of its trials at the common epoch, with its interval; None under two trials."""

    @property
    def shown(self) -> bool:
        """Whether it differs from the reference, all that were looked at reckoned with."""
        return self.together is not None and not self.together.low <= 0 <= self.together.high


@dataclass(frozen=True)
class Effect:
    """What one swept key does to the objective."""

    key: str
    reference: str
    """Label of the value that the others are compared with: the base's where it was tried."""
    levels: tuple[Level, ...]
    trend: Estimate | None
    """Of a range: mean slope per `trend_unit`."""
    trend_unit: str | None
    """decade or unit."""
    straight: bool
    """Of a range: whether the trials were too few for more than a straight line."""
    trials: int
    """Trials in which the key was active."""
    p: float | None
    """Of the hypothesis that the key does nothing, by itself."""
    p_together: float | None
    """The least p of its values, corrected for all values of all keys: at most 0.05 exactly where one of
    them is `shown`."""
    plain_difference: dict[str, Estimate]
    """By level: mean difference from the reference within strata of trials that share the other
    choices, at the common epoch; `count` is the trials in strata that hold both."""
    within: tuple[str, ...]
    """Keys that this one determines: its values are compared with the mean of those that share theirs, and
    the values of those keys by these means."""
    note: str
    """What a reader has to know, in words; often empty."""

    @property
    def shown(self) -> bool:
        """Whether the key matters: one of its values differs from the reference."""
        return self.p_together is not None and self.p_together <= 0.05


@dataclass(frozen=True)
class Group:
    """Values of a key that determine the same values of others, and what they came to."""

    labels: tuple[str, ...]
    """Of the others."""
    cells: tuple[tuple[str, float, int], ...]
    """Each label of the key, mean at the common epoch, trials; one or more."""

    @property
    def mean(self) -> float:
        """Of the cells' means: each value of the key counts once, however many trials it had."""
        return sum(mean for _, mean, _ in self.cells) / len(self.cells)

    @property
    def trials(self) -> int:
        return sum(trials for _, _, trials in self.cells)


@dataclass(frozen=True)
class Nested:
    """A key whose value determines that of others, and what its values came to, grouped by theirs."""

    key: str
    within: tuple[str, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Effects:
    """The effects of all keys from one model."""

    epoch: int
    """Epoch at which they are measured: the last one that enough trials reached."""
    seed: int | None
    """The training seed that all trials share, so that the effects are those at this seed; None where seeds
    are swept."""
    common_epoch: int
    """Epoch that every trial reached that was not lost."""
    trials: int
    reached: dict[int, int]
    """Trials with a value at each epoch that the model looks at."""
    keys: tuple[Effect, ...]
    freedom: int | None
    """Degrees of freedom that the intervals have at least; None without any."""
    nested: tuple[Nested, ...]
    """Keys that cannot be told apart from others, for each of their values has one of these."""
    note: str
    """Why there are none, or why they are not at the last epoch; often empty."""


@dataclass(frozen=True)
class Interaction:
    """Two keys whose effects depend on each other, or do not."""

    keys: tuple[str, str]
    trials: int
    p: float
    p_holm: float
    cells: tuple[tuple[str, str, float, int], ...]
    """Label of the first key, of the second, mean at the common epoch, trials."""


@dataclass(frozen=True)
class Importance:
    """Share of the objective's variance that a key accounts for, by each of Optuna's evaluators; of a key
    under a `when:` what it accounts for where it is active, and nothing of what the key above it does."""

    key: str
    fanova: float
    """Random-forest fANOVA."""
    impurity: float
    """Mean decrease of impurity in a random forest."""


@dataclass(frozen=True)
class Importances:
    """Importances, at an epoch that all trials reached."""

    epoch: int
    trials: int
    keys: tuple[Importance, ...]
    fanova_floor: float
    """Share that some key gets by chance in one sweep of 20 in which no key does anything: below it a share
    is not told from noise."""
    impurity_floor: float


@dataclass(frozen=True)
class RungAgreement:
    """How well a rung told the end."""

    epoch: int
    spearman: Estimate | None
    """Rank correlation with the end on the trials that went on, audited ones among them. Those were
    selected, which makes it lower than it is among all."""
    audited: Estimate | None
    """The same on audited trials alone, which nothing selected; None under four."""


@dataclass(frozen=True)
class Stopping:
    """Whether early stopping misled."""

    rungs: tuple[RungAgreement, ...]
    stopped: int
    completed: int
    audited: int
    """Trials that were let live whatever their rank, and came to their end."""
    audited_would_stop: int
    """Those of them that ASHA would have stopped."""
    regret: Estimate | None
    """How much better than the best trial the best of the stopped ones would have been: expected, with a
    95% interval; `count` is the trials that it is learnt from. None under eight."""


@dataclass(frozen=True)
class Findings:
    """All that a sweep says."""

    metric: str
    mode: Literal["max", "min"]
    max_epochs: int
    outcomes: dict[str, int]
    """Trials by how they ended, without failed ones that were taken up again; `running` of those that have
    not."""
    confirmation: Confirmation | None
    """None without a `confirm:` section, or before the base has run again."""
    effects: Effects
    interactions: tuple[Interaction, ...]
    """All pairs that could be tested, the surest first."""
    importances: Importances | None
    stopping: Stopping | None
    """None where nothing is stopped early."""
