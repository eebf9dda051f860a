"""What published erasers train of a denoiser that reads text, by the names in `models.TextDiT`.

As `where` and `but` of `unlearning.confined`.
"""

CROSS_ATTENTION = ("*.cross",)
KEYS_AND_VALUES = ("*.cross.key", "*.cross.value")

# The embedding of times, and the output with what scales and shifts it.
_ENDS = ("denoiser.time_*", "denoiser.pixels", "denoiser.table")

# ESD-x and ESD-u as in the first published code. In the present one u has time and output, too, and
# `x-strict` is keys and values.
ESD_X = {"where": CROSS_ATTENTION}
ESD_U = {"where": ("denoiser",), "but": (*CROSS_ATTENTION, *_ENDS)}
