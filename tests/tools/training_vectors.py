"""Vectors of the training protocol for other implementations: inputs and expected outputs.

`python -m tests.tools.training_vectors` rewrites tests/vectors/training_*.json; a test compares.
"""

import json
from dataclasses import replace
from pathlib import Path

from chain.contracts.addresses import MINER_SEATS, REWARD_DISTRIBUTOR
from chain.contracts.gradient_ledger import ResultKind, post_result, settle_round
from chain.contracts.miner_seats import Fine, FineKind
from chain.crypto import sha256
from chain.primitives import Address, Hash32, TaskId
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.aggregation import aggregate, compute_weights
from chain.training.assignment import DOMAIN_SAMPLES, assign, compute_seed, permute
from chain.training.attempt import AttemptId
from chain.training.availability import Availability, AvailabilityVote, encode_availability
from chain.training.decisions import Guilt, Outcome
from chain.training.draws import (
    DRAW_BITS,
    AuditRule,
    compute_draw_limit,
    compute_draws,
    compute_expected_draws,
)
from chain.training.encoding import (
    COMMITMENT_DOMAIN,
    TRAJECTORY_COMMITMENT_DOMAIN,
    compute_commitment,
    compute_gradient_root,
    compute_trajectory_root,
    decode_gradient,
    encode_gradient,
)
from chain.training.history import RoundOutcome
from chain.training.optimizer import apply_update, initial_state
from chain.training.result_vote import build_empty_vote, build_payment_vote, build_result_vote
from chain.training.reveal import Reveal
from chain.training.rewards import build_reward_tree
from chain.training.self_test import EXPECTED, OPTIMIZERS
from chain.training.slashing import build_fine_tree
from chain.training.state import compute_model_root, compute_training_state_root
from chain.training.task_spec import (
    Aggregator,
    compute_learning_rate_ppb,
)
from chain.training.task_spec_codec import compute_spec_hash, encode_task_spec
from chain.types.validator_set import compute_max_faulty, compute_quorum
from tests.worlds.training import (
    HEADER,
    SPEC,
    header_of,
    miner_address,
    random_gradient,
)

DIRECTORY = Path("tests/vectors")
SEED = Hash32(sha256(b"seed"))
SIZE = 300
RATE_PPB = 20_000_000


def build_spec() -> object:
    return {
        "canonical": encode_task_spec(SPEC).decode(),
        "spec_hash": compute_spec_hash(SPEC).hex(),
        "learning_rate_ppb": [compute_learning_rate_ppb(SPEC, i) for i in range(11)],
    }


def build_assignment() -> object:
    mix_hash = Hash32(sha256(b"mix"))
    given = [
        {"miners": [[3, 1], [1, 2], [2, 1]], "samples": 50, "samples_per_unit": 8},
        {"miners": [[1, 8], [2, 2]], "samples": 100, "samples_per_unit": 10},
        {"miners": [], "samples": 100, "samples_per_unit": 10},
    ]
    cases = []
    for case in given:
        miners = [(miner_address(number), units) for number, units in case["miners"]]
        result = assign(SEED, miners, case["samples"], case["samples_per_unit"])
        assigned = [
            {"miner": miner.hex(), "units": units, "indices": list(result.sample_indices(miner))}
            for miner, units in result.units
        ]
        named = [[miner.hex(), units] for miner, units in miners]
        cases.append({**case, "miners": named, "assigned": assigned})
    return {
        "seed": {
            "mix_hash": mix_hash.hex(),
            "task": 3,
            "round": 7,
            "attempt": 1,
            "expected": compute_seed(mix_hash, AttemptId(TaskId(3), 7, 1)).hex(),
        },
        "permutation": [
            {
                "seed": SEED.hex(),
                "domain": domain.hex(),
                "size": size,
                "images": [permute(SEED, domain, size, index) for index in range(min(size, 20))],
            }
            for domain in (DOMAIN_SAMPLES,)
            for size in (1, 2, 5, 16, 17, 1_437, 10**6, 2**32)
        ],
        "assignment": {"seed": SEED.hex(), "cases": cases},
    }


