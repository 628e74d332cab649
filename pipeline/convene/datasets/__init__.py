"""Labelled uint8 images from many sources, with splits, statistics and fingerprints."""

from convene.datasets.dataset import Dataset, Images, SealedTest, Statistics, TrainingData
from convene.datasets.image_files import iterate_images
from convene.datasets.loading import load

__all__ = ["Dataset", "Images", "SealedTest", "Statistics", "TrainingData", "iterate_images", "load"]
