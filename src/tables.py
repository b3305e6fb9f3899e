"""The CSVs of a data folder, which are SpecDeepMap's column for column: chip lists, class summary, band statistics."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, get_args

from src.errors import UserError

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
"""The parts of a split in the order in which everything lists them."""

SUMMARY = "Summary_train_val.csv"
STATISTICS = "Normalize_Bands.csv"

_SAMPLE_COLUMNS = ("image", "mask")
_SUMMARY_COLUMNS = (
    "Class ID",
    "Train Count",
    "Train Percentage",
    "Validation Count",
    "Validation Percentage",
    "Test Count",
    "Test Percentage",
    "Class Train Weight",
    "Scaler",
    "Ignored Background : Class Zero",
)
_STATISTICS_COLUMNS = ("Band_Number", "std", "mean")
_SCALED = "std and mean already scaled by scaler"


@dataclass(frozen=True)
class Sample:
    """One chip: the paths of its image and of its label."""

    image: Path
    label: Path


@dataclass(frozen=True)
class ClassRow:
    """A line of ``Summary_train_val.csv``: a class's pixels in each of PARTS, and its weight for the loss."""

    value: int
    counts: tuple[int, int, int]
    weight: float


@dataclass(frozen=True)
class Summary:
    """``Summary_train_val.csv``.

    Attributes:
        rows: One per class, by value.
        scaler: Divisor of the statistics, None without one.
        background: Whether unclassified pixels occur in the chips.
    """

    rows: tuple[ClassRow, ...]
    scaler: float | None
    background: bool


@dataclass(frozen=True)
class BandTable:
    """``Normalize_Bands.csv``: mean and standard deviation per band of the training chips, already scaled.

    A band without a measurement has NaN for both.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


def list_name(part: Part) -> str:
    """Return the file name of a part's chip list: ``train_files.csv``."""
    return f"{part}_files.csv"


def class_weights(counts: Sequence[int]) -> list[float]:
    """Return 1 − share of each class, to 4 decimals as in SpecDeepMap; 1 where only one class has pixels.

    A weight of 0 would take a class out of the loss, and with one class there would be none left.
    """
    total = sum(counts)
    if sum(count > 0 for count in counts) <= 1:
        return [1.0] * len(counts)
    return [max(round(1 - count / total, 4), 0.0001) for count in counts]


def read_samples(path: str | Path) -> list[Sample]:
    """Read a chip list.

    Args:
        path: A CSV with the columns ``image`` and ``mask``; paths are relative to its own folder.

    Returns:
        One sample per row, in the file's order; empty for a list without rows.

    Raises:
        UserError: The file or a column is missing, a chip is missing or lies outside the CSV's folder.
    """
    path = Path(path)
    root = path.parent.resolve()
    return [
        Sample(_inside(root, row["image"], path), _inside(root, row["mask"], path))
        for row in _read(path, _SAMPLE_COLUMNS)
    ]


def listed_images(path: Path) -> list[PurePosixPath]:
    """Read which images a chip list names, relative to its folder, whether they are there or not.

    Raises:
        UserError: The file or a column is missing.
    """
    return [_relative(row["image"]) for row in _read(path, _SAMPLE_COLUMNS)]


def listed_files(path: Path) -> list[PurePosixPath]:
    """Read which images and labels a chip list names, like :func:`listed_images`."""
    return [_relative(row[column]) for row in _read(path, _SAMPLE_COLUMNS) for column in _SAMPLE_COLUMNS]


def check_apart(path: Path, train: Path) -> None:
    """Raise UserError if a chip list names a chip that is trained on, whose score would say nothing.

    Args:
        path: List of chips that are to be scored.
        train: List of the training chips; they need not be there.
    """
    trained = set(listed_images(train))
    both = [image for image in listed_images(path) if image in trained]
    if both:
        more = f" and {len(both) - 1} more" if len(both) > 1 else ""
        raise UserError(
            f"{path} lists {both[0]}{more}, which {train.name} lists too; expected each chip in one list, because "
            "scores on chips that were trained on say nothing. Take it out of one of them, or run prepare.py again."
        )


def write_samples(path: Path, samples: Iterable[tuple[str, str]]) -> None:
    """Write a chip list of (image, label) paths relative to its folder, with forward slashes."""
    _write(path, _SAMPLE_COLUMNS, samples)


def read_summary(path: Path) -> Summary:
    """Read ``Summary_train_val.csv``; raises UserError if it is missing, lacks a column or holds no numbers."""
    rows = _read(path, _SUMMARY_COLUMNS[:8])
    classes = tuple(
        ClassRow(
            value=int(_number(row["Class ID"], path)),
            counts=(
                int(_number(row["Train Count"], path)),
                int(_number(row["Validation Count"], path)),
                int(_number(row["Test Count"], path)),
            ),
            weight=_number(row["Class Train Weight"], path),
        )
        for row in rows
    )
    first = rows[0] if rows else {}
    scaler = first.get("Scaler", "None")
    return Summary(
        rows=tuple(sorted(classes, key=lambda row: row.value)),
        scaler=None if scaler in ("", "None") else _number(scaler, path),
        background=first.get(_SUMMARY_COLUMNS[-1], "Yes") == "Yes",
    )


