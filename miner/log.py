"""One line an event, for people or as JSON (docs/operator-guide.md, "Logs of a miner")."""

import json
import logging
import sys
import time
from typing import Final, TextIO

LOGGER: Final = logging.getLogger("miner")
"""Everything that a miner says goes through it."""

FIELDS_ATTRIBUTE: Final = "event_fields"
"""Where a record carries the values that belong to its event."""


def log_event(event: str, *, level: int = logging.INFO, **fields: str | float) -> None:
    """Log an event with the values that belong to it."""
    LOGGER.log(level, event, extra={FIELDS_ATTRIBUTE: fields})


class EventFormatter(logging.Formatter):
    """`12:00:00 event  name=value ...`, or one JSON object a line."""

    def __init__(self, *, is_json: bool) -> None:
        super().__init__()
        self._is_json = is_json

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`, without its end."""
        fields: dict[str, str | int | float] = getattr(record, FIELDS_ATTRIBUTE, {})
        if self._is_json:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            line = {
                "time": f"{stamp}.{int(record.msecs):03d}Z",
                "level": record.levelname.lower(),
                "event": record.getMessage(),
                **fields,
            }
            text = json.dumps(line)
        else:
            stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
            values = "".join(f"  {name}={value}" for name, value in fields.items())
            mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            text = f"{stamp}.{int(record.msecs):03d} {mark}{record.getMessage()}{values}"
        return text + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def configure_logging(*, is_json: bool, stream: TextIO = sys.stderr) -> None:
    """Send the miner's events to `stream`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(EventFormatter(is_json=is_json))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
