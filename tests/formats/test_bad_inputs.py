"""Every kind of malformed data gives one message with the file, the line and a remedy."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from prefine.errors import InputError
from prefine.formats import check, convert, read_for_training, read_slates

BAD = runpy.run_path(str(Path(__file__).with_name("bad_inputs.py")))["DATA_BAD_INPUTS"]


def written(directory: Path, filename: str, content: bytes) -> Path:
    path = directory / filename
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("name", "filename", "content", "fragment", "line"), BAD, ids=[b[0] for b in BAD])
def test_one_message_with_place_and_remedy(
    tmp_path: Path, name: str, filename: str, content: bytes, fragment: str, line: int | None
) -> None:
    if "damaged parquet" in name:
        pytest.importorskip("pyarrow")
    path = written(tmp_path, filename, content)
    with pytest.raises(InputError) as caught:
        read_for_training(path)
    error = caught.value
    assert fragment in str(error)
    assert error.message.startswith(f"{path}:{line}: " if line is not None else f"{path}:")
    assert error.remedy and error.exit_code == 2
    assert "Traceback" not in str(error) and "<class" not in str(error)
    with pytest.raises(InputError):  # the plain reader stops as well
        list(read_slates(path))


@pytest.mark.parametrize(("name", "filename", "content", "fragment", "line"), BAD, ids=[b[0] for b in BAD])
def test_conversion_writes_nothing(
    tmp_path: Path, name: str, filename: str, content: bytes, fragment: str, line: int | None
) -> None:
    path = written(tmp_path, filename, content)
    with pytest.raises(InputError):
        convert(path, tmp_path / "out.jsonl", to="slates")
    assert [p.name for p in tmp_path.iterdir()] == [filename]


@pytest.mark.parametrize(
    ("name", "filename", "content", "fragment", "line"),
    [b for b in BAD if b[4] is not None],
    ids=[b[0] for b in BAD if b[4] is not None],
)
def test_check_reports_it_with_its_line(
    tmp_path: Path, name: str, filename: str, content: bytes, fragment: str, line: int
) -> None:
    """`check` reads on: the problem is among its findings (or, where no format fits at all, its error)."""
    path = written(tmp_path, filename, content)
    try:
        report = check(path)
    except InputError as error:
        assert fragment in str(error) and f":{line}:" in error.message
        return
    assert not report.ok
    problems = [p for f in report.findings for p in f.examples if f.severity == "broken"]
    assert any(fragment in p.message and p.line == line and p.remedy for p in problems)


def test_missing_file_offers_the_near_one(tmp_path: Path) -> None:
    written(tmp_path, "pairs.jsonl", b"{}")
    with pytest.raises(InputError, match="did you mean") as caught:
        read_slates(tmp_path / "pair.jsonl")
    assert "there is no such file" in caught.value.message and "pairs.jsonl" in caught.value.remedy


def test_misspelt_format_offers_the_near_one(tmp_path: Path) -> None:
    path = written(tmp_path, "d.jsonl", b'{"prompt": "a"}\n')
    with pytest.raises(InputError, match="did you mean prompts"):
        read_slates(path, "prompt")


def test_named_format_that_does_not_fit_lists_needed_and_found(tmp_path: Path) -> None:
    path = written(tmp_path, "d.jsonl", b'{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(InputError) as caught:
        read_slates(path, "pairs")
    assert '"chosen" and "rejected" are missing (columns found: prompt, completion)' in caught.value.message
    assert caught.value.line == 1


def test_columns_to_rename_must_be_there(tmp_path: Path) -> None:
    path = written(tmp_path, "d.jsonl", b'{"prompt": "a", "good": "b", "bad": "c"}\n')
    assert [s.response(0) for s in read_slates(path, columns={"chosen": "good", "rejected": "bad"})] == ["b"]
    with pytest.raises(InputError, match="there is no column goood to rename"):
        read_slates(path, columns={"chosen": "goood", "rejected": "bad"})


def test_first_problem_is_named_and_all_are_counted(tmp_path: Path) -> None:
    good = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    path = written(tmp_path, "d.jsonl", good + b"oops\n" + good + b'{"prompt": 1, "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(InputError) as caught:
        read_for_training(path)
    assert caught.value.line == 2
    assert "2 rows of 4 cannot be read: 1 broken JSON, 1 values of the wrong type" in caught.value.message
    assert "prefine data check" in caught.value.remedy
    data = read_for_training(path, on_problem="skip")
    assert data.count == 2 and len(list(data)) == 2 and dict(data.skipped) == {"json": 1, "type": 1}


def test_a_directory_without_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data"):
        read_slates(tmp_path)


def test_a_list_has_at_least_thirty_five_kinds() -> None:
    assert len({b[0] for b in BAD}) == len(BAD) >= 35
