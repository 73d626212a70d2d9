"""How the processes of a development network share terminal and processor."""

import os
from pathlib import Path

from node.devnet.processes import ProcessGroup


def test_a_child_has_a_group_of_its_own_and_shares_the_session(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as processes:
        child = processes.start("child", ("platform",)).process.pid

        # Ctrl-C reaches a group of processes.
        assert os.getpgid(child) == child
        # Linux divides the processor among sessions before it looks at priorities.
        assert os.getsid(child) == os.getsid(0)
