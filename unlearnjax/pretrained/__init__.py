"""Published weights, in and out: the only room that reads and writes other people's formats."""

from unlearnjax.pretrained import decoder, mapping, vit
from unlearnjax.pretrained.files import Tensors, open_tensors, write_tensors
from unlearnjax.pretrained.mapping import Family, KeyMap, Layout, Loaded, Rule, load, repeated, save
from unlearnjax.pretrained.start import FAMILIES, Start, load_model

__all__ = [
    "FAMILIES",
    "Family",
    "KeyMap",
    "Layout",
    "Loaded",
    "Rule",
    "Start",
    "Tensors",
    "decoder",
    "load",
    "load_model",
    "mapping",
    "open_tensors",
    "repeated",
    "save",
    "vit",
    "write_tensors",
]
