"""What an operator decides: defaults < TOML file < environment < flags (docs/operator-guide.md).

Nothing here can change what is valid: that is the genesis file's.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from chain.hexadecimal import from_hex, to_hex
from chain.primitives import Address
from node.logs import LogFormat, LogLevel
from pot_common.errors import OperatorError


class Retention(StrEnum):
    """What a node keeps of rounds that are over."""

    LIVE = "live"
    """Only what the network may still need."""
    TASK = "task"
    """Everything, until the task itself goes: `pot task verify` can replay it."""


ENVIRONMENT_PREFIX: Final = "POT_"
"""POT_RPC__PORT is rpc.port."""

SEPARATOR: Final = "__"
"""Between a section and a setting in the environment: one underscore is part of names."""

CONFIG_LIMIT_BYTES: Final = 2**20
"""A thousand times a configuration: another file was named by mistake."""


def _split(value: object) -> object:
    """A list from the environment or a flag: separated by commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""A list of strings."""

NAMES_LIMIT: Final = 1_000
"""Names of validators: ten times a set."""


def _parse_names(value: object) -> object:
    """Addresses in hex to names, as bytes to names."""
    if not isinstance(value, dict) or len(value) > NAMES_LIMIT:
        raise ValueError(f'write names as "0x..." = "name", at most {NAMES_LIMIT}')
    names: dict[Address, str] = {}
    for key, name in value.items():
        if not isinstance(key, str) or not re.fullmatch("0x[0-9a-fA-F]{40}", key):
            raise ValueError(f"{key!r} is no address: give 0x and 40 hex digits")
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 64:
            raise ValueError(f"the name of {key} has 1 to 64 printable characters")
        names[Address(from_hex(key))] = name
    return names


ValidatorNames = Annotated[
    dict[Address, str],
    BeforeValidator(_parse_names),
    PlainSerializer(lambda names: {to_hex(key): name for key, name in names.items()}),
]
"""Names by address."""

Port = Annotated[int, Field(ge=0, le=65_535)]
"""A TCP port; 0 takes a free one."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class NetworkSection(_Section):
    """The peer-to-peer network."""

    listen: Names = ("/ip4/0.0.0.0/tcp/30303",)
    """Multiaddresses on which peers reach this node."""
    bootstrap: Names = ()
    """Full multiaddresses of peers to start from."""
    max_peers: Annotated[int, Field(ge=1, le=1_000)] = 64
    """Peers that are no validators."""
    accept_private_addresses: bool = False
    """Believe peers that tell of loopback and private addresses: only on a network of one's own."""


class RpcSection(_Section):
    """JSON-RPC and blobs over HTTP."""

    host: str = "127.0.0.1"
    port: Port = 8545
    cors: Names = ()
    """Origins whose web pages may call, or `*`."""
    allowed_hosts: Names = ("localhost", "127.0.0.1")
    """Host headers that are answered, or `*`: a foreign page cannot rebind its name to us."""
    body_limit_bytes: Annotated[int, Field(ge=1_024, le=2**28)] = 5 * 2**20
    """Of a JSON-RPC request; geth's limit."""
    processes: Annotated[int, Field(ge=0, le=64)] = 1
    """0 serves no RPC."""


class MetricsSection(_Section):
    """The Prometheus endpoint."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 6060
    """geth's."""


class KeySection(_Section):
    """A keystore V3 file and the file with its password."""

    key_file: Path | None = None
    """None: this node does not play the part."""
    password_file: Path | None = None
    """None: the password is asked for."""


class BlobsSection(_Section):
    """Gradients, models and data."""

    quota_bytes: Annotated[int, Field(ge=2**20)] = 64 * 2**30
    retention: Retention = Retention.LIVE
    """`live`: of rounds that are over only what the network may still need; `task`: everything,
    until the task goes, so that `pot task verify` works here."""
    closed_task_days: Annotated[float, Field(ge=0, le=36_500)] = 30.0
    """How long a closed task, its final model above all, stays."""


class SyncSection(_Section):
    """How a node that is behind catches up."""

    mode: Literal["auto", "full", "snapshot"] = "auto"
    """auto: by snapshot of a recent state if some thousand blocks behind, or else by executing all
    blocks. full: always that. snapshot: by snapshot also to join a short chain."""
    checkpoint: Annotated[str, Field(pattern="^(0x[0-9a-f]{64})?$")] = ""
    """The hash of a final block that is trusted: a snapshot is taken of it and no other."""


class LogsSection(_Section):
    """What is logged, on standard error."""

    format: LogFormat = LogFormat.CONSOLE
    level: LogLevel = LogLevel.INFO


