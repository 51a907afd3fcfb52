"""Measure the published implementation in a process of its own. Both ends of the pipe are here.

    python published.py CHECKOUT DEVICE THREADS

reads one JSON object per line, {"do": "loader" | "masks" | "prepare" | "step", ...}, and answers each with
{"seconds": ...} or {"error": ...}. It needs a process of its own, as the published modules have names like data and
models. Everything is built and run there as the published pretrain.py does it.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.core.errors import UserError

WARM = 2  # batches of a loader before the clock starts: one of each published worker


class Published:
    """The published implementation in a process of its own; a call gives the seconds that it measured there."""

    def __init__(self, checkout: Path, device: str, threads: int):
        if not (checkout / "pretrain.py").is_file():
            raise UserError(f"--published {checkout} holds no pretrain.py; give a checkout of kweimann/ECG-JEPA")
        command = [sys.executable, str(Path(__file__).resolve()), str(checkout.resolve()), device, str(threads)]
        self.process = subprocess.Popen(command, cwd=checkout, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.answer()

    def answer(self) -> float:
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline() or '{"error": "it stopped, see above"}')
        if "error" in answer:
            self.close()
            raise UserError(f"the published implementation does not run: {answer['error']}")
        return answer["seconds"]

    def __call__(self, do: str, **request: Any) -> float:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.process.communicate()  # the end of its input ends it


class Driver:
    """Runs inside that process."""

    def __init__(self, checkout: Path, device: str, threads: int):
        torch.set_num_threads(threads)
        self.checkout, self.device, self.cuda = checkout, torch.device(device), device.startswith("cuda")
        sys.path.insert(0, str(checkout))
        sys.argv = ["pretrain.py", "--data", "none"]  # it parses them when imported
        self.code = importlib.import_module("pretrain")  # whatever that script uses is reached through it
        if self.cuda:
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        np.random.seed(0)
        torch.manual_seed(0)
        self.signals = np.empty((0, 0, 12), np.float16)
        self.steps: dict[str, tuple] = {}

    def wait(self) -> float:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def collator(self, patch: int, low: float = 0.15, high: float = 0.25) -> Any:
        return self.code.MaskCollator(patch_size=patch, min_block_size=10, min_keep_ratio=low, max_keep_ratio=high)

    def loader(self, records: int, samples: int, batch: int, batches: int, workers: int = 2) -> float:
        """Seconds for `batches` batches with their masks, once every worker has delivered one."""
        code = self.code
        if self.signals.shape[:2] != (records, samples):
            noise = np.random.default_rng(0).standard_normal((records, samples, 12), np.float32)
            self.signals = noise.astype(np.float16)
        dataset = code.TensorDataset(data=self.signals, transform=code.TransformECG(crop_size=samples))
        ready = iter(code.DataLoader(dataset=code.DatasetRouter([(dataset, 1.0)]), batch_size=batch,
                                     pin_memory=self.cuda, collate_fn=self.collator(25), num_workers=workers))
        began = 0.0
        for i in range(WARM + batches):
            if i == WARM:
                began = self.wait()
            _ = tuple(x.to(self.device, non_blocking=self.cuda) for x in next(ready))
        return self.wait() - began

    def masks(self, batch: int, tokens: int) -> float:
        """Seconds for the masks of one batch; patches of one sample keep the collation itself negligible."""
        collate, records = self.collator(1), [torch.zeros(1, tokens)] * batch
        began = time.perf_counter()
        collate(records)
        return time.perf_counter() - began

    def prepare(self, key: str, width: int, depth: int, heads: int, batch: int, samples: int, precision: str,
                compile: bool, shares: list[float]) -> float:
        """Seconds that one step with each of these shares of visible tokens takes, after the model is built."""
        code = self.code
        file = self.checkout / "configs" / "pretrain" / "ViTS_all.yaml"
        config = code.configs.pretrain.Config(**code.configs.load_config_file(
            file, dim=width, depth=depth, num_heads=heads, pred_dim=width // 2, pred_depth=depth, pred_num_heads=heads,
            channel_size=samples))
        momentum = code.linear_schedule(total_steps=config.steps, start_value=config.encoder_momentum,
                                        final_value=config.final_encoder_momentum)
        model = code.JEPA(config=config, momentum_schedule=momentum, use_sdp_kernel=self.cuda).to(self.device)
        optimiser = model.get_optimizer(fused=self.cuda)
        if compile:
            torch.compiler.reset()  # or the sizes before would count against its limit of recompilations
            model = torch.compile(model)
        records = list(torch.randn(batch, 12, samples))
        amp = precision == "bfloat16" and self.cuda  # it uses no mixed precision on a CPU
        batches = [tuple(x.to(self.device) for x in self.collator(25, share, share)(records)) for share in shares]
        self.steps[key] = (config, model, optimiser, amp, batches)
        began = self.wait()
        for i in range(len(batches)):
            self.step(key, 1, i)
        return self.wait() - began

    def step(self, key: str, steps: int, which: int = -1) -> float:
        """Seconds of one step: schedules, forward, backward, AdamW, EMA; data and masks are at hand."""
        code = self.code
        config, model, optimiser, amp, batches = self.steps[key]
        began = self.wait()
        for _ in range(steps):
            code.update_learning_rate_(optimiser, config.learning_rate)
            code.update_weight_decay_(optimiser, config.weight_decay)
            with torch.autocast(self.device.type, torch.bfloat16) if amp else nullcontext():
                loss = model(*batches[which])
            loss.backward()
            loss.item()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return (self.wait() - began) / steps

    def classifier(self, key: str, width: int, depth: int, heads: int, protocol: str, classes: int, batch: int,
                   samples: int) -> float:
        """Seconds of the first step of what its finetune.py evaluates with a published protocol, after it is built."""
        code, folder = self.code, self.checkout / "configs"
        evaluation = importlib.import_module("configs.eval").Config(
            **code.configs.load_config_file(folder / "eval" / f"{protocol}.yaml"), num_classes=classes)
        config = code.configs.pretrain.Config(**code.configs.load_config_file(
            folder / "pretrain" / "ViTS_all.yaml", dim=width, depth=depth, num_heads=heads, dropout=evaluation.dropout))
        models = importlib.import_module("models")
        encoder = models.VisionTransformer(config=config, keep_registers=evaluation.use_register, use_sdp_kernel=self.cuda)
        model = models.ViTClassifier(encoder, evaluation, use_sdp_kernel=self.cuda).to(self.device)
        labels = torch.randint(2, (batch, classes), device=self.device).float()
        self.steps[key] = (evaluation, model, model.get_optimizer(fused=self.cuda),
                           torch.randn(batch, 12, samples, device=self.device), labels)
        return self.classify(key)

    def classify(self, key: str) -> float:
        """Seconds of one training step on a batch at hand."""
        evaluation, model, optimiser, x, y = self.steps[key]
        model.train()
        began = self.wait()
        self.code.update_learning_rate_(optimiser, evaluation.learning_rate)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        if evaluation.gradient_clip > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), evaluation.gradient_clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss.item()
        return self.wait() - began

    def validate(self, key: str, crops: int) -> float:
        """Seconds per crop in its validation, which takes the crops of a batch of records at once."""
        _, model, _, x, _ = self.steps[key]
        model.eval()
        crops_of_records = x[torch.arange(crops) % len(x)]
        began = self.wait()
        with torch.inference_mode():
            model(crops_of_records)
        return (self.wait() - began) / crops


def main() -> None:
    checkout, device, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the published code prints goes to stderr
    try:
        driver = Driver(Path(checkout), device, int(threads))
    except ImportError as error:
        answers.write(json.dumps({"error": f"{error}; install what its requirements.txt names"}) + "\n")
        return
    answers.write('{"seconds": 0.0}\n')
    for line in sys.stdin:
        request = json.loads(line)
        seconds = getattr(driver, request.pop("do"))(**request)
        answers.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