def write_summary(path: Path, summary: Summary) -> None:
    """Write ``Summary_train_val.csv``; percentages are shares of a part's labelled pixels, to 2 decimals."""
    totals = [sum(row.counts[part] for row in summary.rows) for part in range(len(PARTS))]
    scaler = "None" if summary.scaler is None else _exactly(summary.scaler)
    lines = []
    for row in summary.rows:
        line: list[object] = [row.value]
        for count, total in zip(row.counts, totals, strict=True):
            line += [count, round(100 * count / total, 2) if total else 0.0]
        lines.append([*line, row.weight, scaler, "Yes" if summary.background else "No"])
    _write(path, _SUMMARY_COLUMNS, lines)


def read_statistics(path: Path) -> BandTable:
    """Read ``Normalize_Bands.csv``; raises UserError if it is missing, lacks a column or holds no statistics."""
    rows = _read(path, _STATISTICS_COLUMNS)
    rows.sort(key=lambda row: _number(row["Band_Number"], path))
    if [_number(row["Band_Number"], path) for row in rows] != list(range(1, len(rows) + 1)):
        raise UserError(f"{path} does not list the bands 1 to {len(rows)} once each; run prepare.py again.")
    table = BandTable(
        mean=tuple(_number(row["mean"], path, blank=math.nan) for row in rows),
        std=tuple(_number(row["std"], path, blank=math.nan) for row in rows),
    )
    for band, (mean, std) in enumerate(zip(table.mean, table.std, strict=True), start=1):
        if math.isinf(mean) or math.isinf(std) or std < 0 or math.isnan(mean) != math.isnan(std):
            raise UserError(
                f"{path} gives band {band} the mean {mean:g} and the standard deviation {std:g}; expected finite "
                "numbers, the second not below 0, or neither. Run prepare.py again."
            )
    return table


def write_statistics(path: Path, statistics: BandTable, scaler: float | None) -> None:
    """Write ``Normalize_Bands.csv``; with a scaler one more column says which, as in SpecDeepMap."""
    lines = [
        [band, *("" if math.isnan(number) else repr(float(number)) for number in (std, mean))]
        for band, (std, mean) in enumerate(zip(statistics.std, statistics.mean, strict=True), start=1)
    ]
    if scaler is None:
        _write(path, _STATISTICS_COLUMNS, lines)
    else:
        _write(path, (*_STATISTICS_COLUMNS, _SCALED), [[*line, _exactly(scaler)] for line in lines])


def _exactly(number: float) -> str:
    """Write a number so that it reads back the same, a whole one as SpecDeepMap does: 10000, not 10000.0 or 1e+04."""
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else repr(float(number))


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV (with or without BOM, any line ends) that has at least ``columns``; cells are stripped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}; give a data folder that prepare.py or SpecDeepMap made.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV ({error}); run prepare.py again.") from error
    rows = [row for row in table if any(row)]
    header = rows[0] if rows else []
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(
            f"{path} lacks the column {missing[0]!r} (it has: {', '.join(header) or 'none'}); expected the columns "
            f"{', '.join(columns)}."
        )
    for number, row in enumerate(rows[1:], start=2):
        if len(row) < len(header):
            raise UserError(f"{path}, row {number} has {len(row)} cells, the header has {len(header)}; mend the row.")
    return [dict(zip(header, row, strict=False)) for row in rows[1:]]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _number(text: str, path: Path, blank: float | None = None) -> float:
    if not text and blank is not None:
        return blank
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{path} has {text!r} where a number is expected; run prepare.py again.") from error


def _relative(text: str) -> PurePosixPath:
    return PurePosixPath(text.replace("\\", "/"))


def _inside(root: Path, text: str, origin: Path) -> Path:
    """Return the path of a chip, which has to be a file in the folder of its list."""
    # Lists may come from Windows, and from strangers: no path of theirs may lead out of the folder.
    relative = _relative(text)
    path = root / relative
    outside = relative.is_absolute() or PureWindowsPath(text).drive or ".." in relative.parts
    if "\0" in text:
        raise UserError(f"{origin} lists {text!r}, which is no path; run prepare.py again.")
    if outside or not path.resolve().is_relative_to(root):
        raise UserError(f"{origin} lists {text!r}, which is outside of its folder; paths are relative and stay inside.")
    if not path.is_file():
        raise UserError(f"{origin} lists {text!r}, but there is no such file beside it; run prepare.py again.")
    return path
