"""A bounded memory: the most recently used items, and what is older is let go."""

import collections
import threading
from typing import Any


class Recent:
    """The most recently used items, at most `size`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._items: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Any) -> Any:
        """The item under `key`, or `None`."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Any, item: Any) -> Any:
        """Keep `item`, unless another thread was faster; returns the one that is kept."""
        with self._lock:
            item = self._items.setdefault(key, item)
            self._items.move_to_end(key)
        self.shrink(self.size)
        return item

    def shrink(self, size: int) -> None:
        """Let the oldest go until `size` are left."""
        gone = []
        with self._lock:
            while len(self._items) > size:
                gone.append(self._items.popitem(last=False))
        # Freed here, out of the lock: what an item holds may run code of its own when it goes.
        gone.clear()
