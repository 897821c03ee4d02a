"""A server that a job leaves: who takes it, and what becomes of it when nobody does."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.config import EngineSettings, Sampling, ServerSettings
from stages.contracts import gpus, locks
from stages.contracts.artifacts import read
from stages.contracts.errors import StageError
from stages.engines import server_guard
from stages.engines.local_server import running
from stages.engines.openai import OpenAiEngine
from stages.engines.protocol import Request
from stages.tables import JUDGEMENTS
from tests.support.own_servers import FILES, LLAMA, guards, job, line, servers, wait_for
from tests.support.records import turns, write_prompts

LONG = 600.0
HOLD = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of one's own, on which no server is left in the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(gpus.COUNT_VARIABLE, "0")
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", *locks.ALLOCATIONS):
        monkeypatch.delenv(name, raising=False)
    yield
    for guard in guards(tmp_path):
        os.kill(guard, signal.SIGKILL)  # takes the server along


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What the stand-in for a server serves."""
    (tmp_path / "model/v1").mkdir(parents=True)
    (tmp_path / "model/v1/models").write_text("{}")
    (tmp_path / "model/config.json").write_text("{}")
    return tmp_path / "model"


def settings(linger: float = LONG, command: str = FILES, count: int = 0) -> ServerSettings:
    return ServerSettings(command=command, gpus=count, linger_seconds=linger)


def used(model: Path, server: ServerSettings) -> str:
    """The address of the server that a job uses and leaves."""
    with running(server, model) as own:
        return own.url


def free(lock: Path) -> bool:
    """Whether nobody holds a lock, not even with others."""
    with open(lock) as file:
        return locks.locked(file.fileno())


def test_the_next_job_takes_the_server_of_the_last_one(tiny_model_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = ServerSettings(kind="llamacpp", model="tiny", command=LLAMA, linger_seconds=LONG)
    engine = EngineSettings(backend="openai", max_sequence_length=256, device="cpu", server=server)
    asked = [Request("r", (2, 70, 71, 72, 3), 1)]
    found = []
    for _ in range(2):
        with OpenAiEngine(tiny_model_dir, engine) as opened:
            (answer,) = opened.generate(asked, Sampling(temperature=0, max_tokens=9))
            found.append((opened.url, servers(tiny_model_dir, opened.url), answer.token_ids))
    assert found[0] == found[1]
    assert len(found[0][1]) == 1
    said = capfd.readouterr().err
    assert said.count("using the server at") == 1
    assert f"using the server at {found[0][0]}, which runs already; what it says is in /" in said


def test_a_server_whose_guard_still_looks_at_it_is_waited_for(model: Path) -> None:
    with running(settings(), model) as first:
        pass
    file = locks.opened(first.path)
    fcntl.flock(file, fcntl.LOCK_EX)
    looking = threading.Timer(0.3, os.close, [file])
    looking.start()
    with running(settings(), model) as second:
        assert second.url == first.url
    looking.join()


def test_another_command_and_other_weights_are_another_server(model: Path) -> None:
    first = used(model, settings())
    other = used(model, settings(command=f"{FILES} --protocol HTTP/1.1"))
    (model / "config.json").write_text("{ }")
    trained = used(model, settings())
    assert len({first, other, trained}) == 3
    (model / "config.json").write_text("{}")
    assert used(model, settings()) == first


def test_a_server_that_nobody_takes_ends_with_all_its_processes(model: Path) -> None:
    url = used(model, settings(linger=1.0, command=f"sh -c '{FILES} & wait' {{model}}"))
    left = time.monotonic()
    assert servers(model, url)
    wait_for(lambda: not servers(model, url) and not guards(model.parent))
    assert time.monotonic() - left > 0.9
    assert used(model, settings()) != url


def test_one_that_is_used_outlives_its_time(model: Path) -> None:
    server = settings(linger=0.3)
    with running(server, model) as own:
        time.sleep(1)
        assert own.lives()
    with running(server, model) as taken:
        assert taken.url == own.url
        time.sleep(1)
        assert taken.lives()


def test_without_time_none_is_left(model: Path) -> None:
    url = used(model, settings(linger=0))
    assert not servers(model, url)
    assert not guards(model.parent)


def test_a_job_that_fails_leaves_none(model: Path) -> None:
    with pytest.raises(StageError, match="of the job"), running(settings(), model):
        raise StageError("of the job")
    assert not servers(model)


def test_a_job_that_is_killed_leaves_its_server_to_the_next(tmp_path: Path, model: Path) -> None:
    killed = job(model, settings(), tmp_path / "log")
    url = line(killed.stdout)
    killed.kill()
    killed.communicate()
    assert used(model, settings()) == url


def test_a_job_that_is_killed_while_its_server_starts_leaves_none(tmp_path: Path, model: Path) -> None:
    (model / "v1/models").unlink()
    killed = job(model, settings(), tmp_path / "log")
    wait_for(lambda: bool(servers(model)))
    killed.kill()
    killed.communicate()
    wait_for(lambda: not servers(model) and not guards(model.parent))


@pytest.mark.parametrize("which", [servers, lambda model: guards(model.parent)], ids=["server", "guard"])
def test_none_is_handed_out_that_was_killed_or_whose_guard_was(model: Path, which: Callable[[Path], list[int]]) -> None:
    first = used(model, settings())
    (process,) = which(model)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not servers(model, first))
    with running(settings(), model) as own:
        assert own.lives()
        assert len(servers(model, own.url)) == 1


