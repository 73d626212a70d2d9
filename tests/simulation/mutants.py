"""Core, performer or signer with one rule removed: the simulator notices each missing rule.

A mutant is a change of source text at the import of the module, in a process of its own; the
product has no switch for it. `python -m tests.simulation --mutants` writes the table.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

TABLE: Final = Path(__file__).with_name("mutants.txt")


@dataclass(frozen=True)
class Mutant:
    """A change of one module that removes a rule."""

    rule: str
    module: str
    changes: tuple[tuple[str, str], ...]
    """Pairs of a text that occurs once in the module, and its replacement."""


PBFT: Final = "chain.consensus.pbft"
PERFORMER: Final = "node.consensus.performer"
SIGNER: Final = "node.consensus.signer"

MUTANTS: Final = {
    "s1-quorum-2f+1": Mutant(
        "S1: the quorum is 2f + 1",
        "chain.types.validator_set",
        (("return (2 * n + 2) // 3", "return 2 * ((n - 1) // 3) + 1"),),
    ),
    "s1-same-author-twice": Mutant(
        "S1: authors of a certificate may repeat",
        "chain.consensus.certificates",
        (("second <= first", "second < first"),),
    ),
    "s1-high-s": Mutant(
        "S1: a signature with high s is good",
        "chain.crypto",
        (("> SECP256K1_ORDER // 2", "> SECP256K1_ORDER"),),
    ),
    "s2-second-proposal": Mutant(
        "S2: a second proposal of a view takes the place of the first",
        PBFT,
        (
            (
                (
                    "        if not self._add_vote(message.vote):\n            return\n"
                    "        if self.state.view == 0 and self.state.proposal is None and"
                ),
                (
                    "        self._add_vote(message.vote)\n"
                    "        if self.state.proposal not in (None, message):\n"
                    "            self._update(own_prepare=None, own_commit=None)\n"
                    "        if self.state.view == 0 and"
                ),
            ),
        ),
    ),
    "s3-old-view-after-view-change": Mutant(
        "S3: the proposal of a view that was left is still voted for",
        PBFT,
        (
            (
                (
                    "            own_view_change=view_change,\n            proposal=None,\n"
                    "            own_prepare=None,\n            own_commit=None,\n"
                ),
                "            own_view_change=view_change,\n",
            ),
            (
                "state.log.get_signatures(MessageKind.PREPARE, state.view, block.hash)",
                "state.log.get_signatures(MessageKind.PREPARE, state.own_prepare.view, block.hash)",
            ),
            (
                "        commit = self._make_vote(MessageKind.COMMIT, block.hash)\n",
                (
                    "        commit = replace(state.own_prepare, kind=MessageKind.COMMIT)\n"
                    "        commit = replace(commit, signature=self._sign(compute_signing_digest("
                    "self._config.domain, MessageKind.COMMIT, commit.number, commit.view, "
                    "commit.digest)))\n"
                ),
            ),
        ),
    ),
    "s4-lock-is-forgotten": Mutant(
        "S4: a VIEW-CHANGE carries no certificate",
        PBFT,
        (
            (
                (
                    "        certificate = self.state.prepared\n"
                    "        prepared = None if certificate is None else"
                    " (certificate.view, certificate.block.hash)\n"
                    "        signature"
                ),
                (
                    "        certificate = prepared = None\n"
                    "        self._update(prepared=None)\n"
                    "        signature"
                ),
            ),
        ),
    ),
    "s5-lowest-lock": Mutant(
        "S5: the primary repeats the block of the lowest prepared view",
        "chain.consensus.view_change",
        (("return max(certificates", "return min(certificates"),),
    ),
    "s5-any-proposal": Mutant(
        "S5: a backup does not compare a NEW-VIEW with its VIEW-CHANGEs",
        "chain.consensus.view_change",
        (
            ("    if demanded != {pre_prepare.block.hash}:", "    if not demanded:"),
            ("    validate_quorum(new_view.prepares, n,", "    (new_view.prepares, n,"),
        ),
    ),
    "s5-unproven-claim": Mutant(
        "S5: a VIEW-CHANGE needs no proof of what it claims",
        "chain.consensus.view_change",
        (("        validate_quorum(certificate.signatures, n,", "        (certificate, n,"),),
    ),
    "s6-sender-of-the-last-set": Mutant(
        "S6: who sent a message ahead of its number keeps the index of the set before",
        PBFT,
        (
            (
                "ValidatorIndex(config.validators.index(address))",
                "ValidatorIndex(early.sender % len(config.validators))",
            ),
        ),
    ),
    "s7-commit-not-cast": Mutant(
        "S7: a COMMIT of our own is counted when the proposal is accepted",
        PBFT,
        (
            (
                "        self._add_vote(prepare)\n        self.effects += [*before,",
                (
                    "        self._add_vote(prepare)\n"
                    "        self._add_vote(self._make_vote(MessageKind.COMMIT, prepare.digest))\n"
                    "        self.effects += [*before,"
                ),
            ),
        ),
    ),
    "s8-guard-is-ignored": Mutant(
        "S8: the signer guard permits everything and remembers no loss",
        "chain.consensus.guard",
        (
            ("    if guard is None or intent.number > guard.number:", "    if True:"),
            ("    is_lost = guard.number > head and (", "    is_lost = False and ("),
        ),
    ),
    "persist-after-send": Mutant(
        "persist before send: votes are sent, then written down",
        PBFT,
        (
            (
                "        return Transition(self.state, tuple(self.effects))\n",
                (
                    "        self.effects.sort(key=lambda effect: isinstance(effect, Persist))\n"
                    "        return Transition(self.state, tuple(self.effects))\n"
                ),
            ),
        ),
    ),
    "no-replay": Mutant(
        "persist before send: the log is not read again",
        PBFT,
        (("        if record.number == config.number:", "        if False:"),),
    ),
    "performer-sends-first": Mutant(
        "persist before send: the performer sends a transition's messages, then persists its votes",
        PERFORMER,
        (
            (
                "in transition.effects:",
                "in sorted(transition.effects, key=lambda effect: isinstance(effect, Persist)):",
            ),
        ),
    ),
    "performer-sends-what-failed": Mutant(
        "persist before send: a vote that the disk refused is sent",
        PERFORMER,
        (
            (
                (
                    "                        await self._stop_signing()\n"
                    "                        return\n"
                ),
                "                        pass\n",
            ),
        ),
    ),
    "performer-verifies-nothing": Mutant(
        "no signature in a message of the current number is verified",
        PERFORMER,
        (
            (
                "        verify_message(message, self._running.config.domain,",
                "        (message, self._running.config.domain,",
            ),
        ),
    ),
    "performer-trusts-early-messages": Mutant(
        "a message that came before its number is not verified when it comes again",
        PERFORMER,
        (
            (
                "Received(validators[sender], message, is_verified=False)",
                "Received(validators[sender], message, is_verified=True)",
            ),
        ),
    ),
    "signer-writes-no-guard": Mutant(
        "persist before send: the guard is not written",
        SIGNER,
        (("            self._guard.save(vote.intent)\n", ""),),
    ),
    "signer-writes-no-log": Mutant(
        "persist before send: the log is not written",
        SIGNER,
        (
            (
                "self._log.append(vote.record.number, encode_record(vote.record))",
                "encode_record(vote.record)",
            ),
        ),
    ),
    "signer-guard-stays-behind": Mutant(
        "S8: after a crash between log and guard the guard is not caught up",
        SIGNER,
        (("latest is not None and latest.position > guard.position", "False"),),
    ),
    "signer-sees-no-loss": Mutant(
        "S8: the signer votes on the number after its head, whatever was lost",
        SIGNER,
        (
            (
                "first = compute_first_signable(guard, latest, head, certified_head)",
                "first = BlockNumber(head + 1)",
            ),
        ),
    ),
    "signer-reads-no-log": Mutant(
        "S2: the signer gives no record back; its guard notices",
        SIGNER,
        (("record for record in self._load_records() if record.number == number", ""),),
    ),
    "signer-reads-no-log-asks-no-guard": Mutant(
        "S2: the signer gives no record back and does not ask its guard",
        SIGNER,
        (
            ("record for record in self._load_records() if record.number == number", ""),
            ("        if not permits(guard, vote.intent):\n", "        if False:\n"),
        ),
    ),
    "time-has-no-lower-bound": Mutant(
        "time: a fresh proposal may be as old as its parent",
        "chain.validation",
        (("    if header.timestamp < oldest:", "    if False:"),),
    ),
    "time-goes-ahead-of-a-fast-parent": Mutant(
        "time: a fresh proposal may be a second ahead of its parent, however fast that is",
        "chain.validation",
        (
            (
                "max(now_ms + CLOCK_TOLERANCE_SECONDS * 1000, parent.timestamp * 1000)",
                "max(now_ms, parent.timestamp * 1000) + CLOCK_TOLERANCE_SECONDS * 1000",
            ),
        ),
    ),
    "no-timer-gate": Mutant(
        "timers: a view's timer runs without a quorum of VIEW-CHANGEs",
        PBFT,
        (
            (
                (
                    "        if len(state.log.get_views_from(state.view)) < quorum:\n"
                    "            return ViewTimer.STOPPED\n"
                ),
                "",
            ),
        ),
    ),
    "no-f+1-jump": Mutant(
        "timers: f + 1 VIEW-CHANGEs to later views are not followed",
        PBFT,
        (("        if len(views) < needed:", "        if True:"),),
    ),
    "no-own-view-change": Mutant(
        "timers: who follows a NEW-VIEW sends no VIEW-CHANGE of its own",
        PBFT,
        (
            (
                "        if view > self.state.view:\n            self._enter_view(view)\n",
                (
                    "        if view > self.state.view:\n"
                    "            self._update(view=view, own_view_change=None, own_prepare=None,"
                    " own_commit=None, built=None, is_build_asked=False,"
                    " view_timer=ViewTimer.STOPPED)\n"
                ),
            ),
        ),
    ),
    "no-repetition": Mutant(
        "timers: nothing is sent again",
        PBFT,
        (("            case Timer.RESEND:\n", "            case Timer.RESEND if False:\n"),),
    ),
}


class _Loader(SourceFileLoader):
    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        """The code of the changed text, not from the cache, which has the unchanged one."""
        text = Path(self.path).read_text(encoding="utf-8")
        return compile(mutate(self._mutant, text), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(self._mutant, spec.origin)
        return spec


def mutate(mutant: Mutant, text: str) -> str:
    """The module's source without the rule."""
    for old, new in mutant.changes:
        assert text.count(old) == 1, f"{mutant.rule}: {old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    return text


def install(name: str) -> None:
    """Make later imports load a mutant of this table."""
    install_mutant(MUTANTS[name])


def install_mutant(mutant: Mutant) -> None:
    """Make later imports load the mutant; its module must not be imported yet."""
    assert mutant.module not in sys.modules, f"{mutant.module} is imported already"
    sys.meta_path.insert(0, _Finder(mutant))


def run_mutant(name: str, seeds: int) -> str:
    """The row of a mutant: `mutant | first seed | family | violation`."""
    program = [sys.executable, "-m", "tests.simulation", "--mutant", name, "--seeds", str(seeds)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.stdout.strip()


def main(seeds: int) -> int:
    """Write the table; 1 if no seed notices a mutant."""
    rows = []
    for name in MUTANTS:
        rows.append(run_mutant(name, seeds))
        print(rows[-1], flush=True)
    TABLE.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return 1 if any("| none of" in row for row in rows) else 0
