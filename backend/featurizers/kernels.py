"""Loops over the selected (row, block) pairs on a processor, compiled by numba.

With pairs p = (row n_p, block g_p) and one small code per pair:

    sample     out_p = W_g x_n                       the codes of the pairs, and no others
    combine    out_n = sum over p of n: z_p D_g      a row's reconstruction
    spread     out_g = sum over p of g: z_p' x_n     a gradient of block g
    descend    sample and spread in one pass: both gradients of ``combine``

``sample``, ``spread`` and ``descend`` walk block by block, so that a block's b rows stay in the nearest cache while
its tokens pass by; ``combine`` walks row by row. Every thread owns a range of blocks or of rows, so nothing is added
up in an order that depends on timing. Threads are Python's (the loops release the interpreter lock): numba's own pool
must not be entered from two threads at once. Not covered: types other than float32; GPUs (see support.py).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit

_compiled = njit(nogil=True, fastmath=True, cache=True)


@_compiled
def sample(first, last, weight, x, row, order, start, out):
    b, d = weight.shape[1], weight.shape[2]
    for g in range(first, last):
        for q in range(start[g], start[g + 1]):
            p = order[q]
            xn = x[row[p]]
            for j in range(b):
                w, dot = weight[g, j], np.float32(0)
                for i in range(d):
                    dot += w[i] * xn[i]
                out[p, j] = dot


@_compiled
def combine(first, last, code, weight, block, start, out):
    b, d = weight.shape[1], weight.shape[2]
    for n in range(first, last):
        o = out[n]
        o[:] = 0
        for p in range(start[n], start[n + 1]):
            for j in range(b):
                z, w = code[p, j], weight[block[p], j]
                for i in range(d):
                    o[i] += z * w[i]


@_compiled
def spread(first, last, code, x, row, order, start, out):
    b, d = out.shape[1], out.shape[2]
    for g in range(first, last):
        out[g] = 0
        for q in range(start[g], start[g + 1]):
            p = order[q]
            xn = x[row[p]]
            for j in range(b):
                z, o = code[p, j], out[g, j]
                for i in range(d):
                    o[i] += z * xn[i]


@_compiled
def descend(first, last, code, weight, x, row, order, start, out_code, out):
    b, d = out.shape[1], out.shape[2]
    for g in range(first, last):
        out[g] = 0
        for q in range(start[g], start[g + 1]):
            p = order[q]
            xn = x[row[p]]
            for j in range(b):
                z, w, o, dot = code[p, j], weight[g, j], out[g, j], np.float32(0)
                for i in range(d):
                    dot += w[i] * xn[i]
                out_code[p, j] = dot
                # A loop of its own: a sum beside a store is not vectorised.
                for i in range(d):
                    o[i] += z * xn[i]


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="support")


def over(loop: Callable, start: torch.Tensor, *tensors: torch.Tensor) -> None:
    """Run ``loop`` over the ranges that ``start`` (n + 1) divides the pairs into, an equal share of pairs a thread."""
    arrays = [t.detach().numpy() for t in tensors]
    n, n_threads = len(start) - 1, torch.get_num_threads()
    if n_threads == 1 or n < 2 * n_threads:
        loop(0, n, *arrays)
        return
    ends = np.searchsorted(start.numpy(), np.linspace(0, int(start[-1]), n_threads + 1)[1:-1])
    bounds = [0, *np.clip(ends, 0, n).tolist(), n]
    jobs = [_pool(n_threads).submit(loop, a, z, *arrays) for a, z in zip(bounds, bounds[1:]) if z > a]
    for job in jobs:
        job.result()
