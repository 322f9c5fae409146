"""A run written up for a person: one HTML page that needs nothing else."""

from trainer.report.page import write_report
from trainer.report.record import Cost, Curves, RunReport

__all__ = ["Cost", "Curves", "RunReport", "write_report"]
