"""What the tests of the feedback store share: to find and to correct a picture by its request's id and place."""

from pupila.feedback import Kept, Store


def first(store: Store, request: str, picture: int) -> Kept | None:
    """Return the first answer of this request id and place."""
    return next(iter(store.of_request(request, picture)), None)


def correct(store: Store, request: str, picture: int, category: str | None, time: float) -> Kept | None:
    """Correct the first answer of this request id and place."""
    kept = first(store, request, picture)
    return None if kept is None else store.correct(kept.id, category, time)
