"""What a batch of n items takes: from the measured profile at first, then from what the workers report."""

from bisect import bisect_left, insort
from collections.abc import Mapping

from raceline.core.errors import ConfigError

_LEARNING = 0.1  # weight of one new observation


class MeasuredCosts:
    """Seconds of one engine call by batch size, linear between the sizes that were seen.

    Args:
        seed_s: items in a call -> its seconds, as a Profile measured them; may be empty.

    Raises:
        ConfigError: a size below 1 or a time that is not positive.
    """

    def __init__(self, seed_s: Mapping[int, float]) -> None:
        for items, ran_s in seed_s.items():
            if items < 1 or not ran_s > 0:
                raise ConfigError(f"a batch of {items} items cannot take {ran_s} s")
        self._seconds = dict(seed_s)
        self._sizes = sorted(seed_s)
        self._ran: set[int] = set()  # the first run of a size replaces its seed outright

    def seconds(self, items: int) -> float:
        """Expected seconds of a call of `items` items; 0.0 where nothing is known yet."""
        sizes = self._sizes
        if not sizes:
            return 0.0
        at = bisect_left(sizes, items)
        if at < len(sizes) and sizes[at] == items:
            return self._seconds[items]
        if at == 0:
            return self._seconds[sizes[0]]  # a call has a fixed part: fewer items may save nothing
        if at == len(sizes):
            return self._beyond(items)
        low, high = sizes[at - 1], sizes[at]
        share = (items - low) / (high - low)
        return (1 - share) * self._seconds[low] + share * self._seconds[high]

    def observe(self, items: int, ran_s: float) -> None:
        """Move the figure of this size towards what a call just took."""
        if items not in self._seconds:
            insort(self._sizes, items)
        before = ran_s if items not in self._ran else self._seconds[items]
        self._seconds[items] = before + _LEARNING * (ran_s - before)
        self._ran.add(items)

    def _beyond(self, items: int) -> float:
        """In proportion to the largest known size: rather too long than too short."""
        largest = self._sizes[-1]
        return self._seconds[largest] * items / largest
