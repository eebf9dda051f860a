import pytest

from unlearnjax import data, importing


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="'math:tau2' cannot be imported: .*no attribute 'tau2'"):
        importing.imported("math:tau2")
    with pytest.raises(ValueError, match="No module named 'no_such_module'"):
        importing.imported("no_such_module:name")


def test_a_data_set_of_ones_own_must_be_one(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(
        "import numpy as np\n"
        "from unlearnjax import data\n"
        "def right():\n"
        "    part = {'inputs': np.ones((4, 2), np.float32), 'targets': np.arange(4) % 2}\n"
        "    return data.standardised(part, part, ('a', 'b'))\n"
        "def wrong():\n"
        "    return {'inputs': 1}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert data.load("own_data:right").num_classes == 2
    with pytest.raises(ValueError, match=r"must return a data\.Dataset, got <class 'dict'>"):
        data.load("own_data:wrong")
