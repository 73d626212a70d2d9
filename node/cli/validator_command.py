"""`pot validator`: shows and changes the validator set."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from chain.amounts import format_amount
from chain.contracts import validator_set
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import TRAINING_TOKEN, VALIDATOR_SET
from chain.contracts.events import EVENT_LAYOUTS, decode_event
from chain.contracts.training_token import approve
from chain.contracts.validator_set import (
    SetScheduled,
    ValidatorProposal,
    ValidatorSlashed,
    get_proposal,
    leave_set,
    proposal_count,
    vote_on_proposal,
)
from chain.crypto import get_address, recover, sign
from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address
from node.cli.account import Account, GasPriceOption, KeyOption, PasswordOption, unlock_account
from node.cli.output import (
    JsonOption,
    RpcOption,
    parse_address,
    print_json,
    print_line,
    print_table,
)
from node.cli.task_round import describe_finable
from node.client.rpc_client import RpcClient, decode_log, get_objects
from pot_common.errors import OperatorError
from pot_common.keystore import unlock_key
from pot_common.node_url import DEFAULT_RPC_URL
from pot_common.rpc_client import RpcCallError
from pot_common.terminal import LINE_WIDTH

SEARCHED_BLOCKS: Final = 10_000
"""The most blocks that a node searches for events at once."""

SLASHED_TOPIC: Final = next(
    each.topic for each in EVENT_LAYOUTS if each.kind is validator_set.ValidatorSlashed
)
"""Names the event of a validator that lost its stake."""

PROPOSALS_SHOWN: Final = 100
"""Number of shown proposals, the latest ones; older ones are closed or expired."""

INDENT: Final = "  "
"""Before lines that belong to the one above."""

app = typer.Typer(no_args_is_help=True)

ValidatorArgument = Annotated[
    str, typer.Argument(metavar="VALIDATOR", help="The address of the consensus key, 0x....")
]
ProposalArgument = Annotated[
    int, typer.Argument(metavar="ID", min=1, help="The proposal's id in `pot validator status`.")
]

ConsensusKeyOption = Annotated[
    Path,
    typer.Option("--consensus-key", help="V3 keystore of the consensus key."),
]
ConsensusPasswordOption = Annotated[
    Path | None,
    typer.Option(
        "--consensus-password-file",
        help="A file with the consensus key's password; without it, you are asked.",
    ),
]


class Change(StrEnum):
    """The changes that can be proposed."""

    JOIN = "join"
    REMOVE = "remove"


@app.command(epilog="Example:  pot validator status")
def status(rpc: RpcOption = DEFAULT_RPC_URL, as_json: JsonOption = False) -> None:
    """Show the validators, the scheduled change, the open proposals, and fines.

    A validator that signed two votes for one place loses its stake. The fines are those of miners,
    on which validators vote; who has not voted yet is named.
    """
    client = RpcClient(rpc)
    current = client.read(validator_set.get_current())
    following = client.read(validator_set.next_validators())
    members: list[Json] = []
    for index, validator in enumerate(current.validators):
        state = client.read(validator_set.get_validator(validator))
        members.append(
            {
                "index": index,
                "validator": to_hex(validator),
                "operator": to_hex(state.operator),
                "status": state.status.name.lower(),
                "slashed": state.is_slashed,
                "stake": str(state.stake),
            }
        )
    activation = client.read(validator_set.activation_block())
    change: Json = None
    if following:
        change = {
            "activationBlock": activation,
            "joins": [to_hex(each) for each in following if each not in current.validators],
            "leaves": [to_hex(each) for each in current.validators if each not in following],
        }
    head = client.quantity("eth_blockNumber")
    proposals: list[Json] = [
        _describe(number, proposal)
        for number, proposal in _list_proposals(client)
        if not proposal.is_closed and head < proposal.expiry_block
    ]
    document: JsonObject = {
        "head": head,
        "quorum": current.quorum,
        "requiredStake": str(client.read(validator_set.required_stake())),
        "validators": members,
        "change": change,
        "proposals": proposals,
        "slashings": _list_slashings(client, head),
        "fines": _list_fines(client),
        "contract": to_hex(VALIDATOR_SET),
    }
    if as_json:
        print_json(document)
    else:
        _print_status(document)


@app.command(epilog="Example:  pot validator prove 0xAb… --consensus-key keys/consensus.json")
def prove(
    operator: Annotated[
        str,
        typer.Argument(metavar="OPERATOR", help="The account that will vote for the validator."),
    ],
    consensus_key: ConsensusKeyOption,
    consensus_password_file: ConsensusPasswordOption = None,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Print a consensus key's proof for `pot validator propose join --proof`.

    For operators whose two keys are on different machines. The proof names the operator account, so
    no other account can use it.
    """
    chain_id = RpcClient(rpc).quantity("eth_chainId")
    validator, proof = _sign_join(
        chain_id, parse_address(operator), consensus_key, consensus_password_file
    )
    if as_json:
        print_json({"validator": to_hex(validator), "proof": to_hex(proof)})
        return
    print_line(to_hex(proof))


