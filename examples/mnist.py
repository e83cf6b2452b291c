"""Train the CNN on MNIST with the activation of your choice: `python examples/mnist.py --activation selu`."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Sequence

import pytorch_lightning as pl
from activation_cnn import ACTIVATIONS, MNISTClassifier
from experiment import device_name, load_data, quiet_lightning
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.loggers import TensorBoardLogger

from gradscope import GradScope


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    quiet_lightning()
    pl.seed_everything(options.seed)
    data = load_data(options.data_dir, batch_size=options.batch_size, seed=options.seed)
    model = MNISTClassifier(options.activation, options.learning_rate)
    timer = Timer()
    trainer = build_trainer(options, [timer, *gradscope_callbacks(options)])
    trainer.fit(model, data)
    (metrics,) = trainer.test(model, data, verbose=False)
    print(f"test accuracy   {metrics['test_accuracy']:.2%} on {data.dataset.name}, activation {options.activation}")
    print(f"time per epoch  {timer.time_elapsed('train') / options.epochs:.1f} s on {device_name(trainer)}")
    print(f"TensorBoard     tensorboard --logdir {options.logdir}")
    print(f"summary         gradscope summary {options.logdir}")


def parse(arguments: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--activation", choices=ACTIVATIONS, default="relu", help="between all layers")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, default=128, help="images in a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam")
    parser.add_argument("--clip-value", type=float, help="clip each element of the gradients to ± this, such as 0.5")
    parser.add_argument("--data-dir", help="folder that holds MNIST/raw; else $GRADSCOPE_DATA, else ./data")
    parser.add_argument("--logdir", default="lightning_logs", help="folder of all runs")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the dropout and the order of the images")
    parser.add_argument("--every-n-steps", type=int, default=10, help="steps between two records of GradScope")
    parser.add_argument("--no-gradscope", action="store_true", help="train without GradScope")
    return parser.parse_args(arguments)


def build_trainer(options: Namespace, callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=options.epochs,
        gradient_clip_val=options.clip_value,
        gradient_clip_algorithm="value",
        logger=TensorBoardLogger(options.logdir, name=f"mnist_{options.activation}", default_hp_metric=False),
        log_every_n_steps=10,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def gradscope_callbacks(options: Namespace) -> list[pl.Callback]:
    return [] if options.no_gradscope else [GradScope(every_n_steps=options.every_n_steps)]


if __name__ == "__main__":
    main()
