from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from qatlab import sweep

forks = multiprocessing.get_context("forkserver")


def _job(places: Path, count: int, given: str | None, pipe: Connection) -> None:
    if given is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = given
    sweep.claim_gpu(places, count)
    sweep.claim_gpu(places, count)  # its next job
    pipe.send(os.environ.get("CUDA_VISIBLE_DEVICES"))
    pipe.recv()  # lives on until it is told to end


@pytest.mark.parametrize(
    ("count", "given", "seen"),
    [
        (2, None, ["0", "1", None]),  # the third has to share
        (3, "7,5,6", ["7", "5", "6"]),
        (1, None, [None, None, None]),
        (0, None, [None, None, None]),
    ],
)
def test_jobs_side_by_side_see_a_gpu_each(
    tmp_path: Path, count: int, given: str | None, seen: list[str | None]
) -> None:
    jobs = []
    for _ in range(3):
        ours, theirs = forks.Pipe()
        process = forks.Process(target=_job, args=(tmp_path, count, given, theirs))
        process.start()
        assert ours.poll(60)
        jobs.append((process, ours, ours.recv()))
    assert [job[2] for job in jobs] == seen
    process, ours, first = jobs[0]
    process.kill()
    process.join()
    for other, pipe, _ in jobs[1:]:
        pipe.send("end")
        other.join()
    ours, theirs = forks.Pipe()
    again = forks.Process(target=_job, args=(tmp_path, count, given, theirs))
    again.start()
    assert ours.recv() == first  # a killed job's claim is free
    ours.send("end")
    again.join()
