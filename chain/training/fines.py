"""What bonds, fines and pay amount to (docs/spec/contracts.md, section 6)."""

from chain.contracts.miner_seats import MAX_MISSES, MISS_SHARE
from chain.training.sampled_ballot import compute_bond as compute_fraud_bond


def compute_miss(round_pay: int) -> int:
    """The fine for a miss: an eighth of the round's pay, rounded up, so that no miss is free."""
    return -(-round_pay // MISS_SHARE)


def compute_pay(units: int, unit_price: int, *, is_late: bool) -> int:
    """The pay for an accepted gradient, less an eighth if it made a ballot of its attempt fail."""
    full = units * unit_price
    return full - compute_miss(full) if is_late else full


def compute_bond(round_pay: int, audit_ppm: int) -> int:
    """The bond of a seat in the task's token: the part that answers for fraud, and two misses."""
    return compute_fraud_bond(round_pay, audit_ppm) + MAX_MISSES * compute_miss(round_pay)
