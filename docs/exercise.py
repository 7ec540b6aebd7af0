"""The exercises of docs/lesson.md: eight functions, which are FPL once they are written.

Replace each `raise` by your own code, and let it be judged, for instance:

    ./run.sh check docs/exercise.py --only class_prototypes

What goes in and comes out are NumPy arrays; the shapes stand in brackets. M is the number of
clients, K of classes, B of images in a batch, d of numbers in a feature. Most arrays hold float32;
x.astype(np.float64) gives you more digits to compute with. A function that still raises
NotImplementedError is not judged. Functions of your own may stand beside these eight.
"""

import numpy as np  # noqa: F401  (for your code)


def class_prototypes(z, labels, num_classes):
    """Exercise 1: a client's mean feature of each class, and how many images it has of it.

    z [n,d]: the features of its n images. labels [n]: their classes, from 0 to num_classes - 1.
    Returns means [num_classes,d] and counts [num_classes]. A class without any image has the mean 0
    and the count 0.
    """
    raise NotImplementedError("exercise 1")


def weighted_mean(trees, weights):
    """Exercise 2: the mean of some networks, each as heavy as its weight.

    trees: a list of networks, each a dict {name: array}; all have the same names, and the same
    shape for a name. weights: a list of as many numbers, the clients' numbers of images.
    Returns one such dict. Only the ratio of the weights counts: (1, 3) does what (200, 600) does.
    """
    raise NotImplementedError("exercise 2")


def finch(x):
    """Exercise 3: the clusters of some rows. Exercise 4: the coarser clusters too.

    x [n,d]: the rows, two or more; none is zero. Do not change x itself.
    Returns a list of label arrays [n]. Labels are whole numbers: rows of one cluster have the same
    label, and the labels count from 0. The first array of the list is the finest partition, made
    by links between rows. Each further one is made by links between the means of the clusters of
    the array before it, and gives each row the label of its cluster's cluster. The list ends before
    all rows would become one cluster, and when nothing merges any more. One cluster of all rows is
    an answer only where the finest partition is that. Exercise 3 asks for the first array alone.
    """
    raise NotImplementedError("exercises 3 and 4")


def cluster_prototypes(class_means, counts, partition):
    """Exercise 5: the cluster prototypes of each class.

    class_means [M,K,d]: what the M clients sent, and counts [M,K]: their numbers of images. A
    client with the count 0 does not hold the class: leave its mean out. A class that a single
    client holds has one cluster, of this client's mean. partition: "first" takes the finest
    partition that finch gives, "last" the coarsest one, which is the last in the list.
    Returns clusters [K,J,d] and mask [K,J]: a class has as many rows of clusters as the mask has
    True for it, and J = max(1, M // 2) is the most that there can be. What stands in the rows whose
    mask is False does not matter; zero is a good choice.
    """
    raise NotImplementedError("exercise 5")


def unbiased_prototypes(clusters, mask):
    """Exercise 5: the plain mean of the cluster prototypes of each class.

    clusters [K,J,d] and mask [K,J] as above. Rows whose mask is False may hold anything.
    Returns [K,d]. A class without any cluster has the unbiased prototype 0.
    """
    raise NotImplementedError("exercise 5")


def cpcl(z, labels, clusters, mask, tau):
    """Exercise 6: CPCL, the mean over a batch. Exercise 7: its gradient, and a small tau.

    z [B,d]: features. labels [B]: their classes. clusters [K,J,d] and mask [K,J] as above: the
    cluster prototypes of a sample's own class are its positives, those of all other classes its
    negatives. tau: the temperature, above 0.
    Returns the value (exercise 6), or the pair value, gradient [B,d] (exercise 7): the derivative
    of the value with respect to z. A sample whose class has no prototype costs 0, counts in the
    mean as one of the B samples, and has the gradient 0. So does a sample that has no negatives.
    """
    raise NotImplementedError("exercises 6 and 7")


def upcr(z, labels, unbiased, known, reduce):
    """Exercise 6: UPCR, the mean over a batch. Exercise 7: its gradient.

    z [B,d], labels [B]. unbiased [K,d]: the unbiased prototypes. known [K]: whether the class has
    one; the other rows of unbiased may hold anything. reduce: "sum" adds up the d squares, "mean"
    takes their mean.
    Returns the value (exercise 6), or the pair value, gradient [B,d] (exercise 7). A sample whose
    class is not known costs 0, counts in the mean, and has the gradient 0.
    """
    raise NotImplementedError("exercises 6 and 7")


def sgd_step(param, velocity, grad, lr, momentum, weight_decay):
    """Exercise 8: one step of gradient descent.

    param, velocity and grad are arrays of one shape, the others are numbers. First weight_decay
    times param is added to the gradient. Then the velocity becomes momentum times itself plus this
    gradient. Then lr times the new velocity is taken from the parameter.
    Returns the new param and the new velocity. Do not change the arrays that come in.
    """
    raise NotImplementedError("exercise 8")
