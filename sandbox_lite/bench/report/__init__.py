"""`report.html` of a benchmark and a page of each episode, and how several directories compare."""

from sandbox_lite.bench.report.comparison import compare
from sandbox_lite.bench.report.writing import REPORT, write

__all__ = ["REPORT", "compare", "write"]
