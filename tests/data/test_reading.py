"""Datasets as people have them: formats, compressions, directories, globs; cut anywhere, nothing is lost."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_jax.data import cut_into_parts, find_files, lines, read_records, reading
from llm_jax.errors import DataError

MESSAGES = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2 é 🙂"}]
ROWS = [{"messages": MESSAGES, "id": i} for i in range(5)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def records(paths, form="answers"):
    return [
        record for file in find_files(paths) for part in cut_into_parts(file) for record in read_records(part, form)
    ]


@pytest.fixture
def files(tmp_path):
    """The same rows in every format."""
    table = pa.Table.from_pylist(ROWS)
    (tmp_path / "rows.jsonl").write_bytes(JSONL)
    (tmp_path / "rows.ndjson").write_bytes(b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n\r\n"))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "lines.json").write_bytes(JSONL)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(JSONL))
    (tmp_path / "rows.jsonl.zst").write_bytes(pa.compress(JSONL, "zstd", asbytes=True))
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, 2)
    saved = tmp_path / "saved"
    saved.mkdir()
    with pa.OSFile(str(saved / "data-0.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, 2)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    (saved / "dataset_info.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("rows.jsonl", "rows.ndjson", "rows.json", "lines.json", "rows.jsonl.gz", "rows.jsonl.zst"),
        *("rows.parquet", "rows.arrow", "saved"),
    ],
)
def test_all_formats_hold_the_same(files, name, monkeypatch):
    expected = [list(record.messages) for record in records(files / "rows.jsonl")]
    assert expected == [MESSAGES] * 5
    assert [list(record.messages) for record in records(files / name)] == expected
    monkeypatch.setattr(reading, "PART", 100)
    parts = [part for file in find_files(files / name) for part in cut_into_parts(file)]
    assert len(parts) > 2 or name in ("rows.json", "lines.json", "rows.jsonl.gz", "rows.jsonl.zst")
    assert [list(record.messages) for record in records(files / name)] == expected


def test_lists_directories_and_globs(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a/3.txt", "b/notes.md", "b/.hidden/4.txt", "b/5.txt.gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(name.encode()) if name.endswith("gz") else name.encode())
    assert records([tmp_path / "b", tmp_path / "a" / "3.txt"], "text") == [
        "b/1.txt",
        "b/2.txt",
        "b/5.txt.gz",
        "a/3.txt",
    ]
    assert records(str(tmp_path / "*" / "[12].txt"), "text") == ["b/1.txt", "b/2.txt"]
    assert records(str(tmp_path / "**" / "3.txt"), "text") == ["a/3.txt"]
    assert records(tmp_path / "b" / "notes.md", "text") == ["b/notes.md"], "a file that is named is text"


def test_a_home_directory_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("hi")
    assert records("~/a.txt", "text") == ["hi"]


TEXT = "One 🙂.\nStill one.\n\n\nTwo.\r\n \t\nThree é\n\nFour.\n\n\n\nFive has no end"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 21, 1000])
def test_a_text_may_be_cut_anywhere(tmp_path, monkeypatch, size):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8", newline="")
    monkeypatch.setattr(reading, "PART", size)
    assert len(cut_into_parts(*find_files(tmp_path / "a.txt"))) == -(-len(TEXT.encode()) // size)
    assert records(tmp_path / "a.txt", "text") == ["One 🙂.\nStill one.", "Two.", "Three é", "Four.", "Five has no end"]


@pytest.mark.parametrize("size", [7, 40, 1000])
def test_a_document_beyond_memory_is_cut_at_line_ends_or_characters(tmp_path, monkeypatch, size):
    text = "".join(f"line {i}é\n" for i in range(30)) + "🙂" * 50
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(lines, "LONGEST", 32)
    monkeypatch.setattr(reading, "PART", size)
    found = records(tmp_path / "a.txt", "text")
    assert "".join(found).replace("\n", "") == text.replace("\n", "")
    assert max(len(document.encode()) for document in found) <= 2 * 32


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"text": "a"}\n\n{"text": 3}\n', r"a.jsonl, line 3: text is 3"),
        (b'{"text": "a"}\n{"text"\n', r"a.jsonl, line 2: not JSON"),
        (b'{"text": "a"}\n["a"]\n', r"a.jsonl, line 2: holds \['a'\]; it must be an object"),
        (b'{"text": "a"}\n{"texts": "a"}\n', r"a.jsonl, line 2: the fields are texts; a record needs"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', r"a.jsonl, line 2: not UTF-8"),
    ],
)
@pytest.mark.parametrize("size", [15, 1000])
def test_a_broken_record_is_named_by_its_line(tmp_path, monkeypatch, content, says, size):
    (tmp_path / "a.jsonl").write_bytes(content)
    monkeypatch.setattr(reading, "PART", size)
    with pytest.raises(DataError, match=says):
        records(tmp_path, "text")


def test_a_broken_row_of_a_table_is_named(tmp_path):
    rows = [{"messages": MESSAGES}] * 4 + [{"messages": MESSAGES[:1]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=3)
    with pytest.raises(DataError, match=r"a.parquet, row 5: messages has none of the assistant"):
        records(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\n\nab\xff", r"not UTF-8 text \(byte 4\)"),
        ("a.json", b"[1]", "entry 1: holds 1; it must be an object"),
        ("a.json", b"[1", "not JSON"),
        ("a.jsonl.gz", b"plain", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(JSONL)[:-9], "cannot be read"),
        ("a.jsonl.zst", b"plain", "cannot be read"),
        ("a.jsonl.zst", pa.compress(JSONL, "zstd", asbytes=True)[:-9], "cannot be read"),
        ("a.parquet", b"plain", "cannot be read as parquet"),
        ("a.arrow", b"plain", "cannot be read as arrow"),
        ("state.json", b"{}", "not as `datasets` writes it"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        records(tmp_path, "text")
    assert str(tmp_path / name) in str(caught.value)


def test_what_is_not_there_is_named(tmp_path, files):
    for path, says in [
        ("none.txt", "there is no such file"),
        ("*.none", "no file has such a name"),
        ("empty", "no file in it that ends in .txt"),
        ("dict", "several splits. Name one of them: .*dict/train, .*dict/test"),
        ("dict/valid", "there is no such split. Name one of them"),
    ]:
        (files / "empty").mkdir(exist_ok=True)
        (files / "dict").mkdir(exist_ok=True)
        (files / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        with pytest.raises(DataError, match=says):
            records(files / path)
