"""Logs of nodes and miners: one event a line, as text or JSON (docs/operator-guide.md)."""

import logging
import sys
from enum import StrEnum
from typing import Final, TextIO

import structlog

from chain.hexadecimal import to_hex

QUIET_LIBRARIES: Final = ("multiaddr", "asyncio", "httpx", "httpcore", "urllib3", "uvicorn", "web3")
"""Libraries with messages below a warning that interest only their own developers."""

NETWORK_LIBRARY: Final = "libp2p"
"""A library that logs each error it also raises, with a traceback: a peer that does not answer, a
stream that ends when the node stops. The node logs those itself, so this is shown at DEBUG only."""


class LogFormat(StrEnum):
    """How a log line looks."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure_logs(
    log_format: LogFormat, level: LogLevel, stream: TextIO | None = None, **context: str | int
) -> None:
    """Send all logs of this process, the libraries' too, to one stream in one format.

    Args:
        log_format: Console or JSON lines.
        level: The least severity that is logged.
        stream: Standard error if None.
        context: Fields for every line, such as the process's role.
    """
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hex_bytes,
    ]
    if log_format is LogFormat.JSON:
        renderers: list[structlog.typing.Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=True),
        ]
    else:
        renderers = [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    network = logging.getLogger(NETWORK_LIBRARY)
    network.setLevel(logging.WARNING if level is LogLevel.DEBUG else logging.CRITICAL)
    # When the library is imported, it turns `propagate` off and writes in a format of its own.
    network.propagate = True


def _hex_bytes(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Write hashes and addresses as hex."""
    return {
        key: to_hex(value) if isinstance(value, bytes) else value for key, value in event.items()
    }
