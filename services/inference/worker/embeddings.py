"""
Textual inversion: words of a prompt that stand for learned vectors, from files named like the word.

Nothing that models share is changed. A drawing whose prompts have such a word gets a tokenizer with
a few tokens more, in which the word is rewritten, and text encoders that put the vectors in their
places; all others keep theirs, and with them every bit of their pixels.
"""

import copy
import itertools
import pathlib
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import safetensors
import safetensors.torch
import torch
from tokenizers import AddedToken

from pictor.errors.v1 import error_reason_pb2
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.job_pb2 import ParameterNote
from services.inference.worker.adapter_checks import unreadable
from services.inference.worker.adapter_files import EMBEDDINGS, AdapterFile, AdapterFiles
from services.inference.worker.weights import LoadedModel
from services.rpc.errors import invalid

# As many as two prompts of 75 tokens can hold.
MAX_VECTORS = 150
KEPT = 64
FIELDS = ("prompt", "negative_prompt")
# Nobody can write what is not told.
_SECRET = uuid.uuid4().hex
TOKENS = tuple(f"<{_SECRET}-{number}>" for number in range(MAX_VECTORS))

Vectors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Word:
    """
    A word of a prompt, and what stands for it.

    Attributes:
        name: The file's stem; the prompt may write it in other cases.
        vectors: By text encoder, each of shape (count, width), on the CPU.
    """

    name: str
    vectors: Vectors

    @property
    def count(self) -> int:
        """How many tokens the word becomes."""
        return len(next(iter(self.vectors.values())))


class Embeddings:
    """
    The embeddings on this machine.

    Args:
        folders: The model folders.
    """

    def __init__(self, folders: Sequence[pathlib.Path]) -> None:
        self._files = AdapterFiles(folders, EMBEDDINGS)
        self._read: dict[AdapterFile, dict[str, torch.Tensor]] = {}
        self._tokenizers: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def find(
        self, generation: generation_pb2.Generation, loaded: LoadedModel
    ) -> tuple[tuple[Word, ...], list[ParameterNote]]:
        """
        Find the words of a generation's prompts that are an embedding's name, and fit the model.

        Returns:
            The words, and notes on those that stay words, because their vectors do not fit.

        Raises:
            InvalidRequest: If all of them have over MAX_VECTORS vectors.
            Internal: With WEIGHTS_UNREADABLE, if a file is not what its name says.
        """
        if not loaded.family.embeddings:
            return (), []
        # The second pass may have prompts of its own, which are its generation's then.
        told = (generation, generation.hires)
        prompts = "\n".join(getattr(message, field) for message in told for field in FIELDS)
        words, notes = [], []
        files, refused = self._files.all(), self._files.refused()
        for name in sorted({*files, *refused}):
            if not _pattern([name]).search(prompts):
                continue
            file = files.get(name)
            if file is None:
                notes.append(
                    _note(name, f"{refused[name]} is not data; convert it to .safetensors")
                )
                continue
            vectors = self._vectors(name, file, loaded)
            if vectors:
                words.append(Word(name, vectors))
            else:
                notes.append(_note(name, f"its vectors do not fit {loaded.name}"))
        _require_few(words)
        return tuple(words), notes

    def inscribe(
        self, pipeline: Any, generation: generation_pb2.Generation, words: Sequence[Word]
    ) -> generation_pb2.Generation:
        """
        Give one drawing's pipeline the words' vectors.

        Args:
            pipeline: Of this drawing alone: its tokenizers and text encoders are replaced.
            generation: Is not changed.
            words: As ``find`` returns them.

        Returns:
            The generation with the words as the tokenizers now know them, for this call alone.
        """
        if not words:
            return generation
        tokens = iter(TOKENS)
        written = {word.name: list(itertools.islice(tokens, word.count)) for word in words}
        for name in words[0].vectors:
            rows = torch.cat([word.vectors[name] for word in words])
            tokenizer_name = name.replace("text_encoder", "tokenizer")
            tokenizer = self._with_tokens(getattr(pipeline, tokenizer_name))
            # Past the pipeline's own __setattr__, which would note the classes in its config.
            pipeline.__dict__[tokenizer_name] = tokenizer
            first = tokenizer.convert_tokens_to_ids(TOKENS[0])
            pipeline.__dict__[name] = Encoder(getattr(pipeline, name), rows, first)
        rewritten = generation_pb2.Generation()
        rewritten.CopyFrom(generation)
        for field in FIELDS:
            setattr(rewritten, field, _rewritten(getattr(generation, field), written))
        return rewritten

    def _with_tokens(self, tokenizer: Any) -> Any:
        if tokenizer not in self._tokenizers:
            extended = copy.deepcopy(tokenizer)
            added = [AddedToken(token, normalized=False, special=False) for token in TOKENS]
            extended.add_tokens(added)
            self._tokenizers[tokenizer] = extended
        return self._tokenizers[tokenizer]

    def _vectors(self, name: str, file: AdapterFile, loaded: LoadedModel) -> Vectors | None:
        """Return the vectors for each text encoder of a model, or None where they do not fit."""
        tensors = self._tensors(name, file, loaded)
        found = {}
        for part, key in loaded.family.embeddings.items():
            alone = next(iter(tensors.values())) if len(tensors) == 1 and not key else None
            tensor = tensors.get(key) if key else alone
            width = loaded.components[part].get_input_embeddings().embedding_dim
            if tensor is None or tensor.ndim > 2 or tensor.shape[-1] != width:
                return None
            found[part] = tensor.reshape(-1, width)
        return found if len({len(rows) for rows in found.values()}) == 1 else None

    def _tensors(
        self, name: str, file: AdapterFile, loaded: LoadedModel
    ) -> Mapping[str, torch.Tensor]:
        if file not in self._read:
            try:
                tensors = safetensors.torch.load_file(file.path)
            except (OSError, safetensors.SafetensorError) as error:
                why = "it is not a .safetensors file"
                raise unreadable(name, loaded.name, why) from error
            while len(self._read) >= KEPT:
                self._read.pop(next(iter(self._read)))
            self._read[file] = tensors
        return self._read[file]


