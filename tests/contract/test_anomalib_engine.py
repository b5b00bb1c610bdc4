# SPDX-License-Identifier: Apache-2.0
"""From files to maps the detectors equal anomalib's, run by its Engine as by its users.

The Engine reads, scales and normalises the files with its own code, and trains PatchCore.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import Folder, PredictDataset
from anomalib.engine import Engine
from anomalib.models import EfficientAd as TheirEfficientAd
from anomalib.models import Patchcore as TheirPatchCore
from anomalib.pre_processing import PreProcessor
from tests.support.patches import patch_features
from torchvision.transforms import v2

from blemish_client.demo.surfaces import generate
from blemish_core.detectors.base import Detector
from blemish_core.detectors.common.backbone import Backbone
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.detectors.patchcore.settings import OLD_INPUT_SIZE, requested
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.imaging.decode import decode

# Lightning uses deprecated names of torch and warns about settings that do not matter here. anomalib uses a
# deprecated argument of its own coreset.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None.:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training:UserWarning"),
    pytest.mark.filterwarnings("ignore:Argument embeddings is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
]

RAW: dict[str, Any] = {"post_processor": False, "evaluator": False, "visualizer": False}


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("surfaces") / "tile"
    generate(folder, "tile", train=4, good=1, defective=2)
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(
        accelerator="cpu",
        devices=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_patchcore_equals_anomalib(surface: Path, engine: Engine) -> None:
    settings = requested(whitened=False)
    detector = TrainablePatchCore(settings)
    detector.load_pretrained(surface)
    backbone = Backbone.named(settings.backbone)
    normalised = v2.Compose(
        [v2.Resize((256, 256), antialias=True), v2.Normalize(backbone.mean, backbone.std)]
    )
    module = TheirPatchCore(
        backbone=backbone.timm_name,
        layers=list(backbone.layers),
        pre_trained=False,
        coreset_sampling_ratio=settings.coreset_ratio,
        num_neighbors=settings.neighbors,
        pre_processor=PreProcessor(normalised),
        **RAW,
    )
    extractor = detector.network.get_submodule("shared.extractor")
    module.model.feature_extractor.load_state_dict(extractor.state_dict())
    data = Folder(
        name="tile",
        root=surface,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[
            str(path.relative_to(surface)) for path in (surface / "test").iterdir() if path.name != "good"
        ],
        num_workers=0,
        test_split_mode="from_dir",
        val_split_mode="same_as_test",
    )
    engine.fit(module, datamodule=data)
    bank = module.model.memory_bank
    learned = [detector.prepare(decode(file.read_bytes())) for file in (surface / "train/good").iterdir()]
    with torch.inference_mode():
        patches = patch_features(detector, learned)[0].flatten(0, 1)
    assert len(bank) == int(len(patches) * settings.coreset_ratio)
    # Each entry of anomalib's bank is one of these patches.
    assert torch.cdist(bank, patches, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max() < 1e-3
    detector.set_memory_bank(bank.clone())
    compare(detector, engine, module, surface / "test", OLD_INPUT_SIZE)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_efficientad_equals_anomalib(surface: Path, engine: Engine, size: str) -> None:
    torch.manual_seed(4)
    detector = TrainableEfficientAd(EfficientAdSettings(size=size))
    detector.model.mean_std["mean"].data.normal_(0, 0.1)
    detector.model.mean_std["std"].data.uniform_(0.1, 0.3)
    quantiles = {"qa_st": 0.5, "qb_st": 2.0, "qa_ae": 0.3, "qb_ae": 1.5}
    detector.measure_maps({name: torch.tensor(value) for name, value in quantiles.items()}, torch.ones(()))
    module = TheirEfficientAd(model_size=size, **RAW)
    module.model.load_state_dict(detector.model.state_dict())
    compare(detector, engine, module, surface / "test", 256)


def compare(
    detector: Detector,
    engine: Engine,
    module: TheirPatchCore | TheirEfficientAd,
    folder: Path,
    side: int,
) -> None:
    """Compare scores and maps of the images in ``folder`` with those of the Engine."""
    files = sorted(folder.glob("*/*.png"))
    assert len(files) == 3
    for file in files:
        (prediction,) = detector.predict([detector.prepare(decode(file.read_bytes()))])
        predicted = engine.predict(module, dataset=PredictDataset(file, image_size=(side, side)))
        assert predicted is not None
        theirs: Any = predicted[0]
        score, pixels = float(theirs.pred_score), theirs.anomaly_map.reshape(side, side).numpy()
        assert prediction.score == pytest.approx(score, rel=1e-4)
        np.testing.assert_allclose(prediction.anomaly_map, pixels, rtol=1e-4, atol=1e-4 * np.ptp(pixels))
