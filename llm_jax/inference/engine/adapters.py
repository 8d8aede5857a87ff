"""Which adapters an engine serves, and who uses them."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_jax.errors import ConfigError, RequestError
from llm_jax.model import Adapter, AdapterCapacity, AdapterStack


@dataclass(eq=False)
class AdapterSlot:
    """An adapter from when it is added until the last request with it has ended, later than it is removed.

    Attributes:
        index: its columns in the stack.
        salt: its own among all adapters that this engine ever has: cached prompt beginnings are not shared with others.
        users: requests that have not ended.
    """

    name: str
    index: int
    salt: str
    users: int = 0
    is_removed: bool = False


class AdapterTable:
    """The adapters of one engine, by name. Thread-safe.

    Args:
        stack: their factors.
    """

    def __init__(self, capacity: AdapterCapacity, stack: AdapterStack) -> None:
        self._capacity, self._stack = capacity, stack
        self._lock = threading.Lock()
        self._slots: list[AdapterSlot | None] = [None] * capacity.slots
        self._added = 0

    @property
    def slots(self) -> int:
        return self._capacity.slots

    @property
    def names(self) -> list[str]:
        with self._lock:
            return [slot.name for slot in self._slots if slot is not None and not slot.is_removed]

    def add(self, name: str, adapter: Adapter, params: Mapping[str, Any]) -> None:
        """Serves an adapter under a name, in place of the one that has it; requests that run stay with theirs.

        Raises:
            ConfigError: it does not fit the capacity, or all slots are in use.
        """
        self._capacity.check(name, adapter)
        with self._lock:
            older = self._find(name)
            free = next((i for i, slot in enumerate(self._slots) if slot is None), None)
            if free is None and (older is None or older.users):
                in_use = ", ".join(sorted(slot.name for slot in self._slots if slot is not None))
                raise ConfigError(
                    f"There is no slot for adapter {name}: all {len(self._slots)} are in use, by {in_use}. Remove one "
                    "whose requests have ended, or set max_adapters."
                )
            index = older.index if free is None and older is not None else free
            assert index is not None
            self._stack.write(index, adapter, params)  # the older one serves until the new one can
            if older is not None:
                self._remove(older)
            self._added += 1
            self._slots[index] = AdapterSlot(name, index, f"{self._added}")

    def remove(self, name: str) -> None:
        """Takes an adapter from later requests; its slot is free when the last one with it has ended.

        Raises:
            ConfigError: there is none of this name.
        """
        with self._lock:
            slot = self._find(name)
            if slot is None:
                raise ConfigError(f"There is no adapter {name}.")
            self._remove(slot)

    def hold(self, name: str) -> AdapterSlot:
        """The adapter, for a request, which releases it when it ends.

        Raises:
            RequestError: there is none of this name.
        """
        with self._lock:
            slot = self._find(name)
            if slot is None:
                raise RequestError(f"There is no adapter {name}.", "adapter")
            slot.users += 1
            return slot

    def release(self, slot: AdapterSlot) -> None:
        with self._lock:
            slot.users -= 1
            if slot.is_removed and not slot.users:
                self._slots[slot.index] = None

    def _find(self, name: str) -> AdapterSlot | None:
        return next((s for s in self._slots if s is not None and s.name == name and not s.is_removed), None)

    def _remove(self, slot: AdapterSlot) -> None:
        slot.is_removed = True
        if not slot.users:
            self._slots[slot.index] = None
