from __future__ import annotations

import torch

from napari_biomedparse.networks.blocks.decoder import (
    SeededField,
    hidden_keys,
    never_drawn,
)

CPU = torch.device("cpu")


def test_never_drawn_equals_the_formula_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 50), generator=generator) * 4
    for call in (0, 1, 9):
        p = logits.double().sigmoid() * (1 + call)
        boltzmann = torch.softmax(p, dim=-1)
        expected = (1 - boltzmann) ** 5
        found = never_drawn(logits, call).double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_uniform_one_is_always_visible_and_zero_always_hidden() -> None:
    logits = torch.zeros((1, 2, 20))
    uniform = torch.ones((1, 2, 20))
    uniform[0, 0, :5] = 0
    hidden = hidden_keys(logits, 3, uniform)
    assert hidden[0, 0].tolist() == [True] * 5 + [False] * 15
    assert not hidden[0, 1].any()


def test_a_query_without_any_key_sees_all() -> None:
    uniform = torch.zeros((1, 2, 20))
    uniform[0, 1, 7] = 1
    hidden = hidden_keys(torch.zeros((1, 2, 20)), 0, uniform)
    assert not hidden[0, 0].any()
    assert hidden[0, 1].sum() == 19


def test_probable_keys_are_seen_more_often() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((1, 1, 100), -8.0)
    logits[..., :10] = 8.0
    uniform = torch.rand((4000, 1, 100), generator=generator)
    seen = (~hidden_keys(logits, 4, uniform)).float().mean(dim=(0, 1))
    expected = 1 - never_drawn(logits, 4)[0, 0]
    torch.testing.assert_close(seen, expected, atol=0.03, rtol=0)
    assert seen[:10].mean() > 5 * seen[10:].mean()


def test_a_seed_fixes_the_field() -> None:
    first, again, other = (SeededField(s, 2, 4, CPU) for s in (3, 3, 4))
    assert torch.equal(first(1, 30), again(1, 30))
    assert not torch.equal(first(1, 30), other(1, 30))
    assert not torch.equal(first(1, 30), first(2, 30))
    assert first(0, 30).shape == (2, 4, 30)
    assert first(0, 30) is first(0, 30)
