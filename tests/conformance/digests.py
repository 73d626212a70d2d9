"""Digests that are signed, and hashes in contracts and headers."""

from collections.abc import Mapping
from dataclasses import astuple, replace

from chain.consensus.evidence import build_evidence
from chain.consensus.messages import (
    MessageKind,
    compute_signing_digest,
    compute_view_change_payload,
)
from chain.contracts.miner_seats import Fine, FineKind
from chain.contracts.set_storage import compute_set_hash
from chain.contracts.validator_set import compute_join_digest
from chain.crypto import chunk_hashes, content_id, merkle_path, merkle_root
from chain.genesis import GenesisAccount, build_alloc
from chain.primitives import BlockNumber, PrivateKey, View
from chain.state import trie
from chain.state.world_state import WorldState
from chain.training.assignment import assign, compute_seed
from chain.training.encoding import (
    compute_commitment,
    compute_gradient_root,
    compute_trajectory_root,
)
from chain.training.rewards import build_reward_tree, compute_leaf
from chain.training.self_test import compute_self_test_digest
from chain.training.slashing import build_fine_tree, compute_fine_leaf
from chain.training.task_spec_codec import compute_spec_hash, compute_terms
from chain.transition import compute_receipts_root, compute_transactions_root
from chain.types.account import Account, encode_storage_value
from chain.types.transaction import decode_transaction, sign_transaction
from chain.validation import compute_extra_data, compute_mix_hash
from node.network.protocols.status import NodeIdentity, compute_status_digest
from tests.conformance import values
from tests.conformance.registry import Value, sample
from tests.conformance.streams import PEER
from tests.conformance.values import make_address, make_bytes, make_hash, make_signature


@sample("digest.consensus", "compute_signing_digest")
def build_consensus_digests() -> Value:
    return {
        kind.name.lower(): compute_signing_digest(
            values.DOMAIN, kind, BlockNumber(906), View(7), make_hash(210)
        )
        for kind in MessageKind
        if kind not in (MessageKind.NEW_VIEW, MessageKind.COMMITTED)
    }


@sample("digest.view_change_payload", "compute_view_change_payload")
def build_view_change_payload() -> Value:
    return {
        "prepared": compute_view_change_payload((View(8), make_hash(211))),
        "nothing_prepared": compute_view_change_payload(None),
    }


@sample("digest.status_proof", "compute_status_digest")
def build_status_digest() -> Value:
    identity = NodeIdentity(values.CHAIN_ID, make_hash(212), None)
    return compute_status_digest(identity, signer_peer_id=PEER, verifier_nonce=make_hash(213))


@sample("digest.join_proof", "compute_join_digest")
def build_join_digest() -> Value:
    return compute_join_digest(907, make_address(214), make_address(215))


@sample("digest.gradient_commitment", "compute_commitment", "compute_gradient_root")
def build_gradient_commitment() -> Value:
    root = compute_gradient_root(make_bytes(12, 999))
    return compute_commitment(values.GRADIENT_HEADER, root, make_hash(214), 15)


@sample("digest.trajectory", "compute_commitment", "compute_trajectory_root")
def build_trajectory_commitment() -> Value:
    """The commitment to a round of several local steps, with what only such rounds have."""
    header = replace(values.GRADIENT_HEADER, local_steps=17)
    root = compute_trajectory_root([make_hash(215 + step) for step in range(3)])
    reveal = replace(values.REVEAL, trajectory_root=root)
    return {
        "commitment": compute_commitment(header, make_hash(218), make_hash(214), 15, root),
        "header": replace(header, step=11).encode(),
        "reveal": reveal.encode(),
        "root": root,
    }


@sample(
    "digest.transaction",
    "_decode_legacy",
    "_build_typed",
    "_recover_sender",
    "Transaction.created_address",
)
def build_transactions() -> Value:
    """All values read from a transaction; its sender depends on the signed digest."""
    found = {}
    for name, raw in values.TRANSACTIONS.items():
        transaction = decode_transaction(raw)
        found[name] = [astuple(transaction), transaction.created_address]
    return found


@sample("digest.signed_transaction", "sign_transaction")
def build_signed_transaction() -> Value:
    return sign_transaction(
        PrivateKey(values.KEY),
        chain_id=values.CHAIN_ID,
        nonce=16,
        max_fee_per_gas=10**9 + 17,
        max_priority_fee_per_gas=18,
        gas_limit=60_019,
        to=make_address(215),
        value=20,
        data=b"\x15\x16",
    ).raw


@sample("digest.rewards", "compute_leaf", "_hash_pair")
def build_rewards() -> Value:
    earned = {make_address(220 + index): 10**18 + index for index in range(5)}
    earned[make_address(230)] = 0
    tree = build_reward_tree(values.CHAIN_ID, make_address(231), values.TASK, earned)
    return {
        "leaf": compute_leaf(
            values.CHAIN_ID, make_address(231), values.TASK, make_address(232), 2**130 + 1
        ),
        "tree": tree.nodes,
        "proof": tree.proof(make_address(222)),
    }