@app.command(
    epilog="Example:  pot validator propose join 0xAb… --key keys/operator.json "
    "--consensus-key keys/consensus.json"
)
def propose(
    change: Annotated[
        Change,
        typer.Argument(
            help="What to propose for the validator: that it joins the set, or is removed."
        ),
    ],
    validator: ValidatorArgument,
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    consensus_key: Annotated[
        Path | None,
        typer.Option("--consensus-key", help="For a join: V3 keystore of the consensus key."),
    ] = None,
    consensus_password_file: ConsensusPasswordOption = None,
    proof: Annotated[
        str | None,
        typer.Option(
            metavar="HEX",
            help="For a join, instead of the consensus key: what `pot validator prove` printed.",
        ),
    ] = None,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Propose that a validator joins the set, or is removed from it.

    A join is proposed by the validator's future operator account, which pays the stake in POT. The
    consensus key signs that it wants this operator. A removal is proposed by the operator of
    another validator in the set.
    """
    address = parse_address(validator)
    client = RpcClient(rpc)
    account = unlock_account(client, key, password_file, gas_price)
    if change is Change.REMOVE:
        call = validator_set.propose_removal(address)
    else:
        signed = _get_proof(account, address, consensus_key, consensus_password_file, proof)
        stake = client.read(validator_set.required_stake())
        account.send_call(approve(TRAINING_TOKEN, VALIDATOR_SET, stake))
        call = validator_set.propose_join(address, signed)
    receipt = account.send_call(call)
    events = _decode_events(receipt)
    made = [event for event in events if isinstance(event, validator_set.ProposalMade)]
    if not made:
        raise OperatorError("the receipt lacks the proposal's event; is --rpc on your network?")
    number = made[0].proposal_id
    if as_json:
        print_json({"proposal": number, "expiryBlock": made[0].expiry_block})
        return
    print_line(f"proposal {number}: {change.value} {to_hex(address)}")
    print_line(f"members vote with:  pot validator vote {number} --key OPERATOR")


@app.command(epilog="Example:  pot validator vote 3 --key operator.json")
def vote(
    proposal: ProposalArgument,
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Vote for a proposal with the operator account of a validator in the set."""
    account = unlock_account(RpcClient(rpc), key, password_file, gas_price)
    _send(vote_on_proposal(proposal), account, as_json, f"voted for proposal {proposal}")


@app.command(epilog="Example:  pot validator leave --key operator.json")
def leave(
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Leave the set at the next possible change.

    Keep the node running until `pot validator status` shows that the change has taken effect.
    """
    account = unlock_account(RpcClient(rpc), key, password_file, gas_price)
    _send(leave_set(), account, as_json, "the validator is leaving")


@app.command(epilog="Example:  pot validator withdraw --key operator.json")
def withdraw(
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Take the stake back, of an open join proposal or of a validator that has left."""
    account = unlock_account(RpcClient(rpc), key, password_file, gas_price)
    candidacy = account.client.read(validator_set.candidacy_of(account.address))
    call = (
        validator_set.withdraw_proposal(candidacy) if candidacy else validator_set.withdraw_stake()
    )
    _send(call, account, as_json, "the stake is back")


def _get_proof(
    account: Account,
    validator: Address,
    consensus_key: Path | None,
    password_file: Path | None,
    proof: str | None,
) -> bytes:
    """The given proof, or one that the consensus key makes.

    Raises:
        OperatorError: Neither is given, or it is of another key or for another operator.
    """
    chain_id = account.client.quantity("eth_chainId")
    if proof is not None:
        try:
            signed = from_hex(proof)
        except ValueError as error:
            raise OperatorError("--proof is not 0x and hex digits; copy it again") from error
        digest = validator_set.compute_join_digest(chain_id, validator, account.address)
        if recover(digest, signed) != validator:
            raise OperatorError(
                f"--proof is not a signature of {to_hex(validator)} for operator "
                f"{to_hex(account.address)}; run `pot validator prove {to_hex(account.address)}` "
                "where the consensus key is"
            )
        return signed
    if consensus_key is None:
        raise OperatorError(
            "a join needs the consensus key's signature: give --consensus-key, or --proof with "
            f"what `pot validator prove {to_hex(account.address)}` prints where that key is"
        )
    signer, signed = _sign_join(chain_id, account.address, consensus_key, password_file)
    if signer != validator:
        raise OperatorError(
            f"--consensus-key holds {to_hex(signer)}, not {to_hex(validator)}; give the key of the "
            "validator that joins"
        )
    return signed


def _sign_join(
    chain_id: int, operator: Address, consensus_key: Path, password_file: Path | None
) -> tuple[Address, bytes]:
    """The validator of a consensus key, and its proof that it wants this operator."""
    private_key = unlock_key(consensus_key, password_file, setting="--consensus-password-file")
    validator = get_address(private_key)
    digest = validator_set.compute_join_digest(chain_id, validator, operator)
    return validator, sign(digest, private_key)


def _send(call: ContractCall, account: Account, as_json: bool, done: str) -> None:
    receipt = account.send_call(call)
    scheduled = [event for event in _decode_events(receipt) if isinstance(event, SetScheduled)]
    activation = scheduled[0].activation_block if scheduled else None
    if as_json:
        print_json({"transaction": receipt["transactionHash"], "activationBlock": activation})
        return
    print_line(done)
    if activation is not None:
        print_line(f"the set changes at block {activation}")


def _list_proposals(client: RpcClient) -> list[tuple[int, ValidatorProposal]]:

    count = client.read(proposal_count())
    first = max(1, count - PROPOSALS_SHOWN + 1)
    return [(number, client.read(get_proposal(number))) for number in range(first, count + 1)]


def _describe(number: int, proposal: ValidatorProposal) -> JsonObject:
    return {
        "id": number,
        "change": Change.JOIN.value if proposal.is_join else Change.REMOVE.value,
        "validator": to_hex(proposal.validator),
        "operator": to_hex(proposal.operator),
        "votes": proposal.votes,
        "needed": proposal.needed,
        "expiryBlock": proposal.expiry_block,
    }


def _list_slashings(client: RpcClient, head: int) -> list[Json]:
    """The validators that lost their stake lately, as the chain tells it."""
    first = max(0, head - SEARCHED_BLOCKS + 1)
    query: JsonObject = {
        "address": to_hex(VALIDATOR_SET),
        "topics": [to_hex(SLASHED_TOPIC)],
        "fromBlock": hex(first),
        "toBlock": hex(head),
    }
    try:
        entries = client.call_list("eth_getLogs", query)
    except RpcCallError:
        return []  # the node began with a later snapshot; what it can tell is in the table
    found: list[Json] = []
    for entry in entries:
        event = decode_event(decode_log(entry))
        assert isinstance(event, ValidatorSlashed)
        found.append(
            {
                "validator": to_hex(event.validator),
                "reporter": to_hex(event.reporter),
                "evidenceBlock": event.number,
                "blockNumber": int(str(entry["blockNumber"]), 16),
                "amount": str(event.amount),
            }
        )
    return found


def _list_fines(client: RpcClient) -> list[Json]:
    """The fines of miners that validators vote on or that can be imposed, by task."""
    found: list[Json] = []
    offset = 0
    while page := client.call_list("pot_listTasks", {"offset": offset}):
        offset += len(page)
        found += [
            {"task": each["id"], **fines}
            for each in page
            if each.get("finableAttempts")
            for fines in client.call_list("pot_getFines", each["id"])
        ]
    return found


def _decode_events(receipt: JsonObject) -> list[object]:

    return [decode_event(decode_log(entry)) for entry in get_objects(receipt, "logs")]


def _print_status(document: JsonObject) -> None:
    rows: list[tuple[str, ...]] = []
    for row in get_objects(document, "validators"):
        status = "slashed" if row["slashed"] else str(row["status"])
        stake = f"{format_amount(int(str(row['stake'])))} POT"
        rows.append((str(row["index"]), str(row["validator"]), status, stake))
        rows.append(("", str(row["operator"]), "operator", ""))
    print_table(("", "validator, and its operator", "status", "stake"), rows)
    change = document["change"]
    if isinstance(change, dict):
        print_line(f"block {change['activationBlock']}:")
        for what in ("joins", "leaves"):
            for each in _strings(change[what]):
                print_line(f"  {each} {what}")
    proposals = get_objects(document, "proposals")
    for row in proposals:
        print_line(f"proposal {row['id']}: {row['change']} {row['validator']}")
        print_line(f"  {row['votes']} of {row['needed']} votes, until block {row['expiryBlock']}")
    if not proposals:
        print_line("no open proposals")
    for row in get_objects(document, "slashings"):
        lost = format_amount(int(str(row["amount"])))
        print_line(f"block {row['blockNumber']}: {row['validator']} lost its stake")
        print_line(
            f"  of {lost} POT: it signed two votes for one place in block {row['evidenceBlock']}"
        )
    for row in get_objects(document, "fines"):
        print_line(f"task {row['task']}:")
        for line in describe_finable([row], LINE_WIDTH - len(INDENT)):
            print_line(f"{INDENT}{line}")


def _strings(value: Json) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
