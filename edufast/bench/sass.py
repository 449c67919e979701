"""Counting the instructions of a compiled CUDA kernel: its loops and the ways through them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edufast.utils.errors import UserError

_FUNCTION = re.compile(r"\s+Function : (\S+)")
_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")


def tool(name: str) -> str:
    """Path of a CUDA binary tool: on the PATH, or as it comes with Triton.

    Raises:
        UserError: it is in neither place.
    """
    found = shutil.which(name)
    if found:
        return found
    try:
        import triton
    except ImportError:
        pass
    else:
        path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
        if path.exists():
            return str(path)
    raise UserError(f"{name} was not found; it comes with the CUDA toolkit and with triton")


@dataclass
class Block:
    """Instructions that run one after the other."""

    instructions: list[str] = field(default_factory=list)
    successors: list[int] = field(default_factory=list)

    def count(self, mnemonic: str) -> int:
        return sum(mnemonic in text for text in self.instructions)


@dataclass(frozen=True)
class Cost:
    """What a warp issues on the way through some code."""

    instructions: float = 0
    exponentials: float = 0  # MUFU.EX2
    copies: float = 0  # LDGSTS
    loads: float = 0  # of 16 bytes from shared memory: LDS.128
    stores: float = 0  # of 16 bytes to global memory: STG.E.128

    @classmethod
    def of(cls, block: Block) -> Cost:
        names = ("MUFU.EX2", "LDGSTS", "LDS.128", "STG.E.128")
        counts = [block.count(name) for name in names]
        return cls(len(block.instructions), *counts)

    def plus(self, other: Cost, times: float = 1) -> Cost:
        return Cost(*(a + times * b for a, b in zip(self.parts, other.parts, strict=True)))

    @property
    def parts(self) -> tuple[float, float, float, float, float]:
        return self.instructions, self.exponentials, self.copies, self.loads, self.stores

    def reached(self, least: Cost) -> tuple[float, ...]:
        """How far what ``least`` asks for is met; equal to its parts where it is."""
        return tuple(map(min, self.parts[1:], least.parts[1:]))


@dataclass
class Loop:
    """A natural loop: the header dominates every block of it."""

    header: int
    blocks: set[int]
    inner: list[Loop] = field(default_factory=list)


class Kernel:
    """The control flow of one kernel.

    Args:
        listing: its instructions by address, as cuobjdump prints them.
    """

    def __init__(self, listing: dict[int, str]) -> None:
        self.instructions = list(listing.values())
        self.blocks = _blocks(listing)
        self.entry = min(self.blocks)
        self.loops = _loops(self.blocks, self.entry)

    def count(self, mnemonic: str, blocks: set[int] | None = None) -> int:
        """Instructions in some blocks, or in all, that contain a mnemonic."""
        chosen = self.blocks if blocks is None else blocks
        return sum(self.blocks[b].count(mnemonic) for b in chosen)

    def widths(self, mnemonic: str, blocks: set[int]) -> set[int]:
        """Bits of a thread's access by the instructions in some blocks that contain a mnemonic."""
        texts = [t for b in blocks for t in self.blocks[b].instructions if mnemonic in t]
        sizes = [re.search(r"\.[US]?(8|16|64|128)\b", text.split("[")[0]) for text in texts]
        return {int(m[1]) if m else 32 for m in sizes}

    def cost(self, loop: Loop, inner: dict[int, Cost], least: Cost) -> Cost:
        """The cheapest way once around a loop that meets ``least``.

        What is skipped in the common case costs nothing that way: rare branches, and what other
        warps do. ``least`` says what the common case cannot do without.

        Args:
            loop: one of ``loops``, or an inner one of them.
            inner: what the loops right inside it cost altogether, by header; others once around.
            least: all but the instructions: what is on the way, of inner loops included.

        Raises:
            ValueError: there is no such way.
        """
        loops = {other.header: other for other in loop.inner}
        costs = {
            header: inner[header] if header in inner else self.cost(other, {}, Cost())
            for header, other in loops.items()
        }
        inside = {b: header for header, other in loops.items() for b in other.blocks}
        best: dict[int, dict[tuple[float, ...], Cost]] = defaultdict(dict)
        best[loop.header][Cost().reached(least)] = Cost()
        ends: dict[tuple[float, ...], Cost] = {}

        def offer(to: dict[tuple[float, ...], Cost], way: Cost) -> None:
            key = way.reached(least)
            if key not in to or way.instructions < to[key].instructions:
                to[key] = way

        for at in _in_order(self.blocks, loop, inside):
            if at in loops:
                body = loops[at].blocks
                cost = costs[at]
                successors = {s for b in body for s in self.blocks[b].successors} - body
            else:
                cost = Cost.of(self.blocks[at])
                successors = set(self.blocks[at].successors)
            for way in best[at].values():
                for successor in successors:
                    if successor == loop.header:
                        offer(ends, way.plus(cost))
                    elif successor in loop.blocks:
                        offer(best[inside.get(successor, successor)], way.plus(cost))
        if least.parts[1:] not in ends:
            raise ValueError(f"no way around the loop at {loop.header:#x} has {least}")
        return ends[least.parts[1:]]


