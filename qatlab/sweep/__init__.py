"""Many runs by one command: jobs, launchers, searches."""

from qatlab.sweep.jobs import (
    ERROR,
    FAILED,
    SweepJob,
    Watch,
    check_words,
    claim_gpu,
    notes_are_taken,
    print_notes,
    resume_word,
    take_notes,
    train_apart,
)

__all__ = [
    "ERROR",
    "FAILED",
    "SweepJob",
    "Watch",
    "check_words",
    "claim_gpu",
    "notes_are_taken",
    "print_notes",
    "resume_word",
    "take_notes",
    "train_apart",
]
