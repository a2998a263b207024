#!/usr/bin/env python3
"""Trains a ConvMixer, or evaluates one: `python train_keras.py --help`."""

from convmixer_keras.commands.train import command

if __name__ == "__main__":
    command()
