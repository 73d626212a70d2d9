"""The operator's settings: defaults < TOML file < environment < flags (docs/operator-guide.md).

No setting can change which blocks are valid; that is up to the genesis file alone.
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
from pot_common.errors import OperatorError
from pot_common.logs import LogFormat, LogLevel


class Retention(StrEnum):
    """Which data of finished rounds a node keeps."""

    LIVE = "live"
    """Only data that the network may still need."""
    TASK = "task"
    """All data until the task is deleted, so that `pot task verify` can replay it."""


ENVIRONMENT_PREFIX: Final = "POT_"
"""Prefix of environment variables: POT_RPC__PORT sets rpc.port."""

SEPARATOR: Final = "__"
"""Separates section and setting in an environment variable; names contain single underscores."""

CONFIG_LIMIT_BYTES: Final = 2**20
"""A file this large, a thousand times a usual one, is not a configuration."""


def _split(value: object) -> object:
    """Split a comma-separated list, as in the environment or a flag."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""A list of strings."""

NAMES_LIMIT: Final = 1_000
"""Limit of names of validators: ten times the largest validator set."""


def _parse_names(value: object) -> object:
    """Parse a table of names by hexadecimal address."""
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
"""Names of validators by address."""

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
    """Largest number of peers that are not validators."""
    accept_private_addresses: bool = False
    """Accept loopback and private addresses from peers: only for a network of your own."""


class RpcSection(_Section):
    """JSON-RPC and blobs over HTTP."""

    host: str = "127.0.0.1"
    port: Port = 8545
    cors: Names = ()
    """Origins of web pages that may call, or `*` for all."""
    allowed_hosts: Names = ("localhost", "127.0.0.1")
    """Accepted Host headers, or `*` for all. This protects against DNS rebinding by web pages."""
    body_limit_bytes: Annotated[int, Field(ge=1_024, le=2**28)] = 5 * 2**20
    """Largest body of a JSON-RPC request; the default is geth's."""
    processes: Annotated[int, Field(ge=0, le=64)] = 1
    """Number of RPC processes; 0 serves no RPC."""


class MetricsSection(_Section):
    """The Prometheus endpoint."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 6060
    """The default is geth's port for metrics."""


class KeySection(_Section):
    """A keystore V3 file and the file with its password."""

    key_file: Path | None = None
    """Without it, this node does not have this role."""
    password_file: Path | None = None
    """Without it, the password is asked for at the terminal."""


class BlobsSection(_Section):
    """Gradients, models and data."""

    quota_bytes: Annotated[int, Field(ge=2**20)] = 64 * 2**30
    retention: Retention = Retention.LIVE
    """`live` keeps only data of finished rounds that the network may still need. `task` keeps all
    data until the task is deleted, so that `pot task verify` works here."""
    closed_task_days: Annotated[float, Field(ge=0, le=36_500)] = 30.0
    """The most days for which the data of a closed task is kept, its final model above all. After
    the first day it is deleted earlier if other tasks need the room."""


class SyncSection(_Section):
    """How a node catches up that is behind its peers."""

    mode: Literal["auto", "full", "snapshot"] = "auto"
    """`full` executes all missing blocks. `snapshot` downloads a recent state first. `auto` does so
    only if the node is some thousand blocks behind."""
    checkpoint: Annotated[str, Field(pattern="^(0x[0-9a-f]{64})?$")] = ""
    """The hash of a final block that you trust; only a snapshot of this block is accepted."""


class MempoolSection(_Section):
    """The price of gas. Policy of this node: it decides no block's validity."""

    gas_price_wei: Annotated[int, Field(ge=0, le=2**63)] = 10**9
    """Transactions that pay less for a unit of gas share a ration; 0 for no ration."""
    free_gas_per_second: Annotated[int, Field(ge=0, le=10**12)] = 500_000
    """The ration of the whole network; 0 for none. A validator gives its part of it in its own
    blocks."""


class LogsSection(_Section):
    """The log, on standard error."""

    format: LogFormat = LogFormat.CONSOLE
    level: LogLevel = LogLevel.INFO


class VerifierSection(_Section):
    """The verifier: worker processes that re-execute gradients."""

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    memory_limit_bytes: Annotated[int, Field(ge=2**28)] = 4 * 2**30
    """Memory limit of each worker."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """Time limit of one re-execution."""
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
    """The directory of all data of the node. Relative paths start at the working directory."""
    genesis: Path | None = None
    """The genesis file; by default genesis.json in data_dir."""
    network: NetworkSection = NetworkSection()
    rpc: RpcSection = RpcSection()
    metrics: MetricsSection = MetricsSection()
    consensus: KeySection = KeySection()
    """The validator's consensus key. It signs PBFT messages and nothing else."""
    operator: KeySection = KeySection()
    """The operator account, which sends the validator's votes on tasks and on the validator set."""
    blobs: BlobsSection = BlobsSection()
    mempool: MempoolSection = MempoolSection()
    logs: LogsSection = LogsSection()
    sync: SyncSection = SyncSection()
    verifier: VerifierSection = VerifierSection()
    names: ValidatorNames = Field(default_factory=dict)
    """Names for validators in the messages of this node, by address."""

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
        """The lock file, which the node running on this data directory holds."""
        return self.data_dir / "LOCK"

    @property
    def host_key_file(self) -> Path:
        """The key of the libp2p peer id."""
        return self.data_dir / "host.key"

    @property
    def database_dir(self) -> Path:
        """The database of blocks and state."""
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
        """Evidence of conflicting votes that is not on the chain yet."""
        return self.data_dir / "evidence"

    @property
    def reveal_dir(self) -> Path:
        """Reveals, which open gradient commitments."""
        return self.data_dir / "reveals"

    @property
    def state_part_dir(self) -> Path:
        """The lists of blobs that training states consist of."""
        return self.data_dir / "training-states"

    @property
    def training_dir(self) -> Path:
        """Working files of the verifier, and the results of this node's checks."""
        return self.data_dir / "training"

    @property
    def rpc_socket(self) -> Path:
        """The Unix socket between the RPC processes and the node process."""
        return self.data_dir / "rpc.sock"

    @property
    def rpc_metrics_dir(self) -> Path:
        """The files in which the RPC processes count."""
        return self.data_dir / "rpc-metrics"

    @property
    def guard_file(self) -> Path | None:
        """The signer guard. It is beside the consensus key, so both move together; None without."""
        key_file = self.consensus.key_file
        return None if key_file is None else key_file.with_name(key_file.name + ".guard")


def load_config(file: Path | None = None, flags: Mapping[str, object] | None = None) -> NodeConfig:
    """The configuration from all its sources.

    Args:
        file: A TOML file; None for none.
        flags: Values by dotted name, such as "rpc.port"; None for a flag that was not given.

    Raises:
        OperatorError: A setting is misspelt or invalid (the message names it and its file), or the
            file is not readable.
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
    """All settings by dotted name, as in flags and messages."""
    names: list[str] = []
    for name, field in NodeConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, _Section):
            names += [f"{name}.{inner}" for inner in section.model_fields]
        else:
            names.append(name)
    return tuple(names)


def _nest(flags: Mapping[str, object]) -> dict[str, object]:
    """Turn {"rpc.port": 1} into {"rpc": {"port": 1}}."""
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
    except (ValueError, RecursionError) as error:
        raise OperatorError(f"{file} is not TOML: {error}") from None


def _check_environment() -> None:
    """Refuse environment variables of unknown sections, which the settings library ignores."""
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
