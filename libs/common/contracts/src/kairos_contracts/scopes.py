"""How budgets name what they limit, where that is no row with an id of its own."""

from functools import lru_cache
from typing import Final
from uuid import UUID, uuid5

_MODELS: Final = UUID("0e6a3d5c-63b1-5d0e-9c1b-7a2f4a1f6f52")


@lru_cache(maxsize=4_096)
def model_scope_id(model: str) -> UUID:
    """The `scope_id` of a budget of scope `model`: the same on every side for the same model name."""
    return uuid5(_MODELS, model)
