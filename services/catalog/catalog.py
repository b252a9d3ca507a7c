"""The catalog: the models in their order, found by name or alias."""

import difflib
from collections.abc import Sequence

from pictor.catalog.v1.model_pb2 import Model
from pictor.errors.v1 import error_reason_pb2
from services.catalog.rules import PREFIX
from services.rpc.errors import NotFound

# Comparing costs time with the length; no id is nearly as long.
LONGEST_COMPARED = 200
CLOSE_IDS = 3


class Catalog:
    """
    The models that the suite knows.

    Args:
        models: In the order in which they are listed; no two share an id or alias.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        self._by_name = {
            name: model
            for model in models
            for name in (model.name, *(PREFIX + alias for alias in model.aliases))
        }

    def find(self, name: str) -> Model | None:
        """Return the model with exactly this name or alias, ``models/...``, if there is one."""
        return self._by_name.get(name)

    def get(self, name: str) -> Model:
        """
        Return the model with exactly this name or alias, ``models/...``.

        Raises:
            NotFound: With MODEL_NOT_FOUND, and up to three close ids in the message.
        """
        model = self.find(name)
        if model is None:
            raise self._not_found(name)
        return model

    def _not_found(self, name: str) -> NotFound:
        shown = name[:LONGEST_COMPARED].removeprefix(PREFIX)
        close = self._close_to(shown)
        advice = (
            f"did you mean {', '.join(close)}?" if close else "the list of models has all of them"
        )
        return NotFound(
            f"there is no model {shown!r}; {advice}",
            reason=error_reason_pb2.ERROR_REASON_MODEL_NOT_FOUND,
            metadata={"model": name[:LONGEST_COMPARED]},
        )

    def _close_to(self, text: str) -> list[str]:
        names = {name.removeprefix(PREFIX).casefold(): name for name in self._by_name}
        close = difflib.get_close_matches(text.casefold(), names, n=CLOSE_IDS)
        # Two aliases of one model are one suggestion.
        found = dict.fromkeys(self._by_name[names[key]].name for key in close)
        return [name.removeprefix(PREFIX) for name in found]
