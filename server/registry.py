"""The models that a server has, by name."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from server.http.errors import NotFound

if TYPE_CHECKING:
    from server.served_model import ServedModel


class Registry:
    """The served models by name; the first one added is the default. Used on the event loop alone."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}

    def add(self, model: "ServedModel") -> None:
        self._models[model.name] = model

    def __iter__(self) -> "Iterator[ServedModel]":
        return iter(self._models.values())

    @property
    def names(self) -> list[str]:
        return list(self._models)

    @property
    def default(self) -> "ServedModel":
        return next(iter(self))

    def get(self, name: str) -> "ServedModel":
        """The model of exactly this name.

        Raises:
            NotFound: there is none.
        """
        if name not in self._models:
            known = ", ".join(map(repr, self.names))
            raise NotFound(f"There is no model {name!r}; this server has {known}.", code="model_not_found")
        return self._models[name]

    def resolve(self, name: str | None) -> "ServedModel":
        """The model that answers a request for `name`: the default where none is named, and a lone model always.

        Raises:
            NotFound: there are several models, and none of this name.
        """
        return self.default if name is None or len(self._models) == 1 else self.get(name)
