"""The report of a sweep: one self-contained HTML page that needs no network."""

from convene.visualization.report.data import ReportData, load_data
from convene.visualization.report.page import render

__all__ = ["ReportData", "load_data", "render"]
