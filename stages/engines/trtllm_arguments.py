"""What TensorRT-LLM is told: environment, arguments of `LLM`, arguments of `SamplingParams`.

Pure functions of settings and release. What is known of each release, and from where, is said with each; nothing here
imports the library.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.config import EngineSettings, Sampling
from stages.contracts.errors import StageError
from stages.engines.protocol import Request

FINAL = ((1, 0), (1, 1), (1, 2))
NEWEST_CANDIDATE = 29
"""Of 1.3, whose pre-releases were read up to this one."""
SAMPLER_GONE = 26
"""Candidate of 1.3 from which there is neither `TRTLLMSampler` nor `sampler_type` (#18232)."""
LAUNCHER = "TLLM_SPAWN_PROXY_PROCESS"
"""Set by `trtllm-llmapi-launch`, beside `tllm_mpi_size`, for what it starts."""
SINGLE_PROCESS = "TLLM_WORKER_USE_SINGLE_PROCESS"
_RANK_VARIABLES = ("SLURM_", "PMIX_", "PMI_", "OMPI_")
_TUNING_VARIABLES = ("OMPI_MCA_btl", "OMPI_MCA_oob", "OMPI_MCA_coll", "OMPI_ALLOW_RUN_AS_ROOT")
"""By which people and images tell MPI of a container's network and user; they make no process a rank."""


class Release(NamedTuple):
    """A release whose arguments and traps are known here; `candidate` is 0 for a final one."""

    major: int
    minor: int
    candidate: int

    @property
    def has_sampler_type(self) -> bool:
        """Whether `LLM` takes `sampler_type`: since 1.1, until 1.3.0rc26."""
        return self[:2] >= (1, 1) and self.candidate < SAMPLER_GONE


def supported_release(version: str) -> Release:
    """The release that calls itself `version`, as `1.2.1` or `1.3.0rc20`; StageError if it is not known here.

    Candidates of 1.0 to 1.2 are refused: the final releases differ from them.
    """
    match = re.fullmatch(r"(\d+)\.(\d+)\.\d+(?:rc(\d+))?(?:\.post\d+|\+.*)?", version)
    release = Release(*(int(number or 0) for number in match.groups())) if match else Release(0, 0, 0)
    known_candidate = release[:2] == (1, 3) and 1 <= release.candidate <= NEWEST_CANDIDATE
    if not known_candidate and (release[:2] not in FINAL or release.candidate):
        raise StageError(
            f"tensorrt_llm {version} is installed; the trtllm engine supports the releases 1.0 to 1.2 and 1.3.0rc1 to "
            f"1.3.0rc{NEWEST_CANDIDATE}: use one of them, best 1.2.1 (docs/tensorrt-llm.md)"
        )
    return release


def chosen_sampler(release: Release, sampler: str) -> str:
    """The sampler that runs for the setting `engine.trtllm.sampler`; StageError if the release has no sound such one.

    TorchSampler of 1.0 takes pure top-p sampling wherever top_p is set: temperature and top_k do nothing, and
    temperature 0 samples. #8132 mends it, which the notes of 1.2 announce; so 1.1 is not trusted either. From 1.2 on it
    is the library's own choice, from 1.3.0rc26 on the only one.
    """
    sound = release[:2] >= (1, 2)
    if sampler == "TorchSampler" and not sound:
        raise StageError(
            f"engine.trtllm.sampler TorchSampler ignores the temperature in TensorRT-LLM {release.major}."
            f"{release.minor}: use TRTLLMSampler, or 1.2"
        )
    if sampler == "TRTLLMSampler" and release.candidate >= SAMPLER_GONE:
        raise StageError(
            f"engine.trtllm.sampler TRTLLMSampler is gone since TensorRT-LLM 1.3.0rc{SAMPLER_GONE}: set it to auto, "
            "where seeds are not honoured, or use 1.2.1"
        )
    return ("TorchSampler" if sound else "TRTLLMSampler") if sampler == "auto" else sampler


def honours_seeds(sampler: str) -> bool:
    """Whether a request's seed alone decides its sample under the `sampler` that runs.

    TorchSampler reads no seeds before #17172 (a candidate of 1.3), and after it only that of a batch's first row acts
    (flashinfer #2345).
    """
    return sampler == "TRTLLMSampler"


def sampler_arguments(release: Release, sampler: str) -> dict[str, Any]:
    """How `LLM` is told to run `sampler`; what it would choose by itself is not left to it where it can be told.

    1.0 has a switch: without it every answer would be greedy (#6451).
    """
    if release[:2] == (1, 0):
        return {"enable_trtllm_sampler": True}
    return {"sampler_type": sampler} if release.has_sampler_type else {}


def llm_arguments(library: Any, model: str, settings: EngineSettings, release: Release, dtype: str) -> dict[str, Any]:
    """Keyword arguments of `LLM`; only such as the release knows, since it refuses any other.

    `library` is the module `tensorrt_llm`. Chunked prefill is asked for only where a prompt can be longer than one
    step: with block reuse it corrupted the KV cache before #12673, of which no back-port to 1.2 is known. CUDA graphs
    would by default end at batch 128 and fit exact sizes alone, so that most steps of larger batches ran without.
    """
    own = settings.trtllm
    return {
        "model": model,
        "dtype": dtype,
        "tensor_parallel_size": own.tensor_parallel_size,
        "pipeline_parallel_size": own.pipeline_parallel_size,
        "max_seq_len": settings.max_sequence_length,
        "max_num_tokens": own.max_num_tokens,
        "max_batch_size": own.max_batch_size,
        "enable_chunked_prefill": settings.max_sequence_length > own.max_num_tokens,
        "cuda_graph_config": library.llmapi.CudaGraphConfig(max_batch_size=own.max_batch_size, enable_padding=True),
        "kv_cache_config": library.llmapi.KvCacheConfig(
            enable_block_reuse=own.block_reuse,
            free_gpu_memory_fraction=own.kv_cache_fraction,
            dtype=own.kv_cache_dtype,
        ),
        **sampler_arguments(release, chosen_sampler(release, own.sampler)),
        **own.extra,
    }


def sampling_arguments(request: Request, sampling: Sampling, stop_ids: Sequence[int], sampler: str) -> dict[str, Any]:
    """Keyword arguments of `SamplingParams`. Nothing that steers the draw is left to a default.

    `end_id` stays unset, since giving it switches off the library's own set-up. The text is not asked for: the library
    may tidy it (`clean_up_tokenization_spaces`), and what is judged must be what is trained on. Log-probabilities are
    asked for only at temperature 1 without truncation: nowhere is it said whether they are taken before or after the
    temperature, and a Completion promises temperature 1. TRTLLMSampler, which tells none of the end id, is not asked.
    """
    arguments: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": request.seed,
        "stop_token_ids": list(stop_ids),
        "detokenize": False,
    }
    if sampler == "TorchSampler" and (sampling.temperature, sampling.top_p, sampling.top_k) == (1, 1, 0):
        arguments["logprobs"] = 1
    return arguments


