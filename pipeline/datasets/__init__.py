"""Labelled uint8 images from many sources, divided, measured and fingerprinted."""

from pipeline.datasets.loading import load
from pipeline.datasets.splits import Dataset, Images, SealedTest, Statistics, TrainingData
from pipeline.datasets.unlabelled import iterate_images

__all__ = ["Dataset", "Images", "SealedTest", "Statistics", "TrainingData", "iterate_images", "load"]
