"""Tuning logs: their format, and finding the records that serve a target."""

from ofa_tvm.logs.log import KernelTable, LogWriter, find_records, log_name, read_folder, timed_on
from ofa_tvm.logs.record import Header, Record
from ofa_tvm.logs.signature import Signature

__all__ = [
    "Header",
    "KernelTable",
    "LogWriter",
    "Record",
    "Signature",
    "find_records",
    "log_name",
    "read_folder",
    "timed_on",
]
