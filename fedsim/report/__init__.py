"""A run folder as a page that opens offline: charts, tables that can be searched, and where time went."""

from fedsim.report.page import write_report

__all__ = ["write_report"]
