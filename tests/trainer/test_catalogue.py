"""The matrix of supported models, against the user's specification written out."""

import json
import subprocess
import sys

import pytest

from forecasting.errors import NotFound, RoleRefused
from trainer.catalogue import BACKBONES, ROLES, find_backbone, require_roles

# name, repository, and the roles time_llm, teacher, student, distillation as the specification's table marks them
SPECIFICATION = [
    ("llama", "huggyllama/llama-7b", "11--"),
    ("gpt2", "openai-community/gpt2", "11-1"),
    ("bert", "google-bert/bert-base-uncased", "1111"),
    ("bert-large", "bert-large-uncased", "-1--"),
    ("distilbert", "distilbert/distilbert-base-uncased", "1111"),
    ("tinybert", "huawei-noah/TinyBERT_General_4L_312D", "1111"),
    ("bert-tiny", "prajjwal1/bert-tiny", "1111"),
    ("bert-mini", "prajjwal1/bert-mini", "-111"),
    ("bert-small", "prajjwal1/bert-small", "-111"),
    ("bert-medium", "prajjwal1/bert-medium", "-111"),
    ("minilm", "nreimers/MiniLMv2-L6-H384-distilled-from-BERT-Large", "1111"),
    ("mobilebert", "google/mobilebert-uncased", "1111"),
    ("albert", "albert/albert-base-v2", "1111"),
    ("opt-125m", "facebook/opt-125m", "1111"),
]


def test_the_catalogue_is_the_specification():
    found = [(b.name, b.repository, "".join("1" if r in b.roles else "-" for r in ROLES)) for b in BACKBONES.values()]
    assert found == SPECIFICATION


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("bert", "bert"),
        ("BERT", "bert"),
        ("bert-base-uncased", "bert"),
        ("google-bert/bert-base-uncased", "bert"),
        ("distilbert-base-uncased", "distilbert"),
        ("bert-large-uncased", "bert-large"),
        ("prajjwal1/bert-tiny", "bert-tiny"),
        ("Prajjwal1/BERT-Medium", "bert-medium"),
        ("huawei-noah/TinyBERT_General_4L_312D", "tinybert"),
        ("facebook/opt-125m", "opt-125m"),
    ],
)
def test_short_names_and_full_ids_mean_one_backbone(asked, name):
    assert find_backbone(asked).name == name


def test_no_name_means_two_backbones():
    names = [n.lower() for b in BACKBONES.values() for n in (b.name, *b.aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(NotFound, match=r"did you mean .*tinybert"):
        find_backbone("tinyberd")


def test_a_role_that_is_not_in_the_matrix_is_refused_with_those_that_are():
    with pytest.raises(RoleRefused, match=r"LLAMA is not supported for student .*time_llm, teacher"):
        require_roles(find_backbone("llama"), "student", "distillation")


def test_models_as_json_hold_name_repository_aliases_and_roles():
    said = subprocess.run(
        [sys.executable, "-m", "trainer", "models", "--json"], capture_output=True, text=True, check=True
    ).stdout
    rows = {row["name"]: row for row in json.loads(said)}
    assert len(rows) == 14
    assert rows["bert-large"]["repository"] == "bert-large-uncased"
    assert [rows["llama"][role] for role in ROLES] == [True, True, False, False]
    assert "google-bert/bert-base-uncased" in rows["bert"]["aliases"]


def test_the_supported_teachers_can_be_listed():
    from trainer import TeacherTrainer

    assert list(TeacherTrainer().teacher_models) == [name for name, _, roles in SPECIFICATION if roles[1] == "1"]


@pytest.mark.parametrize("name", ["bert-tiny", "albert", "mobilebert"])
def test_the_size_that_is_announced_is_the_size_of_the_file(name, tmp_path):
    from trainer.model_sizes import measure_cost, size_of
    from trainer.settings import ModelSettings

    announced = size_of(BACKBONES[name])
    cost = measure_cost(BACKBONES[name], ModelSettings(backbone=name, weights="random"))
    assert cost.trained == announced.student_trained
    assert cost.exported_bytes == pytest.approx(announced.student_exported_bytes, rel=0.05)


def test_a_folder_is_a_custom_backbone_and_so_is_any_other_id(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert find_backbone(str(tmp_path / "mine")).name == "mine"
    assert find_backbone("someone/else").name == "someone--else"
    assert find_backbone("someone/else").is_custom


@pytest.mark.parametrize("other", ["openai-community/gpt2-medium", "google-bert/bert-base-cased", "facebook/opt-350m"])
def test_an_id_close_to_a_supported_one_is_not_taken_for_it(other):
    assert find_backbone(other).is_custom
    assert find_backbone(other).repository == other


def test_going_past_the_matrix_warns():
    (warning,) = require_roles(find_backbone("bert-large"), "distillation", allow_unsupported=True)
    assert "BERT-Large is not supported for distillation" in warning


def test_the_comment_tells_layers_and_widths():
    assert find_backbone("bert-mini").comment == "BERT-mini 4 layers 256 wide"
    assert find_backbone("albert").comment == "ALBERT 12 layers 128 to 768 wide"
