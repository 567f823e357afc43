"""Layers by Keras 3's names, arguments, weight shapes and weight order.

>>> from lamella import layers
>>> x = layers.Input((28, 28, 1))
>>> y = layers.Conv2D(32, 3, activation="relu")(x)
>>> layers.Flatten()(layers.MaxPooling2D()(y)).shape
(None, 5408)
"""

from __future__ import annotations

from lamella.layers.activation import ELU, Activation, LeakyReLU, ReLU, Softmax
from lamella.layers.additive_attention import AdditiveAttention
from lamella.layers.attention import Attention
from lamella.layers.base import Layer
from lamella.layers.convolutional import Conv1D, Conv2D, DepthwiseConv2D
from lamella.layers.core import Dense
from lamella.layers.embedding import Embedding
from lamella.layers.graph import Input, InputLayer
from lamella.layers.group_normalization import GroupNormalization
from lamella.layers.layer_normalization import (
    LayerNormalization,
    RMSNormalization,
    UnitNormalization,
)
from lamella.layers.masking import Masking
from lamella.layers.merging import Add, Average, Concatenate, Multiply
from lamella.layers.multi_head_attention import GroupedQueryAttention, MultiHeadAttention
from lamella.layers.normalization import BatchNormalization
from lamella.layers.pooling import (
    AveragePooling1D,
    AveragePooling2D,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    MaxPooling1D,
    MaxPooling2D,
)
from lamella.layers.positional import PositionalEncoding, RotaryEmbedding
from lamella.layers.recurrent import RNN
from lamella.layers.recurrent_bidirectional import Bidirectional
from lamella.layers.recurrent_cells import SimpleRNNCell
from lamella.layers.recurrent_gated import GRUCell, LSTMCell
from lamella.layers.recurrent_layers import GRU, LSTM, SimpleRNN
from lamella.layers.regularization import Dropout, SpatialDropout2D
from lamella.layers.reshaping import Flatten, Permute, RepeatVector, Reshape, ZeroPadding2D
from lamella.layers.separable import SeparableConv2D
from lamella.layers.symbolic import SymbolicTensor
from lamella.layers.time_distributed import TimeDistributed
from lamella.layers.transformer import TransformerDecoder, TransformerEncoder
from lamella.layers.transposed import Conv2DTranspose
from lamella.layers.upsampling import UpSampling2D
from lamella.layers.weight import Weight

# Keras' second names.
AvgPool1D = AveragePooling1D
AvgPool2D = AveragePooling2D
Convolution1D = Conv1D
Convolution2D = Conv2D
Convolution2DTranspose = Conv2DTranspose
GlobalAvgPool1D = GlobalAveragePooling1D
GlobalAvgPool2D = GlobalAveragePooling2D
GlobalMaxPool1D = GlobalMaxPooling1D
GlobalMaxPool2D = GlobalMaxPooling2D
GroupQueryAttention = GroupedQueryAttention
MaxPool1D = MaxPooling1D
MaxPool2D = MaxPooling2D
SeparableConvolution2D = SeparableConv2D

__all__ = [
    "ELU",
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "Add",
    "AdditiveAttention",
    "Attention",
    "Average",
    "AveragePooling1D",
    "AveragePooling2D",
    "AvgPool1D",
    "AvgPool2D",
    "BatchNormalization",
    "Bidirectional",
    "Concatenate",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Convolution1D",
    "Convolution2D",
    "Convolution2DTranspose",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAvgPool1D",
    "GlobalAvgPool2D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GroupNormalization",
    "GroupQueryAttention",
    "GroupedQueryAttention",
    "Input",
    "InputLayer",
    "LSTMCell",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Masking",
    "MaxPool1D",
    "MaxPool2D",
    "MaxPooling1D",
    "MaxPooling2D",
    "MultiHeadAttention",
    "Multiply",
    "Permute",
    "PositionalEncoding",
    "RMSNormalization",
    "ReLU",
    "RepeatVector",
    "Reshape",
    "RotaryEmbedding",
    "SeparableConv2D",
    "SeparableConvolution2D",
    "SimpleRNN",
    "SimpleRNNCell",
    "Softmax",
    "SpatialDropout2D",
    "SymbolicTensor",
    "TimeDistributed",
    "TransformerDecoder",
    "TransformerEncoder",
    "UnitNormalization",
    "UpSampling2D",
    "Weight",
    "ZeroPadding2D",
]
