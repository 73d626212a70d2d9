"""`pot wallet`: creates accounts, shows and sends money, claims rewards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from chain.amounts import format_amount
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.faucet import drip
from chain.contracts.miner_seats import credit_of, withdraw_credit
from chain.contracts.reward_distributor import RewardClaim, claim_many
from chain.contracts.task_registry import get_examination_pay, withdraw_examination_pay
from chain.contracts.training_token import balance_of, describe_amount, transfer
from chain.hexadecimal import to_hex
from chain.primitives import Address, TaskId
from node.cli.account import (
    ACCOUNT_NAME,
    DEFAULT_WALLET,
    Account,
    GasPriceOption,
    KeyOption,
    PasswordOption,
    find_key_file,
    parse_account,
    unlock_account,
)
from node.cli.output import (
    JsonOption,
    RpcOption,
    parse_address,
    parse_amount,
    print_done,
    print_fields,
    print_json,
    print_line,
    print_table,
)
from node.cli.task_money_command import get_task
from node.client.rpc_client import RpcClient, get_integer, get_text, get_value
from pot_common.errors import OperatorError
from pot_common.keystore import (
    ask_new_password,
    create_private_key,
    get_password,
    list_keys,
    read_address,
    save_key,
)
from pot_common.node_url import DEFAULT_RPC_URL
from pot_common.rpc_client import RpcCallError
from pot_common.rpc_replies import read_bytes
from pot_common.terminal import wrap_line

POT: Final = "POT"
"""The name of the reward token on the command line."""

COIN: Final = "coin"
"""The name of the native coin, which pays for gas, on the command line."""

app = typer.Typer(no_args_is_help=True)

WalletOption = Annotated[Path, typer.Option("--wallet", help="Directory of keystores.")]


@app.command(epilog="Example:  pot wallet new alice")
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of the account and of its keystore.")
    ],
    wallet: WalletOption = DEFAULT_WALLET,
    password_file: PasswordOption = None,
    light: Annotated[
        bool, typer.Option("--light", help="Cheap key derivation, for development networks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a new account.

    Its key is stored as a Web3 V3 keystore, which Ethereum wallets can import.
    """
    if ACCOUNT_NAME.fullmatch(name) is None:
        raise OperatorError(
            f"{name!r} is no name; give letters, digits, dots, dashes, such as alice"
        )
    if password_file is None:
        password = ask_new_password(setting="--password-file")
    else:
        password = get_password(password_file, setting="--password-file", prompt="")
    path = wallet / f"{name}.json"
    address = to_hex(save_key(path, create_private_key(), password, light=light))
    if as_json:
        print_json({"address": address, "key": str(path)})
        return
    print_fields([("account", address), ("key", str(path))])
    print_line("keep the key and its password: nobody can restore them")


@app.command("list", epilog="Example:  pot wallet list")
def list_(wallet: WalletOption = DEFAULT_WALLET, as_json: JsonOption = False) -> None:
    """List the accounts of a wallet directory."""
    keys = list_keys(wallet)
    accounts = [(to_hex(address), str(path)) for address, path in keys]
    if as_json:
        print_json([{"address": address, "key": path} for address, path in accounts])
    elif accounts:
        rows = [(path.stem, to_hex(address)) for address, path in keys]
        print_table(("name", "account"), rows)
    else:
        print_line(f"no accounts in {wallet}; make one with `pot wallet new NAME`")