def build_encoding() -> object:
    cases = []
    for number, size in ((1, 1), (2, 256), (3, 600)):
        header = header_of(number, size)
        values = random_gradient(number, size)
        payload = encode_gradient(header, values)
        cases.append(
            {
                "values": values.astype("<f4").tobytes().hex(),
                "payload": payload.hex(),
                "squared_norm": str(decode_gradient(payload, header).squared_norm),
                "gradient_root": compute_gradient_root(payload).hex(),
            }
        )
    salt = Hash32(sha256(b"salt"))
    steps_header = replace(HEADER, local_steps=3)
    step_roots = [
        compute_gradient_root(
            encode_gradient(replace(header_of(1, 300), local_steps=3, step=step), values)
        )
        for step, values in enumerate(random_gradient(4 + step, 300) for step in range(3))
    ]
    trajectory_root = compute_trajectory_root(step_roots)
    return {
        "gradients": cases,
        "commitment": {
            "domain": COMMITMENT_DOMAIN.hex(),
            "chain_id": HEADER.chain_id,
            "task": HEADER.attempt_id.task_id,
            "round": HEADER.attempt_id.round_number,
            "attempt": HEADER.attempt_id.attempt_number,
            "miner": HEADER.miner.hex(),
            "theta_root": HEADER.theta_root.hex(),
            "gradient_root": SEED.hex(),
            "salt": salt.hex(),
            "units": 4,
            "expected": compute_commitment(HEADER, SEED, salt, 4).hex(),
        },
        "trajectory": {
            "header_of_the_round": steps_header.encode().hex(),
            "header_of_step_2": replace(steps_header, step=2).encode().hex(),
            "step_roots": [root.hex() for root in step_roots],
            "trajectory_root": trajectory_root.hex(),
            "domain": TRAJECTORY_COMMITMENT_DOMAIN.hex(),
            "commitment": compute_commitment(steps_header, SEED, salt, 4, trajectory_root).hex(),
            "reveal": build_reveal(salt, trajectory_root).encode().hex(),
            "reveal_of_one_step": build_reveal(salt, None).encode().hex(),
        },
    }


def build_reveal(salt: Hash32, trajectory_root: Hash32 | None) -> Reveal:
    return Reveal(HEADER.attempt_id, HEADER.miner, 4, salt, SEED, trajectory_root)


def build_audit() -> object:
    secret = sha256(b"audit secret")
    expected = []
    for validators in (4, 5, 7, 10, 25, 100):
        honest_votes = compute_quorum(validators) - compute_max_faulty(validators)
        for audit_ppm in (10_000, 50_000, 333_333, 1_000_000):
            rule = AuditRule(audit_ppm, 1, 1, honest_votes)
            counts = (1, 2, 10, 100, 1_024)
            expected.append(
                {
                    "validators": validators,
                    "audit_ppm": audit_ppm,
                    "threshold": hex(compute_expected_draws(1 << DRAW_BITS, rule)),
                    "limits": [[count, compute_draw_limit(count, rule)] for count in counts],
                }
            )
    draws = []
    for audit_ppm, steps, audit_steps, count in (
        (50_000, 1, 1, 100),
        (50_000, 16, 1, 200),
        (500_000, 600, 3, 12),
        (1_000_000, 3, 3, 2),
    ):
        rule = AuditRule(audit_ppm, steps, audit_steps, honest_votes=2)
        found = compute_draws(secret, SEED, count, rule)
        words = tuple(Availability(index % len(Availability)) for index in range(count))
        draws.append(
            {
                "audit_ppm": audit_ppm,
                "local_steps": steps,
                "audit_steps": audit_steps,
                "validators": 4,
                "commitments": count,
                "draws": [[draw.index, list(draw.steps)] for draw in found],
                "words": "held, unavailable, unchecked, held, ...",
                "vote": encode_availability(AvailabilityVote(words, found), rule).hex(),
            }
        )
    return {
        "audit_secret": secret.hex(),
        "seed": SEED.hex(),
        "expected_draws": expected,
        "draws": draws,
    }


def build_aggregation() -> object:
    gradients = []
    for number, (units, norm) in enumerate(((3, 1.0), (1, 0.01), (2, 0.5))):
        header = header_of(number, SIZE)
        payload = encode_gradient(header, random_gradient(number, SIZE, norm))
        gradients.append((units, payload, decode_gradient(payload, header)))
    contributions = [(units, gradient.squared_norm) for units, _, gradient in gradients]
    parts = [(units, gradient) for units, _, gradient in gradients]
    theta = random_gradient(9, SIZE, 2.0) + SIZE**-0.5
    updates = []
    for aggregator in Aggregator:
        mean = aggregate(aggregator, SIZE, parts)
        for optimizer in OPTIMIZERS:
            state = initial_state(optimizer, theta.astype("<f4").tobytes())
            for _ in range(2):
                state = apply_update(optimizer, RATE_PPB, state, mean)
            updates.append(
                {
                    "aggregator": aggregator.value,
                    "optimizer": repr(optimizer),
                    "weights": list(compute_weights(aggregator, contributions)),
                    "mean": sha256(mean.astype("<f4").tobytes()).hex(),
                    "model_root": compute_model_root(state).hex(),
                    "training_state_root": compute_training_state_root(state).hex(),
                }
            )
    return {
        "self_test": EXPECTED,
        "gradients": [
            {"units": units, "payload": payload.hex()} for units, payload, _ in gradients
        ],
        "theta": theta.astype("<f4").tobytes().hex(),
        "learning_rate_ppb": RATE_PPB,
        "rounds": 2,
        "updates": updates,
    }


