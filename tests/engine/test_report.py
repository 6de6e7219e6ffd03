"""What counts as a miss."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.report import BackendCount, Call, Departed, FailedHandshake, MockReport, More

FINE = MockReport("test", 0, 0, (BackendCount("a.test", 443, True, 2, 2), BackendCount("10.0.0.1", 80, True, 0, 0)), (), 0, ())
CALL = Call("b.test", "198.18.0.2", 443, "TCP", "curl", 1)


def test_everything_answered_is_no_miss() -> None:
    assert not FINE.missed
    beside = replace(FINE, passed=(CALL,), local=(CALL,))
    assert not beside.missed
    assert not replace(FINE, more=More(passed=1, local=1)).missed


@pytest.mark.parametrize(
    "missed",
    [
        replace(FINE, backends=(BackendCount("a.test", 443, True, 2, 1),)),
        replace(FINE, backends=(BackendCount("a.test", 443, True, 2, 1, passed=1),)),
        replace(FINE, refused=(CALL,)),
        replace(FINE, troubles=(("a request that cannot be read", 1),)),
        replace(FINE, unrecorded=(CALL,)),
        replace(FINE, refused=(replace(CALL, protocol="UDP"),)),
        replace(FINE, refused=(replace(CALL, protocol="ICMP"),)),
        replace(FINE, departed=(Departed("su", 1, "/x", ended=True),)),
        *(replace(FINE, more=More(**{kind: 1})) for kind in ("refused", "unrecorded", "departed", "untold")),
        replace(FINE, news_ended="it broke"),
        replace(FINE, failed_handshakes=(FailedHandshake("a.test", 443, "curl", "TLSV1_ALERT_UNKNOWN_CA", 1),)),
    ],
)
def test_whatever_got_no_recorded_answer_is_a_miss(missed: MockReport) -> None:
    assert missed.missed
    assert missed.to_json()["missed"]


@pytest.mark.parametrize(("host", "address", "port"), [("a.test", "198.18.0.1", 443), ("", "10.0.0.1", 80)])
def test_quic_that_is_tried_first_is_no_miss(host: str, address: str, port: int) -> None:
    """A datagram to a port that is stood in for by TCP: its caller comes again by TCP."""
    tried = Call(host, address, port, "UDP", "curl", 1)
    assert not replace(FINE, refused=(tried,)).missed
    assert replace(FINE, refused=(replace(tried, protocol="TCP"),)).missed


ALERTS = ["TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_UNKNOWN"]


@pytest.mark.parametrize(("reason", "distrusted"), [*((alert, True) for alert in ALERTS), ("NO_SHARED_CIPHER", False)])
def test_alerts_that_say_that_a_certificate_is_not_trusted(reason: str, distrusted: bool) -> None:
    assert FailedHandshake("a.test", 443, "java", reason, 1).distrusted is distrusted
