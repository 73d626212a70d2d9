"""Submitters of tasks, honest and wasteful, and an attacker that calls whatever it may not."""

from collections.abc import Callable, Mapping
from typing import Final

from chain.contracts import (
    gradient_ledger,
    miner_seats,
    reward_distributor,
    task_registry,
    training_token,
)
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import TASK_REGISTRY, TRAINING_TOKEN
from chain.contracts.gradient_ledger import ResultKind, ResultVote
from chain.contracts.task_registry import Purchase, TaskStatus
from chain.crypto import keccak256
from chain.primitives import Address, TaskId
from chain.training.slashing import build_fine_tree, compute_fines
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import compute_terms, encode_task_spec
from tests.training_simulation.chain import JOINER, STRANGER, SUBMITTERS, Transaction
from tests.training_simulation.cluster import Actor, Cluster
from tests.training_simulation.formats import build_slash_call
from tests.training_simulation.values import compute_junk_purchase, compute_round_cost, junk_spec
from tests.worlds.contracts import CHAIN_ID, POT, Reverted

HABITS: Final = ("pays for one round", "cancels", "funds", "extends")
"""What a submitter may do besides waiting."""


MAX_FEE: Final = 10 * POT
"""The most that a submitter pays at a time."""


def build_submission(spec: TaskSpec, budget: int, purchase: Purchase) -> tuple[ContractCall, ...]:
    """The approvals and the submission of a task."""
    return (
        *build_approvals({spec.reward.token: budget}),
        task_registry.submit_task(
            compute_terms(spec), spec.resources, encode_task_spec(spec), budget, purchase, MAX_FEE
        ),
    )


def build_approvals(escrow: Mapping[Address, int]) -> tuple[ContractCall, ...]:
    """What a submitter lets the registry take: escrow, and the fee in POT."""
    amounts = {TRAINING_TOKEN: MAX_FEE}
    for token, amount in escrow.items():
        amounts[token] = amounts.get(token, 0) + amount
    return tuple(
        training_token.approve(token, TASK_REGISTRY, amount) for token, amount in amounts.items()
    )


