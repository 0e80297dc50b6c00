import torch

from mmssl.losses.binary import binary_correspondence
from mmssl.losses.margin import contrastive_margin, triplet


def test_contrastive_margin_equals_the_formula() -> None:
    d = torch.tensor([0.2, 0.5, 1.3, 0.7], requires_grad=True)
    y = torch.tensor([True, False, False, True])
    ours = contrastive_margin(d, y, margin=0.99)
    torch.testing.assert_close(ours, torch.tensor([0.04, 0.49**2, 0.0, 0.49]))
    (gradient,) = torch.autograd.grad(ours.sum(), d)
    torch.testing.assert_close(gradient, torch.tensor([0.4, -2 * 0.49, 0.0, 1.4]))


def test_triplet_is_zero_once_the_negative_is_far_enough() -> None:
    near, far = torch.tensor([0.1, 0.5]), torch.tensor([0.9, 0.4])
    torch.testing.assert_close(triplet(near, far, margin=0.2), torch.tensor([0.0, 0.3]))


def test_one_logit_and_two_logits_agree() -> None:
    logits = torch.randn(7, 2)
    y = torch.rand(7) > 0.5
    log_odds = logits[:, 1] - logits[:, 0]
    torch.testing.assert_close(binary_correspondence(logits, y), binary_correspondence(log_odds, y))
    p = torch.sigmoid(log_odds)
    torch.testing.assert_close(binary_correspondence(log_odds, y), -torch.log(torch.where(y, p, 1 - p)))


def test_binary_correspondence_equals_the_formula_in_value_and_gradient() -> None:
    odds, y = torch.randn(9, requires_grad=True), torch.rand(9) > 0.5
    p = 1 / (1 + torch.exp(-odds))
    ours, theirs = binary_correspondence(odds, y), -torch.where(y, p.log(), (1 - p).log())
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), odds)[0], (p - y.float()).detach())
    far = torch.tensor([-200.0, 200.0], requires_grad=True)
    cost = binary_correspondence(far, torch.tensor([True, False]))
    assert cost.tolist() == [200.0, 200.0] and torch.autograd.grad(cost.sum(), far)[0].tolist() == [-1.0, 1.0]


def test_margins_by_default() -> None:
    """0.99 as Korbar et al. (NeurIPS 2018) have it, 0.2 as Schroff et al. (CVPR 2015)."""
    d, no = torch.tensor([0.5]), torch.tensor([False])
    torch.testing.assert_close(contrastive_margin(d, no), torch.tensor([0.49**2]))
    torch.testing.assert_close(triplet(torch.tensor([0.5]), torch.tensor([0.6])), torch.tensor([0.1]))


def test_binary_correspondence_is_worked_out_in_float32() -> None:
    logits, y = torch.randn(7, 2).bfloat16(), torch.rand(7) > 0.5
    for x in (logits, logits[:, 1]):
        found = binary_correspondence(x, y)
        assert found.dtype == torch.float32 and found.shape == (7,)
        torch.testing.assert_close(found, binary_correspondence(x.float(), y))
