"""The pool of KV blocks against a model that keeps whole prefixes: no block lost, owned twice or taken for another."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jiffy import _core

Prefix = tuple[int, ...]  # one letter a block


def tokens(letter: int) -> list[int]:
    return [7] * (_core.BLOCK_SIZE - 1) + [letter]


class Pool(RuleBasedStateMachine):
    """`chains` are block tables in use, `known` what each registered block holds, `released` those without users."""

    @initialize(n_blocks=st.integers(0, 7), hash=st.sampled_from(["good", "colliding", "none"]))
    def begin(self, n_blocks: int, hash: str) -> None:
        self.pool = _core.BlockPool(n_blocks, hash)
        self.n_blocks, self.remembers = n_blocks, hash != "none"
        self.chains: list[tuple[list[int], list[bool]]] = []  # blocks, and whether each is registered
        self.known: dict[int, Prefix] = {}
        self.released: list[int] = []  # registered blocks without users, least recently released first

    def users(self, block: int) -> int:
        return sum(blocks.count(block) for blocks, _ in self.chains)

    def take(self, block: int | None) -> int | None:
        """Checks what allocate() gave: what nobody knows goes first, then the least recently released."""
        free = {b for b in range(self.n_blocks) if self.users(b) == 0}
        if not free:
            assert block is None
            return None
        assert block in free
        if free == set(self.released):
            assert block == self.released[0]
            self.released.pop(0)
            del self.known[block]
        assert block not in self.known
        return block

    @rule(letters=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def sequence(self, letters: list[int]) -> None:
        """A sequence finds what is known of its prefix, and fills and registers the rest."""
        blocks: list[int] = []
        self.chains.append((blocks, [True] * len(letters)))
        prefix: Prefix = ()
        for letter in letters:
            parent = blocks[-1] if blocks else _core.NO_BLOCK
            prefix += (letter,)
            found = self.pool.find(parent, tokens(letter))
            expected = [block for block, held in self.known.items() if held == prefix]
            assert ([] if found is None else [found]) == expected
            if found is not None:
                self.pool.share(found)
                if found in self.released:
                    self.released.remove(found)
                blocks.append(found)
                continue
            block = self.take(self.pool.allocate())
            if block is None:
                break
            blocks.append(block)
            assert self.pool.register_full(block, parent, tokens(letter)) == block
            if self.remembers:
                self.known[block] = prefix

    @rule(letter=st.integers(0, 2))
    def second(self, letter: int) -> None:
        """Somebody computes what may be known already."""
        block = self.take(self.pool.allocate())
        if block is None:
            return
        kept = self.pool.register_full(block, _core.NO_BLOCK, tokens(letter))
        first = [b for b, held in self.known.items() if held == (letter,)]
        assert kept == (first[0] if first else block)
        if self.remembers:
            self.known[kept] = (letter,)
        if kept in self.released:
            self.released.remove(kept)
        self.chains.append(([kept], [True]))

    @rule()
    def unregistered(self) -> None:
        block = self.take(self.pool.allocate())
        if block is not None:
            self.chains.append(([block], [False]))

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        blocks, registered = data.draw(st.sampled_from(self.chains))
        for block in blocks:
            self.pool.share(block)
        self.chains.append((list(blocks), list(registered)))

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.chains) - 1))
        blocks, _ = self.chains.pop(at)
        for block in reversed(blocks):
            self.pool.release(block)
        for block in reversed(blocks):
            if self.users(block) == 0 and block in self.known:
                self.released.append(block)

    @invariant()
    def every_block_is_counted(self) -> None:
        if not hasattr(self, "pool"):
            return
        users = [self.users(block) for block in range(self.n_blocks)]
        assert [self.pool.n_users(block) for block in range(self.n_blocks)] == users
        assert self.pool.n_free == users.count(0)

    def teardown(self) -> None:
        while getattr(self, "chains", None):
            for block in self.chains.pop()[0]:
                self.pool.release(block)
        if hasattr(self, "pool"):
            assert self.pool.n_free == self.n_blocks


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
