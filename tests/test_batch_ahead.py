"""Processes that are started before the model is verified: none is left behind, whatever is wrong with it."""

import os
from pathlib import Path

import pytest
from batch_kit import children_of, fill
from server_kit import write_model

from pupila.batch import predict_all
from pupila.batch.workers import Ahead
from pupila.errors import ModelError


def test_damaged_model_ends_in_one_sentence_and_leaves_no_process(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    folder = fill(tmp_path / "photos", 3)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    before = children_of(os.getpid())
    with pytest.raises(ModelError, match="damaged or not an ONNX file"):
        predict_all(tmp_path / "model.onnx", [folder], tmp_path / "out.csv")
    assert children_of(os.getpid()) == before
    assert "Traceback" not in capfd.readouterr().err


def test_processes_that_a_small_job_does_not_need_are_ended(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx")
    before = children_of(os.getpid())
    with Ahead(model, 1) as crew, crew(1, model, "no such version", 1) as workers:
        assert len(children_of(os.getpid())) == len(before) + 1
        with pytest.raises(ModelError, match="changed while the job ran"):
            list(workers.map(iter([["nothing.png"]])))
    assert children_of(os.getpid()) == before
