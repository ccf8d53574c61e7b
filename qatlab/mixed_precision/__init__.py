"""Finds a bit width for each weight and site within budgets: costs, sensitivity, the optimum."""

from qatlab.mixed_precision.candidates import Candidates
from qatlab.mixed_precision.choices import Assignment, Choice, Choices, Tensor
from qatlab.mixed_precision.cost import Cost, Sum
from qatlab.mixed_precision.found import Found, Trained, rules_text
from qatlab.mixed_precision.program_costs import ProgramCosts, Programs, nearest
from qatlab.mixed_precision.record import Record, losses_to_json
from qatlab.mixed_precision.sensitivity import Sensitivity, loss_of, measured, second_order
from qatlab.mixed_precision.solver import Limit, best, smallest
from qatlab.mixed_precision.table_costs import TABLE_COSTS

__all__ = [
    "TABLE_COSTS",
    "Assignment",
    "Candidates",
    "Choice",
    "Choices",
    "Cost",
    "Found",
    "Limit",
    "ProgramCosts",
    "Programs",
    "Record",
    "Sensitivity",
    "Sum",
    "Tensor",
    "Trained",
    "best",
    "loss_of",
    "losses_to_json",
    "measured",
    "nearest",
    "rules_text",
    "second_order",
    "smallest",
]
