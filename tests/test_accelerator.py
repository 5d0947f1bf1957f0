"""On an accelerator: tensors are where they should be, and the numbers are those of the processor.

Where there is none, tensors without values stand in for those of CUDA: they have shape and device, and an operation on
tensors of two devices fails as it would. What depends on values (`.item()`, masks as indices) is answered with
something of the right kind.
"""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from inference import fit, neural_posterior, posterior, training
from inference.objective import ChainRuleELBO
from inference.sleep import FEW_GAPS, calibration_loss, marginal_loss, recovery_loss
from inference.terms import TERMS, Restraint
from inference.waking import wake
from pi_vae import Optical, PhysicsVAE, Radar, TemporalGP
from pi_vae.data import pattern, simulate
from pi_vae.data.occlusion import occlude
from pi_vae.data.tensors import CubeTensors
from pi_vae.priors import temporal

aten = torch.ops.aten


def on_cuda(test):
    """Run by ``pytest -m gpu``, where there is a device."""
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")(test))


class Answers(TorchDispatchMode):
    """Values where a program asks for some."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        first = args[0]
        if func is aten._local_scalar_dense.default and isinstance(first, FakeTensor):
            return 1.0 if first.dtype.is_floating_point else int(first.dtype != torch.bool)
        if func is aten.equal.default:
            return True
        if func is aten.nonzero.default:
            return torch.stack(self._where(first.bool()), -1)
        if func is aten._unique2.default:
            return first.flatten(), first.long(), first.long()
        if func is aten.index.Tensor:
            places = [self._where(index) for index in args[1]]
            args = (first, [place for several in places for place in several], *args[2:])
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _where(index):
        if not isinstance(index, FakeTensor) or index.dtype != torch.bool:
            return [index]
        count = max(1, index.numel() // 2)
        return [torch.zeros(count, dtype=torch.long, device=index.device) for _ in range(index.dim())]


def case(backend: str):
    torch.manual_seed(0)
    model = PhysicsVAE(
        {"s2": Optical(residual=1), "s1": Radar(residual=1, transient=1)},
        TemporalGP(backend=backend),
        width=16,
        layers=1,
        phenology=1,
    )
    cube = simulate(model, pattern(size=4, optical_days=60, radar_days=90), seed=0)
    data = CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})
    model.know_dates(data)
    return model, cube, data


@pytest.mark.parametrize("backend", ["dense", pytest.param("kalman", marks=pytest.mark.slow)])
def test_devices_are_not_mixed(backend):
    model, _, data = case(backend)
    generator = torch.Generator().manual_seed(0)
    whole = data.patches(1, 4, 8, generator)
    seen, imagined = occlude(whole, generator), occlude(whole, generator, **FEW_GAPS)
    restraint = Restraint(model, TERMS)
    elbo = ChainRuleELBO(model, restraint=restraint)(model.model, model.guide)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Answers(), pyro.validation_enabled(False):
            model.to("cuda").train()
            whole, seen, imagined = (batch.to("cuda") for batch in (whole, seen, imagined))
            restraint.imagined = imagined
            found = [elbo(seen), calibration_loss(model, seen, imagined), recovery_loss(model, imagined)]
            found.append(marginal_loss(model, imagined))
            wake(model, whole)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    assert [loss.device.type for loss in found] == ["cuda"] * 4


def test_processes_are_dense_while_they_fit(monkeypatch):
    gp, found = TemporalGP(), []
    monkeypatch.setattr(gp, "_process", lambda backend, *_: found.append(backend))
    with FakeTensorMode():
        dates, vector = torch.arange(20.0, device="cuda"), torch.ones(2, device="cuda")
        for memory in (2 * 40 * 1000 * 20**2, 2 * 40 * 1000 * 20**2 - 2):
            monkeypatch.setattr(temporal, "_memory", lambda device, memory=memory: memory)
            gp.prior(dates, vector, vector, series=1000)
    assert found == ["dense", "kalman"]


@on_cuda
@pytest.mark.parametrize("backend", ["dense", "eigen", "kalman"])
def test_processes_have_the_numbers_of_the_processor(backend):
    torch.manual_seed(0)
    dates, odds = 400 * torch.rand(40).double(), torch.tensor([0.0, 0.3]).double()
    inputs = [
        torch.tensor([30.0, 90.0]).double(),
        *torch.rand(2, 500, 2, 40).double(),
        torch.randn(500, 2, 40).double(),
    ]
    found = {}
    for device in ("cpu", "cuda"):
        lengthscale, mean, precision, value = (x.to(device).detach().requires_grad_() for x in inputs)
        prior = TemporalGP("matern32", backend).to(device).prior(dates.to(device), lengthscale, odds.to(device))
        q = prior.condition(mean, torch.where(precision > 0.4, 5 * precision, 0.0))
        outputs = [q.mean, q.variance, q.log_prob(value), prior.log_prob(value), q.divergence()]
        total = sum((1.0 if x.dim() > 1 else 1e-3) * x.sum() for x in outputs)
        slopes = torch.autograd.grad(total, [lengthscale, mean, precision, value])
        found[device] = [x.detach().cpu() for x in (*outputs, *slopes)]
        assert q.rsample((3,)).device.type == device
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8 * float(one.abs().max()))


@on_cuda
@pytest.mark.filterwarnings("default:.*deterministic implementation")
def test_a_fit_on_the_accelerator_goes_on_and_its_run_is_asked_on_the_processor(tmp_path, monkeypatch):
    model, cube, _ = case("auto")
    settings = {"seed": 0, "device": "cuda", "patch_size": 4, "pixels": 8, "patches": 1, "progress": False}
    monkeypatch.setattr(training, "SAVE_EVERY", 4)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "calibration_loss", killed)
        fit(model, cube, 20, checkpoint=tmp_path, **settings)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    run, whole = (
        fit(case("auto")[0], cube, 20, checkpoint=tmp_path, **settings),
        fit(case("auto")[0], cube, 20, **settings),
    )
    assert np.allclose(run.history["loss"], whole.history["loss"], rtol=1e-4)
    for one, other in zip(run.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)
    neural_posterior(run, cube, 3, device="cuda", patch_size=4, pixels=8, progress=False)
    assert {p.device.type for p in run.model.parameters()} == {"cpu"}
    tree = posterior(run, cube, 4, pixels=2)
    assert np.isfinite(tree["posterior"]["lai"]).all()
