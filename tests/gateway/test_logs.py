"""Logs: one JSON object a line, and personal fields masked."""

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from fastagent.gateway import logs
from fastagent.gateway.log_handler import PatientHandler


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """What is in the log by now."""
    logging.getLogger().handlers[0].flush()
    return capsys.readouterr().err


def test_an_event_is_one_json_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json", "mask")
    extra = {"session_id": "sess_1", "caller_id": "+1234567890", "agent_id": "retail_agent"}
    logging.getLogger("fastagent.test").info("Session started", extra=extra)
    (line,) = printed(capsys).splitlines()
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "level": "INFO",
        "message": "Session started",
        "session_id": "sess_1",
        "agent_id": "retail_agent",
        "caller_id": "*******7890",
    }


@pytest.mark.parametrize(
    ("how", "shown"), [("mask", "*******7890"), ("full", "+1234567890"), ("hash", "422ce82c6fc1724a")]
)
def test_numbers_are_shown_as_the_setting_says(how: logs.Pii, shown: str) -> None:
    assert logs.mask("+1234567890", how) == shown
    assert logs.mask("", how) == ""


def test_a_short_number_is_masked_whole() -> None:
    assert logs.mask("1234", "mask") == "****"


def test_control_characters_cannot_break_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json", "mask")
    logging.getLogger("fastagent.test").warning("bad", extra={"error": 'a\nb\r\x1b[31m"'})
    (line,) = printed(capsys).splitlines()
    assert json.loads(line)["error"] == 'a\nb\r\x1b[31m"'


def test_an_exception_is_a_field_of_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json", "mask")
    try:
        raise ValueError("oops")
    except ValueError:
        logging.getLogger("fastagent.test").exception("turn failed")
    (line,) = printed(capsys).splitlines()
    assert "ValueError: oops" in json.loads(line)["exception"]


def test_the_console_form_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "console", "mask")
    logging.getLogger("fastagent.test").info("ready", extra={"seconds": 2.5})
    assert "ready" in printed(capsys)


def test_no_traceback_shows_what_a_caller_said(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("json", "console"):
        logs.configure("INFO", form, "mask")

        def fail(digits: str) -> None:
            raise ValueError("oops")

        try:
            fail("4711" + "0815")
        except ValueError:
            logging.getLogger("fastagent.test").exception("turn failed")
        log = printed(capsys)
        assert "oops" in log
        assert "47110815" not in log


class Stuck(io.StringIO):
    """A reader that stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.flowing = threading.Event()

    def write(self, text: str) -> int:
        self.flowing.wait(10)
        return super().write(text)


def test_a_log_that_nobody_reads_makes_nobody_wait_and_says_afterwards_what_is_missing() -> None:
    stream = Stuck()
    handler = PatientHandler(stream, max_lines=10)
    logger = logging.Logger("fastagent.test")
    logger.addHandler(handler)
    for number in range(50):
        logger.info("line %d", number)
    assert stream.getvalue() == ""
    assert handler.dropped >= 39
    stream.flowing.set()
    handler.flush()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["line 0", "line 1"]
    assert lines[-1] == "log lines were dropped"
    assert handler.dropped == 0
