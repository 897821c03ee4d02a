"""Hugging Face safetensors to and from the ranks' Megatron shards, tensor by tensor.

Loading reads from the files what this rank holds of each tensor, straight into its parameters. Saving gathers one
tensor at a time on the first tensor-parallel rank of each pipeline stage, which writes a file whenever enough of them
have come together. Beside its shard a rank that loads holds one slice of a tensor, and one that saves the tensors of
one file (or a single larger one) and another rank's part of one.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from safetensors import SafetensorError
from safetensors.torch import save_file

from stages.contracts.errors import StageError
from stages.contracts.files import atomic, load_json, writing
from stages.megatron.mapping import Piece, expected_names, pieces
from stages.megatron.parallel import Rank
from stages.model_files.families import Architecture
from stages.model_files.manifest import write_manifest
from stages.model_files.tensors import TensorFiles, publish
from stages.prompting.chat import ChatTokenizer, declared_ends

_CARRIED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.jinja",
    "chat_template.json",
)
_IGNORED = ("rotary_emb.inv_freq",)
"""Buffers that older checkpoints hold and that follow from the configuration."""

_Written = tuple[Path, list[str], int]
"""A partial file, its tensors, their bytes."""


def load(chunks: Sequence[GPTModel], directory: Path, facts: Architecture) -> None:
    """Fill this rank's model chunks from a directory of safetensors.

    Raises StageError naming file and tensor where one is missing, unexpected, misshapen, not finite or unreadable.
    """
    files = TensorFiles(directory)
    files.require(expected_names(facts), (*_IGNORED, "lm_head.weight") if facts.tied else _IGNORED)
    for piece in pieces(chunks, facts):
        start, stop = piece.stretch()
        view = piece.view
        if stop - start < piece.length:  # what pads the vocabulary
            view[stop - start :] = 0
            view = view[: stop - start]
        if stop > start:
            view.copy_(files.read(piece.name, piece.shape, piece.dimension, start, stop).view(view.shape))


def save(
    chunks: Sequence[GPTModel],
    directory: Path,
    facts: Architecture,
    source: Path,
    rank: Rank,
    shard_bytes: int = 4 << 30,
) -> None:
    """Write the model as a Hugging Face directory, with tokenizer, templates and configuration of `source`; its
    generation configuration names every token that ends a turn.

    Files hold up to `shard_bytes` bytes each, a larger tensor alone. All are complete before the first takes its name;
    `manifest.json` is removed before that and written last: where it is, the model is complete, and until then an
    older one stays as it was. Its digest names weights and tokenizer. Raises StageError if a file cannot be written.
    """
    if rank.is_main:
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob(".model-*.partial"):  # of a save that was killed
            old.unlink()
    torch.distributed.barrier()
    written: list[_Written] = []
    if parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0:
        written = _write(_saved_pieces(chunks, facts), directory, shard_bytes)
    files = sorted(file for part in rank.from_all(written) for file in part)
    if rank.is_main:
        with writing(directory / "manifest.json"):
            _complete(files, directory, source, next(chunks[0].parameters()).dtype)
    torch.distributed.barrier()


def _complete(files: Sequence[_Written], directory: Path, source: Path, dtype: torch.dtype) -> None:
    """Put the written files in place, and beside them what makes a model of them; the manifest last."""
    publish([path for path, _, _ in files], [names for _, names, _ in files], sum(n for *_, n in files), directory)
    carry(source, directory)
    if (directory / "tokenizer.json").is_file():  # without one (as where layouts are compared) no turn ends
        name_end_ids(directory)
    _set_dtype(directory, dtype)
    write_manifest(directory)


def carry(source: Path, directory: Path) -> None:
    """Copy tokenizer, chat template and configuration files unchanged."""
    for pattern in _CARRIED:
        for path in source.glob(pattern):
            shutil.copyfile(path, directory / path.name)


def name_end_ids(directory: Path) -> None:
    """Name each token at which this pipeline stops among the `eos_token_id` of `generation_config.json`, after those
    that are there; the rest of the file stays. Other programs stop at the named ones alone, and ran past a turn's end.

    Raises StageError if the directory's tokenizer or chat template cannot be read.
    """
    path, named = directory / "generation_config.json", declared_ends(directory)
    missing = sorted(ChatTokenizer(directory).stop_ids.difference(named))
    if not missing:
        return
    config = load_json(path, "") if path.is_file() else {}
    with atomic(path) as partial:
        partial.write_text(json.dumps(config | {"eos_token_id": [*named, *missing]}, indent=2) + "\n")


def _saved_pieces(chunks: Sequence[GPTModel], facts: Architecture) -> Iterator[Piece]:
    """The pieces without the last pipeline stage's copy of a tied embedding, which the first stage saves."""
    first = any(hasattr(chunk, "embedding") for chunk in chunks)
    for piece in pieces(chunks, facts):
        if first or not (facts.tied and piece.name == "model.embed_tokens.weight"):
            yield piece


def _write(saved: Iterator[Piece], directory: Path, shard_bytes: int) -> list[_Written]:
    """Gather the pieces' tensors and write them to partial files of up to `shard_bytes`, as they come.

    All tensor-parallel ranks take part; the first of them writes, the others return an empty list.
    """
    written: list[_Written] = []
    waiting: dict[str, torch.Tensor] = {}

    def flush() -> None:
        stage, size = parallel_state.get_pipeline_model_parallel_rank(), _bytes(waiting)
        path = directory / f".model-{stage:05d}-{len(written):05d}.partial"
        try:
            with atomic(path) as partial:
                save_file(waiting, partial, metadata={"format": "pt"})
        except SafetensorError as error:
            what = f"{directory}: cannot write {len(waiting)} tensors ({size} bytes): {error}"
            raise StageError(f"{what}; free space on that disk, and run the same command again") from error
        written.append((path, list(waiting), size))
        waiting.clear()

    for piece in saved:
        if waiting and _bytes(waiting) + piece.bytes > shard_bytes:
            flush()
        whole = _gather(piece)
        if whole is not None:
            waiting[piece.name] = whole
    if waiting:
        flush()
    return written


def _gather(piece: Piece) -> torch.Tensor | None:
    """The whole tensor of a piece on the CPU of the first tensor-parallel rank; elsewhere None.

    The parts come one after the other, so that beside the tensor only one of them is held.
    """
    part = piece.view.reshape(piece.padded())
    group, ranks = (
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )
    dimension = piece.dimension
    if dimension is None or ranks == 1:
        return part.cpu() if piece.rank == 0 else None
    if piece.rank > 0:
        torch.distributed.send(part.contiguous(), torch.distributed.get_global_rank(group, 0), group)
        return None
    whole = torch.empty(piece.padded(ranks), dtype=part.dtype)
    whole.narrow(dimension, 0, piece.length).copy_(part)
    received = torch.empty_like(part)
    for rank in range(1, ranks):
        torch.distributed.recv(received, torch.distributed.get_global_rank(group, rank), group)
        whole.narrow(dimension, rank * piece.length, piece.length).copy_(received)
    return whole.narrow(dimension, 0, piece.shape[dimension])


def _bytes(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _set_dtype(directory: Path, dtype: torch.dtype) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
