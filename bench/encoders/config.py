"""The settings of the shared encoder."""

from bench.core.models import Amount, Bool, Dropout, Float, Model, Natural, Positive, PositiveFloat, Text


class EncoderConfig(Model):
    """Arguments of bench.encoders.vit.Encoder. An argument that is None takes its default; only imported backbones set these."""

    size: Text
    tokens: Text
    patch: Positive
    registers: Natural
    init: Text
    dropout: Dropout
    layer_scale: Amount
    leads: Positive | None = None
    bias: Bool | None = None
    qkv_bias: Bool | None = None
    mlp_ratio: PositiveFloat | None = None
    norm_eps: Float | None = None
