"""Whether a model can be laid out over a number of ranks, checked before anything loads. Pure; imports no Megatron."""

from collections.abc import Iterator
from itertools import product

from stages.config import MegatronSettings
from stages.contracts.errors import StageError
from stages.model_files.families import Architecture

_DEGREES = ("tensor_parallel", "pipeline_parallel", "context_parallel", "pipeline_chunks")


def check_layout(settings: MegatronSettings, model: Architecture, ranks: int) -> None:
    """StageError with all that is wrong and the nearest valid layout, unless the model fits `ranks` ranks."""
    wrong = list(_conflicts(settings, model, ranks))
    if not wrong:
        return
    nearest = propose(settings, model, ranks)
    how = ", ".join(f"{name} {getattr(nearest, name)}" for name in _DEGREES)
    raise StageError(f"megatron: {'; '.join(wrong)}. Valid for {ranks} ranks is {how}")


def propose(settings: MegatronSettings, model: Architecture, ranks: int) -> MegatronSettings:
    """The valid layout whose degrees differ least from the asked ones; of equal ones that with more tensor, then
    pipeline parallelism. One rank per replica is always valid."""
    degrees = [n for n in range(1, ranks + 1) if ranks % n == 0]
    asked = [getattr(settings, name) for name in _DEGREES]

    def distance(layout: tuple[int, ...]) -> tuple[float, ...]:
        changes = [max(a, b) / min(a, b) for a, b in zip(layout, asked, strict=True)]
        return (sum(changes), *(-degree for degree in layout))

    for layout in sorted(product(degrees, degrees, degrees, {1, settings.pipeline_chunks}), key=distance):
        sequence = settings.sequence_parallel and layout[0] > 1
        if layout[1] < 3 and layout[3] > 1:
            continue
        values = dict(zip(_DEGREES, layout, strict=True)) | {"sequence_parallel": sequence}
        candidate = settings.model_copy(update=values)
        if not any(_conflicts(candidate, model, ranks)):
            return candidate
    raise AssertionError("one rank per replica is always valid")


def _conflicts(settings: MegatronSettings, model: Architecture, ranks: int) -> Iterator[str]:
    if ranks % settings.model_parallel:
        yield (
            f"{ranks} ranks are no multiple of tensor_parallel {settings.tensor_parallel} x pipeline_parallel "
            f"{settings.pipeline_parallel} x context_parallel {settings.context_parallel}"
        )
    split = {
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.groups,
        "intermediate_size": model.feed_forward,
    }
    for name, count in split.items():
        if count % settings.tensor_parallel:
            yield f"the model's {name} ({count}) is not divisible by tensor_parallel {settings.tensor_parallel}"
    if model.layers % (settings.pipeline_parallel * settings.pipeline_chunks):
        yield (
            f"the model's {model.layers} layers are not divisible by pipeline_parallel {settings.pipeline_parallel} x "
            f"pipeline_chunks {settings.pipeline_chunks}"
        )
