"""How far work is: bars on a terminal, quiet lines elsewhere."""

import io
import os
import pty
import re
import subprocess
import sys
import textwrap

import pytest

from experiments.harness import progress
from experiments.harness.progress import Progress


class Terminal(io.StringIO):
    """Standard output of somebody who looks."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(progress, "SCREEN", progress.Screen())
    yield Terminal()
    progress.SCREEN.stop()


def plain(stream):
    """What was written, without the codes that move and colour."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_a_pipe_gets_a_line_now_and_then():
    now, out = [0.0], io.StringIO()
    how = {"label": "cells", "every_secs": 10, "stream": out, "at_once": False}
    with Progress(100, clock=lambda: now[0], **how) as told:
        for step in range(1, 26):
            now[0] += 1
            told.update(step, {"loss": 0.5})
    lines = out.getvalue().splitlines()
    assert lines == [
        "cells 10/100  loss 0.5  eta 1m30s",
        "cells 20/100  loss 0.5  eta 1m20s",
    ]
    assert "\x1b" not in out.getvalue()


def test_what_ends_by_time_tells_the_time_that_is_left():
    now = [0.0]
    with Progress(1000, budget=120, clock=lambda: now[0]) as told:
        now[0] = 20.0  # The first step compiles.
        told.update(1)
        assert told.seconds_left(1) == 100  # Known before there is a rate.
        now[0] = 21.0
        told.update(2)
        assert told.seconds_left(2) == 99
        assert told.seconds_left(950) == 50  # Steps end it before.
        now[0] = 130.0
        assert told.seconds_left(100) == 0
        assert told.seconds_left(1000) == 0
    assert Progress(1, budget=120).seconds_left(1) == 0  # One step, and it is done.


def test_a_terminal_gets_one_bar_with_rate_and_time_left(terminal):
    now = [0.0]
    told = Progress(40, label="images", stream=terminal, clock=lambda: now[0])
    for step in range(1, 21):
        now[0] += 0.5
        told.update(step, {"loss": 0.5})
    progress.SCREEN._display.refresh()
    seen = plain(terminal)
    assert re.search(r"images .*20/40 2/s .* 10s left loss 0\.5", seen), seen
    # Lines are for what is worth keeping.
    assert "images 20/40  loss" not in seen
    told.update(40, {"loss": 0.25}, force=True)
    assert "images 40/40  loss 0.25  eta 0s" in plain(terminal)
    assert progress.SCREEN._display is None  # The terminal is given back.


def test_a_stage_within_another_shares_the_display(terminal):
    outer = Progress(3, label="cells", stream=terminal)
    with Progress(5, label="recovered", stream=terminal) as inner:
        inner.update(2)
        progress.SCREEN._display.refresh()
        assert "cells" in plain(terminal) and "recovered" in plain(terminal)
    assert progress.SCREEN._display is not None
    outer.close()
    outer.close()
    assert progress.SCREEN._display is None


def test_a_terminal_that_cannot_move_gets_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    Progress(4, stream=terminal).update(1)
    assert terminal.getvalue() == "step 1/4  eta ?\n"


def test_counters_of_conversions(capsys):
    count = progress.counter("converting")
    count(1, 2)
    count(2, 2)
    assert capsys.readouterr().err == ""  # Quick, and nobody looks.


@pytest.mark.parametrize(
    ("rate", "told"), [(12.5, "12.5/s"), (0.05, "3/min"), (0.001, "3.6/h")]
)
def test_rates(rate, told):
    assert progress.format_rate(rate) == told


PROGRAM = """
    import sys
    from experiments.harness.progress import Progress
    told = Progress(3, label="things")
    for step in 1, 2:
        told.update(step)
        print("said", step)
    sys.exit("broken")
"""


def test_a_real_terminal_is_given_back_when_a_program_breaks():
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "JAX_PLATFORMS": "cpu"}
    code = textwrap.dedent(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=side, stderr=side, env=environment
    )
    os.close(side)
    told = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # Linux says so when the other side is closed.
            break
        if not part:
            break
        told += part
    assert process.wait() == 1
    os.close(main)
    text = told.decode()
    assert "said 1" in text and "things" in text and "broken" in text
    hidden, shown = text.rfind("\x1b[?25l"), text.rfind("\x1b[?25h")
    assert 0 <= hidden < shown  # The cursor is there again.
