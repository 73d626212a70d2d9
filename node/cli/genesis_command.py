"""`pot genesis`: creates and shows the genesis file, which all nodes of a network share."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from chain.amounts import format_amount, format_short
from chain.genesis import build_genesis, parse_genesis
from chain.hexadecimal import to_hex
from chain.primitives import Address
from node.cli.output import (
    JsonOption,
    parse_address,
    parse_amount,
    print_fields,
    print_json,
    print_line,
    print_table,
)
from node.setup.price_table import list_prices
from pot_common.errors import OperatorError

app = typer.Typer(no_args_is_help=True)


@app.command(
    epilog="Example:  pot genesis new --validator 0xAb…:0xCd… --coin 0xCd…=100 -o new.json"
)
def new(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    validator: Annotated[
        list[str],
        typer.Option(
            metavar="0xA:0xB", help="A validator's consensus and operator accounts; repeatable."
        ),
    ],
    token: Annotated[
        list[str] | None,
        typer.Option(
            metavar="0xA=AMOUNT", help="POT that an account owns at the start; repeatable."
        ),
    ] = None,
    coin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="0xA=AMOUNT", help="Native coins that an account owns at the start; repeatable."
        ),
    ] = None,
    chain_id: Annotated[int | None, typer.Option(help="EIP-155 chain id.")] = None,
    template: Annotated[
        Path | None, typer.Option(help="A template with parameters, in place of the built-in one.")
    ] = None,
    development: Annotated[
        bool, typer.Option("--development", help="Free, fast blocks and a faucet; loopback only.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write the genesis file of a new network, with its contracts."""
    from node.setup import network_genesis as networks

    if output.exists() and not force:
        raise OperatorError(f"{output} exists; give another --output, or --force to overwrite it")
    seats = tuple(networks.Seat(*_parse_seat(text)) for text in validator)
    if development:
        if template is not None:
            raise OperatorError("--development has its own parameters; leave --template out")
        plan = networks.plan_development_network(
            seats, chain_id=networks.DEVELOPMENT_CHAIN_ID if chain_id is None else chain_id
        )
    else:
        source = networks.read_template(template or networks.TEMPLATE_PATH)
        plan = networks.plan_public_network(source, seats, chain_id=chain_id)
    config = networks.build_network(
        replace(plan, tokens=_parse_allocations(token), coins=_parse_allocations(coin))
    )
    output.write_bytes(networks.encode_genesis(config))
    print_line(f"genesis hash  {to_hex(networks.compute_genesis_hash(config))}")
    print_line(f"chain id      {config.chain_id}")
    print_line(f"written to    {output}; give every operator the same file")


@app.command(epilog="Example:  pot genesis show genesis.json")
def show(
    file: Annotated[Path, typer.Argument(help="A genesis file.")], as_json: JsonOption = False
) -> None:
    """Print hash, validators and parameters of a genesis file."""
    config = parse_genesis(file.read_bytes())
    genesis_hash = to_hex(build_genesis(config).header.hash)
    coins = sum(account.balance for account in config.alloc.values())
    if as_json:
        print_json(
            {
                "genesisHash": genesis_hash,
                "chainId": config.chain_id,
                "parameters": config.parameters.to_json(),
                "accounts": len(config.alloc),
                "coins": str(coins),
            }
        )
        return
    parameters = config.parameters.to_json().items()
    print_fields([("genesis hash", genesis_hash)])
    print_fields(
        [
            ("chain id", str(config.chain_id)),
            ("accounts", f"{len(config.alloc)}, {format_amount(coins)} native coins in all"),
            *((name, str(value)) for name, value in parameters if name != "validators"),
            *(
                (f"validator {index}", to_hex(address))
                for index, address in enumerate(config.parameters.validators)
            ),
        ]
    )


@app.command(epilog="Example:  pot genesis prices genesis.json")
def prices(
    file: Annotated[Path, typer.Argument(help="A genesis file, or a template.")],
    validators: Annotated[
        int | None,
        typer.Option(
            help="Number of validators; a template needs it, a network's file names them."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what it costs to waste what a network has."""
    parameters = parse_genesis(file.read_bytes()).parameters
    count = len(parameters.validators) if validators is None else validators
    if count < 1:
        raise OperatorError(
            f"{file} names no validators, because it is a template: say how many the network has, "
            "such as --validators 4"
        )
    rows = list_prices(parameters, count)
    if as_json:
        print_json(
            [{"role": row.role, "what": row.what, "amount": str(row.amount)} for row in rows]
        )
        return
    print_table(
        ("who wastes", "what", "POT"),
        [(row.role, row.what, format_short(row.amount)) for row in rows],
    )


def _parse_seat(text: str) -> tuple[Address, Address]:
    consensus, separator, operator = text.partition(":")
    if not separator:
        raise OperatorError(f"--validator {text!r}: give consensus and operator account, 0xA:0xB")
    return parse_address(consensus), parse_address(operator)


def _parse_allocations(entries: list[str] | None) -> dict[Address, int]:
    allocations: dict[Address, int] = {}
    for text in entries or []:
        account, separator, amount = text.partition("=")
        if not separator:
            raise OperatorError(f"{text!r}: give an account and an amount, 0xA=12.5")
        address = parse_address(account)
        if address in allocations:
            raise OperatorError(f"{account} is given twice; add the amounts up")
        allocations[address] = parse_amount(amount)
    return allocations
