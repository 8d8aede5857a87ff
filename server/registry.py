"""The models that a server has, by name."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from server.http.errors import NotFound

if TYPE_CHECKING:
    from server.served_model import ServedModel


class Registry:
    """The served models and adapters by name; the first one added is the default. Used on the event loop alone."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}
        self._is_part = False

    def only(self, is_allowed: Callable[[str], bool]) -> "Registry":
        """Those of the models whose names are allowed."""
        part = Registry()
        part._models = {name: model for name, model in self._models.items() if is_allowed(name)}
        part._is_part = len(part._models) < len(self._models)
        return part

    def add(self, model: "ServedModel") -> None:
        self._models[model.name] = model

    def remove(self, name: str) -> None:
        del self._models[name]

    @property
    def bases(self) -> "list[ServedModel]":
        """Those that have an engine of their own: all but adapters."""
        return [model for model in self if model.parent is None]

    def __iter__(self) -> "Iterator[ServedModel]":
        return iter(self._models.values())

    @property
    def limits(self) -> dict[str, int]:
        """Of each kind (`ServedModel.limits`) the widest: what none of the models takes is above it."""
        each = [model.limits for model in self.bases]
        return {kind: max(limits[kind] for limits in each) for kind in each[0]} if each else {}

    @property
    def names(self) -> list[str]:
        return list(self._models)

    @property
    def default(self) -> "ServedModel":
        """
        Raises:
            NotFound: there is none.
        """
        if not self._models:
            raise NotFound("There is no model here that this API key may use.", code="model_not_found")
        return next(iter(self))

    def get(self, name: str) -> "ServedModel":
        """The model of exactly this name.

        Raises:
            NotFound: there is none.
        """
        if name not in self._models:
            known = ", ".join(map(repr, self.names)) or "none for this API key"
            raise NotFound(f"There is no model {name!r}; this server has {known}.", code="model_not_found")
        return self._models[name]

    def resolve(self, name: str | None) -> "ServedModel":
        """The model that answers a request for `name`: the default where none is named, and a lone model always.

        Raises:
            NotFound: there are several models, and none of this name.
        """
        is_lone = len(self._models) == 1 and not self._is_part
        return self.default if name is None or is_lone else self.get(name)
