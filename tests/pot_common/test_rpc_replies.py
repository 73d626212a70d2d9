"""Answers that are wrong in millions of places cost one error."""

import pytest
from pydantic import TypeAdapter, ValidationError

from pot_common.rpc_replies import ClientError, Items, NodeInfo, Reply, read_answer


class Numbers(Reply):
    numbers: Items[int]


@pytest.mark.parametrize(
    ("adapter", "value"),
    [
        (TypeAdapter(Items[int]), ["x"] * 1_000),
        (TypeAdapter(Numbers), {"numbers": ["x"] * 1_000}),
        (
            TypeAdapter(NodeInfo),
            {
                "chainId": 1,
                "genesisHash": "0x" + "00" * 32,
                "systemContracts": dict.fromkeys(map(str, range(1_000)), 1),
            },
        ),
    ],
    ids=["list", "field", "table"],
)
def test_reading_ends_at_the_first_wrong_item(adapter: TypeAdapter, value: object) -> None:
    with pytest.raises(ClientError) as refused:
        read_answer(adapter, value)
    cause = refused.value.__cause__
    assert isinstance(cause, ValidationError)
    assert cause.error_count() == 1


def test_good_lists_are_read_as_before() -> None:
    assert read_answer(TypeAdapter(Numbers), {"numbers": [1, 2]}) == Numbers(numbers=(1, 2))
