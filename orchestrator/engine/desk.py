"""Where the workers of a trial get their orders; imports no torch, for its process does nothing else."""

import asyncio
from typing import Any, Literal

Order = dict[str, Any] | Literal["epoch", "end"]
"""A trial to take on, as a Tune config; one more epoch of it; or to go home."""


class Desk:
    """Where orders wait for each worker, and the first one's reports for Tune."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.reports: list[dict[str, Any]] = []
        self.entered: set[int] = set()
        self.news = asyncio.Condition()

    async def enter(self, rank: int) -> bool:
        """Whether a worker of this rank comes for the first time: orders are given once."""
        new = rank not in self.entered
        self.entered.add(rank)
        return new

    async def give(self, *orders: Order) -> None:
        """Leave orders for all workers."""
        async with self.news:
            self.orders.extend(orders)
            self.news.notify_all()

    async def order(self, number: int) -> Order:
        """The order of this number, from 0, once it is there."""
        async with self.news:
            await self.news.wait_for(lambda: len(self.orders) > number)
            return self.orders[number]

    async def report(self, result: dict[str, Any]) -> None:
        """Leave a report."""
        async with self.news:
            self.reports.append(result)
            self.news.notify_all()

    async def heard(self, timeout_s: float) -> dict[str, Any] | None:
        """The oldest report, once there is one; None where none comes in time."""
        async with self.news:
            try:
                await asyncio.wait_for(self.news.wait_for(lambda: bool(self.reports)), timeout_s)
            except TimeoutError:
                return None
            return self.reports.pop(0)
