"""The article's convolution, word for word, for the test that relates it to conv2d.

    y(i, j) = sum_p sum_q x(i - p + 1, j - q + 1) k(p, q)

Every index starts at 1: p = 1..P and q = 1..Q over the kernel, i and j over the output. All of x's
indices lie inside an (H, W) image when P <= i <= H and Q <= j <= W, the "valid" region. Put there
i = r + P and a = P - p, both 0-based (r = 0..H-P, a = 0..P-1, columns alike): the article's
x(i - p + 1) is the element i - p = r + a of the 0-based array and k(p) its element P - 1 - a, so

    y(r + P, s + Q) = sum_a sum_b x[r + a, s + b] k[P - 1 - a, Q - 1 - b],

which is conv2d (cross-correlation) with the kernel flipped in both directions. With x zero outside
the image, i = 1..H+P-1 gives the "full" convolution: conv2d with P - 1 rows and Q - 1 columns of
padding on every side, the kernel again flipped.
"""

from __future__ import annotations

import numpy as np


def article_convolution(x, k, region="valid"):
    """x (H, W), k (P, Q) -> y: (H-P+1, W-Q+1) for region "valid", (H+P-1, W+Q-1) for "full"."""
    (height, width), (kernel_rows, kernel_columns) = x.shape, k.shape

    def x_at(i, j):
        inside = 1 <= i <= height and 1 <= j <= width
        return float(x[i - 1, j - 1]) if inside else 0.0

    def y_at(i, j):
        return sum(
            x_at(i - p + 1, j - q + 1) * float(k[p - 1, q - 1])
            for p in range(1, kernel_rows + 1)
            for q in range(1, kernel_columns + 1)
        )

    if region == "valid":
        rows, columns = range(kernel_rows, height + 1), range(kernel_columns, width + 1)
    else:
        rows, columns = range(1, height + kernel_rows), range(1, width + kernel_columns)
    return np.array([[y_at(i, j) for j in columns] for i in rows])
