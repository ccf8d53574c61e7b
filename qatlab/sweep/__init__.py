"""Many runs by one command: jobs, launchers, searches."""

from qatlab.sweep.file import expanded, is_file
from qatlab.sweep.jobs import (
    ERROR,
    FAILED,
    SweepJob,
    Watch,
    check_overrides,
    claim_gpu,
    print_notes,
    records_jobs,
    resume_override,
    setting,
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
    "print_notes",
    "records_jobs",
    "resume_override",
    "setting",
    "start_training",
    "take_notes",
    "train_in_subprocess",
]
