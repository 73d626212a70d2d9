"""Reading the genesis file, and opening the database of its chain."""

from chain.contracts.set_reader import read_genesis_set
from chain.genesis import GenesisConfig, build_genesis, parse_genesis
from chain.params import InvalidGenesisError
from node.config import NodeConfig
from node.storage.block_store import BlockStore
from node.storage.database import Database, open_database
from pot_common.errors import OperatorError


def load_genesis(config: NodeConfig) -> tuple[GenesisConfig, bytes]:
    """The network's genesis configuration, and the bytes of its file.

    Raises:
        OperatorError: The file is missing or wrong.
    """
    try:
        data = config.genesis_file.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"cannot read the genesis file {config.genesis_file}: {error.strerror}; name the "
            "node's configuration with --config (`pot init` makes one), or set genesis to the "
            "network's genesis.json"
        ) from error
    try:
        genesis = parse_genesis(data)
    except InvalidGenesisError as error:
        raise OperatorError(f"{config.genesis_file}: {error}") from error
    if not genesis.parameters.validators:
        raise OperatorError(
            f"{config.genesis_file} names no validators: make one with `pot genesis new`"
        )
    return genesis, data


def open_chain(config: NodeConfig) -> tuple[GenesisConfig, Database, BlockStore]:
    """The database of the configured chain; it is created if it does not exist.

    Raises:
        OperatorError: The database holds another chain, or the genesis file is wrong.
    """
    genesis, data = load_genesis(config)
    database = open_database(config.database_dir)
    store = BlockStore(database)
    state = build_genesis(genesis)
    validator_set = read_genesis_set(genesis, state)
    if validator_set.validators != genesis.parameters.validators:
        raise OperatorError(
            "genesis.json: config.proofOfTraining.validators differ from the ValidatorSet contract "
            "in alloc: make the file with `pot genesis new`"
        )
    store.initialize(state.header, state.delta, data, validator_set)
    return genesis, database, store
