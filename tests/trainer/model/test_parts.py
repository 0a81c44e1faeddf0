import numpy as np

from tests.factories import tiny_model
from trainer.model.parts import COMPOSER_TABLE, copy_weights, named_weights


def test_composers_keep_their_vectors_by_name_and_new_ones_start_like_unknown_ones():
    source = tiny_model("density", layers=1, seed=1, composers=("Alkan", "Chopin", "Liszt"))
    target = tiny_model("density", layers=1, seed=2, composers=("Chopin", "Satie"))
    copy_weights(source, target)
    before, after = (named_weights(model)[COMPOSER_TABLE].numpy() for model in (source, target))
    np.testing.assert_array_equal(after, before[[0, 2, 0]])
    for name, variable in named_weights(target).items():
        if name != COMPOSER_TABLE:
            np.testing.assert_array_equal(variable.numpy(), named_weights(source)[name].numpy())


def test_what_only_the_target_predicts_keeps_its_weights():
    source = tiny_model("density", layers=1, seed=1, end_weight=0.0)
    target = tiny_model("density", layers=1, seed=2)
    kept = {name: variable.numpy() for name, variable in named_weights(target).items() if "/end/" in name}
    copy_weights(source, target)
    assert kept
    for name, values in kept.items():
        np.testing.assert_array_equal(named_weights(target)[name].numpy(), values)