@app.command(epilog="Example:  pot wallet balance 0x5B38Da6a701c568545dCfcB03FcB875f56beddC4")
def balance(
    account: Annotated[
        str,
        typer.Argument(metavar="ACCOUNT", help="0x..., a keystore, or an account of pot wallet."),
    ],
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Print the POT and the native coins of an account."""
    address = parse_account(account)
    client = RpcClient(rpc)
    tokens = _token_balance(client, address)
    coins = client.balance(address)
    if as_json:
        print_json({"address": to_hex(address), "pot": str(tokens), "coins": str(coins)})
        return
    print_line(f"{format_amount(tokens)} POT")
    print_line(f"{format_amount(coins)} native coins")


@app.command(epilog="Example:  pot wallet send --key alice.json --to 0xAb… --amount 12.5")
def send(
    key: KeyOption,
    to: Annotated[
        str, typer.Option(help="The receiver: 0x..., a keystore, or an account of pot wallet.")
    ],
    amount: Annotated[str, typer.Option(help="The amount in whole tokens, such as 12.5.")],
    asset: Annotated[str, typer.Option("--token", help="POT, or coin: the native one.")] = POT,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Send POT or native coins."""
    receiver, base_units = parse_account(to), parse_amount(amount)
    if asset not in (POT, COIN):
        raise OperatorError(f"--token is {asset!r}; give {POT} or {COIN}")
    client = RpcClient(rpc)
    account = unlock_account(client, key, password_file, gas_price)
    sender = account.address
    held = client.balance(sender) if asset == COIN else _token_balance(client, sender)
    if held < base_units:
        raise OperatorError(f"{to_hex(sender)} has {format_amount(held)} {asset}, and no more")
    if asset == COIN:
        receipt = account.send_call(ContractCall(receiver, b""), value=base_units)
    else:
        receipt = account.send_call(transfer(TRAINING_TOKEN, receiver, base_units))
    if as_json:
        print_json(receipt)
        return
    print_done(f"sent {format_amount(base_units)} {asset}", get_text(receipt, "transactionHash"))


@app.command(epilog="Example:  pot wallet claim --key miner.json --task 1")
def claim(
    key: KeyOption,
    task: Annotated[int | None, typer.Option(help="A task id; by default all tasks.")] = None,
    account: Annotated[
        str | None, typer.Option("--for", help="Claim for another account, which gets the money.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what can be claimed of which task.")
    ] = False,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Claim the rewards of an account.

    If the token of one task refuses to pay, the rewards of the others are claimed all the same.
    """
    client = RpcClient(rpc)
    owner = read_address(find_key_file(key)) if account is None else parse_account(account)
    claims: list[RewardClaim] = []
    rewards: dict[TaskId, tuple[Address, int]] = {}
    earned: list[int] = []
    for each in _list_task_ids(client) if task is None else [task]:
        task_id, reward = TaskId(each), client.reward_proof(each, owner)
        if reward is None:
            raise OperatorError(f"there is no task {task_id}; `pot task list` lists all tasks")
        if reward.cumulative:
            earned.append(each)
        if reward.claimable == 0:
            continue
        token = Address(read_bytes(get_value(get_task(client, each), "terms", "token")))
        rewards[task_id] = (token, reward.claimable)
        claims.append(
            RewardClaim(
                task_id=task_id, account=owner, cumulative=reward.cumulative, proof=reward.proof
            )
        )
    if not as_json:
        for task_id, (token, amount) in rewards.items():
            print_line(f"task {task_id}: {describe_amount(amount, token)}")
    transactions: dict[TaskId, str] = {}
    refused: dict[TaskId, str] = {}
    if claims and not dry_run:
        sender = unlock_account(client, key, password_file, gas_price)
        transactions, refused = _send_claims(sender, claims)
    claimed: dict[Address, int] = {}
    transaction_of: dict[Address, str] = {}
    for task_id, transaction in transactions.items():
        token, amount = rewards[task_id]
        claimed[token] = claimed.get(token, 0) + amount
        transaction_of[token] = transaction
    if as_json:
        print_json(
            {
                "claimable": {str(each): str(amount) for each, (_, amount) in rewards.items()},
                "claimed": {to_hex(token): str(amount) for token, amount in claimed.items()},
                "tasks": list(transactions),
                "transactionHash": next(reversed(transactions.values()), None),
            }
        )
    elif not rewards:
        for line in wrap_line(f"nothing to claim: {_explain_no_reward(owner, task, earned)}"):
            print_line(line)
    for token, amount in ({} if as_json else claimed).items():
        print_done(f"claimed {describe_amount(amount, token)}", transaction_of[token])
    if refused:
        raise OperatorError(
            "; ".join(f"task {task_id} does not pay: {refused[task_id]}" for task_id in refused)
        )


def _explain_no_reward(owner: Address, task: int | None, earned: Sequence[int]) -> str:
    """Why an account has nothing to claim.

    Args:
        owner: The account.
        task: The only task that was looked at; None for all.
        earned: The tasks in which the account has earned something.
    """
    if earned:
        names = f"task{'s'[: len(earned) > 1]} {', '.join(map(str, earned))}"
        return f"all that the account has earned in {names} so far is claimed"
    where = "any task" if task is None else f"task {task}"
    return f"no settled round of {where} has paid account {to_hex(owner)}"


def _send_claims(
    sender: Account, claims: Sequence[RewardClaim]
) -> tuple[dict[TaskId, str], dict[TaskId, str]]:
    """The transactions that paid, and the reasons of those that refused; both by task."""
    try:
        transaction = get_text(sender.send_call(claim_many(claims)), "transactionHash")
    except RpcCallError:
        if len(claims) == 1:
            raise
    else:
        return {each.task_id: transaction for each in claims}, {}
    # All together are too many, or one of them fails, and with it the whole transaction.
    paid: dict[TaskId, str] = {}
    refused: dict[TaskId, str] = {}
    for each in claims:
        try:
            paid[each.task_id] = get_text(sender.send_call(claim_many([each])), "transactionHash")
        except RpcCallError as error:
            refused[each.task_id] = str(error)
    return paid, refused


@app.command(epilog="Example:  pot wallet credit --key keys/operator.json")
def credit(
    key: KeyOption,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The token of a task that pays in another than POT: only shares of its bonds.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what there is, and what it is for.")
    ] = False,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Withdraw what an operator earned besides fees.

    Half the bond of a cheating miner goes to the validators that gave the verdict. Each validator
    that answers to a new task is paid from the task's fee.
    """
    client = RpcClient(rpc)
    shared = TRAINING_TOKEN if token is None else parse_address(token)
    unit = "POT" if token is None else f"of token {token}"
    operator = read_address(find_key_file(key))
    share = client.read(credit_of(shared, operator))
    pay = client.read(get_examination_pay(operator)) if token is None else 0
    amount = share + pay
    if not as_json and amount:
        print_line(f"shares of slashed bonds  {format_amount(share)} {unit}")
        print_line(f"answers to new tasks     {format_amount(pay)} {unit}")
    if dry_run:
        if as_json:
            print_json({"slashings": str(share), "examinations": str(pay)})
        elif not amount:
            print_line("no credit")
        return
    transaction = None
    account = unlock_account(client, key, password_file, gas_price)
    if share:
        transaction = account.send_call(withdraw_credit(shared))["transactionHash"]
    if pay:
        transaction = account.send_call(withdraw_examination_pay())["transactionHash"]
    if as_json:
        print_json(
            {
                "received": str(amount),
                "slashings": str(share),
                "examinations": str(pay),
                "transactionHash": transaction,
            }
        )
    elif transaction is None:
        print_line("no credit")
    else:
        print_done(f"received {format_amount(amount)} {unit}", str(transaction))


@app.command(epilog="Example:  pot wallet faucet --key alice.json")
def faucet(
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Ask a development network for POT and coins."""
    client = RpcClient(rpc)
    if not client.node_info().has_faucet:
        raise OperatorError("this network has no faucet: only development networks do; buy or mine")
    account = unlock_account(client, key, password_file, gas_price)
    before = _token_balance(client, account.address)
    receipt = account.send_call(drip(account.address))
    received = _token_balance(client, account.address) - before
    if as_json:
        print_json({"received": str(received), "transactionHash": receipt["transactionHash"]})
        return
    print_line(f"received {format_amount(received)} POT")


def _token_balance(client: RpcClient, account: Address) -> int:

    return client.read(balance_of(TRAINING_TOKEN, account))


def _list_task_ids(client: RpcClient) -> list[int]:

    page, offset = 100, 0
    ids: list[int] = []
    while True:
        tasks = client.call_list("pot_listTasks", {"offset": offset, "limit": page})
        ids += [get_integer(task, "id") for task in tasks]
        if len(tasks) < page:
            return ids
        offset += page
