"""A report made from result files alone: what was measured beside the paper's figures, in tables and pictures."""

from experiments.reporting.collect import Found, load
from experiments.reporting.page import write
from experiments.reporting.pictures import differences, draw_relearning

__all__ = ["Found", "differences", "draw_relearning", "load", "write"]
