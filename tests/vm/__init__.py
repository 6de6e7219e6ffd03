"""This machine's tests on other kernels, in a virtual machine."""
