"""The benchmark of the Triton kernels on a GPU: cases, contenders, one measurement, the sweep over all cases, and the report."""
