"""Many runs by one command: jobs, launchers, searches."""

from qatlab.sweep.file import expanded, is_file
from qatlab.sweep.jobs import (
    ERROR,
    FAILED,
    SweepJob,
    Watch,
    check_overrides,
    claim_gpu,
    path_override,
    print_notes,
    records_jobs,
    resume_override,
    start_training,
    take_notes,
    train_in_subprocess,
)

__all__ = [
    "ERROR",
    "FAILED",
    "SweepJob",
    "Watch",
    "check_overrides",
    "claim_gpu",
    "expanded",
    "is_file",
    "path_override",
    "print_notes",
    "records_jobs",
    "resume_override",
    "start_training",
    "take_notes",
    "train_in_subprocess",
]
