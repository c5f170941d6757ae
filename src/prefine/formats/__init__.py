"""Reading and writing the formats people have: ``docs/data-formats.md`` shows each with an example."""

from prefine.formats.check import DataReport, check, serves
from prefine.formats.convert import Conversion, convert
from prefine.formats.index import RowIndex, SlateIndex
from prefine.formats.lessons import demos_of, labels_of, lists_of, pairs_of, rankings_of, steps_of
from prefine.formats.readers import TrainingData, read_for_training, read_slates
from prefine.formats.show import render, render_conversion
from prefine.formats.spec import FORMATS, Format
from prefine.formats.writers import write_slates

__all__ = [
    "FORMATS",
    "Conversion",
    "DataReport",
    "Format",
    "RowIndex",
    "SlateIndex",
    "TrainingData",
    "check",
    "convert",
    "demos_of",
    "labels_of",
    "lists_of",
    "pairs_of",
    "rankings_of",
    "read_for_training",
    "read_slates",
    "render",
    "render_conversion",
    "serves",
    "steps_of",
    "write_slates",
]
