"""A world of questions that is small enough for a test."""

from configs import language as config_lib

SIZES = {"num_authors": 6, "num_questions": 3, "num_held_out": 4, "vocab_size": 300}


def config_of(arg="", **options):
    config = config_lib.get_config(arg)
    config.task_options.update(SIZES | options)
    config.model.options.update({"width": 8, "depth": 1, "num_heads": 2, "mlp_width": 8})
    config.model.options.num_kv_heads = 1
    config.train.batch_size = 4
    return config
