"""Reference values of tests/evaluation, by the published implementations. In an environment with PyTorch:

pip install scikit-image torch-fidelity prdc pytorch-msssim
python -m tests.reference.metrics
"""

from pathlib import Path

import numpy as np
import torch
from prdc import compute_prdc
from pytorch_msssim import ms_ssim
from scipy.linalg import sqrtm
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from tests.metrics.inputs import feature_sets, image_pairs, logits

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def reconstruction(channels: int) -> dict[str, np.ndarray]:
    pairs = list(zip(*image_pairs((4, 24, 31, channels)), strict=True))
    options = {"data_range": 255, "channel_axis": -1}
    return {
        f"psnr_{channels}": np.array([peak_signal_noise_ratio(a, b, data_range=255) for a, b in pairs]),
        f"ssim_gaussian_{channels}": np.array([structural_similarity(a, b, **options, **GAUSSIAN) for a, b in pairs]),
        f"ssim_uniform_{channels}": np.array([structural_similarity(a, b, **options) for a, b in pairs]),
    }


def multi_scale() -> np.ndarray:
    x, y = (torch.from_numpy(a).permute(0, 3, 1, 2).double() for a in image_pairs((3, 176, 192, 3)))
    return ms_ssim(x, y, data_range=255, size_average=False).numpy()


def generation() -> dict[str, np.ndarray | float]:
    samples, reference = feature_sets()
    x, y = torch.from_numpy(samples), torch.from_numpy(reference)
    fid = fid_statistics_to_metric(*(fid_features_to_statistics(a.double()) for a in (x, y)), verbose=False)
    a, b = np.cov(samples.astype(np.float64), rowvar=False), np.cov(reference.astype(np.float64), rowvar=False)
    shift = samples.astype(np.float64).mean(axis=0) - reference.astype(np.float64).mean(axis=0)
    kid = kid_features_to_metric(x, y, kid_subsets=20, kid_subset_size=50, verbose=False)
    prc = prc_features_to_metric(x, y, verbose=False)
    prdc = compute_prdc(reference, samples, nearest_k=5)
    score = isc_features_to_metric(torch.from_numpy(logits()), splits=1, shuffle=False)
    halves = [
        isc_features_to_metric(torch.from_numpy(part), splits=1, shuffle=False) for part in np.split(logits(), [60])
    ]
    return {
        "fid": fid["frechet_inception_distance"],
        "fid_sqrtm": shift @ shift + np.trace(a + b - 2 * sqrtm(a @ b).real),
        "kid_mean": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "precision": prc["precision"],
        "recall": prc["recall"],
        "density": prdc["density"],
        "coverage": prdc["coverage"],
        "precision_5": prdc["precision"],
        "recall_5": prdc["recall"],
        "inception_score": score["inception_score_mean"],
        "inception_score_split_60": np.mean([half["inception_score_mean"] for half in halves]),
    }


def main() -> None:
    values = {**reconstruction(1), **reconstruction(3), "ms_ssim": multi_scale(), **generation()}
    np.savez(Path(__file__).with_suffix(".npz"), **values)
    for name, value in values.items():
        print(name, value)


if __name__ == "__main__":
    main()