class Submitter(Actor):
    """The submitter of one task that is trained."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        account: Address,
        spec: TaskSpec,
        habits: tuple[str, ...],
        purchase: Purchase,
    ) -> None:
        super().__init__(cluster, name)
        self.address = account
        self.spec = spec
        self.purchase = purchase
        self._resumed_block = 0
        self._is_refunded = False
        self._habits = habits
        self._acts_ms = cluster.now_ms + self.random.randrange(10_000, 60_000)

    @property
    def task_id(self) -> TaskId:
        """The task; 0 until it is on the chain."""
        return self.cluster.chain.find_task(self.spec.name)

    def submit(self, rounds: int) -> None:
        """Send the submission, with an escrow for so many rounds."""
        budget = rounds * compute_round_cost(self.spec)
        *approvals, call = build_submission(self.spec, budget, self.purchase)
        for approval in approvals:
            self.send(self.address, approval, f"approve {self.spec.name}", is_safe=True)
        self.send(self.address, call, f"submit {self.spec.name}", is_safe=True)

    def hand_out_content(self) -> None:
        """Give the content to half of the validators, once the task has an id."""
        if not self.task_id:
            self.cluster.after(100, self.hand_out_content)
            return
        validators = self.cluster.validators
        for validator in self.random.sample(validators, len(validators) // 2 + 1):
            validator.disk.content.add(self.task_id)

    def step(self) -> None:
        """Resume a paused task, fund and cancel it by habit, and take the refund at the end."""
        history = self.view.histories.get(self.task_id)
        if history is None:
            return
        if history.is_closed:
            self._take_refund()
            return
        if history.status is TaskStatus.PAUSED and self.view.number > self._resumed_block + 6:
            self._resumed_block = self.view.number
            self.send(self.address, task_registry.resume_task(self.task_id), "resume")
        if self.cluster.now_ms >= self._acts_ms and history.status is not TaskStatus.PENDING:
            self._acts_ms += 10_000_000
            if "cancels" in self._habits:
                self.cancel()
            elif "extends" in self._habits:
                self.extend()
            elif self._habits:
                self.fund(2 * compute_round_cost(self.spec))

    def fund(self, amount: int) -> None:
        """Add to the escrow."""
        approve = training_token.approve(self.spec.reward.token, TASK_REGISTRY, amount)
        self.send(self.address, approve, "approve")
        self.send(self.address, task_registry.fund_task(self.task_id, amount), "fund")

    def extend(self) -> None:
        """Buy more lifetime and more attempts."""
        approve = training_token.approve(TRAINING_TOKEN, TASK_REGISTRY, MAX_FEE)
        self.send(self.address, approve, "approve")
        call = task_registry.extend_task(self.task_id, self.cluster.world.extension, MAX_FEE)
        self.send(self.address, call, "extend")

    def cancel(self) -> None:
        """Ask for the end of the task."""
        self.send(self.address, task_registry.cancel_task(self.task_id), "cancel")

    def _take_refund(self) -> None:
        if not self._is_refunded:
            self._is_refunded = True
            self.send(self.address, task_registry.refund_task(self.task_id), "refund")
            self.send(self.address, task_registry.refund_fee(self.task_id), "refund fee")


def submit_junk(cluster: Cluster, count: int, waves: int) -> None:
    """Put many tasks onto the chain at once, each with the smallest escrow and lifetime.

    When all of them are over, the next wave of as many takes their slots.
    """
    sender = SUBMITTERS[1]
    world, n = cluster.world, len(cluster.chain.validator_set.validators)
    purchase = compute_junk_purchase(n, world.floor, world.empty_block_ms)
    first = len(cluster.chain.view.histories) + 1
    task_ids = [TaskId(first + number) for number in range(count)]
    for validator in cluster.validators:
        validator.disk.content.update(task_ids)
    for number in range(count):
        for call in build_submission(junk_spec(number), 1, purchase):
            try:
                done = cluster.chain.execute_at_once(sender, call)
            except Reverted as reverted:
                cluster.checkers.require("end", False, f"a junk task is refused: {reverted}")
                return
            cluster.checkers.on_block([done])

    def go_on() -> None:
        histories = cluster.chain.view.histories
        if not all(histories[task_id].is_closed for task_id in task_ids):
            cluster.after(1_000, go_on)
            return
        for task_id in task_ids:
            for call in (task_registry.refund_task(task_id), task_registry.refund_fee(task_id)):
                cluster.send(cluster.submitters[0], Transaction(sender, call, "refund junk"))
        if waves > 1:
            submit_junk(cluster, count, waves - 1)

    if count:
        cluster.after(1_000, go_on)


class Stranger(Actor):
    """An account with some POT that calls whatever it should not be able to call."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, "attacker")
        self._attacks: tuple[tuple[str, Callable[[TaskId], ContractCall]], ...] = (
            ("set a rewards root", self._set_root),
            ("pay out", self._pay_out),
            ("reserve", lambda task: _registry("reserveRound", task, 1)),
            ("settle a reservation", lambda task: _registry("settleReservation", task, 1, True)),
            ("pause", lambda task: _registry("pauseTask", task)),
            ("close", lambda task: _registry("closeTask", task, 0)),
            ("cancel", task_registry.cancel_task),
            ("resume", task_registry.resume_task),
            ("answer", lambda task: task_registry.answer_task(task, 0)),
            ("take examination pay", lambda task: task_registry.withdraw_examination_pay()),
            ("post a verdict", lambda task: gradient_ledger.post_verdict(task, 0, 0, 0, b"\x02")),
            ("post a result", self._post_result),
            ("settle with a result of its own", self._settle),
            ("slash without evidence", self._slash),
            ("impose no fine", lambda task: miner_seats.slash(task, 1, [])),
            ("claim without a proof", lambda task: reward_distributor.claim(task, POT, ())),
            ("commit without a bond", self._commit),
            ("note a commitment", lambda task: _seats("noteCommitment", task, 1, STRANGER, 1)),
            ("expect one less", self._expect_one_less),
            ("vote for fines", lambda task: miner_seats.post_fines(task, 1, keccak256(b"mine"))),
            ("say a late word", lambda task: gradient_ledger.post_late_verdict(task, 1, b"\x02")),
            ("leave", miner_seats.leave),
            ("withdraw a bond", miner_seats.withdraw_bond),
            ("withdraw credit", lambda task: miner_seats.withdraw_credit(TRAINING_TOKEN)),
        )

    def step(self) -> None:
        """Attack now and then."""
        tasks = list(self.view.histories)
        if tasks and self.random.random() < self.cluster.world.attacks:
            label, build = self.random.choice(self._attacks)
            call = build(self.random.choice(tasks))
            self.cluster.attack(self, STRANGER, call, label)
            # Any account may close what is over; the checkers know whether it was.
            self.send(STRANGER, task_registry.expire_task(self.random.choice(tasks)), "expire")
            self._answer_again(self.random.choice(tasks))
            self._vote_for_others(self.random.choice(tasks))
            self._slash_again(self.random.choice(tasks))

    def _vote_for_others(self, task_id: TaskId) -> None:
        """Let operators that do not judge an attempt vote on its fines."""
        for ended in self.view.list_ended(task_id):
            for operator in (*self.cluster.chain.validator_set.operators, JOINER):
                if ended.validator_set.find_operator(operator) is None:
                    call = miner_seats.post_fines(task_id, ended.attempt.ordinal, keccak256(b""))
                    self.cluster.attack(self, operator, call, "vote on fines of others")

    def _answer_again(self, task_id: TaskId) -> None:
        """Let an operator answer a second time, to be paid twice."""
        history, validator_set = self.view.histories[task_id], self.cluster.chain.validator_set
        index = self.random.randrange(len(validator_set.validators))
        if history.has_answered(validator_set.validators[index]):
            call = task_registry.answer_task(task_id, self.random.randrange(3))
            self.cluster.attack(self, validator_set.operators[index], call, "answer again")

    def _vote(self) -> ResultVote:
        roots = (keccak256(self.random.randbytes(4)) for _ in range(3))
        return ResultVote(*roots, 0, 0, self.random.choice(tuple(ResultKind)), 0)

    def _set_root(self, task_id: TaskId) -> ContractCall:
        call = reward_distributor.CONTRACT.call
        return call("setRoot", task_id, keccak256(b"mine"), 10**24)

    def _pay_out(self, task_id: TaskId) -> ContractCall:
        return _registry("payOut", task_id, STRANGER, 1)

    def _post_result(self, task_id: TaskId) -> ContractCall:
        return gradient_ledger.post_result(task_id, 0, 0, 0, self._vote(), None, 0)

    def _settle(self, task_id: TaskId) -> ContractCall:
        return gradient_ledger.settle_round(task_id, self._vote())

    def _commit(self, task_id: TaskId) -> ContractCall:
        return gradient_ledger.commit_gradient(task_id, 0, 0, 1, keccak256(b"nothing"))

    def _expect_one_less(self, task_id: TaskId) -> ContractCall:
        return gradient_ledger.CONTRACT.call("expectOneLess", task_id)

    def _slash(self, task_id: TaskId) -> ContractCall:
        history = self.view.histories[task_id]
        attempt = history.attempt
        if attempt is None:
            return miner_seats.slash(task_id, 1, [])
        return build_slash_call(attempt)

    def _slash_again(self, task_id: TaskId) -> None:
        """Impose fines that miners have paid once more, each with its proof."""
        for ended in self.view.list_ended(task_id):
            paid = dict(ended.imposed)
            for is_closing in (False, True):
                fines = compute_fines(ended, is_closing=is_closing)
                tree = build_fine_tree(CHAIN_ID, task_id, ended.attempt.ordinal, fines)
                proven = map(tree.prove, range(len(fines)))
                again = [each for each in proven if paid.get(each[0].miner, -1) >= each[0].kind]
                if again and any(approved.root == tree.root for approved in ended.approved):
                    call = miner_seats.slash(task_id, ended.attempt.ordinal, again)
                    self.cluster.attack(self, STRANGER, call, "impose a fine again")


def _seats(name: str, *arguments: object) -> ContractCall:
    return miner_seats.CONTRACT.call(name, *arguments)


def _registry(name: str, *arguments: object) -> ContractCall:
    return task_registry.CONTRACT.call(name, *arguments)
