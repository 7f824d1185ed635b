"""How workers share the files of a run."""

from types import SimpleNamespace
from typing import Any

from kairos_testkit.run_order import FromBothEnds, position


class Worker:
    """What the scheduler sees of a worker: it remembers the tests it was sent."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.shutting_down = False
        self.sent: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.sent.extend(indices)

    def shutdown(self) -> None:
        self.shutting_down = True


def test_a_run_begins_with_suites_and_ends_with_the_longest_files_on_servers() -> None:
    files = [
        position({"stack"}, {"stack"}, 20),
        position({"stack", "fragile"}, {"stack"}, 3),
        position({"fragile"}, {"stack"}, 7),
        position((), {"stack"}, 1),
        position((), (), 500),
        position({"provisioned", "servers"}, (), 1),
        position((), {"servers"}, 90),
    ]
    assert files == sorted(files)


def test_the_first_worker_takes_files_from_the_front_and_the_others_from_the_end() -> None:
    tests = [f"test_{file}.py::test_{number}" for file in "abcdef" for number in range(4)]
    config: Any = SimpleNamespace(getvalue={"tx": ["popen"] * 2}.__getitem__, option=SimpleNamespace())
    line = FromBothEnds(config)
    first, second = Worker("gw0"), Worker("gw1")
    workers: list[Any] = [first, second]
    for worker in workers:
        line.add_node(worker)
    for worker in workers:
        line.add_node_collection(worker, tests)
    line.schedule()
    took = {worker.gateway.id: list(worker.sent) for worker in (first, second)}
    assert took == {"gw0": [0, 1, 2, 3], "gw1": [20, 21, 22, 23]}
    while line.has_pending:
        for worker in workers:
            for index in worker.sent[:1]:
                worker.sent.remove(index)
                took[worker.gateway.id].append(index)
                line.mark_test_complete(worker, index)
    names = {who: list(dict.fromkeys(tests[index][5] for index in given)) for who, given in took.items()}
    assert names == {"gw0": ["a", "b", "c"], "gw1": ["f", "e", "d"]}