class VerifierSection(_Section):
    """The processes that re-execute gradients."""

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    memory_limit_bytes: Annotated[int, Field(ge=2**28)] = 4 * 2**30
    """Of each worker."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """Of one re-execution."""
    device: Literal["cpu", "cuda"] = "cpu"


class NodeConfig(BaseSettings):
    """The whole configuration of a node."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter=SEPARATOR,
        enable_decoding=False,
        use_attribute_docstrings=True,
        extra="forbid",
        frozen=True,
    )

    data_dir: Path = Field(default_factory=lambda: Path.home() / ".pot")
    """Everything the node keeps; relative paths are relative to the working directory."""
    genesis: Path | None = None
    """None: genesis.json in data_dir."""
    network: NetworkSection = NetworkSection()
    rpc: RpcSection = RpcSection()
    metrics: MetricsSection = MetricsSection()
    consensus: KeySection = KeySection()
    """The validator's key. It signs PBFT messages and nothing else."""
    operator: KeySection = KeySection()
    """The account that sends the validator's operator votes."""
    blobs: BlobsSection = BlobsSection()
    logs: LogsSection = LogsSection()
    sync: SyncSection = SyncSection()
    verifier: VerifierSection = VerifierSection()
    names: ValidatorNames = Field(default_factory=dict)
    """What messages call validators, by address; only on this node."""

    @model_validator(mode="after")
    def _keep_keys_apart(self) -> Self:
        key_file = self.consensus.key_file
        if key_file is not None and key_file == self.operator.key_file:
            raise ValueError(
                "consensus.key_file and operator.key_file are the same: the consensus key signs "
                "nothing but PBFT messages, set operator.key_file to another key"
            )
        return self

    @property
    def genesis_file(self) -> Path:
        """The genesis file."""
        return self.genesis or self.data_dir / "genesis.json"

    @property
    def lock_file(self) -> Path:
        """Held by the node that runs on the data directory."""
        return self.data_dir / "LOCK"

    @property
    def host_key_file(self) -> Path:
        """The libp2p identity."""
        return self.data_dir / "host.key"

    @property
    def database_dir(self) -> Path:
        """Blocks and state."""
        return self.data_dir / "database"

    @property
    def wal_file(self) -> Path:
        """The write-ahead log of consensus."""
        return self.data_dir / "consensus.wal"

    @property
    def blob_dir(self) -> Path:
        """Gradients, models and data."""
        return self.data_dir / "blobs"

    @property
    def evidence_dir(self) -> Path:
        """Conflicting votes of validators that are not on chain yet."""
        return self.data_dir / "evidence"

    @property
    def reveal_dir(self) -> Path:
        """What opens commitments."""
        return self.data_dir / "reveals"

    @property
    def state_part_dir(self) -> Path:
        """Which blobs training states consist of."""
        return self.data_dir / "training-states"

    @property
    def training_dir(self) -> Path:
        """Working files of verification, and what was measured."""
        return self.data_dir / "training"

    @property
    def rpc_socket(self) -> Path:
        """Where the RPC process reaches the node process."""
        return self.data_dir / "rpc.sock"

    @property
    def guard_file(self) -> Path | None:
        """Beside the consensus key, so that it goes where the key goes; None without a key."""
        key_file = self.consensus.key_file
        return None if key_file is None else key_file.with_name(key_file.name + ".guard")


def load_config(file: Path | None = None, flags: Mapping[str, object] | None = None) -> NodeConfig:
    """The configuration from all its sources.

    Args:
        file: a TOML file; None for none.
        flags: by dotted name, such as "rpc.port"; a value of None was not given.

    Raises:
        OperatorError: a misspelt or invalid setting (the message names it and its source's file),
            or a file that is not readable.
    """

    class Sourced(NodeConfig):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            toml = TomlConfigSettingsSource(settings_cls, toml_file=file)
            return init_settings, env_settings, toml

    _check_file(file)
    _check_environment()
    try:
        return Sourced.model_validate(_nest(flags or {}))
    except ValidationError as error:
        where = "" if file is None else f" (flags, environment or {file})"
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise OperatorError(f"configuration{where}: {problems}") from None


def setting_names() -> tuple[str, ...]:
    """Every setting by dotted name, as flags and messages write it."""
    names: list[str] = []
    for name, field in NodeConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, _Section):
            names += [f"{name}.{inner}" for inner in section.model_fields]
        else:
            names.append(name)
    return tuple(names)


def _nest(flags: Mapping[str, object]) -> dict[str, object]:
    """{"rpc.port": 1} as {"rpc": {"port": 1}}."""
    nested: dict[str, object] = {}
    for name, value in flags.items():
        if value is None:
            continue
        section, _, setting = name.rpartition(".")
        target = nested
        if section:
            inner = nested.setdefault(section, {})
            assert isinstance(inner, dict), "a setting is not also a section"
            target = inner
        target[setting] = value
    return nested


def _check_file(file: Path | None) -> None:
    if file is None:
        return
    try:
        size_bytes = file.stat().st_size
        if size_bytes > CONFIG_LIMIT_BYTES:
            raise OperatorError(f"{file} has {size_bytes} bytes: name a configuration file")
        tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(
            f"cannot read the configuration {file}: {error.strerror}; name an existing file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OperatorError(f"{file} is not TOML: {error}") from None


def _check_environment() -> None:
    """Refuse what the settings library passes over: a variable of no known section."""
    for variable in sorted(os.environ):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace(SEPARATOR, ".")
        if name.partition(".")[0] not in NodeConfig.model_fields:
            raise OperatorError(f"environment: {_unknown(name)} ({variable})")


def _explain(problem: ErrorDetails) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return _unknown(name)
    text = problem["msg"].removeprefix("Value error, ")
    return f"{name} = {problem['input']!r}: {text}" if name else text


def _unknown(name: str) -> str:
    names = setting_names()
    by_last_part = {known.rpartition(".")[2]: known for known in names}
    close = difflib.get_close_matches(name, names, n=1) or [
        by_last_part[last]
        for last in difflib.get_close_matches(name.rpartition(".")[2], by_last_part, n=1)
    ]
    hint = f": did you mean {close[0]}?" if close else "; see `pot config check --help`"
    return f"there is no setting {name}{hint}"
