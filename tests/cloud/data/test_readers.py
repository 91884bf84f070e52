# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketrec.errors import ConfigError, DataError
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.readers import Columns, read_interactions

# One user's events at times 30, 10, 20 and 20: b, c, then d before a, as in the file.
EVENTS = [("u", "a", 30), ("u", "b", 10), ("u", "d", 20), ("u", "c", 20)]
ORDERED = ["b", "d", "c", "a"]
U64 = pa.uint64()
CSV = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in EVENTS)


def histories(dataset: SequenceDataset) -> dict[str, list[str]]:
    """Return every user's history as external ids."""
    return {
        name: [dataset.item_ids[index - 1] for index in dataset.sequence(user)]
        for user, name in enumerate(dataset.user_ids)
    }


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    """Write a file and return its path."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class TestFormats:
    def test_sequences(self, tmp_path: Path) -> None:
        """A line is a user and the items in order."""
        path = write(tmp_path, "s.txt", "u b d c a\nv a a\tb\n")

        dataset, _ = read_interactions(path)

        assert histories(dataset) == {"u": ORDERED, "v": ["a", "a", "b"]}

    def test_recbole(self, tmp_path: Path) -> None:
        """A typed header names the columns, and the time orders the events."""
        lines = "".join(f"{u}\t{i}\t5\t{t}\n" for u, i, t in EVENTS)
        header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"

        dataset, _ = read_interactions(write(tmp_path, "r.inter", header + lines))

        assert histories(dataset) == {"u": ORDERED}

    def test_movielens(self, tmp_path: Path) -> None:
        """Fields between double colons; a single colon is part of an id."""
        lines = "".join(f"{u}:1::{i}::5::{t}\n" for u, i, t in EVENTS)

        dataset, _ = read_interactions(write(tmp_path, "ratings.dat", lines))

        assert histories(dataset) == {"u:1": ORDERED}

    def test_csv(self, tmp_path: Path) -> None:
        """Columns are found by name."""
        dataset, _ = read_interactions(write(tmp_path, "e.csv", CSV))

        assert histories(dataset) == {"u": ORDERED}

    def test_csv_with_other_names_and_quotes(self, tmp_path: Path) -> None:
        """Columns may be called anything, and quoted fields hold separators and breaks."""
        content = '\ufeffwhen,"who, exactly",what\n2,u,"x,\ny"\n1,u,"say ""z"""\n3,u,NA\n'
        columns = Columns(user="who, exactly", item="what", time="when")

        dataset, _ = read_interactions(write(tmp_path, "e.csv", content), columns=columns)

        assert histories(dataset) == {"u": ['say "z"', "x,\ny", "NA"]}

    def test_tsv(self, tmp_path: Path) -> None:
        """The suffix .tsv means CSV with tabs."""
        dataset, _ = read_interactions(write(tmp_path, "e.tsv", CSV.replace(",", "\t")))

        assert histories(dataset) == {"u": ORDERED}

    @pytest.mark.parametrize(
        "times",
        [
            pa.array([30, 10, 20, 20]),
            pa.array([3.0, 1.0, 2.0, 2.0]),
            pa.array([30, 10, 20, 20]).cast(pa.timestamp("s")),
            pa.array([30, 10, 20, 20], pa.int32()).cast(pa.date32()),
        ],
        ids=lambda column: str(column.type),
    )
    def test_parquet(self, times: object, tmp_path: Path) -> None:
        """Times in Parquet are numbers, timestamps or dates."""
        table = pa.table({"user_id": [7] * 4, "item_id": ["a", "b", "d", "c"], "timestamp": times})
        pq.write_table(table, tmp_path / "e.parquet")

        dataset, _ = read_interactions(tmp_path / "e.parquet")

        assert histories(dataset) == {"7": ORDERED}

    def test_parquet_with_nanoseconds(self, tmp_path: Path) -> None:
        """What pandas writes: times that no float64 can tell apart."""
        start = 2**60
        times = pa.array([start + 2, start, start + 1], pa.timestamp("ns"))
        columns = {"user_id": ["u"] * 3, "item_id": ["c", "a", "b"], "timestamp": times}
        pq.write_table(pa.table(columns), tmp_path / "e.parquet")

        dataset, _ = read_interactions(tmp_path / "e.parquet")

        assert histories(dataset) == {"u": ["a", "b", "c"]}

    def test_parquet_with_categories(self, tmp_path: Path) -> None:
        """Ids that are stored as categories are read as their text."""
        items = pa.array(["a", "b", "a"]).dictionary_encode()
        pq.write_table(pa.table({"user_id": ["u"] * 3, "item_id": items}), tmp_path / "e.pq")

        dataset, _ = read_interactions(tmp_path / "e.pq", columns=Columns(time=None))

        assert histories(dataset) == {"u": ["a", "b", "a"]}

    def test_the_format_can_be_named(self, tmp_path: Path) -> None:
        """A format that is named counts more than the suffix."""
        dataset, report = read_interactions(write(tmp_path, "e.log", CSV), format="csv")

        assert (dataset.n_events, report.format) == (4, "csv")

    def test_without_times_the_file_gives_the_order(self, tmp_path: Path) -> None:
        """Columns without a time leave events as they are in the file."""
        dataset, report = read_interactions(
            write(tmp_path, "e.csv", CSV), columns=Columns(time=None)
        )

        assert histories(dataset) == {"u": ["a", "b", "d", "c"]}
        assert report.ordered_by == "file order"

    def test_nanoseconds_stay_exact(self, tmp_path: Path) -> None:
        """Times that a float cannot tell apart still order events."""
        late, early = 1_700_000_000_000_000_001, 1_700_000_000_000_000_000
        content = f"user_id,item_id,timestamp\nu,b,{late}\nu,a,{early}\nu,c,{late}\n"

        dataset, _ = read_interactions(write(tmp_path, "e.csv", content))

        assert histories(dataset) == {"u": ["a", "b", "c"]}


