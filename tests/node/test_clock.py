from node.clock import SystemClock


def test_system_clock_tells_milliseconds_of_this_century():
    first = SystemClock().now_ms()
    assert 1_700_000_000_000 < first < 4_000_000_000_000
    assert SystemClock().now_ms() >= first
