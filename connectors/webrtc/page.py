"""The phone in the browser: three files, served as they are."""

from collections.abc import Callable
from importlib.resources import files


def _file(name: str, content_type: str) -> Callable[[], tuple[str, str]]:
    def read() -> tuple[str, str]:
        return (files("fastagent.connectors.webrtc") / "assets" / name).read_text(encoding="utf-8"), content_type

    return read


PAGE: dict[str, Callable[[], tuple[str, str]]] = {
    "/phone": _file("phone.html", "text/html"),
    "/phone.js": _file("phone.js", "text/javascript"),
    "/phone.css": _file("phone.css", "text/css"),
}
"""By path: what makes the text, and its content type."""
