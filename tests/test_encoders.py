"""Encoders by name: which go with which architecture at which chip sizes; 30 pairs of docs/encoders.md with numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import timm
import torch

from scripts import encoders as script
from src.errors import UserError
from src.models.architectures import WITH_ENCODER, build, build_checked, trial
from src.models.encoders import check_encoder, encoder_arguments, smp_names, timm_names

DOCS = Path(__file__).parents[1] / "docs" / "encoders.md"

SAMPLE = [
    ("unet", "resnet18", 64),
    ("unet", "efficientnet-b0", 64),
    ("unet", "mit_b0", 64),
    ("unet", "densenet121", 64),
    ("unet", "tu-convnext_atto", 64),
    ("unet", "tu-swin_tiny_patch4_window7_224", 64),
    ("unet", "tu-swinv2_cr_tiny_224", 64),
    ("unet", "tu-maxvit_rmlp_pico_rw_256", 64),
    ("unet", "tu-coatnet_nano_rw_224", 64),
    ("unet", "tu-efficientformerv2_s0", 64),
    ("unet", "tu-coat_lite_tiny", 64),
    ("unet", "tu-gcvit_xxtiny", 64),
    ("unet", "tu-hiera_tiny_224", 64),
    ("unet", "tu-mambaout_femto", 64),
    ("unet", "tu-dla46_c", 64),
    ("unet", "tu-resnet10t.c3_in1k", 64),
    ("unetplusplus", "tu-mobilenetv3_small_050", 64),
    ("manet", "tu-regnetx_002", 64),
    ("linknet", "tu-ghostnet_050", 64),
    ("fpn", "tu-pvt_v2_b0", 64),
    ("pspnet", "tu-mobilevit_xxs", 64),
    ("pan", "tu-resnet10t", 128),
    ("deeplabv3", "tu-lcnet_050", 64),
    ("deeplabv3plus", "mobilenet_v2", 64),
    ("upernet", "tu-edgenext_xx_small", 64),
    ("segformer", "tu-efficientvit_b0", 64),
    ("dpt", "tu-vit_tiny_patch16_224", 64),
    ("dpt", "tu-vit_small_patch14_dinov2", 64),
    ("dpt", "tu-vit_small_patch16_dinov3", 64),
    ("dpt", "tu-eva02_tiny_patch14_224", 64),
]


@pytest.mark.parametrize(("architecture", "encoder", "size"), SAMPLE)
def test_a_sample_of_pairs_runs_with_numbers(architecture: str, encoder: str, size: int) -> None:
    network = build(architecture, encoder, 13, 5, (size, size)).eval()
    with torch.inference_mode():
        logits = network(torch.rand(1, 13, size, size))
    assert logits.shape == (1, 5, size, size)
    assert torch.isfinite(logits).all()


def test_the_sample_is_thirty_pairs_that_the_table_says_work() -> None:
    assert len(SAMPLE) == 30
    rows = table_rows()
    for architecture, encoder, _ in SAMPLE:
        assert rows[encoder.partition(".")[0]][architecture] == script.WORKS


def test_the_table_knows_every_encoder_and_keeps_its_promises() -> None:
    """890 U-Nets with timm's encoders, and 1 100 of timm's encoders with one architecture or another."""
    rows = table_rows()
    assert set(rows) == {*smp_names(), *(f"tu-{name}" for name in timm_names())}
    of_timm = [row for name, row in rows.items() if name.startswith("tu-")]
    assert sum(works(row["unet"]) for row in of_timm) >= 890
    assert sum(any(map(works, row.values())) for row in of_timm) >= 1100


def test_every_cause_in_the_table_is_in_plain_words() -> None:
    causes = DOCS.read_text().partition("## Why not")[2].partition("## Encoders")[0]
    assert not re.search(r"Error|tensor|dimension|argument", causes)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("RuntimeError: Sizes of tensors must match except in dimension 1. Expected 12", "the sizes of its features"),
        ("RuntimeError: The size of tensor a (64) must match the size of tensor b (32)", "the sizes of its features"),
        ("256 × 256 px become 232 × 232", "smaller than the chip"),
        ("IndexError: list index out of range", "fewer stages than model.encoder_depth"),
        ("224 px", "224 px"),
        (script.WORKS, script.WORKS),
        ("no reason that is known", "no reason that is known"),
    ],
)
def test_what_means_the_same_has_one_wording(answer: str, words: str) -> None:
    assert words in script.plain(answer)


def test_sizes_that_are_multiples_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial_of(_: object, image: torch.Tensor) -> str | None:
        return None if image.shape[-1] == 272 else "width and height must be multiples of 17"

    monkeypatch.setattr(script, "outline", lambda *_: None)
    monkeypatch.setattr(script, "trial", trial_of)
    assert script.examine_pair("dpt", "tu-crossvit_9_240") == "272 px"
    monkeypatch.setattr(script, "trial", lambda _, image: "b" if image.shape[-1] == 272 else trial_of(_, image))
    assert script.examine_pair("dpt", "tu-crossvit_9_240") == "b"


def works(answer: str) -> bool:
    return answer == script.WORKS or answer.endswith(" px")


def table_rows() -> dict[str, dict[str, str]]:
    lines = DOCS.read_text().partition("## All pairs")[2].strip().splitlines()
    names = [cell.strip() for cell in lines[0].strip("|").split("|")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in cells}


@pytest.mark.parametrize(
    ("architecture", "encoder", "window"),
    [
        ("unet", "tu-swin_tiny_patch4_window7_224", (160, 96)),
        ("unet", "tu-maxvit_rmlp_pico_rw_256", (128, 192)),
        ("dpt", "tu-vit_tiny_patch16_224", (160, 96)),
        ("dpt", "tu-vit_small_patch14_dinov2", (128, 96)),
    ],
)
def test_encoders_made_for_one_size_predict_on_larger_windows(
    architecture: str, encoder: str, window: tuple[int, int]
) -> None:
    network = build_checked(architecture, encoder, 4, 3, (64, 64))
    assert trial(network, torch.zeros(1, 4, *window)) is None


def test_an_encoder_is_made_for_chips_that_are_not_square() -> None:
    network = build_checked("unet", "tu-test_maxvit", 4, 3, (96, 64)).eval()
    assert network(torch.zeros(1, 4, 64, 96)).shape == (1, 3, 64, 96)


def test_only_encoders_with_one_size_are_told_one() -> None:
    assert encoder_arguments("resnet18", "unet", (64, 64)) == {}
    assert encoder_arguments("tu-resnet18", "unet", (64, 64)) == {}
    assert encoder_arguments("tu-coatnet_0_rw_224", "unet", (96, 64)) == {"img_size": (64, 96)}
    assert encoder_arguments("tu-vit_tiny_patch16_224", "dpt", (64, 64)) == {
        "dynamic_img_size": True,
        "num_classes": 0,
    }
    assert encoder_arguments("tu-vit_small_patch14_dinov2.lvd142m", "dpt", (64, 64))["patch_size"] == 16


@pytest.mark.parametrize("name", ["resnet18", "timm-efficientnet-b0", "tu-resnet18", "tu-resnet18.a1_in1k"])
def test_names_with_and_without_tags_are_known(name: str) -> None:
    check_encoder(name)


def test_an_untagged_model_takes_no_tag() -> None:
    name = next(n for n in timm_names() if not timm.is_model_pretrained(n))
    with pytest.raises(UserError, match="no published weights"):
        check_encoder(f"tu-{name}.in1k")


def test_the_script_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, output = tmp_path / "logs" / "state.jsonl", tmp_path / "encoders.md"
    monkeypatch.setattr(script, "smp_names", lambda: ("resnet18",))
    monkeypatch.setattr(script, "timm_names", lambda: ("test_vit", "test_maxvit"))
    monkeypatch.setattr(script, "examine_all", lambda names, _: ((name, script.examine(name)) for name in names))
    command = ["encoders.py", "--state", str(state), "--output", str(output)]
    monkeypatch.setattr("sys.argv", [*command, "resnet18", "tu-test_vit"])
    script.main()
    assert not output.exists()
    with state.open("a") as stream:
        stream.write('{"encoder": "tu-test_maxvit", "ver')  # a line that was cut off
    before = state.read_text()
    monkeypatch.setattr("sys.argv", command)
    script.main()
    added = state.read_text().removeprefix(before)
    assert [json.loads(line)["encoder"] for line in added.splitlines()[-1:]] == ["tu-test_maxvit"]
    found = script.read_state(state)
    assert found["resnet18"]["unet"] == script.WORKS
    assert found["tu-test_vit"]["dpt"] == script.WORKS
    assert not works(found["tu-test_vit"]["unet"])
    text = output.read_text()
    assert "| any of them | 1 | 2 |" in text
    assert all(f"| {name} |" in text for name in WITH_ENCODER)