class Encoder:
    """
    A text encoder that knows more tokens during its own calls, and in all else is the shared one.

    Args:
        module: The shared one.
        rows: Of shape (tokens, width): what the further tokens mean.
        first: The id of the first of them; the others follow.
    """

    def __init__(self, module: Any, rows: torch.Tensor, first: int) -> None:
        self._module = module
        self._rows = rows
        self._first = first
        self._ids = torch.empty(0, dtype=torch.long)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Encode; only now does the table of vectors have more rows."""
        table = self._module.get_input_embeddings()
        handles = [
            table.register_forward_pre_hook(self._hide),
            table.register_forward_hook(self._put),
        ]
        try:
            return self._module(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def _hide(self, _table: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (self._ids,) = args
        return (self._ids.where(self._ids < self._first, 0),)

    def _put(self, _table: Any, _args: Any, vectors: torch.Tensor) -> torch.Tensor:
        rows = self._rows.to(vectors)
        places = self._ids - self._first
        further = rows[places.clamp(0, len(rows) - 1)]
        return torch.where((places >= 0).unsqueeze(-1), further, vectors)


def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    # The longest first: one name may be the beginning of another.
    words = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)


def _rewritten(prompt: str, written: Mapping[str, Sequence[str]]) -> str:
    folded = {name.casefold(): tokens for name, tokens in written.items()}

    def tokens_of(match: re.Match[str]) -> str:
        return " ".join(written.get(match[0]) or folded[match[0].casefold()])

    return _pattern(written).sub(tokens_of, prompt)


def _note(name: str, why: str) -> ParameterNote:
    return ParameterNote(
        parameter="prompt",
        treatment=ParameterNote.TREATMENT_IGNORED,
        requested=f"embedding {name}"[:100],
        reason=f"{why}; the word is read as a word",
    )


def _require_few(words: Sequence[Word]) -> None:
    count = sum(word.count for word in words)
    if count > MAX_VECTORS:
        raise invalid(
            "generation.prompt",
            f"the embeddings {', '.join(word.name for word in words)} have {count} vectors; the"
            f" prompts of a request take at most {MAX_VECTORS}",
            error_reason_pb2.ERROR_REASON_PROMPT_TOO_LONG,
        )
