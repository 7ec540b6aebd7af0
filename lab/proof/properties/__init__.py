"""What must hold of FPL, whoever wrote it: the properties that `./run.sh check` judges by.

A property is a function of an implementation and of one drawn case. It raises a Failure where the
implementation is wrong, and its docstring is the sentence that the verdict shows.

failure.py     Property, Failure, and the comparisons that raise it
cases.py       what is drawn: batches, prototypes, what clients send, rows to cluster
losses.py      CPCL and UPCR (Eq. 7-10), values and gradients
prototypes.py  class means, cluster and unbiased prototypes (Eq. 2, 4-6)
clustering.py  FINCH (Eq. 4)
training.py    the weighted mean of networks, SGD, batch norm
contract.py    the functions that an implementation may have, and the list of all properties

They need NumPy, hypothesis and oracle_np.py; not MindSpore.
"""