def test_jobs_at_once_have_a_server_each_and_later_ones_take_both(model: Path) -> None:
    with running(settings(), model) as one, running(settings(), model) as two:
        both = {one.url, two.url}
    with running(settings(), model) as one, running(settings(), model) as two:
        assert {one.url, two.url} == both
    assert len(both) == 2
    assert len(servers(model)) == 2


def test_a_server_that_waits_holds_no_lock_of_its_jobs_run(tmp_path: Path, model: Path) -> None:
    lock = tmp_path / ".jobs.lock"
    prefix = ("bash", "-c", f'exec 9>>{lock}; flock --shared 9; exec "$@"', "job")
    first = job(model, settings(), tmp_path / "log", *prefix)
    url = line(first.stdout)
    assert not free(lock)
    assert first.stdin is not None
    first.stdin.close()
    assert first.wait() == 0
    assert free(lock)
    assert used(model, settings()) == url


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.COUNT_VARIABLE, "1")


def holder() -> "subprocess.Popen[str]":
    """A job of another kind that takes the GPU."""
    words = [sys.executable, "-m", "stages.contracts.gpus", "1", sys.executable, "-c", HOLD]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("linger", [0.0, LONG])
def test_a_gpu_is_its_servers_until_that_is_gone_also_after_a_kill(tmp_path: Path, model: Path, linger: float) -> None:
    """The server takes a while to end; nobody has the GPU meanwhile."""
    command = f"bash -c 'trap \"sleep 1; kill $!\" TERM; {FILES} & wait; wait' {{model}}"
    killed = job(model, settings(linger, command, count=1), tmp_path / "log")
    url = line(killed.stdout)
    (server,) = servers(model, url)
    assert b"CUDA_VISIBLE_DEVICES=0\0" in Path(f"/proc/{server}/environ").read_bytes()
    killed.kill()
    killed.communicate()
    waiting = holder()
    assert line(waiting.stdout) == "0"
    assert not servers(model, url)
    said = waiting.communicate()[1]
    assert said == "waiting for 1 of the GPUs 0 to be free\n"


@pytest.mark.usefixtures("one_gpu")
def test_a_job_that_waits_for_a_gpu_takes_a_server_that_another_leaves(tmp_path: Path, model: Path) -> None:
    first = job(model, settings(count=1), tmp_path / "log")
    url = line(first.stdout)
    log = tmp_path / "second.log"
    second = job(model, settings(count=1), log)
    wait_for(lambda: log.read_text() == "waiting for 1 of the GPUs 0 to be free\n")
    first.communicate()
    assert line(second.stdout) == url
    second.communicate()
    assert f"using the server at {url}, which runs already; what it says is in {tmp_path}/log\n" in log.read_text()
    third = holder()
    assert line(third.stdout) == "0"
    assert not servers(model)
    third.communicate()


@pytest.mark.usefixtures("one_gpu")
def test_a_server_gives_way_only_to_who_waits(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = used(model, settings(count=1))
    time.sleep(server_guard.LOOK_SECONDS * (server_guard.PATIENCE + 1))
    assert used(model, settings(count=1)) == url


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / f"meta-rewarding-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"meta-rewarding-{os.getuid()}").chmod(0o777)
    with pytest.raises(StageError, match="must be a folder that belongs to you"):
        used(model, settings())


@pytest.mark.slow
def test_candidates_and_their_judgements_come_of_one_server(tmp_path: Path, tiny_model_dir: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", [turns(f"Say {number}") for number in range(3)])
    engine = {
        "engine.max-sequence-length": 256, "engine.backend": "openai", "engine.server.kind": "llamacpp",
        "engine.server.model": "tiny", "engine.server.command": LLAMA, "engine.server.linger-seconds": LONG,
    }  # fmt: skip
    template = tmp_path / "judge.jinja"
    template.write_text("{{ response }}")

    def stage(name: str, output: str, **own: object) -> str:
        words = {"model": tiny_model_dir, "prompts": prompts, "output": tmp_path / output, **own, **engine}
        words["model-inputs"] = tmp_path / f"inputs-{output}"
        flags = [word for key, value in words.items() for word in (f"--{key}", str(value))]
        log = tmp_path / f"{name}.log"
        with open(log, "w") as errors:
            done = subprocess.run([sys.executable, "-m", f"stages.{name}", *flags], stderr=errors, check=False)
        assert done.returncode == 0, log.read_text()
        return log.read_text()

    short = {"sampling.max-tokens": 20}
    first = stage("candidates", "candidates.parquet", samples=2, **short, **{"max-cut-share": 1})
    (server,) = servers(tiny_model_dir)
    second = stage(
        "judge", "judgements.parquet", candidates=tmp_path / "candidates.parquet", votes=2, template=template, **short
    )
    assert ("listening at" in first, "which runs already" in first) == (True, False)
    assert ("listening at" in second, "which runs already" in second) == (False, True)
    assert servers(tiny_model_dir) == [server]
    judged = read(tmp_path / "judgements.parquet", JUDGEMENTS)
    assert judged.height == 2 * judged["candidate_id"].n_unique() > 0
