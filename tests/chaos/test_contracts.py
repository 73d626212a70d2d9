"""The clients' contracts behave as the models that the histories are checked against."""

from chain.crypto import get_address
from chain.execution.block_environment import BlockEnvironment
from chain.execution.call_values import CallRequest
from chain.execution.evm import call
from chain.genesis import GenesisAccount
from chain.primitives import Address
from tests.chaos.contracts import (
    REGISTER,
    REGISTER_CODE,
    SET,
    SET_CODE,
    decode_words,
    encode_words,
)
from tests.worlds.chain import ALICE, CHAIN_ID, Chain, genesis_config, sign


def new_chain() -> Chain:
    return Chain(
        genesis_config(
            {
                REGISTER: GenesisAccount(nonce=1, code=REGISTER_CODE),
                SET: GenesisAccount(nonce=1, code=SET_CODE),
            }
        )
    )


def read(chain: Chain, contract: Address) -> tuple[int, ...]:
    environment = BlockEnvironment.of(chain.head, CHAIN_ID)
    request = CallRequest(to=contract, sender=get_address(ALICE))
    result = call(chain.database, chain.head.state_root, environment, request)
    assert result.is_success
    return decode_words(result.output)


def send(chain: Chain, contract: Address, *words: int) -> bool:
    nonce = chain.head.number
    transaction = sign(ALICE, nonce, contract, data=encode_words(*words), gas=200_000)
    [receipt] = chain.extend(transaction).receipts
    return receipt.status == 1


def test_register_is_written_and_swapped_only_for_what_is_there() -> None:
    chain = new_chain()
    assert read(chain, REGISTER) == (0,)
    assert send(chain, REGISTER, 7)
    assert read(chain, REGISTER) == (7,)
    assert not send(chain, REGISTER, 6, 8)
    assert read(chain, REGISTER) == (7,)
    assert send(chain, REGISTER, 7, 8)
    assert read(chain, REGISTER) == (8,)


def test_set_counts_and_lists_what_was_added_twice_if_twice() -> None:
    chain = new_chain()
    assert read(chain, SET) == (0,)
    for element in (11, 12, 11):
        assert send(chain, SET, element)
    assert read(chain, SET) == (3, 11, 12, 11)
