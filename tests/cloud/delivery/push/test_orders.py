# SPDX-License-Identifier: Apache-2.0
"""Which order holds for whom, as a value."""

from __future__ import annotations

from tests.cloud.delivery.push.conftest import make_order

from pocketrec_cloud.delivery.push.orders import OrderBook, concerns, settings_of
from pocketrec_cloud.delivery.records import AudienceKind, DeviceRecord, OrderRecord

MODEL, OTHER = b"m" * 32, b"o" * 32
ANDROID = DeviceRecord(
    device_id="0" * 32,
    public_key=b"k" * 32,
    token_sha256=b"t" * 32,
    token_expires_at_s=100,
    backend="onnxruntime 1.31.1",
    app_version="2.0",
    os="Android",
    ram_bytes=2**32,
    created_at_s=1,
    seen_at_s=1,
)


def for_subject(sequence: int, subject: str = "ann", **fields: object) -> OrderRecord:
    """Return an order for one subject."""
    audience = {"audience": AudienceKind.SUBJECT, "audience_value": subject}
    return make_order(sequence, **audience | fields)


def for_android(sequence: int, **fields: object) -> OrderRecord:
    """Return an order for a cohort."""
    audience = {"audience": AudienceKind.COHORT, "audience_value": "os = Android"}
    return make_order(sequence, **audience | fields)


def book(*orders: OrderRecord, now_s: float = 10) -> OrderBook:
    """Return a book of some records."""
    return OrderBook().with_records(orders, now_s=now_s)


def holding(
    found: OrderBook,
    subject: str = "ann",
    *,
    device: DeviceRecord | None = ANDROID,
    model_digest: bytes = MODEL,
    now_s: float = 10,
) -> int:
    """Return the sequence of the order that holds; 0 = none."""
    order = found.find(subject, lambda: device, model_digest, now_s=now_s)
    return 0 if order is None else order.sequence


class TestOrderBook:
    def test_newest_holds(self) -> None:
        """Of two orders for everybody the later one counts."""
        assert holding(book(make_order(1), make_order(2))) == 2

    def test_subject_comes_before_cohort_before_everybody(self) -> None:
        """A more special audience wins over a newer order."""
        orders = (for_subject(1), for_android(2), make_order(3))

        assert holding(book(*orders)) == 1
        assert holding(book(*orders[1:])) == 2
        assert holding(book(*orders), "bob") == 2
        assert holding(book(*orders), "bob", device=None) == 3

    def test_devices_without_a_subject_are_no_subject(self) -> None:
        """An order for a subject is not for those who name none."""
        assert holding(book(for_subject(1)), "") == 0

    def test_order_for_another_model_does_not_hold(self) -> None:
        """An order may be about one frozen model only."""
        orders = book(make_order(1), make_order(2, model_digest=OTHER))

        assert holding(orders) == 1
        assert holding(orders, model_digest=OTHER) == 2

    def test_cancelled_order_does_not_hold(self) -> None:
        """What was before a cancelled order holds again; the sequence goes up."""
        orders = book(make_order(1), make_order(2))
        after = orders.with_records([make_order(3, cancels=2)], now_s=10)

        assert holding(after) == 1
        assert after.last_sequence == 3
        assert holding(orders) == 2

    def test_expired_order_does_not_hold(self) -> None:
        """An order holds until its time is over, and leaves the book then."""
        orders = book(make_order(1), make_order(2, expires_at_s=20))

        assert (holding(orders, now_s=19), holding(orders, now_s=20)) == (2, 1)
        assert [order.sequence for order in orders.expired_since(20)] == [2]
        assert list(orders.with_records([], now_s=20).orders) == [1]

    def test_device_is_asked_for_only_where_a_cohort_counts(self) -> None:
        """Looking a device up costs a query, which most orders do not need."""
        asked: list[int] = []
        found = book(make_order(1)).find("", lambda: asked.append(1), MODEL, now_s=10)

        assert found is not None
        assert asked == []

    def test_settings_are_those_of_the_order(self) -> None:
        """What an order says of plans arrives as settings."""
        order = make_order(1, planner="global", average_bits=2.5)

        assert (settings_of(order).planner, settings_of(order).average_bits) == ("global", 2.5)


class TestConcerns:
    def test_order_concerns_its_audience_only(self) -> None:
        """Subject, cohort and model decide; who is not known belongs to no cohort."""
        assert concerns(for_subject(1), "ann", None, MODEL)
        assert not concerns(for_subject(1), "bob", ANDROID, MODEL)
        assert concerns(for_android(1), "bob", ANDROID, MODEL)
        assert not concerns(for_android(1), "bob", None, MODEL)
        assert concerns(make_order(1), "", None, MODEL)
        assert not concerns(make_order(1, model_digest=OTHER), "", None, MODEL)
