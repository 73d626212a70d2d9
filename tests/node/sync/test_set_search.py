"""The search for validator sets accepts only final blocks, whatever a peer holds back."""

from dataclasses import replace

import trio
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import InvalidMessage, RejectionReason
from chain.primitives import Address, BlockNumber, Hash32, View
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from node.sync.set_search import Certified, SetSearch
from tests.worlds.proofs import GENESIS

LENGTH = 200
SETS = tuple((Address(bytes([n]) * 20),) for n in range(1, 5))
SCHEDULES = st.dictionaries(st.integers(2, LENGTH), st.integers(0, len(SETS) - 1), max_size=12).map(
    lambda changes: {1: 0, **changes}
)
"""The first block of each set; two in a row may be the same."""


class Chain:
    """Headers whose certificates name their set in clear, which only the verifier reads."""

    def __init__(self, schedule: dict[int, int]) -> None:
        self._schedule = schedule
        self.asked: list[int] = []
        self.missing: frozenset[int] = frozenset()

    def validators(self, number: int) -> tuple[Address, ...]:
        return SETS[self._schedule[max(first for first in self._schedule if first <= number)]]

    def certified(self, number: int) -> Certified:
        return replace(GENESIS, number=BlockNumber(number)), CommitCertificate(View(0), ())

    def verify(
        self,
        certificate: CommitCertificate,
        number: BlockNumber,
        digest: Hash32,
        validators: tuple[Address, ...],
    ) -> None:
        del certificate
        is_final = digest == self.certified(number)[0].hash
        if not is_final or self.validators(number) != validators:
            raise InvalidMessage(RejectionReason.BAD_CERTIFICATE)

    async def fetch(self, number: BlockNumber) -> Certified | None:
        await trio.lowlevel.checkpoint()
        self.asked.append(number)
        return None if number in self.missing else self.certified(number)

    async def read_next(
        self, last: Header, validators: tuple[Address, ...]
    ) -> tuple[Address, ...] | None:
        await trio.lowlevel.checkpoint()
        self.verify(self.certified(last.number)[1], last.number, last.hash, validators)
        following = self.validators(last.number + 1)
        return None if following == validators else following

    def is_final(self, target: Certified, head: int = 0) -> bool:
        search = SetSearch(verify=self.verify, fetch=self.fetch, read_next=self.read_next)
        return trio.run(search.is_final, target, BlockNumber(head), self.validators(head + 1))


@given(schedule=SCHEDULES, head=st.integers(0, LENGTH - 1), data=st.data())
def test_later_block_is_proven_final_by_few_headers_a_set_change(
    schedule: dict[int, int], head: int, data: st.DataObject
) -> None:
    target = data.draw(st.integers(head + 1, LENGTH))
    chain = Chain(schedule)
    assert chain.is_final(chain.certified(target), head)
    assert len(chain.asked) <= len(schedule) * LENGTH.bit_length()


@given(schedule=SCHEDULES, target=st.integers(1, LENGTH))
def test_block_without_a_certificate_is_never_final(schedule: dict[int, int], target: int) -> None:
    chain = Chain(schedule)
    header, certificate = chain.certified(target)
    assert not chain.is_final((replace(header, timestamp=header.timestamp + 1), certificate))
    assert len(chain.asked) <= len(schedule) * LENGTH.bit_length()


def test_peer_without_the_headers_between_proves_nothing_and_is_not_blamed() -> None:
    chain = Chain({1: 0, 50: 1})
    chain.missing = frozenset(range(1, 120))
    assert not chain.is_final(chain.certified(150))
    assert chain.is_final(chain.certified(150), head=60)
