"""What a sweep came to, on one page that can be sent: self-contained, and without a network."""

from pipeline.report.findings import Findings, gather
from pipeline.report.page import render

__all__ = ["Findings", "gather", "render"]