class TestItemIndices:
    def test_numbers_sort_by_value(self, tmp_path: Path) -> None:
        """Where every id is a whole number, 10 comes after 9."""
        dataset, _ = read_interactions(write(tmp_path, "s.txt", "u 10 9 100\n"))

        assert dataset.item_ids == ("9", "10", "100")

    def test_texts_sort_as_text(self, tmp_path: Path) -> None:
        """With one id that is no number, or has a leading zero, all sort as text."""
        dataset, _ = read_interactions(write(tmp_path, "s.txt", "u 10 9 010\n"))

        assert dataset.item_ids == ("010", "10", "9")


class TestBadLines:
    @pytest.mark.parametrize(
        ("name", "content", "line", "reason"),
        [
            ("e.csv", CSV + "u,a\n", 6, "expected 3 fields"),
            ("e.csv", CSV + "u,a,1,2\n", 6, "found 4"),
            ("e.csv", CSV + "\n\nu,,1\n", 8, "expected an id in 'item_id', found nothing"),
            ("e.csv", CSV + ",a,1\n", 6, "expected an id in 'user_id', found nothing"),
            ("e.csv", CSV + "u,a,noon\n", 6, "expected a number in 'timestamp'"),
            ("e.csv", CSV + "u,a,nan\n", 6, "found 'nan'"),
            ("e.csv", CSV + "u,a,1e999\n", 6, "found '1e999'"),
            ("e.csv", CSV + 'u,"a\nb",1\nu,a,\n', 8, "found ''"),
            ("e.csv", CSV.encode() + b"u,\xffa,1\n", 6, "found the byte 0xff at column 3"),
            ("e.csv", "", 1, "expected the columns' names, found nothing"),
            ("e.csv", "user,item\n", 1, "expected one column 'user_id', found 0"),
            ("e.csv", "user_id,item_id,item_id,timestamp\n", 1, "found 2 among"),
            ("e.dat", "u::a::5::1\nu::a::5\n", 2, "expected 4 fields separated by '::'"),
            ("e.dat", "u::a::5::1\n\nu::a::5::x\n", 3, "expected a number in 'timestamp'"),
            ("e.dat", "u::a::5::1\nu::\x1f::5\n", 2, "expected 4 fields"),
            ("e.inter", "user_id:token\titem_id\ttimestamp:float\n", 1, "names with types"),
            ("e.inter", "user_id:token\titem_id:token\n", 1, "expected one column 'timestamp'"),
            (
                "e.inter",
                "user_id:token\titem_id:token_seq\ttimestamp:float\n",
                1,
                "expected the column 'item_id' to be of type 'token', found 'token_seq'",
            ),
            (
                "e.inter",
                'user_id:token\titem_id:token\ttimestamp:float\nu\t"a\t1\nu\t1\n',
                3,
                "expected 3 fields",
            ),
            ("s.txt", "u a b c\nv a\nu d\n", 3, "found 'u' again, who is on line 1"),
            ("s.txt", b"u a b c\nv \xc3\x28\n", 2, "expected UTF-8"),
            ("s.txt", f"u a b c\n\nv {'é' * 129} a b\n", 3, "item ids of at most 256 bytes"),
            ("e.csv", CSV + f"u,{'é' * 129},1\n", 6, "an item id of at most 256 bytes"),
            ("e.dat", f"u::a::5::1\nu::{'x' * 257}::5::1\n", 2, "at most 256 bytes"),
        ],
    )
    def test_the_line_and_the_reason_are_named(
        self, name: str, content: str | bytes, line: int, reason: str, tmp_path: Path
    ) -> None:
        """A line that cannot be read gives file, line number and reason."""
        path = write(tmp_path, name, content)

        with pytest.raises(DataError) as caught:
            read_interactions(path)

        assert (caught.value.path, caught.value.line) == (str(path), line)
        assert reason in str(caught.value)

    @pytest.mark.parametrize(
        ("columns", "line", "reason"),
        [
            ({"user_id": ["u", None], "item_id": ["a", "b"]}, 2, "an id in 'user_id'"),
            ({"user_id": ["u", "u"], "item_id": ["", "b"]}, 1, "an id in 'item_id'"),
            ({"user_id": ["u", "u"], "item_id": [1.5, 2.0]}, None, "found double"),
            (
                {"user_id": [1, 2], "item_id": [1, 2], "timestamp": [1.0, float("nan")]},
                2,
                "a finite number",
            ),
            ({"user_id": [1], "item_id": [1], "timestamp": [None]}, 1, "expected a time"),
            ({"user_id": [1], "item_id": [1], "timestamp": ["noon"]}, None, "found string"),
            ({"user_id": [1], "item": [1]}, 1, "expected one column 'item_id'"),
            ({"user_id": [1, 1], "item_id": ["a", "b" * 257]}, 2, "at most 256 bytes"),
            (
                {"user_id": [1, 1], "item_id": [1, 2], "timestamp": pa.array([1, 2**63], U64)},
                2,
                "a time of at most 9223372036854775807",
            ),
            (
                {"user_id": pa.array([b"\xff"]).view(pa.string()), "item_id": [1]},
                None,
                "Invalid UTF8",
            ),
        ],
    )
    def test_a_parquet_row_is_named(
        self, columns: dict[str, object], line: int | None, reason: str, tmp_path: Path
    ) -> None:
        """In Parquet the row takes the place of the line."""
        path = tmp_path / "e.parquet"
        pq.write_table(pa.table(columns), path)
        time = "timestamp" if "timestamp" in columns else None

        with pytest.raises(DataError, match=reason) as caught:
            read_interactions(path, columns=Columns(time=time))

        assert caught.value.line == line

    def test_what_is_no_parquet_is_said(self, tmp_path: Path) -> None:
        """A text that is called .parquet is refused as such."""
        with pytest.raises(DataError, match="expected a sound Parquet file"):
            read_interactions(write(tmp_path, "e.parquet", CSV))

    def test_a_damaged_page_of_parquet_is_the_files_fault(self, tmp_path: Path) -> None:
        """Damage behind a sound footer is no error of the system."""
        path = tmp_path / "e.parquet"
        columns = {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3]}
        pq.write_table(pa.table(columns), path)
        content = bytearray(path.read_bytes())
        content[20:50] = b"\xff" * 30
        path.write_bytes(content)

        with pytest.raises(DataError, match="expected a sound Parquet file"):
            read_interactions(path)

    def test_an_empty_table_has_no_users(self, tmp_path: Path) -> None:
        """A file with a header alone has nothing to read."""
        with pytest.raises(DataError):
            read_interactions(write(tmp_path, "e.csv", "user_id,item_id,timestamp\n"))

    def test_too_short_histories_are_an_error(self, tmp_path: Path) -> None:
        """When nobody is left, the longest history is named."""
        with pytest.raises(DataError, match="the longest history has 4"):
            read_interactions(write(tmp_path, "e.csv", CSV), min_events_per_user=5)

    def test_an_absent_file_stays_an_os_error(self, tmp_path: Path) -> None:
        """The system's own errors are left as they are."""
        with pytest.raises(FileNotFoundError):
            read_interactions(tmp_path / "absent.csv")


class TestMisuse:
    def test_an_unknown_format(self, tmp_path: Path) -> None:
        """A format that does not exist is answered with those that do."""
        with pytest.raises(ConfigError, match="among auto, sequences, recbole"):
            read_interactions(tmp_path / "e.csv", format="excel")

    def test_an_unknown_suffix(self, tmp_path: Path) -> None:
        """A suffix that says nothing asks for the format."""
        with pytest.raises(DataError, match="name the format"):
            read_interactions(tmp_path / "e.xlsx")

    def test_columns_without_names(self, tmp_path: Path) -> None:
        """Columns cannot be named where a format has none."""
        with pytest.raises(ConfigError, match="has no named columns"):
            read_interactions(tmp_path / "s.txt", columns=Columns())

    def test_a_minimum_of_none(self, tmp_path: Path) -> None:
        """The minimum number of events is at least one."""
        with pytest.raises(ConfigError, match="at least 1, got 0"):
            read_interactions(write(tmp_path, "s.txt", "u a\n"), min_events_per_user=0)
