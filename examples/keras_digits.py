"""A Keras model on torch as its documentation has it, and one line that puts its fit on the bus.

Handlers that know nothing of Keras (`digits.py`) stop it, save it and file its curves.
Run it with: python examples/keras_digits.py [--epochs 20] [--run-dir runs/keras_digits]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
from digits import digits, make_bus

import eventbus.loops.keras


def main() -> None:
    """Train; what is said comes from the bus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/keras_digits"))
    options = parser.parse_args()
    bus = make_bus(options.run_dir)

    keras.utils.set_random_seed(0)
    training, validation = digits()
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    x_train, y_train = (part.numpy() for part in training.tensors)
    model.fit(
        x_train,
        y_train,
        batch_size=64,
        epochs=options.epochs,
        validation_data=validation.tensors,
        callbacks=[eventbus.loops.keras.Emitter(bus)],
        verbose=0,
    )


if __name__ == "__main__":
    main()