def start_environment(environment: Mapping[str, str], gpus: int) -> dict[str, str]:
    """The environment in which `tensorrt_llm` must be imported, for a model on so many GPUs.

    One GPU: no worker process. Else even one worker is started by `MPI_Comm_spawn`, which fails or deadlocks within a
    step of srun (ai-dynamo/dynamo#808, #992). Several GPUs: nothing that makes this process a rank of such a step, as
    `trtllm-llmapi-launch` cleans up before it starts a program. What that has started is left as it is: the workers
    are there already, on all nodes. Raises StageError if there are not `gpus` of them.
    """
    if environment.get(LAUNCHER):
        workers = environment.get("tllm_mpi_size", str(gpus))
        if workers != str(gpus):
            raise StageError(
                f"trtllm-llmapi-launch runs {workers} tasks, but engine.trtllm.tensor_parallel_size x "
                f"pipeline_parallel_size is {gpus}: start one task for each GPU"
            )
        return dict(environment)
    kept = {name: value for name, value in environment.items() if not _makes_a_rank(name) and name != SINGLE_PROCESS}
    return {**kept, SINGLE_PROCESS: "1"} if gpus == 1 else kept


def _makes_a_rank(name: str) -> bool:
    return name.startswith(_RANK_VARIABLES) and not name.startswith(_TUNING_VARIABLES)
