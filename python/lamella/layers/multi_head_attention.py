"""`MultiHeadAttention` and `GroupedQueryAttention`: attention between projections."""

from __future__ import annotations

from typing import Any

from lamella.layers.arguments import integer
from lamella.layers.projected_attention import ProjectedAttention
from lamella.registry import register


@register("layer")
class MultiHeadAttention(ProjectedAttention):
    """Attention of several heads between projections (Vaswani et al. 2017).

    Called on query (N, S, Dq), value (N, L, Dv) and key (N, L, Dk), by default the value; on one
    tensor it is self-attention. With ``q = query kernel_q + bias_q``, k and v likewise, of shape
    (N, steps, heads, size)::

        p = softmax_j(q_i . k_j / sqrt(key_dim))       of the keys that query i sees
        y = (sum_j p_ij v_j) kernel_o + bias_o         (N, S, Dq)

    Parameters
    ----------
    num_heads : int
    key_dim : int, optional
        Size of a head of query and key; by default the query's width / num_heads.
    value_dim : int, optional
        That of the value; by default `key_dim`.
    dropout : float
        In training, the probability of a weight of a value to be dropped, in [0, 1).
    use_bias : bool
    output_shape : int or tuple of one, optional
        The output's width; by default the query's.
    attention_axes : optional
        Only 1, the axis of the steps.
    sliding_window : int, optional
        Query i sees the keys with ``|i - j| < sliding_window``.
    flash_attention, activity_regularizer, kernel_constraint, bias_constraint, use_gate
        Not supported.
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer, bias_regularizer : optional
    seed : int, optional
        Starts a stream of dropout masks of the layer's own.
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument or the shape of an input is not what it should be, or ``num_heads`` does not
        divide the width that ``key_dim`` is to come from.

    Notes
    -----
    What a call may have beside its inputs: see ``__call__``. A query that its own mask excludes, or
    that sees no key, gives the output's bias, where Keras lets it see what is masked. Scores are
    returned after dropout, Keras': before it.

    Examples
    --------
    >>> import numpy as np
    >>> MultiHeadAttention(num_heads=2)(np.ones((3, 5, 8))).shape
    (3, 5, 8)
    >>> query, memory = np.ones((3, 5, 8)), np.ones((3, 7, 6))
    >>> y, weights = MultiHeadAttention(2, key_dim=4)(query, memory, return_attention_scores=True)
    >>> y.shape, weights.shape
    ((3, 5, 8), (3, 2, 5, 7))
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int | None = None,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: Any = None,
        attention_axes: Any = None,
        sliding_window: int | None = None,
        flash_attention: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            dropout=dropout,
            use_bias=use_bias,
            sliding_window=sliding_window,
            flash_attention=flash_attention,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            use_gate=use_gate,
            seed=seed,
            **kwargs,
        )
        self.num_heads = self.num_key_value_heads = integer(self, "num_heads", num_heads)
        self.key_dim = None if key_dim is None else integer(self, "key_dim", key_dim)
        self.value_dim = None if value_dim is None else integer(self, "value_dim", value_dim)
        self._output_shape = self._checked_output_shape(output_shape)
        axes = (attention_axes,) if hasattr(attention_axes, "__index__") else attention_axes
        if axes is not None and tuple(axes) not in ((1,), (-2,)):
            raise self.error(
                f"attention_axes={attention_axes!r} is not supported: only 1, the axis of the steps"
            )
        self.attention_axes = None if axes is None else tuple(axes)

    def _checked_output_shape(self, output_shape: Any) -> tuple[int] | None:
        if output_shape is None:
            return None
        sizes = output_shape
        if isinstance(output_shape, (list, tuple)):
            if len(output_shape) != 1:
                raise self.error(
                    f"output_shape={output_shape!r} is not supported: only one axis, its size"
                )
            (sizes,) = output_shape
        return (integer(self, "output_shape", sizes),)

    def build(self, input_shape: Any) -> None:
        features = self._features(input_shape)
        width, key_size = features[0], self.key_dim
        if key_size is None:
            if width % self.num_heads:
                raise self.error(
                    f"num_heads={self.num_heads} does not divide the query's width {width}: give "
                    "key_dim, the size of a head"
                )
            key_size = width // self.num_heads
        value_size = key_size if self.value_dim is None else self.value_dim
        outputs = width if self._output_shape is None else self._output_shape[0]
        self._make_weights(features, key_size, value_size, outputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "output_shape": self._output_shape,
            "attention_axes": self.attention_axes,
        }


@register("layer", "GroupQueryAttention")
class GroupedQueryAttention(ProjectedAttention):
    """`MultiHeadAttention` whose heads share keys and values (Ainslie et al. 2023).

    ``num_query_heads / num_key_value_heads`` successive heads of the query look at one head of key
    and value.

    Parameters
    ----------
    head_dim : int
        Size of each head.
    num_query_heads : int
    num_key_value_heads : int
        Divides `num_query_heads`; with 1 it is multi-query attention.
    dropout, use_bias, sliding_window, seed
        As in `MultiHeadAttention`.
    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer
        As in `MultiHeadAttention`.
    flash_attention, activity_regularizer, kernel_constraint, bias_constraint, use_gate
        Not supported.
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument or the shape of an input is not what it should be.

    Examples
    --------
    >>> import numpy as np
    >>> layer = GroupedQueryAttention(head_dim=4, num_query_heads=6, num_key_value_heads=2)
    >>> layer(np.ones((3, 5, 8))).shape
    (3, 5, 8)
    >>> [weight.shape for weight in layer.weights[:3:2]]
    [(8, 6, 4), (8, 2, 4)]
    """

    def __init__(
        self,
        head_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        dropout: float = 0.0,
        use_bias: bool = True,
        sliding_window: int | None = None,
        flash_attention: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            dropout=dropout,
            use_bias=use_bias,
            sliding_window=sliding_window,
            flash_attention=flash_attention,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            use_gate=use_gate,
            seed=seed,
            **kwargs,
        )
        self.head_dim = integer(self, "head_dim", head_dim)
        self.num_query_heads = self.num_heads = integer(self, "num_query_heads", num_query_heads)
        self.num_key_value_heads = integer(self, "num_key_value_heads", num_key_value_heads)
        if num_query_heads % num_key_value_heads:
            raise self.error(
                f"num_key_value_heads={num_key_value_heads} does not divide "
                f"num_query_heads={num_query_heads}"
            )

    def build(self, input_shape: Any) -> None:
        features = self._features(input_shape)
        self._make_weights(features, self.head_dim, self.head_dim, features[0])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "head_dim": self.head_dim,
            "num_query_heads": self.num_query_heads,
            "num_key_value_heads": self.num_key_value_heads,
        }
