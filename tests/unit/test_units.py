import pytest

from raceline.core.units import counted, format_bytes, format_seconds


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1023.9 * 1024, "1 MiB"),
        (1023.4 * 1024, "1023 KiB"),
        (1.5 * 1024**3, "1.5 GiB"),
    ],
)
def test_sizes_never_read_a_thousand_of_a_unit(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.0, "0 ns"),
        (0.99996, "1 s"),
        (0.00099996, "1 ms"),
        (0.0123, "12.3 ms"),
        (119.0, "119 s"),
        (120.0, "2 min"),
    ],
)
def test_durations_never_read_a_thousand_of_a_unit(duration, text):
    assert format_seconds(duration) == text


def test_counts():
    assert (counted(1, "call"), counted(2, "call")) == ("1 call", "2 calls")
