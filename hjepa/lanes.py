"""Lanes: threads of the CPU that each take some of a batch's images all the way through the model.

By themselves torch's threads share every operation, some thousand in a step, and wait for each other at the
end of each. Lanes meet before the loss, which may need all images at once, and once each has its gradients:
it is data parallel training within one process.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from hjepa.block import drops_at_random
from hjepa.data import LocalCrops
from hjepa.masking import Masks
from hjepa.model import HJEPA, Prediction, join
from hjepa.threads import use_threads

T = TypeVar("T")
R = TypeVar("R")

MOST_LANES = 4
"""Each lane has gradients of its own, and Python calls the operations of one at a time."""
LEAST_VALUES = 2**16
"""Values (images x patches x width) that a lane has at the least; with fewer its time goes into calling
operations (docs/performance-log.md)."""


@dataclass(frozen=True)
class Part:
    """Some of the images of a step with all that the model takes of them."""

    images_BCHW: Tensor
    masks: Masks
    second_BCHW: Tensor | None = None
    """Another view of the same images."""
    local: LocalCrops | None = None
    """Local crops of the images of which `images_BCHW` holds all global ones, one image after another."""

    @property
    def images(self) -> int:
        """How many may go apart: where there are local crops, all crops of an image stay together."""
        return len(self.images_BCHW if self.local is None else self.local.images_BVCHW)

    def cut(self, parts: int) -> list["Part"]:
        """The same in so many parts of as many images, or one more."""
        crops = len(self.images_BCHW) // self.images
        ends = [(n + 1) * self.images // parts for n in range(parts)]
        return self.split([(end - start) * crops for start, end in pairwise([0, *ends])])

    def split(self, rows: list[int]) -> list["Part"]:
        """The same in parts of so many of `images_BCHW`, all crops of an image in one."""
        nothing, crops = [None] * len(rows), len(self.images_BCHW) // self.images
        cut = (
            self.images_BCHW.split(rows),
            self.masks.chunks(rows),
            nothing if self.second_BCHW is None else self.second_BCHW.split(rows),
            nothing if self.local is None else self.local.split([count // crops for count in rows]),
        )
        return [Part(*part) for part in zip(*cut, strict=True)]


class Lanes:
    """What cuts images among threads, where that pays."""

    def __init__(self, model: HJEPA, width: int, device: torch.device):
        self._model = model
        self._values = model.grid[0] * model.grid[1] * width  # of an image
        self._on_cpu = device.type == "cpu"
        self._draws = drops_at_random(model)
        self._others: ThreadPoolExecutor | None = None

    def count(self, images: int) -> int:
        """Lanes for so many images, each of which has its share of torch's threads.

        One where the model drops at random: whichever thread came first would draw first.
        """
        threads = torch.get_num_threads()
        if not self._on_cpu or self._draws:
            return 1
        most = min(MOST_LANES, threads, images, images * self._values // LEAST_VALUES)
        return max(range(2, most + 1), key=lambda lanes: (threads // lanes * lanes, lanes), default=1)

    def forward(self, look: Callable[[Part], Prediction], part: Part) -> "Pass":
        """`look`, a forward pass of the model with gradient, at all images of a part."""
        lanes = self.count(part.images)
        return Pass(self, self._model, self.map(look, part.cut(lanes)))

    def map(self, work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """What `work` makes of each part, side by side, the first in the calling thread.

        What torch keeps for each thread (autocast, grad mode) `work` sets for itself. Where it raises, the
        first part's error is raised, once all have ended.
        """
        if len(parts) == 1:
            return [work(parts[0])]
        threads = torch.get_num_threads()
        each = threads // len(parts)

        def of_other(part: T) -> R:
            use_threads(each)
            return work(part)

        if self._others is None:
            self._others = ThreadPoolExecutor(MOST_LANES - 1, "lane")
        others = [self._others.submit(of_other, part) for part in parts[1:]]
        use_threads(each)
        try:
            first = work(parts[0])
        finally:
            wait(others)
            torch.set_num_threads(threads)
        return [first, *(other.result() for other in others)]


class Pass:
    """A forward pass in lanes: what they predict as one, and the way back to the parameters."""

    def __init__(self, lanes: Lanes, model: HJEPA, predictions: list[Prediction]):
        self._lanes, self._model = lanes, model
        self._tensors = [_tensors(prediction) for prediction in predictions]
        self.prediction = predictions[0]
        """Of several lanes its tensors begin a graph of their own."""
        if len(predictions) > 1:
            with torch.no_grad():
                self.prediction = join(predictions)
            for whole, of_first in zip(_tensors(self.prediction), self._tensors[0], strict=True):
                whole.requires_grad_(of_first.requires_grad)

    def backward(self) -> None:
        """After a loss's `backward()`: add to the parameters' gradients what it means for them.

        Lanes are added up in order, so that every run adds alike. One alone has been added already.
        """
        if len(self._tensors) == 1:
            return
        gradients = [whole.grad for whole in _tensors(self.prediction)]
        ways: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self._tensors]
        for gradient, *tensors in zip(gradients, *self._tensors, strict=True):
            if gradient is not None:
                cut = gradient.split([len(tensor) for tensor in tensors])
                for way, pair in zip(ways, zip(tensors, cut, strict=True), strict=True):
                    way.append(pair)
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]

        def back(way: list[tuple[Tensor, Tensor]]) -> tuple[Tensor | None, ...]:
            """A lane's gradient of each parameter, from those of what it has predicted."""
            tensors, gradients = zip(*way, strict=True)
            return torch.autograd.grad(tensors, trained, gradients, allow_unused=True)

        self._add(trained, self._lanes.map(back, ways))

    @torch.no_grad()
    def _add(self, trained: list[nn.Parameter], of_lanes: list[tuple[Tensor | None, ...]]) -> None:
        for parameter, *gradients in zip(trained, *of_lanes, strict=True):
            there = [g for g in (parameter.grad, *gradients) if g is not None]
            if there:
                total = reduce(torch.add, there)
                # Laid out as autograd does, for the fused optimizer goes through both value by value.
                same = total.stride() == parameter.stride()
                parameter.grad = total if same else torch.empty_like(parameter).copy_(total)


def _tensors(prediction: Prediction) -> list[Tensor]:
    """All that a prediction holds, in the same order each time."""
    found: list[Tensor] = []
    for value in vars(prediction).values():
        if isinstance(value, list):
            found += value
        elif value is not None:
            found.append(value)
    return found
