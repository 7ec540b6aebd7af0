"""An implementation as one writes it in PyTorch: float32, its own functions, autograd."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy_vectorised import cluster_prototypes, finch  # noqa: F401  (FINCH stays NumPy's)

SETTINGS = {"level": "equations"}


def class_prototypes(z, labels, num_classes):
    member = F.one_hot(torch.tensor(labels).long(), num_classes).float()
    counts = member.sum(0)
    means = member.T @ torch.tensor(z) / counts.clamp(min=1)[:, None]
    return means.numpy(), counts.numpy()


def unbiased_prototypes(clusters, mask):
    weight = torch.tensor(mask).float()[..., None]
    return (torch.tensor(clusters) * weight).sum(1) / weight.sum(1).clamp(min=1)


def with_gradient(loss, z):
    """The value of a loss and its gradient with respect to z."""
    z = torch.tensor(z, requires_grad=True)
    value = loss(z)
    (gradient,) = torch.autograd.grad(value, z, allow_unused=True)
    return value.detach().numpy(), np.zeros(z.shape) if gradient is None else gradient.numpy()


def cpcl(z, labels, clusters, mask, tau):
    mask, labels = torch.tensor(mask).flatten(), torch.tensor(labels).long()
    num_classes, most, d = clusters.shape
    prototypes = F.normalize(torch.tensor(clusters).reshape(-1, d), dim=1)[mask]
    of_class = torch.arange(num_classes).repeat_interleave(most)[mask]
    own = labels[:, None] == of_class

    def loss(z):
        if not len(prototypes):
            return 0 * z.sum()
        log_share = F.log_softmax(F.normalize(z, dim=1) @ prototypes.T / tau, dim=1)
        known = own.any(1)
        losses = -torch.logsumexp(log_share[known].masked_fill(~own[known], -torch.inf), dim=1)
        return losses.sum() / len(z)

    return with_gradient(loss, z)


def upcr(z, labels, unbiased, known, reduce):
    labels = torch.tensor(labels).long()
    here = torch.tensor(known)[labels]
    target = torch.tensor(unbiased)[labels]

    def loss(z):
        square = F.mse_loss(z[here], target[here], reduction="none")
        return (square.sum(1) if reduce == "sum" else square.mean(1)).sum() / len(z)

    return with_gradient(loss, z)


def weighted_mean(trees, weights):
    total = sum(weights)
    return {
        name: sum(w / total * torch.tensor(t[name]) for t, w in zip(trees, weights)).numpy()
        for name in trees[0]
    }


def sgd_step(param, velocity, grad, lr, momentum, weight_decay):
    """torch.optim.SGD itself, its velocity handed in."""
    p = torch.nn.Parameter(torch.tensor(param))
    optimizer = torch.optim.SGD([p], lr, momentum=momentum, weight_decay=weight_decay)
    if momentum:
        optimizer.state[p]["momentum_buffer"] = torch.tensor(velocity)
    p.grad = torch.tensor(grad)
    optimizer.step()
    buffer = optimizer.state[p].get("momentum_buffer")
    if buffer is None:  # without momentum PyTorch keeps none
        buffer = torch.tensor(grad) + weight_decay * torch.tensor(param)
    return p.detach().numpy(), buffer.numpy()


def batch_norm(x, weight, bias, eps):
    x = torch.tensor(x)
    y = F.batch_norm(x, None, None, torch.tensor(weight), torch.tensor(bias), True, eps=eps)
    return y, x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
