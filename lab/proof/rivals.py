"""The same local step and losses as others write them, for `bench` to measure against.

Image by image, as the released code has the losses; as a MindSpore cell with an optimizer, operator
by operator. in_torch.py has them in PyTorch, which the project does not need. batch: a
`bench.Batch`.
"""

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
from mindspore import Tensor, nn, ops, value_and_grad

# ---------------------------------------------------------------- the losses, image by image


def loop_losses(z, labels, clusters, unbiased, tau):
    """CPCL + UPCR (mean) as the released code has them: the prototypes gathered for each image.

    z [B,d], labels [B], clusters: K Tensors [J,d], unbiased: K Tensors [d] -> scalar.
    """
    total = 0.0
    for i, label in enumerate(labels):
        feature, k = z[i].expand_dims(0), int(label)
        others = ops.cat([rows for j, rows in enumerate(clusters) if j != k])
        # ops.cosine_similarity would leave the calling thread without subnormal numbers.
        similarity = (fpl.unit(ops.cat((clusters[k], others))) * fpl.unit(feature)).sum(1) / tau
        own = Tensor([1.0] * len(clusters[k]) + [0.0] * len(others))
        exponentials = ops.exp(similarity)
        contrast = -ops.log((exponentials * own).sum() / exponentials.sum())
        total = total + contrast + ops.mse_loss(feature, unbiased[k].expand_dims(0))
    return total / len(labels)


# ---------------------------------------------------------------- nn.Cell, nn.SGD, not compiled


def layer(c_in, c_out, size, stride):
    """Convolution and batch norm, whose momentum in MindSpore is the share of the old."""
    padding = {"pad_mode": "pad", "padding": size // 2}
    convolution = nn.Conv2d(c_in, c_out, size, stride, has_bias=False, **padding)
    return nn.SequentialCell([convolution, nn.BatchNorm2d(c_out, fpl.BN_EPS, 1 - fpl.BN_MOMENTUM)])


class Block(nn.Cell):
    """A basic block of two layers and its shortcut."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.a, self.b = layer(c_in, c_out, 3, stride), layer(c_out, c_out, 3, 1)
        self.shortcut = layer(c_in, c_out, 1, stride) if stride != 1 else nn.Identity()

    def construct(self, x):
        return ops.relu(self.b(ops.relu(self.a(x))) + self.shortcut(x))


class ResNet10(nn.Cell):
    """fpl.network as a cell; its parameters come in the order of fpl.param_shapes."""

    def __init__(self, width, num_classes):
        super().__init__()
        self.stem = layer(3, width, 3, 1)
        self.stages = nn.SequentialCell(
            [Block(c_in * width, c_out * width, stride) for _, c_in, c_out, stride in fpl.STAGES]
        )
        self.linear = nn.Dense(8 * width, num_classes)

    def construct(self, x):
        z = self.stages(ops.relu(self.stem(x))).mean((2, 3))
        return self.linear(z), z


def eager_step(batch):
    """A call that makes one more step of the cell, operator by operator -> the loss.

    Batch, loss and first weights are those of the compiled step.
    """
    cell = ResNet10(batch.cfg.width, batch.cfg.classes).set_train()
    shapes = fpl.param_shapes(batch.cfg.width, batch.cfg.classes)
    weights = fpl.views(batch.state.params, shapes).values()
    for parameter, weight in zip(cell.trainable_params(), weights, strict=True):
        parameter.set_data(weight.copy())  # it shares memory, and the optimizer writes to it
    x, labels = fpl.network_input(batch.images), Tensor(batch.labels)
    clusters, mask, unbiased, tau, cpcl, upcr = batch.received()

    def loss(x, labels):
        logits, z = cell(x)
        value = ops.cross_entropy(logits, labels)
        value = value + cpcl * fpl.cpcl_loss(z, labels, clusters, mask, tau)
        known = mask.any(1)
        return value + upcr * fpl.upcr_loss(z, labels, unbiased, known, batch.cfg.upcr_reduce)

    cfg = batch.cfg
    optimizer = nn.SGD(cell.trainable_params(), cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay)
    loss_and_gradient = value_and_grad(loss, None, optimizer.parameters)

    def once():
        value, gradient = loss_and_gradient(x, labels)
        optimizer(gradient)
        return value

    return once
