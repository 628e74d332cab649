"""What a sweep came to, on one page that can be sent: self-contained, and without a network."""

from convene.visualization.report.findings import Findings, gather
from convene.visualization.report.page import render

__all__ = ["Findings", "gather", "render"]
