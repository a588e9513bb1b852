"""SIGKILL at random moments of every trainer, and two processes in one folder: the bits of a run that nobody disturbs."""

import random
import time

import pytest
import trainers
from command import SERVER

from training.runs.run_folder import RESULT, RunError

pytestmark = pytest.mark.fault
KILLS = 2


def start(name, out, **options):
    process = SERVER.Process(target=trainers.child, args=(name, out), kwargs=options)
    process.start()
    return process


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """{trainer: (the trace of a run that nobody kills, how long such a process computes)}."""
    folder = tmp_path_factory.mktemp("wholes")
    trainers.prepare(folder)
    result = {}
    for name in trainers.NAMES:
        process, used = start(name, folder / name), 0.0
        while process.is_alive():
            try:
                used = max(used, trainers.cpu_seconds(process.pid))
            except OSError:
                break
            time.sleep(0.005)
        process.join()
        assert process.exitcode == 0
        result[name] = trainers.trace(folder / name), used
    return result


@pytest.mark.parametrize("name", trainers.NAMES)
def test_a_run_killed_at_random_moments_ends_with_the_bits_of_the_whole_one(name, wholes, tmp_path):
    trainers.prepare(tmp_path)
    whole, seconds = wholes[name]
    out, rng, kills = tmp_path / "run", random.Random(name), 0
    for _ in range(20 * KILLS):  # a run that was faster than its kill starts over
        process = start(name, out)
        kills += trainers.kill_after(rng.uniform(0.2, 0.95) * seconds, process, (out / RESULT).exists)
        process.join()
        trainers.readable(out)
        if kills == KILLS:
            break
        if (out / RESULT).exists():
            trainers.clear_run(out)
    assert kills == KILLS
    trainers.run(name, out)
    assert trainers.trace(out) == whole and not trainers.leftovers(out)


@pytest.mark.parametrize("name", trainers.NAMES)
def test_a_second_process_is_refused_while_the_first_one_works(name, wholes, tmp_path):
    trainers.prepare(tmp_path)
    out = tmp_path / "run"
    process = start(name, out, pause_at=3)
    while process.is_alive() and trainers.state(process.pid) != "T":
        time.sleep(0.005)
    before = {p: p.read_bytes() for p in out.iterdir() if p.is_file()}
    for changes in ({}, {"restart": True}):
        with pytest.raises(RunError, match="is in use by another process: wait for it, or choose another --out"):
            trainers.run(name, out, **changes)
    assert {p: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    trainers.go_on(process.pid)
    process.join()
    assert process.exitcode == 0 and trainers.trace(out) == wholes[name][0] and not trainers.leftovers(out)