def kernels(file: Path, architecture: int) -> dict[str, Kernel]:
    """The kernels in a cubin or a library, by symbol.

    Raises:
        UserError: cuobjdump was not found.
    """
    command = [tool("cuobjdump"), "-sass", "-arch", f"sm_{architecture}", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    listings: dict[str, dict[int, str]] = {}
    current: dict[int, str] = {}
    for line in text.splitlines():
        if m := _FUNCTION.match(line):
            current = listings.setdefault(m[1], {})
        elif m := _INSTRUCTION.match(line):
            current[int(m[1], 16)] = m[2]
    return {name: Kernel(listing) for name, listing in listings.items() if listing}


def usage(file: Path, architecture: int) -> dict[str, dict[str, int]]:
    """Registers, stack and static shared memory ("REG", "STACK", "SHARED") by symbol."""
    command = [tool("cuobjdump"), "-res-usage", "-arch", f"sm_{architecture}", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"Function (\S+):\s*\n\s*(.*)", text)
    return {
        name: {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", line)}
        for name, line in found
    }


# --- control flow -------------------------------------------------------------------------------


def _target(text: str) -> int | None:
    m = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)
    return int(m[1], 16) if m else None


def _ends(text: str) -> bool:
    """Whether nothing after the instruction runs: an unconditional jump or the end."""
    jump = re.match(r"(@!?U?P\w+\s+)?(BRA|EXIT|RET|BRX)\b(.*)", text)
    if not jump or jump[1]:
        return False
    conditional = ".DIV" in jump[3] or re.search(r"\bU?P\d", jump[3])
    return not (jump[2] == "BRA" and conditional)


def _blocks(listing: dict[int, str]) -> dict[int, Block]:
    addresses = list(listing)
    starts = {addresses[0]}
    for at, text in listing.items():
        target = _target(text)
        if target is not None:
            starts.add(target)
        if target is not None or _ends(text):
            starts.add(at + 16)
    blocks: dict[int, Block] = {}
    for at, text in listing.items():
        if at in starts:
            current = blocks[at] = Block()
        current.instructions.append(text)
        target = _target(text)
        if target is not None:
            current.successors.append(target)
        if at + 16 in starts and at + 16 in listing and not _ends(text):
            current.successors.append(at + 16)
    return blocks


def _postorder(blocks: dict[int, Block], entry: int) -> list[int]:
    order, seen = [], {entry}
    stack: list[tuple[int, Iterator[int]]] = [(entry, iter(blocks[entry].successors))]
    while stack:
        at, rest = stack[-1]
        for successor in rest:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(blocks[successor].successors)))
                break
        else:
            order.append(at)
            stack.pop()
    return order


def _dominators(blocks: dict[int, Block], entry: int) -> dict[int, int]:
    """The immediate dominator of every reachable block (Cooper, Harvey and Kennedy 2001)."""
    order = _postorder(blocks, entry)
    rank = {b: i for i, b in enumerate(order)}
    before: dict[int, list[int]] = defaultdict(list)
    for b in order:
        for successor in blocks[b].successors:
            before[successor].append(b)
    above = {entry: entry}
    changed = True
    while changed:
        changed = False
        for b in reversed(order[:-1]):
            known = [p for p in before[b] if p in above]
            new = known[0]
            for other in known[1:]:
                while new != other:
                    if rank[new] < rank[other]:
                        new = above[new]
                    else:
                        other = above[other]
            if above.get(b) != new:
                above[b] = new
                changed = True
    return above


def _loops(blocks: dict[int, Block], entry: int) -> list[Loop]:
    above = _dominators(blocks, entry)

    def dominates(a: int, b: int) -> bool:
        while b != a and above[b] != b:
            b = above[b]
        return a == b

    before: dict[int, list[int]] = defaultdict(list)
    for b in above:
        for successor in blocks[b].successors:
            before[successor].append(b)
    bodies: dict[int, set[int]] = {}
    for b in above:
        for header in blocks[b].successors:
            if dominates(header, b):
                body = bodies.setdefault(header, {header})
                rest = [b]
                while rest:
                    x = rest.pop()
                    if x not in body:
                        body.add(x)
                        rest += before[x]
    outermost: list[Loop] = []
    nest: list[Loop] = []
    for header, body in sorted(bodies.items(), key=lambda item: -len(item[1])):
        loop = Loop(header, body)
        around = [other for other in nest if header in other.blocks]
        (around[-1].inner if around else outermost).append(loop)
        nest.append(loop)
    return outermost


def _in_order(blocks: dict[int, Block], loop: Loop, inside: dict[int, int]) -> list[int]:
    """The loop's blocks, inner loops as one, each after all that lead to it."""
    graph: dict[int, Block] = {}
    for b in loop.blocks:
        node = graph.setdefault(inside.get(b, b), Block())
        for s in blocks[b].successors:
            to = inside.get(s, s)
            if s in loop.blocks and s != loop.header and to != inside.get(b, b):
                node.successors.append(to)
    return _postorder(graph, loop.header)[::-1]
