# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from tests.device.bench_report.samples import sample_profile, sample_record, sample_result

from pocketrec_device.bench_report.bar_charts import draw_memory, draw_operators, draw_start
from pocketrec_device.bench_report.content import Content
from pocketrec_device.bench_report.front_chart import Point, draw_front, front_of
from pocketrec_device.bench_report.latency_chart import draw_latency
from pocketrec_device.bench_report.scales import linear_scale, log_scale


def point(name: str, n_bytes: float, value: float) -> Point:
    """A variant without a spread."""
    return Point(name=name, series=0, n_bytes=n_bytes, value=value, low=value, high=value)


class TestScales:
    def test_linear_ticks_are_round_and_enclose(self) -> None:
        """From 0 to 43 is written as tens, to 50."""
        scale = linear_scale(0, 43, 100, 600)

        assert list(scale.ticks) == [0, 10, 20, 30, 40, 50]
        assert [scale.at(value) for value in (0, 25, 50)] == [100, 350, 600]

    def test_log_ticks_are_1_2_and_5(self) -> None:
        """Equal ratios take equal room: 100 is in the middle of 10 and 1,000."""
        scale = log_scale(12, 950, 0, 200)

        assert list(scale.ticks) == [10, 20, 50, 100, 200, 500, 1000]
        assert scale.at(100) == pytest.approx(100)

    def test_what_is_outside_lies_at_the_border(self) -> None:
        """A single slow call does not leave the picture."""
        scale = log_scale(10, 1000, 0, 200)

        assert [scale.at(1), scale.at(1e9)] == pytest.approx([0, 200])

    @pytest.mark.parametrize("value", [0.0, 0.4, -3.0])
    def test_equal_numbers_get_an_axis_around_them(self, value: float) -> None:
        """Where all variants rank alike there is still a picture."""
        scale = linear_scale(value, value, 0, 10)

        assert scale.low < value < scale.high


class TestFront:
    def test_what_a_smaller_variant_beats_is_not_on_it(self) -> None:
        """Of four, c is larger than b and no better; d is the best of all."""
        points = [
            point("d", 40, 0.9),
            point("a", 10, 0.5),
            point("c", 30, 0.6),
            point("b", 20, 0.7),
        ]

        assert [each.name for each in front_of(points)] == ["a", "b", "d"]

    def test_of_equal_sizes_the_better_counts(self) -> None:
        """A worse variant of the same size is beaten."""
        assert [each.name for each in front_of([point("a", 10, 0.5), point("b", 10, 0.6)])] == ["b"]

    def test_the_picture_names_the_front(self) -> None:
        """uniform-8 is larger than uniform-4 and ranks worse."""
        picture = draw_front(Content.of([sample_result()]))

        assert picture is not None
        assert "on the front, by rising bytes: uniform-2, uniform-4, float32." in picture

    def test_without_quality_there_is_none(self) -> None:
        """Nobody was ranked."""
        result = sample_result(records=[sample_record("uniform-4", quality=None)])

        assert draw_front(Content.of([result])) is None


class TestPictures:
    def test_every_picture_is_sound_and_has_words(self) -> None:
        """Each is well-formed SVG with a name and a description."""
        content = Content.of([sample_result()], [sample_profile()])
        profile = sample_profile()
        cells = content.of_operation("single", "step")
        pictures = [
            draw_latency(cells, "step", content.series),
            draw_front(content),
            draw_memory(content),
            draw_start(content),
            draw_operators(profile, profile["functions"][0]),
        ]

        for picture in pictures:
            svg = ET.fromstring(str(picture))
            assert svg.tag == "svg"
            assert svg.get("role") == "img"
            assert svg[0].tag == "title"
            assert svg[1].tag == "desc"
            assert svg.get("aria-label") == f"{svg[0].text}. {svg[1].text}"

    def test_a_row_tells_its_percentiles(self) -> None:
        """Quarters of the samples that were kept, 1 to 100 microseconds; the rest of all calls."""
        samples = " ".join(str(1000 * us) for us in range(1, 101))
        process = {"samples_ns": {"step": samples}, "p50_us": {"step": 50.5}}
        latency = {"step": {"p50": 51.0, "p95": 96.0, "p99": 101.0}}
        record = sample_record("a", processes=[process], latency_us=latency)
        content = Content.of([sample_result(records=[record])])

        picture = draw_latency(content.of_operation("single", "step"), "step", content.series)

        assert "p25 25.8, p50 51, p75 75.2, p95 96, p99 101 μs, 100 samples" in str(picture)

    def test_a_doubtful_cell_is_marked(self) -> None:
        """The last variant is."""
        content = Content.of([sample_result()])

        picture = str(draw_latency(content.of_operation("single", "step"), "step", content.series))

        assert picture.count("⚠") == 1
        assert "⚠ uniform-2" in picture

    def test_no_samples_no_picture(self) -> None:
        """A result may keep none."""
        process = {"samples_ns": {}, "p50_us": {"step": 50.5}}
        content = Content.of([sample_result(records=[sample_record("a", processes=[process])])])

        cells = content.of_operation("single", "step")
        assert draw_latency(cells, "step", content.series) is None
