"""The graph walks: geometry of the lattices, walks that never turn back, and the known next step."""

import pytest
import torch

from backend.core.errors import Invalid, NotFound
from backend.worlds.graphwalk import CONCEPTS, GRAPHS, SEPARATOR, graph, lattice, tokenizer


def test_concepts_are_distinct_and_enough() -> None:
    assert len(set(CONCEPTS)) == len(CONCEPTS) >= 81


@pytest.mark.parametrize(("name", "n_nodes", "n_edges"), [("grid", 25, 40), ("cylinder", 81, 153)])
def test_lattice_has_the_right_edges(name: str, n_nodes: int, n_edges: int) -> None:
    one = graph(name)
    adjacency = one.adjacency()
    assert one.n_nodes == n_nodes
    assert torch.equal(adjacency, adjacency.T) and adjacency.trace() == 0
    assert adjacency.sum() == 2 * n_edges


def test_cylinder_closes_and_grid_does_not() -> None:
    assert 8 in GRAPHS["cylinder"].neighbours[0] and 4 not in GRAPHS["grid"].neighbours[0]
    assert GRAPHS["cylinder"].coordinates[80].tolist() == [8, 8]


@pytest.mark.parametrize("one", GRAPHS.values(), ids=GRAPHS)
def test_walks_follow_edges_and_never_turn_back(one) -> None:
    generator = torch.Generator().manual_seed(3)
    for end in (None, 0, one.n_nodes - 1):
        nodes = one.walk(400, generator, end=end)
        assert len(nodes) == 400 and (end is None or nodes[-1] == end)
        assert all(b in one.neighbours[a] for a, b in zip(nodes, nodes[1:], strict=False))
        assert all(a != c for a, c in zip(nodes, nodes[2:], strict=False))


def test_next_distribution_is_what_walks_do() -> None:
    one = GRAPHS["grid"]
    generator = torch.Generator().manual_seed(0)
    counts, total = torch.zeros(25), 0
    nodes = one.walk(60_000, generator)
    for before, here, after in zip(nodes, nodes[1:], nodes[2:], strict=False):
        if (before, here) == (7, 12):
            counts[after] += 1
            total += 1
    truth = one.next_distribution([7, 12])
    assert set(truth.nonzero().flatten().tolist()) == {11, 13, 17}
    assert 0.5 * (counts / total - truth).abs().sum() < 0.06


def test_a_ring_is_determined_after_one_step() -> None:
    ring = lattice("ring", 1, 6, periodic=True)
    assert ring.next_distribution([2]).max() == 0.5
    assert ring.next_distribution([2, 3])[4] == 1.0


def test_text_round_trip_and_single_tokens() -> None:
    one, tok = GRAPHS["cylinder"], tokenizer()
    nodes = one.walk(50, torch.Generator().manual_seed(1), end=40)
    text = one.text(nodes)
    assert text.endswith(SEPARATOR) and one.read(text) == nodes
    assert len(tok(text)["input_ids"]) == 1 + 2 * len(nodes)


def test_balanced_walks_end_everywhere_equally() -> None:
    ends = [nodes[-1] for nodes in GRAPHS["grid"].balanced_walks(50, 5, torch.Generator().manual_seed(0))]
    assert sorted(ends) == sorted(list(range(25)) * 2)


def test_refusals() -> None:
    with pytest.raises(Invalid):
        lattice("big", 20, 20)
    with pytest.raises(Invalid):
        GRAPHS["grid"].walk(3, torch.Generator(), end=25)
    with pytest.raises(NotFound):
        GRAPHS["grid"].read("time|sphinx|")
    with pytest.raises(NotFound):
        graph("torus")
