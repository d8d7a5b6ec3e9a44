"""Reports: `report.json`, the page and the card. They read tables and documents, never a model."""

from isthmus.report.attack import AttackDocument
from isthmus.report.curvature import CurvatureDocument
from isthmus.report.document import (
    SCHEMA_VERSION,
    Choice,
    Cost,
    Curve,
    Data,
    Document,
    Entry,
    Environment,
    Geometry,
    Method,
    RateEntry,
    Status,
    TriggerEntry,
    comparison_table,
    json_schema,
)
from isthmus.report.folder import (
    read_report,
    read_summary,
    write_attack,
    write_curvature,
    write_landscapes,
    write_report,
    write_scan,
    write_summary,
)
from isthmus.report.landscape import Landscape
from isthmus.report.summary import Line, SeedRun, Spread, Summary, summarise

__all__ = [
    "SCHEMA_VERSION",
    "AttackDocument",
    "Choice",
    "Cost",
    "CurvatureDocument",
    "Curve",
    "Data",
    "Document",
    "Entry",
    "Environment",
    "Geometry",
    "Landscape",
    "Line",
    "Method",
    "RateEntry",
    "SeedRun",
    "Spread",
    "Status",
    "Summary",
    "TriggerEntry",
    "comparison_table",
    "json_schema",
    "read_report",
    "read_summary",
    "summarise",
    "write_attack",
    "write_curvature",
    "write_landscapes",
    "write_report",
    "write_scan",
    "write_summary",
]
