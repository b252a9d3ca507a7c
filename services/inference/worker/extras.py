"""What a request adds to a model: adapters that act on it, and words that stand for vectors."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pictor.errors.v1 import error_reason_pb2
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.job_pb2 import ParameterNote
from services.inference.worker.adapters import Adapter, Adapters
from services.inference.worker.embeddings import Embeddings, Word
from services.inference.worker.weights import LoadedModel
from services.rpc.errors import invalid


@dataclass(frozen=True)
class Extras:
    """
    What one generation adds to a model.

    Attributes:
        adapters: Those that act while it is drawn.
        notes: On words that stay words, and adapters that are not here.
    """

    adapters: tuple[Adapter, ...]
    notes: Sequence[ParameterNote]
    _words: Sequence[Word]
    _shelf: "Shelf"

    def activate(self, loaded: LoadedModel) -> None:
        """Make the adapters act on a model, and no others."""
        self._shelf.adapters.activate(loaded, self.adapters)

    def inscribe(
        self, pipeline: Any, generation: generation_pb2.Generation
    ) -> generation_pb2.Generation:
        """Give a drawing's own pipeline the words; return the generation that uses them."""
        return self._shelf.embeddings.inscribe(pipeline, generation, self._words)


class Shelf:
    """
    The adapters and embeddings of one device.

    Args:
        folders: The model folders.
    """

    def __init__(self, folders: Sequence[pathlib.Path]) -> None:
        self.adapters = Adapters(folders)
        self.embeddings = Embeddings(folders)

    def find(self, generation: generation_pb2.Generation, loaded: LoadedModel) -> Extras:
        """
        Find what a generation names.

        Raises:
            InvalidRequest: If an adapter is not here, the model takes none, or the words have too
                many vectors.
            Internal: With WEIGHTS_UNREADABLE, if a file is not what its name says.
        """
        adapters = self.adapters.find(generation, loaded)
        if adapters and not loaded.acceleration.takes_adapters:
            raise invalid(
                "generation.loras",
                f"adapter {adapters[0].name!r}: {loaded.name} is served with an acceleration that"
                " takes no adapters; leave loras empty",
                error_reason_pb2.ERROR_REASON_FIELD_UNSUPPORTED,
            )
        words, notes = self.embeddings.find(generation, loaded)
        passed_over = self.adapters.passed_over(generation, loaded)
        return Extras(adapters, [*passed_over, *notes], words, self)