@sample("digest.fines", "compute_fine_leaf")
def build_fines() -> Value:
    kinds = (FineKind.MISS, FineKind.FRAUD, FineKind.MISS)
    fines = [
        Fine(300 + at, 310 + at, make_address(60 + at), kind, 320 + at)
        for at, kind in enumerate(kinds)
    ]
    tree = build_fine_tree(values.CHAIN_ID, values.TASK, 330, fines)
    return {
        "leaf": compute_fine_leaf(values.CHAIN_ID, values.TASK, 331, fines[1]),
        "tree": tree.nodes,
        "proof": tree.prove(2)[1],
    }


@sample("digest.validator_set", "compute_set_hash")
def build_set_hash() -> Value:
    return compute_set_hash(values.GENESIS_SET.validators)


@sample("digest.attempt_seed", "compute_seed", "_feistel")
def build_seed() -> Value:
    seed = compute_seed(make_hash(233), values.ATTEMPT)
    miners = [(make_address(234), 3), (make_address(235), 5), (make_address(236), 4)]
    assignment = assign(seed, miners, 120, 9)
    return [seed, assignment.units, assignment.sample_indices(make_address(235))]


@sample("digest.task_spec", "compute_spec_hash")
def build_spec_hash() -> Value:
    return [compute_spec_hash(values.SPEC), astuple(compute_terms(values.SPEC))]


@sample("digest.training_arithmetic", "compute_self_test_digest", "_build_theta")
def build_self_test() -> Value:
    return compute_self_test_digest()


@sample("digest.content_id", "content_id_of_chunks")
def build_content_ids() -> Value:
    data = make_bytes(13, 251) * 5_300
    leaves = chunk_hashes(data)
    return {
        "empty": content_id(b""),
        "of_six_chunks": content_id(data),
        "path": [merkle_path(leaves, 4), merkle_root(leaves)],
    }


@sample(
    "digest.header",
    "compute_mix_hash",
    "compute_extra_data",
    "compute_transactions_root",
    "compute_receipts_root",
    "compute_ordered_root",
)
def build_header_fields() -> Value:
    return {
        "hash": values.HEADER.hash,
        "certificate": values.CERTIFICATE.hash,
        "mix_hash": compute_mix_hash(values.HEADER),
        "extra_data": compute_extra_data(values.CERTIFICATE),
        "extra_data_of_the_first": compute_extra_data(None),
        "transactions_root": compute_transactions_root(list(values.TRANSACTIONS.values())),
        "receipts_root": compute_receipts_root(values.RECEIPTS),
    }


@sample(
    "digest.state",
    "Account.encode",
    "encode_storage_value",
    "_encode_path",
    "_encode_node",
    "_encode_string",
    "_encode_length",
    "WorldState.compute_delta",
    "_to_word",
    "_read_storage",
)
def build_state_trie() -> Value:
    account = Account(21, 2**100 + 22, make_hash(240), make_hash(241))
    # Keys with a long common prefix give an extension node; a key with an empty value is absent.
    entries = {make_hash(242 + index): make_bytes(index, 3 + 20 * index) for index in range(30)}
    entries |= {b"\x11" * 31 + bytes([last]): b"\x7f" for last in (1, 2, 0x21)}
    root, nodes = trie.build(entries)
    world_root, delta = build_world()
    return {
        "account": account.encode(),
        "storage_value": [encode_storage_value(each) for each in (0, 1, 128, 2**255 + 23)],
        "trie": [root, nodes],
        "changed": [world_root, delta],
    }


def build_world() -> tuple[bytes, Mapping[bytes, bytes]]:
    """A state with a created account, and another account in which a slot was emptied."""
    kept, made = make_address(246), make_address(247)
    root, nodes = build_alloc({kept: GenesisAccount(balance=24, storage={25: 26, 27: 28})})
    world = WorldState(nodes, root)
    world.set_balance(made, 2**70)
    world.set_nonce(made, 29)
    world.set_code(made, b"\x60\x00")
    world.set_storage(made, 30, 2**255)
    world.set_storage(kept, 25, 0)
    assert world.get_storage(kept, 27) == 28
    return world.compute_delta()


@sample("digest.evidence")
def build_evidence_calls() -> Value:
    other = replace(values.VOTE, digest=make_hash(250), signature=make_signature(251))
    later = replace(values.VIEW_CHANGE_VOTE, author=values.COMMIT.author)
    empty = replace(values.EMPTY_VIEW_CHANGE_VOTE, author=values.COMMIT.author)
    validator = make_address(252)
    return {
        "equivocation": astuple(build_evidence(values.VOTE, other, validator, 5)),
        "lost_lock": astuple(build_evidence(values.COMMIT, later, validator, 6)),
        "lost_lock_without_prepared": astuple(build_evidence(values.COMMIT, empty, validator, 7)),
    }