def build_rewards() -> object:
    distributor = Address(b"\xdd" * 20)
    cases = []
    for count in (0, 1, 2, 3, 5, 8):
        amounts = {miner_address(i + 1): 10**18 + i for i in range(count)}
        tree = build_reward_tree(31_337, distributor, TaskId(2), amounts)
        claims = [
            {
                "account": account.hex(),
                "cumulative": str(amount),
                "leaf": tree.leaves[account].hex(),
                "proof": [node.hex() for node in tree.proof(account) or ()],
            }
            for account, amount in amounts.items()
        ]
        cases.append({"root": tree.root.hex(), "claims": claims})
    verdicts = [*Verdict, Verdict.BAD]
    return {
        "chain_id": 31_337,
        "distributor": distributor.hex(),
        "task": 2,
        "trees": cases,
        "verdicts": {
            "of": [verdict.name.lower() for verdict in verdicts],
            "bitmap": encode_verdicts(verdicts).hex(),
        },
    }


def build_fines() -> object:
    trees = []
    for count in (1, 2, 3, 5):
        fines = [
            Fine(
                ballot=2,
                index=4 * i,
                miner=miner_address(i + 1),
                kind=FineKind.MISS if i % 2 else FineKind.FRAUD,
                accusers=0 if i % 2 else 0b1011 << i,
            )
            for i in range(count)
        ]
        tree = build_fine_tree(31_337, TaskId(2), 7, fines)
        proved = [
            {
                "ballot": fine.ballot,
                "index": fine.index,
                "miner": fine.miner.hex(),
                "kind": int(fine.kind),
                "accusers": fine.accusers,
                "leaf": tree.leaves[place].hex(),
                "proof": [node.hex() for node in tree.prove(place)[1]],
            }
            for place, fine in enumerate(fines)
        ]
        trees.append({"root": tree.root.hex(), "fines": proved})
    return {
        "chain_id": 31_337,
        "seats": MINER_SEATS.hex(),
        "task": 2,
        "ordinal": 7,
        "trees": trees,
    }


def build_results() -> object:
    task_id, earned = TaskId(2), {miner_address(1): 10**18}
    outcome = RoundOutcome(
        kind=ResultKind.SETTLED,
        outcomes=(Outcome.ACCEPTED, Outcome.REJECTED, Outcome.ACCEPTED),
        guilt=(Guilt.NONE, Guilt.FRAUD, Guilt.NONE),
        accepted_units=5,
        forfeited=0,
        payouts=((miner_address(1), 2 * 10**18), (miner_address(3), 3 * 10**18)),
        timely_voters=0b1011,
    )
    votes = [
        build_result_vote(
            task_id,
            earned,
            outcome,
            chain_id=31_337,
            training_state_root=Hash32(sha256(b"training state")),
            model_root=Hash32(sha256(b"model")),
        ),
        build_payment_vote(task_id, earned, outcome, 31_337),
        build_empty_vote(ResultKind.FAILED, 0b0111),
        build_empty_vote(ResultKind.VOID, 0b1111),
    ]
    return {
        "chain_id": 31_337,
        "task": 2,
        "round": 3,
        "attempt": 1,
        "ballot": 2,
        "distributor": REWARD_DISTRIBUTOR.hex(),
        "earned_before": {account.hex(): str(amount) for account, amount in earned.items()},
        "payouts": {account.hex(): str(pay) for account, pay in outcome.payouts},
        "loss_millinats": 123,
        "votes": [
            {
                "kind": vote.kind.name.lower(),
                "training_state_root": vote.training_state_root.hex(),
                "model_root": vote.model_root.hex(),
                "rewards_root": vote.rewards_root.hex(),
                "accepted_units": vote.accepted_units,
                "payout": str(vote.payout),
                "timely_voters": vote.timely_voters,
                "post_result": post_result(task_id, 3, 1, 2, vote, 17, 123).data.hex(),
                "post_result_without_evaluation": post_result(
                    task_id, 3, 1, 2, vote, None, 123
                ).data.hex(),
                "settle_round": settle_round(task_id, vote).data.hex(),
            }
            for vote in votes
        ],
    }


VECTORS = {
    "training_spec": build_spec,
    "training_assignment": build_assignment,
    "training_encoding": build_encoding,
    "training_audit": build_audit,
    "training_aggregation": build_aggregation,
    "training_rewards": build_rewards,
    "training_fines": build_fines,
    "training_results": build_results,
}


def path_of(name: str) -> Path:
    return DIRECTORY / f"{name}.json"


def encode_vector(name: str) -> str:
    return json.dumps(VECTORS[name](), indent=1) + "\n"


if __name__ == "__main__":
    for vector in VECTORS:
        path_of(vector).write_text(encode_vector(vector))
