"""Devices other than the CPU: is one there, and does it compute right?

target.py         hands MindSpore its device, and refuses one that computes wrong
cuda.py           NVIDIA's card, the libraries and the environment that MindSpore wants for it
selfcheck.py      a tiny training on the device, beside the same in NumPy
numpy_network.py  fpl.py's network and a step of its training in NumPy, the gradient by hand
check_device.py   `./run.sh check-device`: the self-check as a table
"""
