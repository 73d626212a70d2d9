"""Evidence against validators, stored until it is on the chain (docs/operator-guide.md, section 9).

There is at most one file for each validator. The first evidence takes all its stake, so a second
one is useless, and the number of validators bounds the storage.
"""

import json
from pathlib import Path
from typing import Final

import structlog

from chain.consensus.evidence import Evidence
from chain.hexadecimal import from_hex, to_hex
from chain.primitives import Address, BlockNumber
from pot_common.atomic_file import sync_directory, write_atomically
from pot_common.errors import OperatorError

FILE_LIMIT_BYTES: Final = 4_096
"""Three times the longest report. A longer file was not written by this program."""

_log = structlog.get_logger("node.evidence")


class EvidenceStore:
    """A directory of JSON files. An operator can read and send them if the node cannot."""

    def __init__(self, directory: Path) -> None:
        """Open the directory; it is created if it does not exist.

        Raises:
            OperatorError: The directory cannot be created, or a file in it is damaged.
        """
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = {
                evidence.validator: evidence
                for evidence in map(_load, sorted(directory.glob("0x*.json")))
            }
        except OSError as error:
            raise OperatorError(f"cannot read evidence in {directory}: {error}") from error

    def held(self) -> tuple[Evidence, ...]:
        """The evidence that is not settled yet, by validator."""
        return tuple(self._held[validator] for validator in sorted(self._held))

    def add(self, evidence: Evidence) -> None:
        """Store evidence durably, unless some against that validator is stored already."""
        if evidence.validator in self._held:
            return
        self._held[evidence.validator] = evidence
        document = {
            "validator": to_hex(evidence.validator),
            "number": evidence.number,
            "data": to_hex(evidence.data),
        }
        try:
            write_atomically(self._path(evidence.validator), json.dumps(document).encode() + b"\n")
        except OSError as error:
            # The evidence is still in memory, and will be sent from there.
            _log.error("evidence could not be stored", reason=str(error))

    def remove(self, validator: Address) -> None:
        """Delete evidence that is on the chain or has expired."""
        if self._held.pop(validator, None) is not None:
            self._path(validator).unlink(missing_ok=True)
            sync_directory(self._directory)

    def _path(self, validator: Address) -> Path:
        return self._directory / f"{to_hex(validator)}.json"


def _load(path: Path) -> Evidence:
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise ValueError("too long")
        document = json.loads(path.read_bytes())
        return Evidence(
            Address(from_hex(document["validator"])),
            BlockNumber(int(document["number"])),
            from_hex(document["data"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(
            f"the evidence {path} is not what was written ({error}): restore or remove it"
        ) from error
