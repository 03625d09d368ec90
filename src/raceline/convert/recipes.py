"""How graphs of fewer bits were made, to make the same ones again without a search.

Which scheme is fastest and which layers stay in floating point is measured, so it may come out otherwise the next
time. A run that goes on after a kill, a replay of a log and a profile in the cache need the same graphs, though.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from raceline.convert.quantise import Scheme, Stored
from raceline.core.errors import ConfigError
from raceline.core.paths import recall, store
from raceline.core.records import from_json
from raceline.ir import Accuracy

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """One graph, or one way of running the graph as it is.

    Attributes:
        engine, precision, variant, most_batch: of the `Way`.
        scheme: of 8-bit arithmetic; stored: of weights alone. Neither where the engine rounds by itself.
        kept: layers that keep what the scheme keeps.
        score: what the graph reached when it was chosen.
    """

    engine: str
    precision: str
    variant: str
    most_batch: int = 0
    scheme: Scheme | None = None
    stored: Stored | None = None
    kept: tuple[str, ...] = ()
    score: Accuracy | None = None


@dataclass(frozen=True)
class Recipes:
    """All graphs of a model that compete with full precision.

    Attributes:
        key: of all that was asked but the time: model, data, budget, machine, engines.
        items: that judged.
        ways: what was made.
        notes: what was not, and why.
    """

    key: str
    items: int
    ways: tuple[Recipe, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecipeBook:
    """Where recipes are looked for: among those given, of logs, and then in the cache, which keeps new ones.

    A log tells what was made, however long that search might take; the cache keeps one for each time, as a longer
    search may find better graphs.
    """

    given: Sequence[Recipes] = ()

    def find(self, key: str, deadline_s: float) -> Recipes | None:
        """The recipes of what is asked; None where there are none, or they are damaged, which is told."""
        for recipes in self.given:
            if recipes.key == key:
                return recipes
        name = _name(key, deadline_s)
        text = recall(name)
        if text is None:
            return None
        try:
            found = from_json(Recipes, json.loads(text))
        except (ValueError, RecursionError, ConfigError) as error:
            _logger.warning("%s in the cache is damaged (%s); searching again", name, error)
            return None
        return found if found.key == key else None

    def keep(self, recipes: Recipes, deadline_s: float) -> None:
        """For the next time."""
        store(_name(recipes.key, deadline_s), json.dumps(asdict(recipes)))


def _name(key: str, deadline_s: float) -> str:
    return f"fewer-bits/{key}-{deadline_s:g}s.json"
