"""A Hugging Face Trainer as its documentation has it, and one callback that puts it on the bus.

Handlers that know nothing of transformers (`digits.py`) stop it, save it and file its curves.
Run it with: python examples/huggingface_finetuning.py [--epochs 30] [--run-dir runs/...]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from digits import digits, make_bus
from torch import Tensor
from transformers import (
    EvalPrediction,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar

import eventbus.loops.huggingface


def collate(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Make a batch of images with one channel."""
    scans, targets = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(scans).reshape(-1, 1, 8, 8), "labels": torch.stack(targets)}


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Count what was read right."""
    scores: Any = prediction.predictions
    return {"accuracy": float((scores.argmax(-1) == prediction.label_ids).mean())}


def main() -> None:
    """Train; what is said comes from the bus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/huggingface_finetuning"))
    options = parser.parse_args()
    bus = make_bus(options.run_dir)

    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers'
    torch.manual_seed(0)
    training, validation = digits()
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    config.num_labels = 10
    arguments = TrainingArguments(
        output_dir=str(options.run_dir / "trainer"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        learning_rate=2e-3,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        lr_scheduler_type="constant",
        log_level="error",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=ViTForImageClassification(config),
        args=arguments,
        data_collator=collate,
        train_dataset=training,
        eval_dataset=validation,
        compute_metrics=compute_metrics,
        callbacks=[eventbus.loops.huggingface.Emitter(bus)],
    )
    trainer.remove_callback(PrinterCallback)  # the bus says it
    trainer.train()


if __name__ == "__main__":
    main()
