"""FPL's local step and its whole round in PyTorch, for `bench` to measure against.

A round does what one of ours does: the clients train one after another, PyTorch takes all threads;
then class means, the server's part, and the test. Its losses are vectorised, or image by image as
the released code has them. batch: a `bench.Batch`.
"""

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import numpy as np
import torch
from torch.nn import functional as F


def network(p, s, x, training):
    """fpl.network: p, s by name, x [B,3,32,32] -> logits [B,K], z [B,d]; s moves in training."""

    def conv_bn(x, name, stride):
        kernel = p[name + ".conv"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[2] // 2)
        statistics = s[name + ".bn.mean"], s[name + ".bn.variance"]
        affine = p[name + ".bn.weight"], p[name + ".bn.bias"]
        return F.batch_norm(x, *statistics, *affine, training, fpl.BN_MOMENTUM, fpl.BN_EPS)

    y = F.relu(conv_bn(x, "stem", 1))
    for stage, _, _, stride in fpl.STAGES:
        z = conv_bn(F.relu(conv_bn(y, stage + ".a", stride)), stage + ".b", 1)
        y = F.relu(z + (conv_bn(y, stage + ".shortcut", stride) if stride != 1 else y))
    z = y.mean((2, 3))
    return F.linear(z, p["linear.weight"], p["linear.bias"]), z


# ---------------------------------------------------------------- the losses


def vectorised(z, labels, clusters, mask, unbiased, tau):
    """CPCL and UPCR (mean). z [B,d], clusters [K,J,d], mask [K,J], unbiased [K,d] -> scalars."""
    there = mask.reshape(-1)
    rows = F.normalize(clusters.reshape(len(there), -1))
    similarity = F.normalize(z) @ rows.T / tau
    own = labels[:, None] == torch.arange(len(there)) // mask.shape[1]
    log_p, log_n = (
        similarity.masked_fill(~(which & there), -1e30).logsumexp(1) for which in (own, ~own)
    )
    return F.softplus(log_n - log_p).mean(), F.mse_loss(z, unbiased[labels])


def image_by_image(z, labels, clusters, mask, unbiased, tau):
    """The same as `vectorised`, with the prototypes gathered anew for each image."""
    cpcl, upcr = 0.0, 0.0
    for feature, label in zip(z, labels.tolist()):
        own = clusters[label][mask[label]]
        rest = [rows[held] for k, (rows, held) in enumerate(zip(clusters, mask)) if k != label]
        prototypes = torch.cat([own, *rest])
        similarity = F.cosine_similarity(feature[None], prototypes) / tau
        cpcl = cpcl + similarity.logsumexp(0) - similarity[: len(own)].logsumexp(0)
        upcr = upcr + F.mse_loss(feature, unbiased[label])
    return cpcl / len(z), upcr / len(z)


# ---------------------------------------------------------------- a step


class Learner:
    """A network with its optimizer; it starts from the weights and statistics of a ServerState."""

    def __init__(self, state, cfg):
        self.cfg = cfg
        weights = fpl.views(state.params, fpl.param_shapes(cfg.width, cfg.classes)).items()
        running = fpl.views(state.stats, fpl.stat_shapes(cfg.width)).items()
        self.p = {name: torch.tensor(w.asnumpy(), requires_grad=True) for name, w in weights}
        self.s = {name: torch.tensor(value.asnumpy()) for name, value in running}
        self.optimizer = torch.optim.SGD(
            self.p.values(), cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay
        )

    def step(self, x, labels, prototypes, losses):
        """One step on CE + CPCL + UPCR -> the loss before it. prototypes: None in round 1."""
        self.optimizer.zero_grad()
        logits, z = network(self.p, self.s, x, True)
        value = F.cross_entropy(logits, labels)
        if prototypes is not None:
            cpcl, upcr = losses(z, labels, *prototypes, self.cfg.tau)
            value = value + self.cfg.cpcl * cpcl + self.cfg.upcr * upcr
        value.backward()
        self.optimizer.step()
        return value.detach()

    def predict(self, images):
        """images [n,32,32,3] uint8 -> logits [n,K], z [n,d], in evaluation mode."""
        with torch.no_grad():
            parts = [
                network(self.p, self.s, network_input(images[start : start + 128]), False)
                for start in range(0, len(images), 128)
            ]
        return tuple(torch.cat(part).numpy() for part in zip(*parts))


def network_input(images):
    """fpl.network_input, in PyTorch."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = (torch.tensor(images) / 255 - mean) / std
    return scaled.permute(0, 3, 1, 2).contiguous()


def tensors(prototypes):
    """fpl.Prototypes as PyTorch's tensors; None if there are none yet."""
    return tuple(map(torch.tensor, prototypes)) if prototypes.mask.any() else None


def step(batch):
    """A call that makes one more step of the same network and loss -> the loss."""
    learner = Learner(batch.state, batch.cfg)
    x = torch.tensor(fpl.network_input(batch.images).asnumpy())
    labels = torch.tensor(batch.labels.astype(np.int64))
    prototypes = tensors(batch.prototypes)
    return lambda: learner.step(x, labels, prototypes, vectorised)


# ---------------------------------------------------------------- a round


def whole_round(state, clients, tests, cfg, losses):
    """fpl.server_round and fpl.evaluate -> the next ServerState, accuracy {domain: percent}."""
    prototypes, updates = tensors(state.prototypes), []
    for m, client in enumerate(clients):
        learner, told = Learner(state, cfg), []
        rng = fpl.stream(cfg, "client", state.round + 1, m)
        for _ in range(cfg.local_epochs):
            for images, labels in fpl.batches(client, cfg, rng):
                labels = torch.tensor(labels.astype(np.int64))
                told.append(float(learner.step(network_input(images), labels, prototypes, losses)))
        _, z = learner.predict(client.images)
        means = fpl.class_prototypes(z, client.labels, cfg.classes)
        vectors = [
            fpl.joined([value.detach().numpy() for value in named.values()])
            for named in (learner.p, learner.s)
        ]
        updates.append(fpl.ClientUpdate(*vectors, *means, float(np.mean(told))))
    after, _ = fpl.server_round(state, clients, cfg, lambda function, items: iter(updates))
    learner, accuracy = Learner(after, cfg), {}
    for domain, (images, labels) in tests.items():
        logits, _ = learner.predict(images)
        accuracy[domain] = 100 * float(np.mean(logits.argmax(axis=1) == labels))
    return after, accuracy
