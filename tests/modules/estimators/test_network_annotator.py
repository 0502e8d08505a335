"""Published estimators, with tiny random files in their layout, follow our conventions."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, MarigoldNormalsPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from persona.errors import UserError
from persona.modules.detect.annotator import JOINTS, Annotator, annotate
from persona.modules.estimators.annotator import NetworkAnnotator
from persona.modules.estimators.networks import Sapiens2, load_estimator

CLASSES = {
    "alpha": ("Sapiens2ForImageMatting", 4),
    "parts": ("Sapiens2ForSemanticSegmentation", 29),
    "normal": ("Sapiens2ForNormalEstimation", 3),
    "depth": ("Sapiens2ForPointmapEstimation", 3),
}


class Everybody(Annotator):
    """Calls the whole picture a torso that faces the camera."""

    provides = frozenset({"alpha", "parts", "normal"})

    def __call__(self, image, alpha, keypoints, prior=None):
        normal = np.zeros(image.shape, np.float32)
        normal[..., 2] = 1
        return {
            "alpha": np.ones(alpha.shape, np.float32),
            "parts": np.full(alpha.shape, 21, np.uint8),
            "normal": normal,
        }


def write_sapiens(folder, name):
    torch.manual_seed(0)
    kind, labels = CLASSES[name]
    head = {
        "upsample_out_channels": [8] * 4, "upsample_kernel_sizes": [4] * 4,
        "conv_out_channels": [8], "conv_kernel_sizes": [1],
        "scale_conv_out_channels": [8], "scale_conv_kernel_sizes": [1],
        "scale_final_hidden_sizes": [8, 8],
    }  # fmt: skip
    config = transformers.Sapiens2Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_attention_heads=2, image_size=[64, 48], num_register_tokens=1,
        head_config=head, num_labels=labels,
    )  # fmt: skip
    getattr(transformers, kind)(config).save_pretrained(folder)
    processor = transformers.Sapiens2ImageProcessor(size={"height": 64, "width": 48})
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photo():
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    return image, np.ones((40, 60), np.float32), torch.ones(133, 3)


@pytest.mark.parametrize("name", CLASSES)
def test_sapiens_maps_keep_their_promise(name, tmp_path, photo):
    """``annotate`` checks shape and type of each map."""
    named = load_estimator(name, write_sapiens(tmp_path, name))
    if name == "normal":  # Random normals may face away, which ``annotate`` refuses.
        assert np.allclose(np.linalg.norm(named(photo[0]), axis=-1), 1, atol=1e-4)
        return
    annotator = NetworkAnnotator(base=Everybody(), **{name: str(tmp_path)})
    maps = annotate(annotator, *photo)
    assert set(maps) == Everybody.provides | {name}
    other = {"parts": 21}.get(name, 1.0)
    assert (maps[name] != other).any()


def test_eyeglasses_are_the_faces_and_later_classes_move_up():
    class Processor:
        def __call__(self, images, return_tensors, do_pad):
            return {"pixel_values": torch.zeros(1, 3, 2, 2)}

        def post_process_semantic_segmentation(self, out, target_sizes):
            return [torch.tensor([[0, 1, 2, 3, 28]]).expand(target_sizes[0])]

    class Logits(torch.nn.Module):
        logits = torch.zeros(1, 29, 1, 1)

        def forward(self, pixels):
            return self

    from persona.modules.estimators.networks import _parts

    read = Sapiens2(Logits(), Processor(), _parts, pad=False)
    assert read(np.zeros((1, 5, 3), np.uint8)).tolist() == [[0, 1, 2, 2, 27]]


def test_marigold_normals(tmp_path, photo):
    torch.manual_seed(0)
    words = Tokenizer(WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    words.post_processor = TemplateProcessing(single="<unk> $A", special_tokens=[("<unk>", 1)])
    MarigoldNormalsPipeline(
        unet=UNet2DConditionModel(
            in_channels=8, out_channels=4, block_out_channels=(32, 32), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
        ),
        vae=AutoencoderKL(block_out_channels=(32,), latent_channels=4),
        scheduler=DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
        text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            vocab_size=8, max_position_embeddings=8,
        )),
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", model_max_length=8
        ),
        default_denoising_steps=1, default_processing_resolution=32,
    ).save_pretrained(tmp_path)  # fmt: skip
    normal = load_estimator("normal", tmp_path)(photo[0])
    assert normal.shape == (40, 60, 3) and normal.dtype == np.float32
    assert np.allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-3) and normal.std() > 0


def test_normals_that_face_away_are_refused(tmp_path, photo, monkeypatch):
    annotator = NetworkAnnotator(base=Everybody(), normal=write_sapiens(tmp_path, "normal"))
    away = np.zeros((40, 60, 3), np.float32)
    away[..., 2] = -1
    annotator.networks["normal"] = lambda image: away
    with pytest.raises(UserError, match="point away from the camera"):
        annotate(annotator, *photo)
    annotator.networks["normal"] = lambda image: -away
    assert (annotate(annotator, *photo)["normal"] == -away).all()


def test_faults_are_one_line(tmp_path):
    wanted = "give the folder of MarigoldNormalsPipeline or Sapiens2ForNormalEstimation, which you"
    for place, lacks in ((tmp_path, "holds neither"), (tmp_path / "gone", "is no folder")):
        with pytest.raises(UserError, match=rf"annotator\.normal={place} {lacks}.*: {wanted}"):
            load_estimator("normal", place)
    folder = tmp_path / "parts"
    write_sapiens(folder, "parts")
    with pytest.raises(UserError, match="holds Sapiens2ForSemanticSegmentation: take Marigold"):
        load_estimator("normal", folder)
    path = folder / "model.safetensors"
    state = load_file(path)
    first = sorted(state)[0]
    save_file({k: v for k, v in state.items() if k != first}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"parts: \S+ is missing; these are another version's"):
        load_estimator("parts", folder)


def test_joints_are_the_bases_and_ask_no_network(photo):
    class Joints(Everybody):
        provides = Everybody.provides | {JOINTS}

        def __call__(self, *given, **named):
            joints = np.arange(88, dtype=np.float32).reshape(22, 4)
            return super().__call__(*given, **named) | {JOINTS: joints}

    annotator = NetworkAnnotator(base=Joints())
    annotator.networks = {"normal": None}  # A call of it would fail.
    np.testing.assert_array_equal(annotator.read_joints(*photo)[1], [4, 5, 6, 7])
