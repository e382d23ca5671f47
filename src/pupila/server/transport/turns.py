"""Turns: each client has a line, and the lines take turns, so that none starves the others however much it asks."""

from collections import OrderedDict
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """What is next: the first of the line whose turn it is. A line has each item once; used by one thread at a time."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, OrderedDict[Item, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, line: str, item: Item) -> None:
        """Put an item at the end of its line."""
        items = self._lines.setdefault(line, OrderedDict())
        self._count += item not in items
        items.setdefault(item)

    def next(self) -> Item:
        """Take what is next; then it is the next line's turn."""
        name, line = self._lines.popitem(last=False)
        item, _ = line.popitem(last=False)
        self._count -= 1
        if line:
            self._lines[name] = line
        return item

    def ahead(self, line: str) -> int:
        """Return how many are taken before one that would be added to this line now."""
        own = len(self._lines.get(line, ()))
        return sum(min(len(each), own + 1) for each in self._lines.values())

    def longest(self) -> int:
        """Return how many are in the longest line."""
        return max(map(len, self._lines.values()), default=0)

    def can_give_way(self, line: str) -> bool:
        """Return whether another line would still be the longest if one were added to this."""
        return self.longest() > len(self._lines.get(line, ())) + 1

    def give_way(self) -> Item:
        """Take out the last of the longest line."""
        name = max(self._lines, key=lambda name: len(self._lines[name]))
        item, _ = self._lines[name].popitem()
        self._count -= 1
        if not self._lines[name]:
            del self._lines[name]
        return item
