"""The scheduler against a model of what the blocks hold, under any order of requests, cancellations and interruptions.

A block's position holds the whole prefix of tokens up to there, as keys and values do; what an interrupted step has
written is nothing.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jiffy import _core

SIZE = _core.BLOCK_SIZE


class Scheduling(RuleBasedStateMachine):
    """`texts` are the tokens of all requests that live, `tables` the blocks of those that run."""

    @initialize(
        context=st.integers(1, 5 * SIZE),
        spare=st.integers(0, 3),
        max_batch=st.integers(1, 5),
        chunk=st.integers(1, 3 * SIZE),
        hash=st.sampled_from(["good", "good", "colliding", "none"]),
    )
    def begin(self, context: int, spare: int, max_batch: int, chunk: int, hash: str) -> None:
        self.context, self.max_batch, self.chunk = context, max_batch, chunk
        self.n_blocks = -(-context // SIZE) + spare
        self.scheduler = _core.Scheduler(self.n_blocks, max_batch, chunk, hash)
        self.contents: list[list[tuple[int, ...] | None]] = [[None] * SIZE for _ in range(self.n_blocks)]
        self.texts: dict[int, list[int]] = {}
        self.n_wanted: dict[int, int] = {}  # tokens in the end
        self.parents: dict[int, int] = {}  # of completions that have not begun: the first of their kind
        self.next_id = 0

    @rule(data=st.data(), letter=st.integers(0, 1), n=st.integers(1, 4))
    def add(self, data: st.DataObject, letter: int, n: int) -> None:
        length = data.draw(st.integers(1, self.context))
        prompt = [letter] * length
        if data.draw(st.booleans()):
            prompt[data.draw(st.integers(0, length - 1))] = 2
        wanted = data.draw(st.integers(length + 1, min(self.context, length + 40) + 1))
        self.scheduler.add(self.next_id, prompt, n)
        for id in range(self.next_id, self.next_id + n):
            self.texts[id], self.n_wanted[id] = list(prompt), wanted
            if n > 1:
                self.parents[id] = self.next_id
        self.next_id += n

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.texts)))
        assert self.scheduler.remove(id)
        assert not self.scheduler.remove(id)
        self.forget(id)

    @rule(done=st.sampled_from([True, True, True, False]))
    def step(self, done: bool) -> None:
        slices = self.scheduler.schedule()
        for source, target in self.scheduler.copies:
            self.contents[target] = list(self.contents[source])
        assert bool(slices) == bool(self.texts), "somebody goes on as long as there is anybody"
        assert self.scheduler.n_running <= self.max_batch
        assert len({s.id for s in slices}) == len(slices) <= self.max_batch
        assert sum(s.count for s in slices if s.n_tokens - s.position > 1) <= self.chunk
        for s in slices:
            self.check_and_write(s, done)
        if done:
            self.commit(slices)

    def check_and_write(self, s: _core.Slice, done: bool) -> None:
        text = self.texts[s.id]
        end = s.position + s.count
        assert s.n_tokens == len(text) and 1 <= s.count <= s.n_tokens - s.position
        assert s.output == (end == len(text))
        for i in range(s.position):
            assert self.contents[s.blocks[i // SIZE]][i % SIZE] == tuple(text[: i + 1]), (s.id, i)
        for i in range(s.position, end):
            assert self.scheduler.n_users(s.blocks[i // SIZE]) == 1
            self.contents[s.blocks[i // SIZE]][i % SIZE] = tuple(text[: i + 1]) if done else None

    def commit(self, slices: list[_core.Slice]) -> None:
        said: dict[int, int] = {}
        for s in slices:
            if s.output:
                first = self.parents.get(s.id)
                group = [s.id] if first is None else [id for id, f in self.parents.items() if f == first]
                for id in group:
                    self.parents.pop(id, None)
                    said[id] = id % 2
                    self.texts[id].append(said[id])
        finished = [id for id in said if len(self.texts[id]) >= self.n_wanted[id]]
        self.scheduler.commit(slices, said, finished)
        for id in finished:
            self.forget(id)

    def forget(self, id: int) -> None:
        del self.texts[id], self.n_wanted[id]
        self.parents.pop(id, None)

    @invariant()
    def idle_means_free(self) -> None:
        if hasattr(self, "scheduler"):
            assert self.scheduler.idle == (not self.texts)
            if not self.texts:
                assert self.scheduler.n_free == self.n_blocks

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        most = sum(self.n_wanted.values()) + 1
        while self.texts:
            self.step(True)
            most -= 1
            assert most >= 0, "the oldest goes on in every step"
        self.idle_means_free()


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
